package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runtimeResults is what one runtime made of the suite, by column of expected.tsv and test.
type runtimeResults struct {
	subject subject
	results map[string]map[string]result
	// configurations counts what came of them, by corpus and outcome.
	configurations map[string]int
}

// compare prints, as Markdown, what several runtimes make of the suite.
func compare(ctx context.Context, words []string) (bool, error) {
	options, views, probe := newOptions(), []string{"host", "v2"}, ""
	options.StringVar(&probe, "probe", "", "")
	options.Func("view", "", func(view string) error {
		if !slices.Contains(views, view) {
			return fmt.Errorf("it takes host or v2, not %s", view)
		}
		views = []string{view}
		return nil
	})
	if err := options.parse(words); err != nil {
		return false, err
	}
	if hostIsV2() {
		views = []string{"v2"}
	}
	data, err := readData()
	if err != nil {
		return false, err
	}
	corpus, err := readCorpus(filepath.Join(installation(), "schema"))
	if err != nil {
		return false, err
	}
	if probe, err = findProbe(probe); err != nil {
		return false, err
	}
	subjects, err := findSubjects(options.Args())
	if err != nil {
		return false, err
	}
	machine, err := prepareMachine()
	if err != nil {
		return false, err
	}
	defer machine.cleanUp()
	options.quiet = true
	var all []runtimeResults
	for _, subject := range subjects {
		results := make(map[string]map[string]result)
		for _, view := range views {
			for _, fixed := range []bool{false, true} {
				setup := setup{view, fixed}
				suite := &suite{machine: machine, data: data, setup: setup, subject: subject, options: options}
				results[setup.column()] = suite.run(ctx, data.tests)
				fmt.Fprintf(os.Stderr, "%s, %s: %s\n", subject, setup.column(), totalsOf(results[setup.column()]))
			}
		}
		few := *options
		few.jobs = runtime.NumCPU()
		run := newCorpusRun(machine, corpus, setup{view: views[0]}, subject, &few, probe)
		run.all(ctx, corpus.choose("", nil))
		fmt.Fprintf(os.Stderr, "%s: %d of the configurations as they should be, %d not\n", subject, run.passed, run.failed)
		all = append(all, runtimeResults{subject, results, run.counts})
	}
	printDocument(data, views, all)
	for _, leftover := range machine.leftovers() {
		fmt.Fprintf(os.Stderr, "oci-validation: left behind: %s\n", leftover)
	}
	return len(machine.leftovers()) == 0, nil
}

// findSubjects returns the runtimes that are named, or corten and the peers that are installed, the newest first.
func findSubjects(paths []string) ([]subject, error) {
	named := len(paths) > 0
	if !named {
		peers := filepath.Join(repository(), ".peers", "bin")
		paths = []string{cortenPath(), filepath.Join(peers, "crun"), filepath.Join(peers, "runc"), "runc", "youki"}
	}
	var subjects []subject
	for _, path := range paths {
		// A plain name is looked up, like the shell does.
		if found, err := exec.LookPath(path); err == nil {
			path = found
		} else if !named {
			continue
		}
		subject, err := findRuntime(path)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, subject)
	}
	if len(subjects) == 0 {
		return nil, fmt.Errorf("there is no runtime, not even %s", cortenPath())
	}
	return subjects, nil
}

// repository is where cargo's target directory lies; with another one there are no peers.
func repository() string { return filepath.Join(installation(), "..", "..") }

func printDocument(data *data, views []string, all []runtimeResults) {
	fmt.Printf(`# The conformance suite: what the runtimes make of it

<!-- Written by oci-validation/compare; do not edit it by hand. -->

The suite is opencontainers/runtime-tools (%s), %d programs. *As is* is as its authors made it,
*fixed* with the known bugs of its tests mended; [oci-validation](../oci-validation/README.md) says how it is run and judged.
The machine: Linux %s, %s.
`, suiteVersion, len(data.tests), kernelRelease(), machineWords())
	fmt.Print("\n## Totals\n\nTests that pass, that fail, and that report an error without a failed assertion (soft).\n\n")
	fmt.Println("| runtime | " + strings.Join(titlesOf(views), " | ") + " |")
	fmt.Println("|---|" + strings.Repeat("---|", 2*len(views)))
	for _, one := range all {
		cells := []string{one.subject.String()}
		for _, view := range views {
			for _, fixed := range []bool{false, true} {
				t := totalsOf(one.results[setup{view, fixed}.column()])
				cells = append(cells, fmt.Sprintf("**%d** / %d / %d", t.pass, t.fail, t.soft))
			}
		}
		fmt.Println("| " + strings.Join(cells, " | ") + " |")
	}
	fmt.Print(`
In the tables below, *ok* means that the test passes, **F** a/b that it fails, with a assertions that hold and b that do not,
and *soft* that it reports an error without a failed assertion. Where as is and fixed differ, both stand there, in this order.
The last column says why corten is not expected to pass.
`)
	for _, view := range views {
		printTable(data, view, all)
	}
	printReasons(data, views)
	printConfigurations(views[0], all)
}

// printConfigurations prints what came of the corpora, a line for each outcome; what is skipped makes one line.
func printConfigurations(view string, all []runtimeResults) {
	fmt.Printf(`
## Configurations, bad and valid

How many configurations of the corpora of oci-validation, with %s, come out how. *Bad* have one value that is wrong or odd, and
the decisions on what runs all the same are corten's; *valid* have to run. What the machine lacks is the same for all.

`, viewTitles[view])
	counts, outcomes := make(map[string]map[string]int), make(map[string]bool)
	header, rule := "| outcome |", "|---|"
	for _, one := range all {
		header, rule = header+" "+one.subject.String()+" |", rule+"---|"
		counts[one.subject.path] = make(map[string]int)
		for outcome, count := range one.configurations {
			if corpus, _, lacks := strings.Cut(outcome, ": without "); lacks {
				outcome = corpus + ": not here"
			}
			counts[one.subject.path][outcome] += count
			outcomes[outcome] = true
		}
	}
	fmt.Println(header + "\n" + rule)
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		cells := []string{outcome}
		for _, one := range all {
			cells = append(cells, strconv.Itoa(counts[one.subject.path][outcome]))
		}
		fmt.Println("| " + strings.Join(cells, " | ") + " |")
	}
}

func titlesOf(views []string) []string {
	var titles []string
	for _, view := range views {
		titles = append(titles, viewTitles[view]+", as is", viewTitles[view]+", fixed")
	}
	return titles
}

var viewTitles = map[string]string{"host": "the machine's cgroups", "v2": "cgroup v2"}

// printTable prints a line for each test: the verdicts as is and fixed, or one where they are the same.
func printTable(data *data, view string, all []runtimeResults) {
	fmt.Printf("\n## Each test, with %s\n\n", viewTitles[view])
	header, rule := "| test |", "|---|"
	for _, one := range all {
		header, rule = header+" "+one.subject.String()+" |", rule+"---|"
	}
	fmt.Println(header + " reason |\n" + rule + "---|")
	for _, test := range data.tests {
		cells := []string{test}
		for _, one := range all {
			asIs := one.results[setup{view, false}.column()][test].cell()
			fixed := one.results[setup{view, true}.column()][test].cell()
			if asIs != fixed {
				asIs += ", " + fixed
			}
			cells = append(cells, asIs)
		}
		fmt.Println("| " + strings.Join(append(cells, strings.Join(data.reasonsOf(test, view), ", ")), " | ") + " |")
	}
}

// cell is the verdict in a table.
func (r result) cell() string {
	switch {
	case r.verdict == pass:
		return "ok"
	case r.verdict == fail && r.ok+r.notOK > 0:
		return "**F** " + r.ratio()
	case r.verdict == fail:
		return "**F**"
	default:
		return "*" + string(r.verdict) + "*"
	}
}

// reasonsOf are the keys of a test's reasons in one view.
func (d *data) reasonsOf(test, view string) []string {
	var keys []string
	for _, fixed := range []bool{false, true} {
		key := d.expected[test][setup{view, fixed}.column()].reason
		if key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

func printReasons(data *data, views []string) {
	used := make(map[string]bool)
	for _, test := range data.tests {
		for _, view := range views {
			for _, key := range data.reasonsOf(test, view) {
				used[key] = true
			}
		}
	}
	fmt.Print("\n## Reasons\n\n| reason | kind | reference | explanation |\n|---|---|---|---|\n")
	for _, line := range data.reasonLines {
		if used[line[0]] {
			fmt.Printf("| %s | %s | %s | %s |\n", line[0], kindNames[line[1]], line[2], line[3])
		}
	}
	fmt.Print("\n## Races\n\nThese tests are run again while they have a verdict that may have come about by chance.\n\n")
	fmt.Print("| test | verdict by chance | runs at most | why |\n|---|---|---|---|\n")
	for _, line := range data.raceLines {
		fmt.Printf("| %s | %s | %s | %s |\n", line[0], line[2], line[3], line[4])
	}
}

func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "?"
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return release
}

// machineWords says in what the machine differs from others as far as the suite can tell.
func machineWords() string {
	words := []string{"cgroup v1"}
	if hostIsV2() {
		words[0] = "cgroup v2"
	}
	for _, name := range probeNames() {
		if !probes[name]() {
			words = append(words, "without "+name)
		}
	}
	return strings.Join(words, ", ")
}
