package proxylist

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func readJSON(t *testing.T, list string) (lines []string, warnings []string) {
	return readJSONWith(t, list, Options{})
}

func readJSONWith(t *testing.T, list string, o Options) (lines []string, warnings []string) {
	specs, all, err := Parse(strings.NewReader(list), o)
	require.NoError(t, err)
	for i := range specs {
		lines = append(lines, FormatLine(&specs[i]))
	}
	for _, w := range all {
		warnings = append(warnings, w.String())
	}
	return lines, warnings
}

// The fields of a JSON object are options if a table may have columns with their names.
func TestOptionsInJSON(t *testing.T) {
	lines, warnings := readJSON(t, `[
		{"url":"http://p1.test:80","id":"a","region":"EU","tags":["x","y"],"weight":2,"cost":0.5,"max_in_flight":7,
			"rate":2.5,"min_interval":"500ms","bytes_per_day":1048576,"tier":1,"vendor":"v","cost_per_request":0.1,
			"cost_per_gb":3,"auth":"digest","reuse":false,"metadata":{"rack":"r1","unit":7,"spare":true}},
		{"ip":"192.0.2.1","port":80,"id":"b","tags":"z","vendor":"w","metadata":{"rack":"r2"},"reuse":true}]`)
	require.Equal(t, []string{
		"http://p1.test:80#auth=digest&bytes_per_day=1048576&cost=0.5&cost_per_gb=3&cost_per_request=0.1&id=a" +
			"&max_in_flight=7&min_interval=500ms&rack=r1&rate=2.5&region=EU&reuse=false&spare=true&tags=x%2Cy&tier=1" +
			"&unit=7&vendor=v&weight=2",
		"http://192.0.2.1:80#id=b&rack=r2&tags=z&vendor=w",
	}, lines)
	require.Empty(t, warnings)
}

// An object with the field url has options with valid values only; fields without a meaning are named.
func TestFieldsThatAreNotUsed(t *testing.T) {
	lines, warnings := readJSON(t, `[{"url":"http://p1.test:80","weight":-1},{"url":"http://p2.test:80","nope":1},
		{"url":"http://p3.test:80","vender":"v","id":3,"empty":null},{"url":"http://p4.test:80","tags":{"a":"b"}}]`)
	require.Equal(t, []string{"http://p2.test:80", "http://p3.test:80"}, lines)
	require.Equal(t, []string{
		"line 1: the option weight is not a number from 0 to 1000000",
		"line 3: the field id is not used: the id is a number, which another list may have as well",
		"line 4: the option tags is neither a text nor a number",
		`line 2: in 2 entries, this one the first, fields are not used: "nope", "vender" (did you mean vendor?)`,
	}, warnings)
}

// An object of a vendor gives its proxy, even if its fields have other meanings than our options.
func TestFieldsOfVendors(t *testing.T) {
	lines, warnings := readJSON(t, `[
		{"ip":"192.0.2.1","port":80,"id":17,"rate":87,"tags":["very fast"],"tier":"gold",
		"weight":"x","cost":{"eur":1},"metadata":{"a":{"b":1}}},
		{"ip":"192.0.2.2","port":80,"id":"a","anonymity":"elite"},{"ip":"192.0.2.3","port":80,"id":"a"}]`)
	require.Equal(t, []string{"http://192.0.2.1:80#tier=gold", "http://192.0.2.2:80#id=a", "http://192.0.2.3:80"},
		lines)
	require.Equal(t, []string{
		"line 1: the field cost is not used: the option cost is neither a text nor a number",
		"line 1: the field id is not used: the id is a number, which another list may have as well",
		`line 1: the field metadata is not used: the value "a" of the option metadata is neither a text nor a number`,
		"line 1: the field rate is not used: its meaning is not certain; write the address in the field url to use " +
			"it",
		"line 1: the field tags is not used: the option tags must have words of letters, digits, '-', '_' and '.', " +
			"with commas between",
		"line 1: the field weight is not used: the option weight is not a number from 0 to 1000000",
		"line 3: the field id is not used: the id is already used by another proxy",
		`line 2: in 1 entry, this one the first, fields are not used: "anonymity"`,
	}, warnings)
}

// An object of a vendor may have a field url that is not the address of the proxy.
func TestURLsOfVendors(t *testing.T) {
	for _, url := range []string{`null`, `""`, `17`, `"https://vendor.test/proxies/1"`, `["http://203.0.113.1:80"]`} {
		lines, warnings := readJSON(t, `[{"ip":"203.0.113.1","port":80,"url":`+url+`,"cost":"free"}]`)
		require.Equal(t, []string{"http://203.0.113.1:80"}, lines, url)
		require.Len(t, warnings, 1)
		require.Contains(t, warnings[0], "line 1: the field cost is not used", url)
	}
	lines, _ := readJSON(t, `[{"url":"","proxy":"http://203.0.113.1:80","cost":"free"}]`)
	require.Equal(t, []string{"http://203.0.113.1:80"}, lines)
}

// An id that is a number does not cost the proxy. A text as id is one of ours, which only one proxy can have.
func TestIDsInJSON(t *testing.T) {
	used := map[string]bool{}
	for i, host := range []string{"p1.test", "p2.test"} {
		lines, warnings := readJSONWith(t, `[{"url":"http://`+host+`:80","id":1},{"url":"http://`+host+`:81","id":"2"},
			{"url":"http://`+host+`:82","id":"a"}]`, Options{UsedIDs: used})
		require.Equal(t, []string{"http://" + host + ":80", "http://" + host + ":81"}, lines[:2])
		if i == 0 {
			require.Equal(t, []string{"http://p1.test:82#id=a"}, lines[2:])
			require.Len(t, warnings, 2)
		} else {
			require.Empty(t, lines[2:])
			require.Contains(t, strings.Join(warnings, "\n"), `the id "a" is already used`)
		}
	}
}

// A template for ids comes before the ids of a vendor.
func TestIDTemplateAndIDsOfVendors(t *testing.T) {
	lines, warnings := readJSONWith(t, `[{"ip":"192.0.2.1","port":80,"id":"d-1"},{"ip":"192.0.2.2","port":80,"id":7},
		{"url":"http://p1.test:80","id":"a"}]`, Options{HasIDTemplate: true})
	require.Equal(t, []string{"http://192.0.2.1:80", "http://192.0.2.2:80", "http://p1.test:80#id=a"}, lines)
	require.Empty(t, warnings)
}

// A text is metadata only if the object has our form.
func TestMetadataThatAreText(t *testing.T) {
	lines, warnings := readJSON(t, `[{"ip":"192.0.2.1","port":80,"metadata":"a=b"},
		{"url":"http://p1.test:80","metadata":"a=b"}]`)
	require.Equal(t, []string{"http://192.0.2.1:80", "http://p1.test:80#a=b"}, lines)
	require.Equal(t, []string{"line 1: the field metadata is not used: it is not a JSON object"}, warnings)
}

// A list has one warning with at most twenty names, also if each entry has other fields.
func TestManyFieldsThatAreNotUsed(t *testing.T) {
	var list strings.Builder
	for i := range 30 {
		list.WriteString(`{"url":"http://p.test:8` + string(rune('0'+i/10)) + string(rune('0'+i%10)) + `","f` +
			string(rune('a'+i%26)) + strings.Repeat("x", i/26) + `":1}` + "\n")
	}
	_, warnings := readJSON(t, list.String())
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "in 30 entries, this one the first, ")
	require.Contains(t, warnings[0], `"ft", and others`)
	require.NotContains(t, warnings[0], `"fu"`)
}
