package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

// One test has to be over in this time. The slowest waits 10 s three times; the rest is for a busy machine.
const testTimeout = 90 * time.Second

// suite is one set-up with all that it needs.
type suite struct {
	machine *machine
	data    *data
	setup   setup
	subject subject
	options *options
	output  sync.Mutex
}

// directory has the programs of the suite; tests look for runtimetest and the root file system where they are started.
func (s *suite) directory() string {
	if s.setup.fixed {
		return filepath.Join(installation(), "fixed")
	}
	return filepath.Join(installation(), "as-is")
}

// run runs the tests, several at a time, and returns their results by name.
func (s *suite) run(ctx context.Context, tests []string) map[string]result {
	ctx, cancel := context.WithTimeout(ctx, suiteTimeout)
	defer cancel()
	queue := make(chan string, len(tests))
	// Those that may have to be run again begin first, so that the others fill the time.
	for _, races := range []bool{true, false} {
		for _, test := range tests {
			if (s.data.races[test] != nil) == races {
				queue <- test
			}
		}
	}
	close(queue)
	results := make(map[string]result)
	var lock sync.Mutex
	var workers sync.WaitGroup
	for range s.options.jobs {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for test := range queue {
				result := s.runTest(ctx, test)
				lock.Lock()
				results[test] = result
				lock.Unlock()
			}
		}()
	}
	workers.Wait()
	return results
}

// runTest runs one test, and again as long as its verdict may have come about by chance.
func (s *suite) runTest(ctx context.Context, test string) result {
	race := s.data.races[test][s.setup.column()]
	began := time.Now()
	for try := 1; ; try++ {
		outcome := s.runOnce(ctx, test)
		result := judge(outcome)
		result.tries, result.seconds = try, time.Since(began).Seconds()
		if result.verdict != race.verdict || try >= race.tries || ctx.Err() != nil {
			s.report(test, result, outcome)
			return result
		}
	}
}

func (s *suite) runOnce(ctx context.Context, test string) outcome {
	if ctx.Err() != nil {
		return outcome{broken: "it was not run, for the time of the suite was up"}
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	return s.machine.runInSandbox(ctx, s, test)
}

// report prints what the reader has to know of one test: with --verbose everything.
func (s *suite) report(test string, r result, outcome outcome) {
	if s.options.quiet {
		return
	}
	s.output.Lock()
	defer s.output.Unlock()
	expected := s.data.expected[test][s.setup.column()]
	if complaint := s.data.complaint(expected, r); complaint != "" {
		fmt.Printf("FAIL %s: %s\n", test, complaint)
	} else if s.options.verbose {
		fmt.Printf("%s %s (%.1f s, run %d): %s\n", r.verdict, test, r.seconds, r.tries, r.counts())
	}
	if s.options.verbose {
		fmt.Print(indent(outcome.stdout), indent(outcome.stderr))
	}
}

func indent(text string) string {
	if text == "" {
		return ""
	}
	return "  | " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  | ") + "\n"
}

// summarise prints the totals, `N passed, N failed, N skipped` last; true if everything was as expected.
func (s *suite) summarise(tests []string, results map[string]result) bool {
	passed, failed, reasons, retried := 0, 0, map[string]int{}, []string{}
	for _, test := range tests {
		expected := s.data.expected[test][s.setup.column()]
		if s.data.complaint(expected, results[test]) == "" {
			passed++
		} else {
			failed++
		}
		if reason := s.data.reasons[expected.reason]; expected.reason != "" && results[test].verdict != pass {
			reasons[reason.kind]++
		}
		if results[test].tries > 1 {
			retried = append(retried, fmt.Sprintf("%s %d times", test, results[test].tries))
		}
	}
	fmt.Println(totalsOf(results))
	var kinds []string
	for kind, count := range reasons {
		kinds = append(kinds, fmt.Sprintf("%s %d", kindNames[kind], count))
	}
	sort.Strings(kinds)
	if len(kinds) > 0 {
		fmt.Printf("known reasons: %s\n", strings.Join(kinds, ", "))
	}
	if len(retried) > 0 {
		fmt.Printf("run several times, for they race: %s\n", strings.Join(retried, ", "))
	}
	for _, leftover := range s.machine.leftovers() {
		fmt.Printf("FAIL left behind: %s\n", leftover)
		failed++
	}
	fmt.Printf("%d passed, %d failed, 0 skipped\n", passed, failed)
	return failed == 0
}

// totals counts verdicts of tests and assertions in them.
type totals struct{ pass, fail, soft, ok, notOK, skip int }

func totalsOf(results map[string]result) totals {
	var t totals
	for _, r := range results {
		switch r.verdict {
		case pass:
			t.pass++
		case soft:
			t.soft++
		default:
			t.fail++
		}
		t.ok, t.notOK, t.skip = t.ok+r.ok, t.notOK+r.notOK, t.skip+r.skip
	}
	return t
}

func (t totals) String() string {
	return fmt.Sprintf("%d pass, %d fail, %d soft; assertions: %d ok, %d not ok, %d skipped",
		t.pass, t.fail, t.soft, t.ok, t.notOK, t.skip)
}
