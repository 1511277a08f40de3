package main

import (
	"fmt"
	"regexp"
	"strings"
)

// verdict is what a test says of the runtime.
type verdict string

const (
	// The test ended well and no assertion failed.
	pass verdict = "pass"
	// An assertion failed, or the test ended with an error or not in time.
	fail verdict = "fail"
	// The test made no assertion but reported an error. Six hook tests know no other way to fail, and for readers of TAP
	// they pass.
	soft verdict = "soft"
	// The test was not run as it should, which says nothing of the runtime.
	broken verdict = "broken"
)

// outcome is how one run of a test went.
type outcome struct {
	stdout, stderr string
	status         int
	timedOut       bool
	broken         string // why the test could not be run, if so
}

// result is the verdict on one test, with what led to it.
type result struct {
	verdict         verdict
	ok, notOK, skip int    // assertions; skip: of those that are ok
	why             string // what went wrong first, one line
	tries           int
	seconds         float64
}

// ratio is a/b: assertions that hold, and that do not.
func (r result) ratio() string { return fmt.Sprintf("%d/%d", r.ok, r.notOK) }

// counts is `a ok, b not ok, c skipped`, or why there is nothing to count.
func (r result) counts() string {
	text := fmt.Sprintf("%d ok, %d not ok, %d skipped", r.ok, r.notOK, r.skip)
	if r.why != "" {
		text += ": " + r.why
	}
	return text
}

var (
	tapLine   = regexp.MustCompile(`^(not )?ok\b[ 0-9]*(.*)$`)
	skipped   = regexp.MustCompile(`(?i)^# skip\b`)
	todo      = regexp.MustCompile(`(?i)^# todo\b`)
	planLine  = regexp.MustCompile(`^1\.\.[0-9]+`)
	yamlError = regexp.MustCompile(`^\s+"?error"?: *(.*)$`)
)

// judge reads the TAP of a test. Lines of the inner TAP that a test quotes are indented and do not count.
func judge(o outcome) result {
	if o.broken != "" {
		return result{verdict: broken, why: o.broken}
	}
	r, hasHeader, hasPlan, reported := result{}, false, false, ""
	for _, line := range strings.Split(o.stdout, "\n") {
		if strings.HasPrefix(line, "TAP version") {
			hasHeader = true
		} else if planLine.MatchString(line) {
			hasPlan = true
		} else if match := yamlError.FindStringSubmatch(line); match != nil && reported == "" {
			reported, _, _ = strings.Cut(strings.Trim(match[1], `",`), `\n`)
		} else if match := tapLine.FindStringSubmatch(line); match != nil {
			r.count(match[1] == "", strings.TrimPrefix(match[2], "- "))
		}
	}
	switch {
	case o.timedOut:
		r.verdict, r.why = fail, "it did not end in time"
	case o.status != 0:
		r.verdict = fail
		if r.why == "" {
			r.why = fmt.Sprintf("exit status %d", o.status)
		}
	case r.notOK > 0:
		r.verdict = fail
	case hasHeader && !hasPlan:
		// A test that gives up early prints no plan. Two print no TAP at all; their exit status says everything.
		r.verdict, r.why = fail, "it ended before its plan"
	case r.ok == 0 && reported != "":
		r.verdict, r.why = soft, reported
	default:
		r.verdict = pass
		return r
	}
	if said := lastWords(o.stderr); said != "" {
		r.why += "; stderr: " + said
	}
	return r
}

func (r *result) count(ok bool, description string) {
	switch {
	case todo.MatchString(description): // the authors' note to themselves
	case ok && skipped.MatchString(description):
		r.skip++
	case ok:
		r.ok++
	default:
		r.notOK++
		if r.why == "" {
			r.why = "not ok: " + description
		}
	}
}

// lastWords is the last line of stderr that says something: the runtime's error in front of the test's `exit status 1`, or
// the first line of a panic of Go.
func lastWords(text string) string {
	if at := strings.Index(text, "panic: "); at >= 0 {
		text, _, _ = strings.Cut(text[at:], "\n")
	}
	last := ""
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "exit status ") {
			last = line
		}
	}
	return last
}
