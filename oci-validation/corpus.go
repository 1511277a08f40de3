package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
)

// checkConfigs runs a container with each configuration of two corpora: with bad values, which the runtime has to refuse by name or
// to take as decisions.tsv says, and with valid ones, which have to run.
func checkConfigs(ctx context.Context, words []string) (bool, error) {
	options, path, probe, view, only := newOptions(), "", "", "host", ""
	options.jobs = runtime.NumCPU()
	options.StringVar(&path, "runtime", "", "")
	options.StringVar(&probe, "probe", "", "")
	options.StringVar(&view, "view", view, "")
	options.StringVar(&only, "corpus", "", "")
	options.BoolVar(&options.verbose, "verbose", false, "")
	if err := options.parse(words); err != nil {
		return false, err
	}
	if !slices.Contains([]string{"", "bad", "valid"}, only) {
		return false, fmt.Errorf("--corpus takes bad or valid, not %s", only)
	}
	if view != "host" && view != "v2" {
		return false, fmt.Errorf("--view takes host or v2, not %s", view)
	}
	if hostIsV2() {
		view = "v2"
	}
	corpus, err := readCorpus(filepath.Join(installation(), "schema"))
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
	if probe, err = findProbe(probe); err != nil {
		return false, err
	}
	machine, err := prepareMachine()
	if err != nil {
		return false, err
	}
	defer machine.cleanUp()
	run := newCorpusRun(machine, corpus, setup{view: view}, subject, options, probe)
	cases := corpus.choose(only, options.Args())
	fmt.Printf("%s, %s: %d configurations\n", subject, view, len(cases))
	run.all(ctx, cases)
	if ctx.Err() != nil {
		return false, nil
	}
	return run.summarise(len(options.Args()) == 0 && only != "valid"), nil
}

// corpusRun is one run over the corpora.
type corpusRun struct {
	machine *machine
	suite   *suite
	corpus  *corpus
	probe   string

	lock    sync.Mutex
	counts  map[string]int
	passed  int
	failed  int
	skipped int
	used    map[*decision]bool
	facts   sync.Map // by the text of a configuration: what a container that it makes sees
}

// findProbe returns this path, or the probe that cargo has built beside corten.
func findProbe(path string) (string, error) {
	if path == "" {
		path = filepath.Join(filepath.Dir(cortenPath()), "examples", "probe")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: cargo build --release --example probe", err)
	}
	return filepath.Abs(path)
}

func newCorpusRun(
	machine *machine, corpus *corpus, setup setup, subject subject, options *options, probe string,
) *corpusRun {
	return &corpusRun{
		machine: machine, suite: &suite{machine: machine, setup: setup, subject: subject, options: options},
		corpus: corpus, probe: probe, counts: make(map[string]int), used: make(map[*decision]bool),
	}
}

func (r *corpusRun) all(ctx context.Context, cases []configCase) {
	queue := make(chan configCase)
	var workers sync.WaitGroup
	for range r.suite.options.jobs {
		workers.Add(1)
		go func() {
			defer workers.Done()
			// The sandbox of a worker dies with the thread that made it.
			runtime.LockOSThread()
			worker := &worker{ctx: ctx, run: r}
			defer worker.stop()
			for c := range queue {
				if ctx.Err() == nil {
					r.note(c, r.judge(worker, c))
				}
			}
		}()
	}
	for _, c := range cases {
		queue <- c
	}
	close(queue)
	workers.Wait()
}

// judgement is what came of one configuration.
type judgement struct {
	// what happened, in a word, to be counted
	what string
	// complaint says why it is wrong; empty if it is as it should be.
	complaint string
	skipped   bool
}

func wrong(what, format string, arguments ...any) judgement {
	return judgement{what: what, complaint: what + ": " + fmt.Sprintf(format, arguments...)}
}

func (r *corpusRun) judge(w *worker, c configCase) judgement {
	reply, err := w.ask(c.text)
	if err != nil {
		return wrong("no sandbox", "%v", err)
	}
	lacking := ""
	for _, need := range c.needs {
		if !w.has[need] {
			lacking = need
		}
	}
	said := lastWords(reply.Stderr)
	if len(said) > 400 {
		said = said[:400] + "..."
	}
	switch {
	case reply.TimedOut:
		return wrong("does not end", "%s", said)
	case len(reply.Left) > 0:
		return wrong("leaves something", "%s (status %d: %s)", strings.Join(reply.Left, ", "), reply.Status, said)
	case reply.Status < 0 || strings.Contains(reply.Stderr, "panicked at"):
		return wrong("crashes", "%s", said)
	case c.mutation == "":
		return judgeValid(reply, lacking, said)
	}
	decision := r.corpus.decide(c)
	if reply.Status != 0 {
		switch {
		case namesPointer(reply.Stderr, c.pointer), isContainer(c.property) && strings.Contains(reply.Stderr, c.pointer+"/"):
			return judgement{what: "refused by its pointer"}
		case namesParent(reply.Stderr, c.pointer):
			return judgement{what: "refused by the pointer of what holds it"}
		case decision != nil && decision.kind == "words" && strings.Contains(reply.Stderr, decision.detail):
			r.use(decision)
			return judgement{what: "refused in other words"}
		case lacking != "":
			r.use(decision)
			return judgement{what: "without " + lacking, skipped: true}
		}
		return wrong("refused without its pointer", "%s (status %d: %s)", c.pointer, reply.Status, said)
	}
	if decision == nil || decision.kind == "words" {
		return wrong("runs without a decision", "it should be refused, or be in decisions.tsv")
	}
	r.use(decision)
	return r.compare(w, c, decision, reply)
}

// isContainer: what is wrong in it may be what it holds.
func isContainer(p property) bool { return p.Type == "object" || p.Type == "array" }

func judgeValid(reply reply, lacking, said string) judgement {
	switch {
	case reply.Status == 0 && len(reply.Stdout) > 0:
		return judgement{what: "runs"}
	case lacking != "":
		return judgement{what: "without " + lacking, skipped: true}
	}
	return wrong("refused", "it is valid (status %d: %s)", reply.Status, said)
}

// compare: the sandbox has to be the one that the decision promises.
func (r *corpusRun) compare(w *worker, c configCase, decision *decision, reply reply) judgement {
	base := c.base
	if decision.kind == "unset" {
		base = c.without
	}
	expected, err := r.factsOf(w, base)
	if err != nil {
		return wrong("runs with another sandbox", "that to compare it with can not be had: %v", err)
	}
	found, err := facts(reply.Stdout)
	if err != nil {
		return wrong("runs with another sandbox", "%v", err)
	}
	free := strings.Split(decision.detail, ",")
	var differing []string
	for _, name := range sortedKeys(expected) {
		if decision.kind == "taken" && slices.Contains(free, name) {
			continue
		}
		if !reflect.DeepEqual(expected[name], found[name]) {
			differing = append(differing, name)
		}
	}
	if len(differing) > 0 {
		return wrong("runs with another sandbox", "%s should be %s", strings.Join(differing, ", "), decision.kind)
	}
	return judgement{what: "runs: " + decision.kind}
}

func (r *corpusRun) factsOf(w *worker, text string) (map[string]any, error) {
	if known, ok := r.facts.Load(text); ok {
		return known.(map[string]any), nil
	}
	reply, err := w.ask(text)
	if err != nil {
		return nil, err
	}
	if reply.Status != 0 {
		return nil, errors.New(lastWords(reply.Stderr))
	}
	found, err := facts(reply.Stdout)
	if err == nil {
		r.facts.Store(text, found)
	}
	return found, err
}

func (r *corpusRun) use(decision *decision) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if decision != nil {
		r.used[decision] = true
	}
}

func (r *corpusRun) note(c configCase, j judgement) {
	r.lock.Lock()
	defer r.lock.Unlock()
	kind := "valid"
	if c.mutation != "" {
		kind = "bad"
	}
	switch {
	case j.skipped && c.Pattern == "":
		// There are too many pairs to call each of them skipped.
	case j.skipped:
		r.skipped++
	case j.complaint != "":
		r.failed++
		if !r.suite.options.quiet {
			fmt.Printf("FAIL %s: %s\n", c.name, j.complaint)
		}
	default:
		r.passed++
		if r.suite.options.verbose {
			fmt.Printf("pass %s: %s\n", c.name, j.what)
		}
	}
	r.counts[kind+": "+j.what]++
}

func (r *corpusRun) summarise(whole bool) bool {
	if whole {
		for _, decision := range r.corpus.decisions {
			if !r.used[decision] && !r.corpus.isMachines(decision) {
				fmt.Printf("FAIL decisions.tsv: no configuration needs %s, %s\n", decision.pattern, decision.mutation)
				r.failed++
			}
		}
	}
	var lines []string
	for what, count := range r.counts {
		lines = append(lines, fmt.Sprintf("%6d %s", count, what))
	}
	sort.Slice(lines, func(i, j int) bool { return lines[i][7:] < lines[j][7:] })
	fmt.Println(strings.Join(lines, "\n"))
	for _, leftover := range r.machine.leftovers() {
		fmt.Printf("FAIL left behind: %s\n", leftover)
		r.failed++
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r.failed == 0
}
