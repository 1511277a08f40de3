package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sort"
	"strconv"
	"strings"
)

//go:embed corpus/values.json
var valuesFile string

//go:embed corpus/decisions.tsv
var decisionsFile string

// corpus is what there is to try, and what is to come of it.
type corpus struct {
	properties []property
	values     corpusValues
	decisions  []*decision
}

// corpusValues is corpus/values.json: with which values a configuration runs.
type corpusValues struct {
	// Base is a whole configuration.
	Base any `json:"base"`
	// Places say what has to be added to it for a property to have a meaning, the outer before the inner.
	Places []place `json:"places"`
	// Limits are what a number has to be between, where that is less than its type can hold.
	Limits map[string][2]json.Number `json:"limits"`
	// Apart are pairs of patterns that nothing can have together.
	Apart [][2]string `json:"apart"`
	// Valid has by pattern values that have to work; {"from", "to", "step"} is a range. Enumerations and booleans need none.
	Valid map[string][]any `json:"valid"`
}

// place is a part of the configuration.
type place struct {
	// At is a pattern; the place counts for it and all below it.
	At string `json:"at"`
	// Set has values by pointer; /- appends to a list, and $ is its last element.
	Set map[string]any `json:"set"`
	// Needs names what a machine may lack for it (worker.go).
	Needs string `json:"needs"`
	// Read are files in the container that show what became of it.
	Read []string `json:"read"`
}

// decision is a line of decisions.tsv.
type decision struct {
	pattern, mutation string
	// unset: as without the property. same: as with a valid value. taken: it is what the property asks for, and nothing
	// else changes but what detail names. words: refused with these words instead of a pointer.
	kind, detail string
}

// configCase is a configuration.
type configCase struct {
	property
	name          string
	text          string
	pointer       string
	mutation      string // empty: it is valid
	base, without string // the configuration with a valid value and without the property
	needs         []string
}

func readCorpus(schemaDirectory string) (*corpus, error) {
	c := &corpus{}
	var err error
	if c.properties, err = readSchema(schemaDirectory); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(valuesFile))
	decoder.UseNumber()
	if err := decoder.Decode(&c.values); err != nil {
		return nil, fmt.Errorf("values.json: %w", err)
	}
	sort.SliceStable(c.values.Places, func(i, j int) bool { return c.values.Places[i].At < c.values.Places[j].At })
	lines, err := rows("decisions.tsv", decisionsFile, 4)
	for _, line := range lines {
		kind, detail, _ := strings.Cut(line[2], " ")
		if !slices.Contains([]string{"unset", "same", "taken", "words"}, kind) || line[3] == "" {
			return nil, fmt.Errorf("decisions.tsv: %s: no known decision, or no reason", line[0])
		}
		c.decisions = append(c.decisions, &decision{line[0], line[1], kind, detail})
	}
	return c, err
}

// decide returns the first line that fits.
func (c *corpus) decide(of configCase) *decision {
	for _, decision := range c.decisions {
		if fitsProperty(decision.pattern, of.property) && slices.ContainsFunc(strings.Split(decision.mutation, ","), func(name string) bool {
			return name == "*" || name == of.mutation
		}) {
			return decision
		}
	}
	return nil
}

// fitsProperty: @optional, @element and @TYPE stand for all properties that are optional members of an object, elements of a
// list or values in a map, or of this type.
func fitsProperty(wanted string, p property) bool {
	kind, isKind := strings.CutPrefix(wanted, "@")
	isElement := strings.HasSuffix(p.Pattern, "/*")
	switch {
	case !isKind:
		return fits(wanted, p.Pattern)
	case kind == "element":
		return isElement
	case kind == "optional":
		return !isElement && !p.Required
	}
	return kind == p.Type
}

// fits: `**` at the end stands for all below, and `{a,b}` for either.
func fits(wanted, pattern string) bool {
	if before, after, has := strings.Cut(wanted, "{"); has {
		choices, rest, _ := strings.Cut(after, "}")
		return slices.ContainsFunc(strings.Split(choices, ","), func(choice string) bool {
			return fits(before+choice+rest, pattern)
		})
	}
	if prefix, all := strings.CutSuffix(wanted, "/**"); all {
		return pattern == prefix || strings.HasPrefix(pattern, prefix+"/")
	}
	return wanted == pattern
}

// isOther: whether it is a part of the configuration that means something on other platforms only.
func isOther(pattern string) bool {
	return slices.Contains([]string{"freebsd", "solaris", "vm", "windows", "zos"}, strings.Split(pattern, "/")[1])
}

// choose returns the cases whose name has one of the words in it.
func (c *corpus) choose(only string, words []string) []configCase {
	var all []configCase
	if only != "valid" {
		all = append(all, c.bad()...)
	}
	if only != "bad" {
		all = append(all, c.valid()...)
	}
	if len(words) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(one configCase) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return strings.Contains(one.name, word) })
	})
}

// situation is a configuration in which the property has a valid value.
type situation struct {
	config  any
	pointer string
	needs   []string
}

// prepare applies these places, and those around them, in order and each once.
func (c *corpus) prepare(patterns ...string) situation {
	s := situation{config: clone(c.values.Base)}
	var reads []string
	for _, place := range c.values.Places {
		for _, pattern := range patterns {
			if pattern != place.At && !strings.HasPrefix(pattern, place.At+"/") {
				continue
			}
			for _, pointer := range slices.Sorted(maps.Keys(place.Set)) {
				set(&s.config, pointer, clone(place.Set[pointer]))
			}
			if place.Needs != "" {
				s.needs = append(s.needs, place.Needs)
			}
			reads = append(reads, place.Read...)
			break
		}
	}
	for _, file := range reads {
		insertArguments(s.config, "--read", file)
	}
	return s
}

// insertArguments puts arguments after the first.
func insertArguments(config any, arguments ...string) {
	process := config.(map[string]any)["process"].(map[string]any)
	list := process["args"].([]any)
	changed := []any{list[0]}
	for _, argument := range arguments {
		changed = append(changed, argument)
	}
	process["args"] = append(changed, list[1:]...)
}

// of returns the situation for a property.
func (c *corpus) of(p property) (situation, bool) {
	s := c.prepare(p.Pattern)
	pointer, value, ok := locate(s.config, p.Pattern)
	if !ok && isOther(p.Pattern) {
		set(&s.config, "/"+strings.Split(p.Pattern, "/")[1], c.example("/"+strings.Split(p.Pattern, "/")[1]))
		pointer, value, ok = locate(s.config, p.Pattern)
	}
	if !ok {
		// It may be optional where the place has none.
		values := c.validValues(p)
		parent, _, found := locate(s.config, p.parent())
		if len(values) == 0 || !found {
			return s, false
		}
		pointer = parent + p.Pattern[len(p.parent()):]
		if strings.HasSuffix(pointer, "/*") {
			pointer = strings.TrimSuffix(pointer, "*") + "0"
		}
		value = values[0]
		set(&s.config, strings.TrimSuffix(pointer, "/0")+map[bool]string{true: "/-"}[strings.HasSuffix(pointer, "/0")], value)
	}
	s.pointer = pointer
	return s, value != nil
}

// example makes up a value from the schema, for what means nothing here.
func (c *corpus) example(pattern string) any {
	var self property
	members := make(map[string]any)
	var element any
	for _, p := range c.properties {
		switch {
		case p.Pattern == pattern:
			self = p
		case p.parent() == pattern && strings.HasSuffix(p.Pattern, "/*"):
			element = c.example(p.Pattern)
		case p.parent() == pattern:
			members[p.Pattern[len(pattern)+1:]] = c.example(p.Pattern)
		}
	}
	switch {
	case self.Type == "array":
		return []any{element}
	case self.Type == "object" && element != nil:
		return map[string]any{"key": element}
	case self.Type == "object":
		return members
	case self.Type == "integer":
		return json.Number("1")
	case self.Type == "boolean":
		return true
	case len(self.Enum) > 0:
		return self.Enum[0]
	}
	return "text"
}

// validValues are those of values.json, or those that the schema lists.
func (c *corpus) validValues(p property) []any {
	var all []any
	for _, value := range c.values.Valid[p.Pattern] {
		limits, isMap := value.(map[string]any)
		if from, isRange := limits["from"]; !isMap || !isRange {
			all = append(all, value)
		} else {
			number := func(value any) int64 { n, _ := value.(json.Number).Int64(); return n }
			for n := number(from); n <= number(limits["to"]); n += number(limits["step"]) {
				all = append(all, json.Number(strconv.FormatInt(n, 10)))
			}
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, value := range p.Enum {
		all = append(all, value)
	}
	if p.Type == "boolean" {
		all = append(all, true, false)
	}
	return all
}

// valid are the configurations that have to run: every property with each of its values, and every place with every other.
func (c *corpus) valid() []configCase {
	var all []configCase
	for _, p := range c.properties {
		s, ok := c.of(p)
		if !ok {
			continue
		}
		for _, value := range c.validValues(p) {
			config := clone(s.config)
			set(&config, s.pointer, value)
			name := fmt.Sprintf("%s = %s", p.Pattern, short(render(value, "", "")))
			all = append(all, configCase{name: name, text: render(config, "", ""), property: p, pointer: s.pointer, needs: s.needs})
		}
	}
	for i, first := range c.values.Places {
		for _, second := range c.values.Places[i+1:] {
			if strings.HasPrefix(second.At, first.At+"/") || clash(first, second) || c.areApart(first.At, second.At) {
				continue
			}
			s := c.prepare(first.At, second.At)
			name := fmt.Sprintf("%s with %s", first.At, second.At)
			all = append(all, configCase{name: name, text: render(s.config, "", ""), needs: s.needs})
		}
	}
	return all
}

func (c *corpus) areApart(a, b string) bool {
	return slices.ContainsFunc(c.values.Apart, func(pair [2]string) bool {
		return fits(pair[0], a) && fits(pair[1], b) || fits(pair[0], b) && fits(pair[1], a)
	})
}

// clash: both set the same, or one sets what holds what the other sets.
func clash(a, b place) bool {
	for one := range a.Set {
		for other := range b.Set {
			if strings.HasSuffix(one, "/-") && one == other {
				continue
			}
			if one == other || strings.HasPrefix(one, other+"/") || strings.HasPrefix(other, one+"/") {
				return true
			}
		}
	}
	return false
}

// bad are the configurations with a value that is wrong, or odd, in one property.
func (c *corpus) bad() []configCase {
	var all []configCase
	for _, p := range c.properties {
		s, ok := c.of(p)
		if !ok {
			continue
		}
		_, value, _ := locate(s.config, p.Pattern)
		without := clone(s.config)
		remove(&without, s.pointer)
		one := configCase{
			property: p, pointer: s.pointer, needs: s.needs,
			base: render(s.config, "", ""), without: render(without, "", ""),
		}
		add := func(mutation, text string) {
			one.mutation, one.name, one.text = mutation, p.Pattern+" "+mutation, text
			all = append(all, one)
		}
		add("missing", one.without)
		if !isIndex(s.pointer) {
			add("duplicate", render(s.config, "", s.pointer))
		}
		for _, m := range mutations(c.within(p), value) {
			config := clone(s.config)
			set(&config, s.pointer, m.value)
			add(m.name, render(config, "", ""))
		}
	}
	return all
}

// within is the property with the limits that are narrower than its type.
func (c *corpus) within(p property) property {
	if limits, has := c.values.Limits[p.Pattern]; has {
		p.Minimum, p.Maximum = limits[0].String(), limits[1].String()
	}
	return p
}

func isIndex(pointer string) bool {
	_, err := strconv.Atoi(pointer[strings.LastIndex(pointer, "/")+1:])
	return err == nil
}

// raw is JSON that is written as it is.
type raw string

type mutation struct {
	name  string
	value any
}

// mutations are the values that a property should not have, or could surprise with.
func mutations(p property, value any) []mutation {
	all := []mutation{{"null", nil}}
	switch p.Type {
	case "string":
		text, _ := value.(string)
		all = append(all, mutation{"type", raw("1")}, mutation{"shape", []any{text}},
			mutation{"huge", text + strings.Repeat("x", 1<<20)}, mutation{"nul", text + "\x00x"},
			mutation{"non-ascii", text + "\u00e9\u2603"}, mutation{"empty", ""})
		if len(p.Enum) > 0 {
			all = append(all, mutation{"unknown", "NO_SUCH_" + text})
		}
	case "integer":
		below, above := raw("-9223372036854775809"), raw("18446744073709551616")
		if p.Minimum != "" {
			below = raw(beside(p.Minimum, -1))
		}
		if p.Maximum != "" {
			above = raw(beside(p.Maximum, 1))
		}
		all = append(all, mutation{"type", "1"}, mutation{"shape", []any{}}, mutation{"fraction", raw("1.5")},
			mutation{"below", below}, mutation{"above", above}, mutation{"huge", raw("1" + strings.Repeat("0", 400))})
	case "boolean":
		all = append(all, mutation{"type", raw("1")}, mutation{"shape", []any{true}}, mutation{"empty", ""})
	case "array":
		elements, _ := value.([]any)
		many := slices.Clone(elements)
		for len(elements) > 0 && len(many) < 1000 {
			many = append(many, elements[len(elements)-1])
		}
		all = append(all, mutation{"type", "x"}, mutation{"shape", map[string]any{}}, mutation{"empty", []any{}},
			mutation{"huge", many})
	case "object":
		many := make(map[string]any)
		maps.Copy(many, value.(map[string]any))
		for n := range 5000 {
			many[fmt.Sprintf("unknown-%d", n)] = "x"
		}
		all = append(all, mutation{"type", "x"}, mutation{"shape", []any{}}, mutation{"empty", map[string]any{}},
			mutation{"huge", many})
	}
	return all
}

// beside is the number after or before a decimal number, however large.
func beside(text string, by int64) string {
	n, _ := new(big.Int).SetString(text, 10)
	return n.Add(n, big.NewInt(by)).String()
}

// render writes JSON, the members of an object in the order of their names; the member with the pointer `twice` stands there
// twice.
func render(value any, pointer, twice string) string {
	var out strings.Builder
	write(&out, value, pointer, twice)
	return out.String()
}

func write(out *strings.Builder, value any, pointer, twice string) {
	switch value := value.(type) {
	case raw:
		out.WriteString(string(value))
	case map[string]any:
		out.WriteByte('{')
		for i, key := range sortedKeys(value) {
			at := pointer + "/" + escape(key)
			member := func() {
				name, _ := json.Marshal(key)
				out.Write(name)
				out.WriteByte(':')
				write(out, value[key], at, twice)
			}
			if i > 0 {
				out.WriteByte(',')
			}
			member()
			if at == twice {
				out.WriteByte(',')
				member()
			}
		}
		out.WriteByte('}')
	case []any:
		out.WriteByte('[')
		for i, element := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, element, fmt.Sprintf("%s/%d", pointer, i), twice)
		}
		out.WriteByte(']')
	default:
		text, _ := json.Marshal(value)
		out.Write(text)
	}
}

func short(text string) string {
	if len(text) > 60 {
		return fmt.Sprintf("%s... (%d bytes)", text[:40], len(text))
	}
	return text
}

func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }

func unescape(key string) string { return strings.NewReplacer("~1", "/", "~0", "~").Replace(key) }

func sortedKeys(object map[string]any) []string { return slices.Sorted(maps.Keys(object)) }

func clone(value any) any {
	switch value := value.(type) {
	case map[string]any:
		copied := make(map[string]any, len(value))
		for key, member := range value {
			copied[key] = clone(member)
		}
		return copied
	case []any:
		copied := make([]any, len(value))
		for i, element := range value {
			copied[i] = clone(element)
		}
		return copied
	}
	return value
}

// locate finds the pointer and the value of a pattern: of a list its last element, of a map its last key.
func locate(config any, pattern string) (string, any, bool) {
	pointer, value := "", config
	if pattern == "" {
		return "", config, true
	}
	for _, part := range strings.Split(pattern[1:], "/") {
		switch at := value.(type) {
		case map[string]any:
			if part == "*" {
				keys := sortedKeys(at)
				if len(keys) == 0 {
					return "", nil, false
				}
				part = escape(keys[len(keys)-1])
			}
			member, has := at[unescape(part)]
			if !has {
				return "", nil, false
			}
			pointer, value = pointer+"/"+part, member
		case []any:
			if len(at) == 0 {
				return "", nil, false
			}
			pointer, value = fmt.Sprintf("%s/%d", pointer, len(at)-1), at[len(at)-1]
		default:
			return "", nil, false
		}
	}
	return pointer, value, true
}

// set puts a value at a pointer and makes the objects on the way.
func set(config *any, pointer string, value any) {
	if pointer == "" {
		*config = value
		return
	}
	first, rest, _ := strings.Cut(pointer[1:], "/")
	if rest != "" {
		rest = "/" + rest
	}
	switch at := (*config).(type) {
	case []any:
		if first == "-" {
			*config = appendNew(at, value)
			return
		}
		index := len(at) - 1
		if first != "$" {
			index, _ = strconv.Atoi(first)
		}
		set(&at[index], rest, value)
	case map[string]any:
		member, has := at[unescape(first)]
		if !has && rest == "/-" {
			member = []any{}
		}
		set(&member, rest, value)
		at[unescape(first)] = member
	default:
		made := any(map[string]any{})
		set(&made, pointer, value)
		*config = made
	}
}

// appendNew adds an element, but no namespace that is there already.
func appendNew(elements []any, value any) []any {
	if added, ok := value.(map[string]any); ok && added["type"] != nil && added["destination"] == nil {
		for i, element := range elements {
			if known, ok := element.(map[string]any); ok && known["type"] == added["type"] {
				elements[i] = value
				return elements
			}
		}
	}
	return append(elements, value)
}

func remove(config *any, pointer string) {
	parent, last := pointer[:strings.LastIndex(pointer, "/")], pointer[strings.LastIndex(pointer, "/")+1:]
	at := *config
	if parent != "" {
		for _, part := range strings.Split(parent[1:], "/") {
			switch here := at.(type) {
			case map[string]any:
				at = here[unescape(part)]
			case []any:
				index, _ := strconv.Atoi(part)
				at = here[index]
			}
		}
	}
	switch here := at.(type) {
	case map[string]any:
		delete(here, unescape(last))
	case []any:
		index, _ := strconv.Atoi(last)
		set(config, parent, slices.Delete(slices.Clone(here), index, index+1))
	}
}
