package proxylist

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Entries are written as they were read, except those that would be read as another proxy then.
func TestOriginal(t *testing.T) {
	for name, c := range map[string]struct {
		scheme, list string
		change       func(specs []upstream.Spec)
		want         string // of the second and the first proxy
	}{
		"lines": {"", "# a\n1.2.3.4:80 US elite\n\n- ann:pw@1.2.3.5:80 # x\n", nil,
			"- ann:pw@1.2.3.5:80\n1.2.3.4:80 US elite\n"},
		"another scheme": {"", "1.2.3.4:80:ann:pw\n1.2.3.5:80\n",
			func(s []upstream.Spec) { s[1].Address.Scheme = "socks5" },
			"socks5://1.2.3.5:80\n1.2.3.4:80:ann:pw\n"},
		"a region": {"", "1.2.3.4:80:ann:pw\n1.2.3.5:80\n", func(s []upstream.Spec) { s[0].Region = "DE" },
			"1.2.3.5:80\nhttp://ann:pw@1.2.3.4:80#region=DE\n"},
		"the default scheme of the reading": {"socks5", "1.2.3.4:80\nhttp://1.2.3.5:80\n", nil,
			"http://1.2.3.5:80\nsocks5://1.2.3.4:80\n"},
		"a table": {"", "IP;Port;Other\n1.2.3.4;80;x\n1.2.3.5;81;y\n", nil,
			"IP;Port;Other\n1.2.3.5;81;y\n1.2.3.4;80;x\n"},
		"a table with another scheme": {"", "IP;Port\n1.2.3.4;80\n1.2.3.5;81\n",
			func(s []upstream.Spec) { s[0].Address.Scheme = "socks4" }, "http://1.2.3.5:81\nsocks4://1.2.3.4:80\n"},
		"JSON": {"", `{"data": [{"ip": "1.2.3.4", "port": 80, "x": true}, "1.2.3.5:81"]}`, nil,
			"[\n\"1.2.3.5:81\",\n{\"ip\":\"1.2.3.4\",\"port\":80,\"x\":true}\n]\n"},
		"Clash": {"", "proxies:\n  - {type: http, server: h, port: 1}\n  - {type: socks5, server: i, port: 2}\n", nil,
			"socks5://i:2\nhttp://h:1\n"},
	} {
		var o Original
		specs, _, err := Parse(strings.NewReader(c.list), Options{Scheme: c.scheme, Original: &o})
		require.NoError(t, err, name)
		require.Len(t, specs, 2, name)
		if c.change != nil {
			c.change(specs)
		}
		require.Equal(t, c.want, o.Format([]upstream.Spec{specs[1], specs[0]}, []int{1, 0}), name)
	}
	require.Empty(t, (&Original{}).Format(nil, nil))
}

// A table with a column url has the options of a line as columns. A table without it has no options.
func TestColumnsWithOptions(t *testing.T) {
	parse := func(text string) []string {
		specs, _, err := Parse(strings.NewReader(text), Options{})
		require.NoError(t, err)
		lines := []string{}
		for i := range specs {
			lines = append(lines, FormatLine(&specs[i]))
		}
		return lines
	}
	require.Equal(t, []string{"http://user:pw@192.0.2.1:1#id=a%2C%22b&tags=x%2Cy&weight=2",
		"http://192.0.2.2:1#city=a+b&id=%3Dc&region=EU"},
		parse("id,URL,region,weight,uses,tags,auth,metadata\n\"a,\"\"b\",http://192.0.2.1:1,,2,7,\"x,y\",user:pw,\n"+
			"'=c,http://192.0.2.2:1,EU,,,,,city=a+b\n"))
	require.Equal(t, []string{"http://192.0.2.3:1"},
		parse("url;weight\nhttp://192.0.2.2:1;heavy\nhttp://192.0.2.3:1;\n"))
	require.Equal(t, []string{"http://192.0.2.1:1"}, parse("id,ip,port,weight\n7,192.0.2.1,1,2\n"))
}
