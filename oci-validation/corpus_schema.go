package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// property is a property of config.json, or an element of a list or map, as the schema of the specification describes it.
type property struct {
	// Pattern is its JSON pointer, with * for an index or key that is free.
	Pattern string
	// Type is string, integer, boolean, object or array.
	Type string
	// Enum has the values that a string may have, if they are listed.
	Enum []string
	// Minimum and Maximum are decimal numbers; empty if the schema has none.
	Minimum, Maximum string
	// Required: whether the object that holds it must have it.
	Required bool
}

// parent is the pattern of what holds it.
func (p property) parent() string { return p.Pattern[:strings.LastIndex(p.Pattern, "/")] }

// schema reads the specification's JSON schema, which is spread over several files.
type schema struct {
	directory string
	files     map[string]map[string]any
	found     []property
}

// readSchema returns all properties that config.json may have, in the order of their patterns.
func readSchema(directory string) ([]property, error) {
	s := &schema{directory: directory, files: make(map[string]map[string]any)}
	root, err := s.file("config-schema.json")
	if err != nil {
		return nil, err
	}
	if err := s.walk("", root, false); err != nil {
		return nil, err
	}
	sort.Slice(s.found, func(i, j int) bool { return s.found[i].Pattern < s.found[j].Pattern })
	return s.found, nil
}

func (s *schema) file(name string) (map[string]any, error) {
	if known := s.files[name]; known != nil {
		return known, nil
	}
	text, err := os.ReadFile(filepath.Join(s.directory, name))
	if err != nil {
		return nil, err
	}
	var content map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&content); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	complete(content, name)
	s.files[name] = content
	return content, nil
}

// complete puts the name of the file into references within it, for parts of different files are merged.
func complete(node any, file string) {
	switch node := node.(type) {
	case map[string]any:
		if reference, ok := node["$ref"].(string); ok && strings.HasPrefix(reference, "#") {
			node["$ref"] = file + reference
		}
		for _, child := range node {
			complete(child, file)
		}
	case []any:
		for _, child := range node {
			complete(child, file)
		}
	}
}

// resolve follows references, and merges what allOf and a single anyOf demand.
func (s *schema) resolve(node map[string]any) (map[string]any, error) {
	if reference, ok := node["$ref"].(string); ok {
		name, pointer, _ := strings.Cut(reference, "#")
		content, err := s.file(name)
		if err != nil {
			return nil, err
		}
		// ArrayOfUint32 has `#definitions/uint32`, without the slash.
		for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
			next, ok := content[key].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("nothing is at %s", reference)
			}
			content = next
		}
		return s.resolve(content)
	}
	merged := node
	for _, key := range []string{"allOf", "anyOf"} {
		for _, part := range list(node[key]) {
			resolved, err := s.resolve(part.(map[string]any))
			if err != nil {
				return nil, err
			}
			merged = merge(merged, resolved)
		}
	}
	return merged, nil
}

func merge(a, b map[string]any) map[string]any {
	merged := make(map[string]any)
	for _, source := range []map[string]any{a, b} {
		for key, value := range source {
			known, isMap := merged[key].(map[string]any)
			more, alsoMap := value.(map[string]any)
			switch {
			case key == "properties" && isMap && alsoMap:
				merged[key] = merge(known, more)
			case key == "required" && merged[key] != nil:
				merged[key] = append(slices.Clone(merged[key].([]any)), value.([]any)...)
			default:
				merged[key] = value
			}
		}
	}
	return merged
}

func (s *schema) walk(pattern string, node map[string]any, required bool) error {
	node, err := s.resolve(node)
	if err != nil {
		return err
	}
	kind, _ := node["type"].(string)
	properties, hasProperties := node["properties"].(map[string]any)
	if kind == "" && hasProperties {
		kind = "object"
	}
	if pattern != "" {
		p := property{Pattern: pattern, Type: kind, Required: required}
		for _, value := range list(node["enum"]) {
			p.Enum = append(p.Enum, value.(string))
		}
		p.Minimum, p.Maximum = number(node["minimum"]), number(node["maximum"])
		s.found = append(s.found, p)
	}
	for name, child := range properties {
		isRequired := slices.Contains(list(node["required"]), any(name))
		if err := s.walk(pattern+"/"+name, child.(map[string]any), isRequired); err != nil {
			return err
		}
	}
	// What a list, or a map with free keys, consists of.
	elements, isOne := node["items"].(map[string]any)
	if more := list(node["items"]); len(more) > 0 {
		elements, isOne = more[0].(map[string]any), true
	}
	if more, ok := node["additionalProperties"].(map[string]any); ok {
		elements, isOne = more, true
	}
	if more, ok := node["patternProperties"].(map[string]any); ok {
		for _, child := range more {
			elements, isOne = child.(map[string]any), true
		}
	}
	if isOne {
		return s.walk(pattern+"/*", elements, false)
	}
	return nil
}

func list(value any) []any {
	values, _ := value.([]any)
	return values
}

func number(value any) string {
	n, _ := value.(json.Number)
	return n.String()
}
