package proxylist

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

func TestEveryForm(t *testing.T) {
	for line, want := range map[string][4]string{ // scheme, host, user, password
		"10.0.0.1:8080":                           {"http", "10.0.0.1:8080", "", ""},
		"Proxy.Example:8080":                      {"http", "proxy.example:8080", "", ""},
		"[2001:db8::1]:3128":                      {"http", "[2001:db8::1]:3128", "", ""},
		"[2001:db8::1]:3128:u:p:q":                {"http", "[2001:db8::1]:3128", "u", "p:q"},
		"10.0.0.1:8080:user:pass":                 {"http", "10.0.0.1:8080", "user", "pass"},
		"10.0.0.1:8080:user:pa:ss":                {"http", "10.0.0.1:8080", "user", "pa:ss"},
		"10.0.0.1:8080:user:p%40ss":               {"http", "10.0.0.1:8080", "user", "p%40ss"},
		"10.0.0.1:8080:user:p@ss":                 {"http", "10.0.0.1:8080", "user", "p@ss"},
		"proxy.example,8080,user,p@ss":            {"http", "proxy.example:8080", "user", "p@ss"},
		"user:pass:proxy.example:8080":            {"http", "proxy.example:8080", "user", "pass"},
		"user:1234:proxy.example:8080":            {"http", "proxy.example:8080", "user", "1234"},
		"proxy.example:8080:user:1234":            {"http", "proxy.example:8080", "user", "1234"},
		"user:pass@proxy.example:8080":            {"http", "proxy.example:8080", "user", "pass"},
		"user:p@ss@proxy.example:8080":            {"http", "proxy.example:8080", "user", "p@ss"},
		"proxy.example:8080@user:pass":            {"http", "proxy.example:8080", "user", "pass"},
		"proxy.example:8080##user:pass":           {"http", "proxy.example:8080", "user", "pass"},
		"http://10.0.0.1:8080:user:p:ss":          {"http", "10.0.0.1:8080", "user", "p:ss"},
		"socks5://h.example:1080:u:p":             {"socks5", "h.example:1080", "u", "p"},
		"http://proxy.example:8080":               {"http", "proxy.example:8080", "", ""},
		"https://user:p%40ss@proxy.example":       {"https", "proxy.example:443", "user", "p@ss"},
		"http://user:p@ss@proxy.example:8080":     {"http", "proxy.example:8080", "user", "p@ss"},
		"socks5://proxy.example":                  {"socks5", "proxy.example:1080", "", ""},
		"socks5h://u:p@proxy.example:9/":          {"socks5h", "proxy.example:9", "u", "p"},
		"direct://":                               {"direct", "", "", ""},
		"  10.0.0.1:8080 \t # a comment":          {"http", "10.0.0.1:8080", "", ""},
		"10.0.0.1:8080 ; a comment":               {"http", "10.0.0.1:8080", "", ""},
		"http://u:p#x@proxy.example:80#region=us": {"http", "proxy.example:80", "u", "p#x"},
	} {
		spec, err := ParseLine(line)
		require.NoError(t, err, line)
		a := spec.Address
		require.Equal(t, want, [4]string{a.Scheme, a.Host, a.Username, a.Password.Reveal()}, line)
	}
}

func TestOptions(t *testing.T) {
	spec, err := ParseLine("http://h:1#region=us-east&weight=3&cost=0.5&max_in_flight=9&id=a&reuse=false&tier=res&" +
		"tags=x,y-1")
	require.NoError(t, err)
	spec.Address = upstream.Address{}
	require.Equal(t, upstream.Spec{ID: "a", Region: "us-east", Weight: 3, Cost: 0.5, Tags: []string{"x", "y-1"},
		Extras: &upstream.Extras{MaxInFlight: 9, NoReuse: true, Metadata: map[string]string{"tier": "res"}}}, spec)
	_, err = ParseLine("http://h:1#tags=x,,y")
	require.ErrorContains(t, err, "the option tags")
}

// Parse reads the result of FormatLine as the same proxy.
func TestLine(t *testing.T) {
	for _, line := range []string{"http://h:1", "socks5h://u:p%40s%23%25@[::1]:9", "direct://",
		"http://h:1#region=us-east&weight=3&cost=0.5&max_in_flight=9&id=a&tier=res",
		"http://h:1#reuse=false&tags=a,b", "http://h:1#auth=digest",
		"https://h:1#insecure=true&ca_file=ca.pem&cert=c.pem&key=k.pem"} {
		spec, err := ParseLine(line)
		require.NoError(t, err)
		again, err := ParseLine(FormatLine(&spec))
		require.NoError(t, err)
		require.Equal(t, spec, again)
	}
}

func TestBadLinesAreReportedAndSkipped(t *testing.T) {
	list := "\ufeff# my proxies\r\n10.0.0.1:1\r\n\r\nnonsense\r\n" +
		"10.0.0.2:99999:u:topsecret\r\nftp://x:topsecret@h:1\r\n10.0.0.1:1\r\n1.1.1.1:80:2.2.2.2:81\r\n" +
		strings.Repeat("x", MaxLine+10) + "\nhttp://h:3#id=taken\n" +
		"http://h:2#weight=x\nhttp://h:2#weight=0\nhttp://h:2#reuse=no\nsocks6://h:2\n10.0.0.3:3"
	specs, warnings, err := Parse(strings.NewReader(list), Options{Name: "list.txt",
		UsedIDs: map[string]bool{"taken": true}})
	require.NoError(t, err)
	var hosts []string
	for _, s := range specs {
		hosts = append(hosts, s.Address.Host)
		require.Equal(t, "list.txt", s.Source)
	}
	require.Equal(t, []string{"10.0.0.1:1", "1.1.1.1:80", "10.0.0.3:3"}, hosts)
	var lines []int
	for _, w := range warnings {
		lines = append(lines, w.Line)
		require.NotContains(t, w.Msg, "topsecret")
	}
	require.Equal(t, []int{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, lines)
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{"a:1", "u:p@h:1", "h:1:u:p", "http://u:p@h#x=1", "[::1]:80:u:p", "a,1,b,c", "h:1##u:p",
		"\x00", "::::", "@", "#", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		spec, err := ParseLine(line)
		if err != nil {
			return
		}
		if spec.Address.Scheme == upstream.Direct {
			return
		}
		host, err := upstream.HostPort(spec.Address.Host, "")
		if err != nil || host != spec.Address.Host {
			t.Fatalf("%q: host %q is not normalized: %v", line, spec.Address.Host, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", spec, spec, spec); len(spec.Address.Password) > 8 &&
			strings.Contains(text, spec.Address.Password.Reveal()) {
			t.Fatalf("%q shows its password: %s", line, text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var list strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&list, "10.%d.%d.%d:8080:user%d:pass\n", i>>16, i>>8&255, i&255, i)
	}
	for b.Loop() {
		specs, _, err := Parse(strings.NewReader(list.String()), Options{Name: "x"})
		if err != nil || len(specs) != 100_000 {
			b.Fatal(len(specs), err)
		}
	}
}

// Lists in published forms. Each value has the proxies as URLs, and the number of warnings.
func TestPublishedLists(t *testing.T) {
	for name, c := range map[string]struct {
		scheme, list string
		want         []string
		warnings     int
	}{
		"a table with a header": {"", "ip,port,protocols,anonymity,country\n1.2.3.4,8080,http|https,elite,US\n" +
			"1.2.3.5,1080,socks5,elite,DE\n1.2.3.6,1080,socks4,elite,DE\n",
			[]string{"http://1.2.3.4:8080 US", "socks5://1.2.3.5:1080 DE", "socks4://1.2.3.6:1080 DE"}, 0},
		"semicolons, quotes, other names": {"", "Proxy Address;Port;User Name;Password;Country Code\n" +
			"\"1.2.3.4\";\"8080\";\"ann\";\"p;w\";\"FR\"\n2001:db8::1;80;;;\n",
			[]string{"http://***@1.2.3.4:8080 FR", "http://[2001:db8::1]:80"}, 0},
		"tabs": {"", "IP\tPort\tCode\tAnonymity\n1.2.3.4\t8080\tUS\telite\n", []string{"http://1.2.3.4:8080"}, 0},
		"bare lines of SOCKS5": {"socks5", "1.2.3.4:1080\nhttp://1.2.3.5:80\n",
			[]string{"socks5://1.2.3.4:1080", "http://1.2.3.5:80"}, 0},
		"prose and flags": {"", "Proxy list updated at Mon, 02 Jan\nMirrors: see below.\n\n1.2.3.4:8080 US-N-S +\n" +
			"1.2.3.5:3128 DE-H -\n", []string{"http://1.2.3.4:8080", "http://1.2.3.5:3128"}, 3},
		"bars": {"", "1.2.3.4:8080|United States|elite\n1.2.3.5|80|DE\n", []string{"http://1.2.3.4:8080",
			"http://1.2.3.5:80"}, 1},
		"columns, no header": {"", "1.2.3.4,8080,http,elite,US\n1.2.3.5,8080,http,elite\n",
			[]string{"http://1.2.3.4:8080", "http://1.2.3.5:8080"}, 1},
		"user and password behind a URL": {"", "http://1.2.3.4:8080:ann:secret\n",
			[]string{"http://***@1.2.3.4:8080"}, 0},
		"an IPv6 address without brackets": {"", "2001:db8::2:8080\n2001:db8::2\n[2001:db8::2]:8080\n",
			[]string{"http://[2001:db8::2]:8080"}, 2},
		"characters without width": {"", "\ufeff\u200b1.2.3.4:8080\u200b\n\u00a01.2.3.5:80\u00a0\n",
			[]string{"http://1.2.3.4:8080", "http://1.2.3.5:80"}, 0},
		"proxychains": {"", "socks5 1.2.3.4 1080\nhttp 1.2.3.5 8080 ann secret\n",
			[]string{"socks5://1.2.3.4:1080", "http://***@1.2.3.5:8080"}, 0},
		"JSON strings": {"socks5", `["1.2.3.4:1080", "http://1.2.3.5:80", 7]`,
			[]string{"socks5://1.2.3.4:1080", "http://1.2.3.5:80"}, 1},
		"JSON objects": {"", ` {"total": 2, "data": [{"ip": "1.2.3.4", "port": "8080", "protocols": ["socks5"], ` +
			`"country": "US"}, {"host": "1.2.3.5", "port": 80, "username": "ann", "password": "secret"}, {}]}`,
			[]string{"socks5://1.2.3.4:8080 US", "http://***@1.2.3.5:80"}, 1},
		"damaged JSON": {"", `[{"ip": "1.2.3.4", "password": "topsecret"`, nil, 1},
		"an IPv6 address first": {"", "[2001:db8::1]:80\n1.2.3.4:80\n", []string{"http://[2001:db8::1]:80",
			"http://1.2.3.4:80"}, 0},
		"JSON lines": {"", "{\"ip\":\"1.2.3.4\",\"port\":80}\n{\"ip\":\"1.2.3.5\",\"port\":81}\n",
			[]string{"http://1.2.3.4:80", "http://1.2.3.5:81"}, 0},
		"addresses and types": {"", "IP:Port,Protocol\n1.2.3.4:1080,socks5\n",
			[]string{"socks5://1.2.3.4:1080"}, 0},
		"types without a header": {"", "1.2.3.4:1080,socks5\n1.2.3.5,1080,socks5\nh.example:3128,https\n",
			[]string{"socks5://1.2.3.4:1080", "socks5://1.2.3.5:1080", "http://h.example:3128"}, 0},
		"types among text": {"", "socks5 1.2.3.4:1080\n1.2.3.5,1080,socks4,elite,DE\n1.2.3.6:80 US https +\n",
			[]string{"socks5://1.2.3.4:1080", "socks4://1.2.3.5:1080", "http://1.2.3.6:80"}, 1},
		"Clash": {"", "external-controller: 127.0.0.1:9090\nproxies:\n  - {name: \"a\", type: socks5, server: " +
			"1.2.3.4, port: 1080, username: ann, password: secret}\n" +
			"  - name: b\n    type: http\n    server: b.example\n" +
			"    port: 443\n    tls: true\n  - {type: vmess, server: c.example, port: 1, uuid: secret}\n" +
			"proxy-groups:\n  - {name: g, type: select, proxies: [a, b]}\n",
			[]string{"socks5://***@1.2.3.4:1080", "https://b.example:443"}, 1},
		"lines of Clash": {"", "- {name: a, type: socks5, server: 1.2.3.4, port: 1080}\n" +
			"  - { name: b, type: http, server: 1.2.3.5, port: \"80\", password: \"secret}\" }\n" + "- {name: secret\n",
			[]string{"socks5://1.2.3.4:1080", "http://***@1.2.3.5:80"}, 1},
		"damaged YAML": {"", "proxies:\n  - {name: a, password: secret\n b: [", nil, 1},
		"UTF-16": {"", "\xff\xfe1\x00.\x002\x00.\x003\x00.\x004\x00:\x008\x00\r\x00\n\x00",
			[]string{"http://1.2.3.4:8"}, 0},
		"UTF-16 backward": {"", "\xfe\xff\x00h\x00:\x008\x00", []string{"http://h:8"}, 0},
		"only a mark":     {"", "\xff\xfe", nil, 0},
		"CR at line ends": {"", "1.2.3.4:80\r1.2.3.5:80\r", []string{"http://1.2.3.4:80", "http://1.2.3.5:80"}, 0},
		"no IPv4 address": {"", "999.1.1.1:80\n1.2.3.04:80\n1.2.3:80\n1.2.3.4:80\n", []string{"http://1.2.3.4:80"}, 3},
		"an error page":   {"", "<html><head><title>404 Not Found</title>\n</html>\n", nil, 2},
	} {
		specs, warnings, err := Parse(strings.NewReader(c.list), Options{Scheme: c.scheme})
		require.NoError(t, err, name)
		var got []string
		for _, s := range specs {
			got = append(got, strings.TrimSpace(s.Address.String()+" "+s.Region))
		}
		require.Equal(t, c.want, got, "%s: %v", name, warnings)
		require.Len(t, warnings, c.warnings, "%s: %v", name, warnings)
		for _, w := range warnings {
			require.NotContains(t, w.Msg, "secret", name)
		}
	}
}

// FuzzParse: no input leads to a panic or makes credentials of columns. Each proxy is valid, and no warning
// contains a password.
func FuzzParse(f *testing.F) {
	for _, list := range []string{"proxies:\n  - {type: http, server: h, port: 1, password: topsecret9}\n",
		"- {type: socks5, server: h, port: 1}", "\xff\xfeh\x00:\x001\x00",
		"ip,port\n1.2.3.4,80\n", "ip;port;user;pass\n\"1.2.3.4\";80;u;topsecret9",
		`["1.2.3.4:80"]`,
		`{"data":[{"ip":"1.2.3.4","port":80}]}`, "1.2.3.4:80 US\n", "socks5 1.2.3.4 1080 u topsecret9\n", "\ufeff[",
		"{", "a,b,c,d,e", "1.2.3.4 1 ann \x00", ".\xfb 1 0 0", "1.2.3.4:1 ann topsecret9"} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, text string) {
		specs, _, err := Parse(strings.NewReader(text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range specs {
			if err := upstream.CheckSpec(&s); err != nil {
				t.Fatalf("%q gives an invalid proxy: %v", text, err)
			}
			again, err := ParseLine(FormatLine(&s))
			if again.Source = s.Source; err != nil || again.Address != s.Address || again.Region != s.Region {
				t.Fatalf("%q: %+v is written as %q and read as %+v: %v", text, s, FormatLine(&s), again, err)
			}
		}
	})
}

// If several fields have one meaning, and some are empty, the result is always the same.
func TestFieldsWithOneMeaning(t *testing.T) {
	for _, list := range []string{
		`[{"ip": "192.0.2.1", "port": "8080", "region": null, "country": "US", "countryCode": "U2"}]`,
		`{"a": [], "data": [{"region": "California", "port": 8080, "country": "US", "ip": "192.0.2.1", "host": ""}],
			"other": [1]}`,
		"ip,port,country,region\n192.0.2.1,8080,US,\n",
	} {
		for range 50 {
			specs, _, err := Parse(strings.NewReader(list), Options{})
			require.NoError(t, err)
			require.Len(t, specs, 1)
			require.Equal(t, "192.0.2.1:8080", specs[0].Address.Host)
			require.Equal(t, "US", specs[0].Region)
		}
	}
}

// The options of limits and costs are read, and FormatLine writes them.
func TestOptionsOfLimits(t *testing.T) {
	spec, err := ParseLine("http://a.test:1#rate=0.5&min_interval=1.5s&bytes_per_day=1000&tier=2&vendor=acme" +
		"&cost_per_request=0.01&cost_per_gb=8")
	require.NoError(t, err)
	require.Equal(t, 0.5, spec.Extra().Rate)
	require.Equal(t, 1500*time.Millisecond, spec.Extra().MinInterval)
	require.EqualValues(t, 1000, spec.Extra().BytesPerDay)
	require.Equal(t, 2, spec.Tier)
	require.Equal(t, "acme", spec.Extra().Vendor)
	require.Equal(t, traffic.Price{Request: 0.01, GB: 8}, spec.Extra().Price)
	again, err := ParseLine(FormatLine(&spec))
	require.NoError(t, err)
	require.Equal(t, spec, again)
	for _, option := range []string{"rate=x", "min_interval=5", "bytes_per_day=1GB"} {
		_, err := ParseLine("http://a.test:1#" + option)
		require.ErrorContains(t, err, "the option ")
	}
}

func TestReading(t *testing.T) {
	var got EntryCounts
	parseAll := func(text string) {
		got = EntryCounts{}
		_, _, err := Parse(strings.NewReader(text), Options{Counts: &got})
		require.NoError(t, err)
	}
	parseAll(`# comment
1.2.3.1:80
1.2.3.2:80:ann:secret
ann:secret:1.2.3.3:80
ann:secret@1.2.3.4:80
1.2.3.5:80@ann:secret
1.2.3.6:80##ann:secret
1.2.3.7,80,ann,secret
http://ann:secret@1.2.3.8:80
socks5 1.2.3.9 80
DE | 1.2.3.10:80 | fast
- {name: a, type: socks5, server: 1.2.3.11, port: 80}
1.2.3.1:80
no proxy
nothing
`)
	require.Equal(t, map[string]int{"host:port": 1, "host:port:user:pass": 1, "user:pass:host:port": 1,
		"user:pass@host:port": 1, "host:port@user:pass": 1, "host:port##user:pass": 1, "host,port,user,pass": 1,
		"URL": 1, "scheme host port": 1, "address in text": 1, "Clash": 1}, got.Forms)
	require.Equal(t, map[string]int{"the same proxy as on another line": 1, errForm.Error(): 2}, got.Skipped)
	parseAll("ip,port\n1.2.3.1,80\n1.2.3.2,80\n1.2.3.3\n")
	require.Equal(t, map[string]int{"row of a table": 2}, got.Forms)
	require.Len(t, got.Skipped, 1)
	parseAll(`["1.2.3.1:80", 5]`)
	require.Equal(t, map[string]int{"JSON": 1}, got.Forms)
	require.Len(t, got.Skipped, 1)
	parseAll("port: 1\nproxies:\n  - {type: http, server: 1.2.3.1, port: 80}\n")
	require.Equal(t, map[string]int{"Clash": 1}, got.Forms)
	require.Empty(t, got.Skipped)
}

func TestASchemeBeforeAColon(t *testing.T) {
	for line, want := range map[string]string{
		"socks5:1.2.3.4:1080":   "socks5://1.2.3.4:1080",
		"SOCKS4:a.example:1080": "socks4://a.example:1080",
		"http:8080:ann":         "http://ann:@http:8080", // a host with the name http, a port and a user
	} {
		spec, err := ParseLine(line)
		require.NoError(t, err, line)
		require.Equal(t, want, FormatLine(&spec), line)
	}
	for _, line := range []string{"socks5:1.2.3.4", "socks5:1.2.3.4:x", "sock5:1.2.3.4:1080", "socks5:1.2.3.4:0"} {
		_, err := ParseLine(line)
		require.Error(t, err, line)
	}
}

// The second address in a line is not taken as the user and password of the first address, not even in a line that is
// one proxy.
func TestALineIsOneProxy(t *testing.T) {
	for _, line := range []string{"192.0.2.1:80, 192.0.2.2:81", "192.0.2.1:80 192.0.2.2:81"} {
		_, err := ParseLine(line)
		require.ErrorContains(t, err, "several addresses", line)
	}
	_, err := ParseLine("192.0.2.1:80:user:pass")
	require.NoError(t, err)
}

func TestMisspeltTemplatesInEveryForm(t *testing.T) {
	for _, text := range []string{
		"1.2.3.4:80:user-{sesion}:pass", "user-{sesion}:pass:1.2.3.4:80", "user-{sesion}:pass@1.2.3.4:80",
		"1.2.3.4:80@user-{sesion}:pass", "1.2.3.4:80##user:{regoin}", "1.2.3.4,80,user-{sesion},pass",
		"http://user-{sesion}:pass@1.2.3.4:80", "http://1.2.3.4:80:user-{sesion}:pass",
		"socks5 1.2.3.4 80 user-{sesion} pass", "1.2.3.4:80 user-{sesion} pass",
		"https://t.me/socks?server=1.2.3.4&port=80&user=u{sesion}&pass=p",
		`["http://user-{sesion}:pass@1.2.3.4:80"]`, `[{"ip":"1.2.3.4","port":80,"user":"u{sesion}","password":"p"}]`,
		"ip,port,user,password\n1.2.3.4,80,u{sesion},p",
	} {
		specs, warnings, err := Parse(strings.NewReader(text), Options{})
		require.NoError(t, err)
		require.Empty(t, specs, text)
		require.Len(t, warnings, 1, text)
		require.Contains(t, warnings[0].Msg, "misspelt template; did you mean {", text)
		if !strings.ContainsAny(text, "[\n") {
			_, err = ParseLine(text)
			require.ErrorContains(t, err, "misspelt template", text)
		}
		escaped := strings.NewReplacer("{sesion}", "{session}", "{regoin}", "{region}").Replace(text)
		specs, warnings, err = Parse(strings.NewReader(escaped), Options{})
		require.NoError(t, err)
		require.Len(t, specs, 1, text)
		require.True(t, specs[0].Address.HasTemplates(), "%s %v", text, warnings)
	}
}

func TestFieldsThatDescribeAreReported(t *testing.T) {
	text := "1.2.3.4:80:Jordan:premium\n1.2.3.5:80:user:pass\n1.2.3.6:80:US:elite\n1.2.3.7:80:http:US\n" +
		`1.2.3.8:80:Jordan` + "\n"
	specs, warnings, err := Parse(strings.NewReader(text), Options{})
	require.NoError(t, err)
	require.Len(t, specs, 5)
	const reason = "the fields behind the port are taken as a description of the proxy, not as user and password; " +
		"if they are a login, write user:pass@host:port"
	require.Equal(t, []Warning{{1, "on 2 lines, this one the first, " + reason, reason}}, warnings)
	_, err = ParseLine("1.2.3.4:80:Jordan:premium")
	require.EqualError(t, err, "the fields behind the port could be a login or a description; write "+
		"user:pass@host:port, or host:port alone")
	for _, line := range []string{"Jordan:premium@1.2.3.4:80", "http://Jordan:premium@1.2.3.4:80"} {
		spec, err := ParseLine(line)
		require.NoError(t, err)
		require.Equal(t, "Jordan", spec.Address.Username)
		require.Equal(t, "premium", spec.Address.Password.Reveal())
	}
}

// Of many warnings only the first ones are returned, and all are counted. Values are not part of a reason.
func TestWarningsOfALongListAreLimited(t *testing.T) {
	var text strings.Builder
	text.WriteString("h:1\n")
	for i := range 3 * MaxWarnings {
		fmt.Fprintf(&text, "nonsense\nh:1\nx%d://h:1:u:p\nhttp://g%d:1#id=same\n", i, i)
	}
	for i := range 2 * MaxLinesOfReason {
		fmt.Fprintf(&text, "http://i:1#tier=%d\n", 1000+i)
	}
	var counts EntryCounts
	_, warnings, err := Parse(strings.NewReader(text.String()), Options{Counts: &counts})
	require.NoError(t, err)
	byReason := map[string]int{}
	for _, w := range warnings {
		byReason[w.Reason]++
	}
	require.Less(t, len(warnings), MaxWarnings+MaxLinesOfReason*len(byReason))
	require.GreaterOrEqual(t, len(warnings), MaxWarnings)
	require.Equal(t, MaxLinesOfReason, byReason["tier is not valid"], "%v", counts.Warnings)
	require.Equal(t, 2*MaxLinesOfReason, counts.Skipped["tier is not valid"])
	require.Equal(t, 3*MaxWarnings, counts.Skipped["the scheme is not supported; use "+upstream.ProxySchemes],
		"%v", counts.Skipped)
	require.Len(t, counts.Skipped, len(byReason))
	require.Less(t, len(byReason), 10)
}

// A comment is found in linear time, also in a long line of slashes, and not in a row of columns.
func TestSlashComments(t *testing.T) {
	for line, want := range map[string]string{
		"a" + strings.Repeat("/", 16<<20): "a" + strings.Repeat("/", 16<<20),
		"h.test:80 // note":               "h.test:80",
		"h.test:80 //note":                "h.test:80",
		"h.test 80 ann //pw":              "h.test 80 ann //pw",
		"h.test,80,ann, //pw":             "h.test,80,ann, //pw",
	} {
		require.True(t, stripComment(line) == want, "%.40s", line)
	}
	for line, want := range map[string]string{
		"198.51.100.1:1080 NO SOCKS5": "socks5", "198.51.100.1:1080 SOCKS5, no auth": "socks5",
		"198.51.100.1:80 SOCKS4: no": "", "198.51.100.1:80 (no socks5)": "",
	} {
		require.Equal(t, want, schemeInText(line), line)
	}
}

// A row of columns is read alike alone and in a list.
func TestParseLineWithColumns(t *testing.T) {
	for _, line := range []string{
		"198.51.100.2:1080:ann:secret1,socks5,US",
		"ann:secret1@198.51.100.1:1080,socks5,US",
	} {
		spec, err := ParseLine(line)
		require.NoError(t, err, line)
		require.Equal(t, upstream.SOCKS5, spec.Address.Scheme, line)
		require.Equal(t, "ann:secret1", spec.Address.Username+":"+string(spec.Address.Password), line)
	}
}
