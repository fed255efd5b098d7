package proxylist

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
)

// isJSON reports whether a list is a JSON document: it begins with an object or an array. (A list of lines
// can also begin with "[", but only before an IPv6 address.)
func isJSON(in *bufio.Reader) bool {
	for n := 1; n <= 1024; n++ {
		b, err := in.Peek(n)
		if err != nil {
			return false
		}
		switch c := b[n-1]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case c == '{':
			return true
		case c == '[':
			next, _ := in.Peek(n + 64)
			rest := strings.TrimLeft(string(next[n:]), " \t\r\n")
			return rest != "" && strings.ContainsRune(`{"[]`, rune(rest[0]))
		case n <= 3 && strings.HasPrefix("\xef\xbb\xbf", string(b)): // byte order mark
		default:
			return false
		}
	}
	return false
}

// errJSON does not quote the document, which may contain credentials.
var errJSON = errors.New("the list is not valid JSON")

// parseJSON parses a JSON document: an array of proxies, or an object with such an array as one of its
// fields. A proxy is a string that has the form of a line, or an object with the fields of fieldNames.
func (l *list) parseJSON(in *bufio.Reader) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	data = []byte(strings.TrimPrefix(string(data), "\ufeff"))
	var document any
	if json.Unmarshal(data, &document) != nil {
		if document = jsonLines(data); document == nil {
			l.warn(0, "%v", errJSON)
			return nil
		}
	}
	proxies, ok := document.([]any)
	if object, isObject := document.(map[string]any); isObject {
		proxies, ok = arrayOf(object)
	}
	if !ok {
		l.warn(0, "the JSON document has no array of proxies")
		return nil
	}
	for i, p := range proxies {
		l.addJSON(i+1, p)
	}
	return nil
}

// jsonLines returns the documents of a list with one JSON document per line, or nil if a line is not a
// document.
func jsonLines(data []byte) any {
	var all []any
	for line := range strings.Lines(string(data)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var document any
		if json.Unmarshal([]byte(line), &document) != nil {
			return nil
		}
		all = append(all, document)
	}
	return all
}

// arrayOf returns the longest array among the fields of an object.
func arrayOf(object map[string]any) (longest []any, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if array, isArray := object[name].([]any); isArray && (!ok || len(array) > len(longest)) {
			longest, ok = array, true
		}
	}
	return longest, ok
}

// addJSON adds the nth proxy of a document.
func (l *list) addJSON(n int, proxy any) {
	switch p := proxy.(type) {
	case string:
		spec, warning, err := parse(stripComment(p), l.Scheme)
		l.add(n, spec, warning, err)
	case map[string]any:
		var v values
		for _, name := range slices.Sorted(maps.Keys(p)) {
			v.set(fieldOf(name), textOf(p[name]))
		}
		spec, err := v.spec(l.Scheme)
		l.add(n, spec, "", err)
	default:
		l.warn(n, "the element is neither a string nor an object")
	}
}

// textOf returns a JSON value as text. The elements of an array are separated by commas.
func textOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case float64:
		b, _ := json.Marshal(v)
		return string(b)
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, textOf(e))
		}
		return strings.Join(all, ",")
	}
	return ""
}
