package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// keyLines returns the line number of each key of a TOML document, such as proxies[1].url. If the document has a
// syntax error, it returns only the keys before the error.
func keyLines(doc []byte) map[string]int {
	lines := map[string]int{}
	arrays := map[string]int{}
	prefix := ""
	p := unstable.Parser{}
	p.Reset(doc)
	ends := lineEnds(doc) // faster than the parser, which counts lines from the beginning for each key
	line := func(n *unstable.Node) int {
		before, _ := slices.BinarySearch(ends, int(n.Raw.Offset))
		return before + 1
	}
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, at := "", 0
			for it := e.Key(); it.Next(); {
				path = strict.Join(path, string(it.Node().Data))
				at = line(it.Node())
				if n, ok := arrays[path]; ok && (e.Kind == unstable.Table || !it.IsLast()) {
					path = fmt.Sprintf("%s[%d]", path, n-1)
				}
			}
			if e.Kind == unstable.ArrayTable {
				arrays[path]++
				path = fmt.Sprintf("%s[%d]", path, arrays[path]-1)
			}
			prefix = path
			lines[path] = at
		case unstable.KeyValue:
			addKeyLines(lines, prefix, e, line)
		}
	}
	return lines
}

func lineEnds(doc []byte) (ends []int) {
	for i, c := range doc {
		if c == '\n' {
			ends = append(ends, i)
		}
	}
	return ends
}

func addKeyLines(lines map[string]int, prefix string, e *unstable.Node, line func(*unstable.Node) int) {
	path, at := prefix, 0
	for it := e.Key(); it.Next(); {
		path = strict.Join(path, string(it.Node().Data))
		at = line(it.Node())
		if _, seen := lines[path]; !seen {
			lines[path] = at
		}
	}
	lines[path] = at
	addValueLines(lines, path, e.Value(), at, line)
}

func addValueLines(lines map[string]int, path string, v *unstable.Node, at int, line func(*unstable.Node) int) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			addKeyLines(lines, path, it.Node(), line)
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			element := fmt.Sprintf("%s[%d]", path, i)
			if n := it.Node(); n.Raw.Length > 0 {
				at = line(n)
			}
			lines[element] = at
			addValueLines(lines, element, it.Node(), at, line)
		}
	}
}

// lineOf returns the line number of a key. If lines lacks the key, lineOf returns the line number of the innermost
// table that contains the key; 0 if there is none.
func lineOf(lines map[string]int, key string) int {
	for key != "" {
		if n, ok := lines[key]; ok {
			return n
		}
		if n, ok := lines[key+"[0]"]; ok { // the key of [[tables]]
			return n
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			break
		}
		key = key[:i]
	}
	return 0
}
