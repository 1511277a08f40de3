package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

//go:embed expected.tsv
var expectedFile string

//go:embed reasons.tsv
var reasonsFile string

//go:embed races.tsv
var racesFile string

// kindNames is the closed list of kinds of reasons why a test does not pass, with what summaries call them.
var kindNames = map[string]string{
	"machine": "impossible on this machine",
	"kernel":  "impossible on every current kernel",
	"spec":    "contradicts the specification",
	"suite":   "bug of the test",
}

// reason is a line of reasons.tsv.
type reason struct {
	kind      string
	reference string // machine: the name of a probe; spec: a line; suite: an issue
	text      string
}

// expectation is a cell of expected.tsv.
type expectation struct {
	verdict verdict
	reason  string // key of reasons.tsv; empty if the test should pass
	counts  string // a/b: so many assertions that hold and that do not; empty if that varies
}

// race is a line of races.tsv: the test is run again, up to so many times in all, while it has this verdict.
type race struct {
	verdict verdict
	tries   int
}

// data is all that this directory says of the suite.
type data struct {
	tests    []string
	columns  []string
	expected map[string]map[string]expectation // by test and column
	reasons  map[string]reason
	races    map[string]map[string]race // by test and column

	reasonLines, raceLines [][]string // as they stand in the files, for the document
}

// rows are the lines of a table with tabs, each with the given number of columns; lines with # are comments.
func rows(name, text string, columns int) ([][]string, error) {
	var found [][]string
	for number, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "\t")
		if len(cells) != columns {
			return nil, fmt.Errorf("%s:%d: %d columns instead of %d", name, number+1, len(cells), columns)
		}
		found = append(found, cells)
	}
	return found, nil
}

// readData reads the tables and checks that they fit together, whatever of them is used later.
func readData() (*data, error) {
	d := &data{
		columns:  []string{"host", "host-fixed", "v2", "v2-fixed"},
		expected: make(map[string]map[string]expectation),
		reasons:  make(map[string]reason),
		races:    make(map[string]map[string]race),
	}
	for _, read := range []func() error{d.readReasons, d.readExpected, d.readRaces} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *data) readReasons() error {
	lines, err := rows("reasons.tsv", reasonsFile, 4)
	d.reasonLines = lines
	for _, line := range lines {
		key, found := line[0], reason{line[1], line[2], line[3]}
		if kindNames[found.kind] == "" {
			return fmt.Errorf("reasons.tsv: %s is of no known kind: %s", key, found.kind)
		}
		if _, known := probes[found.reference]; found.kind == "machine" && !known {
			return fmt.Errorf("reasons.tsv: %s: nothing probes %s", key, found.reference)
		}
		if _, twice := d.reasons[key]; twice {
			return fmt.Errorf("reasons.tsv: %s stands there twice", key)
		}
		d.reasons[key] = found
	}
	return err
}

func (d *data) readExpected() error {
	lines, err := rows("expected.tsv", expectedFile, 1+len(d.columns))
	used := make(map[string]bool)
	for _, line := range lines {
		test, cells := line[0], make(map[string]expectation)
		for i, column := range d.columns {
			cell, err := d.parseCell(line[1+i])
			if err != nil {
				return fmt.Errorf("expected.tsv: %s, %s: %w", test, column, err)
			}
			cells[column], used[cell.reason] = cell, true
		}
		if _, twice := d.expected[test]; twice {
			return fmt.Errorf("expected.tsv: %s stands there twice", test)
		}
		d.tests, d.expected[test] = append(d.tests, test), cells
	}
	for key := range d.reasons {
		if !used[key] {
			return fmt.Errorf("reasons.tsv: no test needs %s", key)
		}
	}
	return err
}

// parseCell reads `pass`, or `fail KEY` or `soft KEY`, perhaps with counts behind it.
func (d *data) parseCell(text string) (expectation, error) {
	words := append(strings.Split(text, " "), "", "")
	cell := expectation{verdict(words[0]), words[1], words[2]}
	if len(words) > 5 || !slices.Contains([]verdict{pass, fail, soft}, cell.verdict) {
		return cell, fmt.Errorf("%q is neither pass nor fail or soft with a reason", text)
	}
	if (cell.reason == "") != (cell.verdict == pass) {
		return cell, fmt.Errorf("%q: exactly what does not pass has a reason", text)
	}
	if _, known := d.reasons[cell.reason]; cell.reason != "" && !known {
		return cell, fmt.Errorf("reasons.tsv has no %s", cell.reason)
	}
	return cell, nil
}

func (d *data) readRaces() error {
	lines, err := rows("races.tsv", racesFile, 5)
	d.raceLines = lines
	for _, line := range lines {
		test, tries := line[0], 0
		if tries, err = strconv.Atoi(line[3]); err != nil || tries < 2 || d.expected[test] == nil {
			return fmt.Errorf("races.tsv: %s: no such test, or no number of tries", test)
		}
		d.races[test] = make(map[string]race)
		for _, column := range strings.Split(line[1], ",") {
			if !slices.Contains(d.columns, column) {
				return fmt.Errorf("races.tsv: %s: there is no column %s", test, column)
			}
			d.races[test][column] = race{verdict(line[2]), tries}
		}
	}
	return err
}

// checkPrograms: the table has a line for each test that the script build has made, and no other.
func (d *data) checkPrograms(directory string) error {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	var programs []string
	for _, entry := range entries {
		if name := entry.Name(); name != "runtimetest" && !strings.Contains(name, ".") {
			programs = append(programs, name)
		}
	}
	if tests := slices.Sorted(slices.Values(d.tests)); !slices.Equal(tests, programs) {
		return fmt.Errorf("expected.tsv has lines for\n%v\nbut the suite consists of\n%v", tests, programs)
	}
	return nil
}

// selectTests returns the tests that are named, or all.
func (d *data) selectTests(names []string) ([]string, error) {
	if len(names) == 0 {
		return d.tests, nil
	}
	for _, name := range names {
		if d.expected[name] == nil {
			return nil, fmt.Errorf("there is no test %s", name)
		}
	}
	return names, nil
}

// complaint says what is wrong with a result; nothing if it is as expected.
//
// A reason that lies in the machine counts only as long as the machine is like that: elsewhere the test should pass.
func (d *data) complaint(expected expectation, r result) string {
	reason := d.reasons[expected.reason]
	if reason.kind == "machine" && probes[reason.reference]() {
		expected = expectation{verdict: pass}
	}
	switch {
	case r.verdict == expected.verdict && expected.counts != "" && expected.counts != r.ratio():
		return fmt.Sprintf("it fails as expected, but with %s assertions instead of %s: %s", r.ratio(), expected.counts, r.counts())
	case r.verdict == expected.verdict:
		return ""
	case r.verdict == pass:
		return fmt.Sprintf("it passes, but expected.tsv says %s: %s", expected.verdict, reason.text)
	case r.verdict == broken:
		return "it could not be run: " + r.why
	case expected.verdict == pass:
		return fmt.Sprintf("it should pass: %s: %s", r.verdict, r.counts())
	default:
		return fmt.Sprintf("%s instead of %s: %s", r.verdict, expected.verdict, r.counts())
	}
}
