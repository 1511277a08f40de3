package main

import (
	"strings"
	"testing"
)

// Each is what a test of the suite prints, shortened.
func TestJudge(t *testing.T) {
	const inner = "  ---\n  {\n    \"stdout\": \"not ok 1 - a quoted line\"\n  }\n  ...\n"
	for name, c := range map[string]struct {
		outcome outcome
		want    verdict
		counts  string
		why     string
	}{
		"all hold": {
			outcome{stdout: "TAP version 13\nok 1 - a\n" + inner + "ok 2 # SKIP b\nok 3 - c\n1..3\n"},
			pass, "2/0", "",
		},
		"one does not": {
			outcome{stdout: "TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n"},
			fail, "1/1", "not ok: b",
		},
		"a note of the authors is no failure": {
			outcome{stdout: "TAP version 13\nok 1 - a\nnot ok 2 # TODO b\n1..2\n"},
			pass, "1/0", "",
		},
		"an error without an assertion": {
			outcome{stdout: "TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST\\nRefer to\"\n  }\n  ...\n1..0\n"},
			soft, "0/0", "hooks MUST",
		},
		"an error that belongs to an assertion that holds": {
			outcome{stdout: "TAP version 13\nok 1 - a\n  ---\n  {\n    \"error\": \"\"\n  }\n  ...\n1..1\n"},
			pass, "1/0", "",
		},
		"no assertion and no error": {outcome{stdout: "TAP version 13\n1..0\n"}, pass, "0/0", ""},
		"no TAP at all":             {outcome{}, pass, "0/0", ""},
		"the plan is missing":       {outcome{stdout: "TAP version 13\n"}, fail, "0/0", "it ended before its plan"},
		"an exit status": {
			outcome{stdout: "TAP version 13\nok 1 - a\n1..1\n", stderr: "create failed: why\nexit status 1\n", status: 1},
			fail, "1/0", "exit status 1; stderr: create failed: why",
		},
		"a panic": {
			outcome{stderr: "panic: runtime error\n\ngoroutine 1:\nmain.main()\n", status: 2},
			fail, "0/0", "exit status 2; stderr: panic: runtime error",
		},
		"it hangs":     {outcome{stdout: "TAP version 13\nok 1 - a\n", timedOut: true}, fail, "1/0", "it did not end in time"},
		"not even run": {outcome{broken: "no cgroup"}, broken, "0/0", "no cgroup"},
	} {
		r := judge(c.outcome)
		if r.verdict != c.want || r.ratio() != c.counts || r.why != c.why {
			t.Errorf("%s: %s %s %q instead of %s %s %q", name, r.verdict, r.ratio(), r.why, c.want, c.counts, c.why)
		}
	}
}

func TestComplaint(t *testing.T) {
	present, missing := "here", "nowhere"
	probes[present], probes[missing] = func() bool { return true }, func() bool { return false }
	defer delete(probes, present)
	defer delete(probes, missing)
	d := &data{reasons: map[string]reason{
		"bug": {"suite", "#1", "a bug"}, "has": {"machine", present, "has it"}, "lacks": {"machine", missing, "lacks it"},
	}}
	for name, c := range map[string]struct {
		expected expectation
		result   result
		want     string
	}{
		"a pass":                          {expectation{pass, "", ""}, result{verdict: pass}, ""},
		"a failure":                       {expectation{pass, "", ""}, result{verdict: fail}, "it should pass"},
		"an expected failure":             {expectation{fail, "bug", ""}, result{verdict: fail}, ""},
		"an unexpected pass":              {expectation{fail, "bug", ""}, result{verdict: pass}, "it passes, but"},
		"soft for fail":                   {expectation{fail, "bug", ""}, result{verdict: soft}, "soft instead of fail"},
		"the right counts":                {expectation{fail, "bug", "2/1"}, result{verdict: fail, ok: 2, notOK: 1}, ""},
		"other counts":                    {expectation{fail, "bug", "2/1"}, result{verdict: fail, ok: 1, notOK: 2}, "1/2 assertions instead of 2/1"},
		"a machine that lacks something":  {expectation{fail, "lacks", ""}, result{verdict: fail}, ""},
		"a machine that has it":           {expectation{fail, "has", ""}, result{verdict: fail}, "it should pass"},
		"a pass on a machine that has it": {expectation{fail, "has", ""}, result{verdict: pass}, ""},
		"a sandbox that is broken":        {expectation{fail, "bug", ""}, result{verdict: broken}, "could not be run"},
	} {
		got := d.complaint(c.expected, c.result)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q instead of %q", name, got, c.want)
		}
	}
}

// The tables fit together: every reason is known and used, every race names a test and a set-up.
func TestData(t *testing.T) {
	if _, err := readData(); err != nil {
		t.Error(err)
	}
}

func TestV1Options(t *testing.T) {
	for options, want := range map[string]string{
		"rw,cpu,cpuacct":                     "cpu,cpuacct",
		"rw,xattr,name=systemd":              "none,name=systemd",
		"rw,nsdelegate,memory_recursiveprot": "",
	} {
		if got := v1Options(options); got != want {
			t.Errorf("%s: %q instead of %q", options, got, want)
		}
	}
}
