package proxylist

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
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

// findProxies returns the proxies in a JSON value; nil for none. At most depth objects may be around a proxy. The
// proxies are:
//   - the elements, if the value is an array
//   - the value itself, if it is an object with an address
//   - the proxies in its fields (fieldProxies), if it is any other object. If there are none, the result has the
//     elements of the object's longest array; parseJSON reads them as rows of a table, or skips them with a warning.
func findProxies(value any, depth int) []any {
	object, isObject := value.(map[string]any)
	if array, ok := value.([]any); ok || !isObject || depth == 0 {
		return array
	}
	if objectValues(object).hasAddress() {
		return []any{object}
	}
	longest, hasArray := longestArray(object)
	if proxies := fieldProxies(object, !hasArray, depth-1); proxies != nil {
		return proxies
	}
	return longest
}

// fieldProxies returns the proxies in the fields of an object. A field that is named after a protocol, such as
// {"socks5": [...]}, comes first and sets the protocol of its proxies. If another field, such as {"all": [...]}, has
// some of the same addresses, these addresses are left out of the other field. A field that is named after an address
// may describe the proxy at this address. If urls is set, a text such as {"http": "http://192.0.2.1:80"} is a proxy,
// too.
func fieldProxies(object map[string]any, urls bool, depth int) (all []any) {
	names := slices.SortedFunc(maps.Keys(object), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(parseProtocols(b)), len(parseProtocols(a))), cmp.Compare(a, b))
	})
	known := map[any]bool{}
	for _, name := range names {
		schemes := parseProtocols(name)
		var found []any
		switch field := object[name].(type) {
		case string:
			if urls && len(schemes) > 0 && strings.Contains(field, "://") {
				found = []any{field}
			}
		case []any:
			if len(schemes) > 0 || slices.ContainsFunc(field, isProxy) {
				found = field
			}
		case map[string]any:
			if isPlainAddress(name) && !objectValues(field).hasAddress() {
				field = maps.Clone(field)
				field["address"] = name
			}
			if found = findProxies(field, depth); !slices.ContainsFunc(found, isProxy) {
				found = nil
			}
		}
		for _, proxy := range found {
			if text, ok := proxy.(string); ok && len(schemes) > 0 {
				known[text] = true
			} else if ok && known[text] {
				continue
			}
			all = append(all, withProtocol(proxy, schemes))
		}
	}
	return all
}

// isProxy reports whether a JSON value looks like a proxy.
func isProxy(value any) bool {
	switch v := value.(type) {
	case string:
		_, _, err := parseAddress(stripComment(v), upstream.HTTP)
		return err == nil
	case map[string]any:
		longest, _ := longestArray(v)
		return objectValues(v).hasAddress() || slices.ContainsFunc(longest, isProxy)
	}
	return false
}

// withProtocol gives a proxy the first of the schemes. If the proxy already has a protocol, or there are no schemes,
// the proxy stays unchanged.
func withProtocol(proxy any, schemes []string) any {
	if len(schemes) == 0 {
		return proxy
	}
	switch p := proxy.(type) {
	case string:
		if !strings.Contains(p, "://") {
			return schemes[0] + "://" + p
		}
	case map[string]any:
		if v := objectValues(p); v[fieldProtocol] == "" && !strings.Contains(v[fieldURL], "://") {
			p["protocol"] = schemes[0]
		}
	}
	return proxy
}

func objectValues(object map[string]any) *fieldValues {
	v := &fieldValues{}
	v.setAll(object)
	v.resolveProtocol()
	return v
}

// jsonLines returns the documents of a list with one JSON document per line, with or without a comma at its end; nil if
// a line is not valid JSON.
func jsonLines(data []byte) any {
	var all []any
	for line := range strings.Lines(string(data)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var document any
		if json.Unmarshal([]byte(strings.TrimSuffix(strings.TrimSpace(line), ",")), &document) != nil {
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
		spec, warning, err := parseAddress(stripComment(p), l.Scheme)
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
		if err == nil {
			err = l.setOptions(n, &spec, p, v)
		}
		l.add(n, formJSON, spec, "", err)
	case []any:
		l.parseLine(n, rowOf(p))
	default:
		l.skip(n, errors.New("the element is neither a string nor an object nor an array"))
	}
}

// rowOf returns an array as a row of a table.
func rowOf(array []any) string {
	cells := make([]string, len(array))
	for i, e := range array {
		cells[i] = textOf(e)
	}
	var row strings.Builder
	w := csv.NewWriter(&row)
	_ = w.Write(cells) // a Builder has no errors
	w.Flush()
	return strings.TrimSpace(strings.ReplaceAll(row.String(), "\n", " "))
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
