// Command oci-validation runs the opencontainers runtime-tools suite on a runtime and judges what it says.
//
// The script run starts it, in a mount namespace of its own; with --compare it prints a table of several runtimes instead.
// It starts itself once more for each test, as the first process of a sandbox: sandbox.go outside, inside.go inside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const usage = `Runs the opencontainers runtime-tools suite on a runtime and compares its verdicts with expected.tsv.

  oci-validation/run [OPTION...] [TEST...]       all 58 tests, or those that are named
    --runtime PATH   the runtime; otherwise corten's release build
    --fixed          the suite with its known bugs mended (fixes.tsv), not as it is
    --view VIEW      which cgroups the runtime sees: host, those of the machine (default), or v2, one cgroup2
    --jobs N         so many tests at a time (default: four for each processor, for they mostly sleep)
    --verbose        print all verdicts, and all that the tests print
  oci-validation/compare [OPTION...] [RUNTIME...]
    the table of all tests and these runtimes, as is and fixed, as Markdown; otherwise of corten's release build and of
    the crun, runc and youki that are installed. Options: --view (default: both), --jobs
  oci-validation/configs [OPTION...] [TEXT...]
    runs a container with each configuration of the corpora, or with those that have one of these texts in their names.
    Options: --runtime, --view, --jobs (default: one for each processor), --verbose,
    --corpus NAME    only bad, those with a value that is wrong or odd, or only valid, those that have to run
    --probe PATH     what the containers execute (default: the example probe beside corten's release build)

Root is needed: each test runs in namespaces and cgroups of its own, with the machine's files read-only. The last line of run
sums up: N passed (as expected), N failed, N skipped. The exit status is 0 only if nothing failed.
`

// suiteVersion is the version that go.mod pins; the script build fills it in.
var suiteVersion = "unknown"

// The suite as a whole has to be over in this time; run and compare give it to each set-up.
const suiteTimeout = 10 * time.Minute

// The sandbox's first process sets up namespaces, which belong to threads: main has to stay on the one that it began on.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && os.Args[1] == insideCommand {
		os.Exit(inside(os.Args[2:]))
	}
	command, words := run, os.Args[1:]
	if len(words) > 0 && words[0] == "--compare" {
		command, words = compare, words[1:]
	} else if len(words) > 0 && words[0] == "--configs" {
		command, words = checkConfigs, words[1:]
	}
	// Whatever ends the run, also a reader that has gone, what it made is removed.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	success, err := command(ctx, words)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
	case err != nil:
		fmt.Fprintf(os.Stderr, "oci-validation: %v\n", err)
		os.Exit(2)
	case ctx.Err() != nil:
		os.Exit(130)
	case !success:
		os.Exit(1)
	}
}

// setup is one of the ways to run the suite; expected.tsv has a column for each.
type setup struct {
	view  string // host or v2
	fixed bool
}

// column is the name of the set-up in expected.tsv.
func (s setup) column() string {
	if s.fixed {
		return s.view + "-fixed"
	}
	return s.view
}

// options that run and compare share.
type options struct {
	*flag.FlagSet
	jobs    int
	verbose bool
	quiet   bool // print no verdicts
}

func newOptions() *options {
	o := &options{FlagSet: flag.NewFlagSet("", flag.ContinueOnError)}
	o.SetOutput(discard{})
	o.IntVar(&o.jobs, "jobs", 4*runtime.NumCPU(), "")
	return o
}

// discard hides the messages of package flag, for main prints its errors.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func (o *options) parse(words []string) error {
	if err := o.Parse(words); err != nil {
		return err
	}
	if o.jobs < 1 {
		return errors.New("--jobs takes a positive number")
	}
	return nil
}

func run(ctx context.Context, words []string) (bool, error) {
	options, path, setup := newOptions(), "", setup{view: "host"}
	options.StringVar(&path, "runtime", "", "")
	options.BoolVar(&setup.fixed, "fixed", false, "")
	options.StringVar(&setup.view, "view", setup.view, "")
	options.BoolVar(&options.verbose, "verbose", false, "")
	if err := options.parse(words); err != nil {
		return false, err
	}
	if setup.view != "host" && setup.view != "v2" {
		return false, fmt.Errorf("--view takes host or v2, not %s", setup.view)
	}
	if hostIsV2() {
		setup.view = "v2"
	}
	data, err := readData()
	if err != nil {
		return false, err
	}
	tests, err := data.selectTests(options.Args())
	if err != nil {
		return false, err
	}
	if path == "" {
		path = cortenPath()
	}
	subject, err := findRuntime(path)
	if err != nil {
		return false, err
	}
	machine, err := prepareMachine()
	if err != nil {
		return false, err
	}
	defer machine.cleanUp()
	fmt.Printf("%s, %s: %d tests\n", subject, setup.column(), len(tests))
	suite := &suite{machine: machine, data: data, setup: setup, subject: subject, options: options}
	if err := data.checkPrograms(suite.directory()); err != nil {
		return false, err
	}
	results := suite.run(ctx, tests)
	if ctx.Err() != nil {
		return false, nil
	}
	return suite.summarise(tests, results), nil
}

// subject is a runtime under test.
type subject struct {
	path          string
	name, version string
}

func (s subject) String() string { return s.name + " " + s.version }

// findRuntime asks the program for its name and version, which `NAME version VERSION` begins with.
func findRuntime(path string) (subject, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return subject{}, err
	}
	if hidden := hiddenInSandbox(absolute); hidden != "" {
		return subject{}, fmt.Errorf("%s: a sandbox has a %s of its own", path, hidden)
	}
	output, err := exec.Command(absolute, "--version").Output()
	if err != nil {
		return subject{}, fmt.Errorf("%s --version: %w", path, err)
	}
	words := strings.Fields(string(output))
	if len(words) < 3 || strings.TrimSuffix(words[1], ":") != "version" {
		return subject{}, fmt.Errorf("%s --version says %q", path, output)
	}
	return subject{absolute, words[0], words[2]}, nil
}

// installation is target/oci-validation, where the script build has put this program and the suite.
func installation() string {
	self, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(self)
}

// cortenPath is where cargo puts the release build.
func cortenPath() string {
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return filepath.Join(installation(), "..", machine+"-unknown-linux-musl", "release", "corten")
}
