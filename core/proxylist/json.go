package proxylist

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// isJSON reports whether a list begins with a JSON object or array. (A list of lines may begin with "[" of an IPv6
// address.)
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
const errJSON = "the list is not valid JSON"

// parseJSON parses a JSON document in which findProxies finds proxies. A proxy is a string in the form of a line, or an
// object with the fields of fieldNames.
func (l *listParser) parseJSON(in *bufio.Reader) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	data = []byte(strings.TrimPrefix(string(data), "\ufeff"))
	var document any
	if json.Unmarshal(data, &document) != nil {
		if document = jsonLines(data); document == nil {
			l.warn(0, errJSON)
			return nil
		}
	}
	proxies := findProxies(document, maxDepth)
	if proxies == nil {
		l.warn(0, "the JSON document has no array of proxies")
		return nil
	}
	for i, p := range proxies {
		l.addJSON(i+1, p, maxDepth)
	}
	return nil
}

// maxDepth is the maximum number of objects around an array of proxies.
const maxDepth = 4

// findProxies returns the proxies in a JSON value; nil for none. depth is the maximum number of objects around them.
// The proxies of a value are:
//   - the elements of an array
//   - an object with an address, as one proxy
//   - in an object with arrays that are named after protocols: the elements of these arrays
//   - in an object without arrays, but with URLs that are named after protocols: the URLs
//   - in an object with other arrays: the elements of the longest array
//   - in any other object: the inner objects with an address, or named after one, or the proxies in one of the other
//     inner objects, whichever are more
func findProxies(value any, depth int) []any {
	object, isObject := value.(map[string]any)
	if array, ok := value.([]any); ok || !isObject || depth == 0 {
		return array
	}
	if objectValues(object).hasAddress() {
		return []any{object}
	}
	longest, hasArray := longestArray(object)
	if proxies := byProtocol(object, !hasArray); proxies != nil {
		return proxies
	}
	if hasArray {
		return longest
	}
	var inner, objects []any
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if o, ok := object[key].(map[string]any); ok {
			if isPlainAddress(key) && !objectValues(o).hasAddress() {
				o = maps.Clone(o)
				o["address"] = key
			}
			if objectValues(o).hasAddress() {
				objects = append(objects, o)
			} else if found := findProxies(o, depth-1); len(found) > len(inner) {
				inner = found
			}
		}
	}
	if len(objects) > len(inner) {
		return objects
	}
	return inner
}

// byProtocol returns the proxies of an object such as {"http": [...], "socks5": [...]}, each with its protocol; nil for
// any other object. If urls is set, {"http": "http://192.0.2.1:80"} is such an object, too.
func byProtocol(object map[string]any, urls bool) (all []any) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		schemes := protocols(name)
		array, ok := object[name].([]any)
		if address, isText := object[name].(string); urls && isText && strings.Contains(address, "://") {
			array, ok = []any{address}, true
		}
		if len(schemes) == 0 || !ok {
			continue
		}
		for _, e := range array {
			switch p := e.(type) {
			case string:
				if !strings.Contains(p, "://") {
					e = schemes[0] + "://" + p
				}
			case map[string]any:
				if v := objectValues(p); v[fieldProtocol] == "" && !strings.Contains(v[fieldURL], "://") {
					p["protocol"] = schemes[0]
				}
			}
			all = append(all, e)
		}
	}
	return all
}

func objectValues(object map[string]any) *fieldValues {
	v := &fieldValues{}
	v.setAll(object)
	v.resolveProtocol()
	return v
}

// jsonLines returns the documents of a list with one JSON document per line; nil if a line is not valid JSON.
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

func longestArray(object map[string]any) (longest []any, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if array, isArray := object[name].([]any); isArray && (!ok || len(array) > len(longest)) {
			longest, ok = array, true
		}
	}
	return longest, ok
}

// addJSON adds the nth proxy of a document. In place of an object that has an array and no address, it adds the
// elements of the array.
func (l *listParser) addJSON(n int, proxy any, depth int) {
	l.setEntry(proxy)
	switch p := proxy.(type) {
	case string:
		spec, warning, err := parse(stripComment(p), l.Scheme)
		l.add(n, formJSON, spec, warning, err)
	case map[string]any:
		v := objectValues(p)
		if array, ok := longestArray(p); ok && depth > 0 && !v.hasAddress() {
			for _, e := range array {
				l.addJSON(n, e, depth-1)
			}
			return
		}
		spec, err := v.spec(l.Scheme)
		l.add(n, formJSON, spec, "", err)
	default:
		l.skip(n, errors.New("the element is neither a string nor an object"))
	}
}

// setAll sets the fields of a JSON or YAML object.
func (v *fieldValues) setAll(object map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		f, value := fieldOf(name), object[name]
		if is, ok := value.(bool); ok && is && f >= fieldHTTP {
			value = "true"
		}
		if f == fieldLogin {
			v.setLogin(value)
			continue
		}
		v.set(f, textOf(value))
	}
}

// setLogin sets the user and the password from an object that has both, or from the text user:pass.
func (v *fieldValues) setLogin(value any) {
	switch login := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(login)) {
			if f := fieldOf(name); f == fieldUser || f == fieldPassword {
				v.set(f, textOf(login[name]))
			}
		}
	case string:
		user, password, ok := strings.Cut(login, ":")
		if ok && isLogin(user, password) && !strings.HasPrefix(password, "//") && !strings.ContainsAny(login, " \t") {
			v.set(fieldUser, user)
			v.set(fieldPassword, password)
		}
	}
}

// textOf returns a JSON or YAML value as text. The elements of an array are separated by commas. For an object, textOf
// returns the text of one of its fields: the code or the name of a country, or a protocol.
func textOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case int: // YAML only
		return strconv.Itoa(v)
	case float64:
		b, _ := json.Marshal(v)
		return string(b)
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, textOf(e))
		}
		return strings.Join(all, ",")
	case map[string]any:
		for _, name := range []string{
			"iso_code", "countryCode", "country_code", "country", "code", "type", "protocol",
		} {
			if text := textOf(v[name]); text != "" {
				return text
			}
		}
	}
	return ""
}
