package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
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

// Document is a configuration in the JSON form of Config.
type Document struct {
	JSON []byte
	File string // path of the configuration file as the program that read it got it; "" if it is unknown
}

// Differences returns the differences of two configurations, sorted by key. It compares tables of a list by their id,
// name or url. It finds no difference between two secrets, because both are masked. Paths that are relative to the
// configuration file are compared without the folder of the file, so a copy of the file in another folder has no
// differences.
func Differences(running, file Document) ([]Difference, error) {
	runningValues, err := flatten(running.JSON)
	if err != nil {
		return nil, fmt.Errorf("the configuration in force: %w", err)
	}
	fileValues, err := flatten(file.JSON)
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
		before, after := runningValues[key], fileValues[key]
		if before != after && running.withoutFolder(key, before) != file.withoutFolder(key, after) {
			list = append(list, Difference{key, before, after})
		}
	}
	return list, nil
}

// withoutFolder returns the JSON value of a key. If the value is a path in the folder of the configuration file, it
// returns the path relative to this folder. For the default of state.dir, which depends on the name of the file, it
// returns a word that is no JSON value.
func (d *Document) withoutFolder(key, value string) string {
	var path string
	if d.File == "" || json.Unmarshal([]byte(value), &path) != nil {
		return value
	}
	switch {
	case key == "state.dir" && path == stateDirOf(d.File):
		return "default"
	case key != "log.access_file" && !(strings.HasPrefix(key, "plugins.") && strings.HasSuffix(key, ".path")):
		return value
	}
	relative, err := filepath.Rel(filepath.Dir(d.File), path)
	if err != nil || !filepath.IsLocal(relative) {
		return value
	}
	return relative
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
