package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Difference is a key whose value in a file differs from the value in force. The values are JSON; "" stands for a
// missing key.
type Difference struct {
	Key     string `json:"key"`
	Running string `json:"running,omitempty"`
	File    string `json:"file,omitempty"`
}

// Differences returns the differences of two configurations in the JSON form of Config, sorted by key. It compares
// tables of a list by their id, name or url. It finds no difference between two secrets, because both are masked.
func Differences(running, file []byte) ([]Difference, error) {
	runningValues, err := flatten(running)
	if err != nil {
		return nil, fmt.Errorf("the configuration in force: %w", err)
	}
	fileValues, err := flatten(file)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for key := range runningValues {
		keys[key] = true
	}
	for key := range fileValues {
		keys[key] = true
	}
	list := []Difference{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if runningValues[key] != fileValues[key] {
			list = append(list, Difference{key, runningValues[key], fileValues[key]})
		}
	}
	return list, nil
}

// flatten returns the JSON value of each key of a configuration, such as breaker.blame. The warnings are left out.
func flatten(document []byte) (map[string]string, error) {
	var tree map[string]any
	if err := json.Unmarshal(document, &tree); err != nil {
		return nil, err
	}
	delete(tree, "warnings")
	flat := map[string]string{}
	addValues(flat, "", tree)
	return flat, nil
}

func addValues(flat map[string]string, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, x := range v {
			addValues(flat, strings.TrimPrefix(path+"."+key, "."), x)
		}
		return
	case []any:
		if len(v) > 0 {
			if _, tables := v[0].(map[string]any); tables {
				addTables(flat, path, v)
				return
			}
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return // impossible: the value was decoded from JSON
	}
	flat[path] = string(text)
}

// addTables adds the values of a list of tables to flat. In their keys, the id, name or url of a table stands in place
// of its index.
func addTables(flat map[string]string, path string, list []any) {
	seen := map[string]int{}
	for i, x := range list {
		name := fmt.Sprint(i)
		table, _ := x.(map[string]any)
		for _, key := range []string{"id", "name", "url"} {
			if text, _ := table[key].(string); text != "" {
				name = text
				break
			}
		}
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s #%d", name, seen[name])
		}
		addValues(flat, path+"["+name+"]", x)
	}
}
