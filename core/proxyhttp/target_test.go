package proxyhttp

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTargets(t *testing.T) {
	for raw, want := range map[string]struct {
		path, authority string
		tls             bool
	}{
		"GET http://a.test/b?c":            {"/b?c", "a.test", false},
		"GET ws://a.test/b?c":              {"/b?c", "a.test", false},
		"GET WSS://a.test:1#b":             {"/", "a.test:1", true},
		"GET ws://u@a.test/":               {},
		"GET ws:a.test/":                   {},
		"GET HTTPS://a.test:1/b":           {"/b", "a.test:1", true},
		"GET http://a.test":                {"/", "a.test", false},
		"GET http://a.test?b=/c":           {"/?b=/c", "a.test", false},
		"OPTIONS http://a.test":            {"*", "a.test", false},
		"OPTIONS http://a.test/":           {"/", "a.test", false},
		"GET http://[::1]:8/":              {"/", "[::1]:8", false},
		"GET http://a.test/b@c:d":          {"/b@c:d", "a.test", false},
		"GET http://a.test/http://b.test/": {"/http://b.test/", "a.test", false},
		"GET http://a.test/b#c?d":          {"/b", "a.test", false},
		"GET http://a.test#b@c/d":          {"/", "a.test", false},
		"GET http://a.test?b#":             {"/?b", "a.test", false},
		"GET http://#a.test/":              {},
		"GET #":                            {},
		"GET http://u@a.test/":             {},
		"GET http://":                      {},
		"GET http:///b":                    {},
		"GET http:/a.test/":                {},
		"GET a.test:80":                    {},
		"GET *":                            {},
		"GET /b":                           {},
	} {
		method, rest, _ := strings.Cut(raw, " ")
		got, err := ParseTarget([]byte(method), []byte(rest))
		if want.authority == "" {
			require.Error(t, err, raw)
			continue
		}
		require.NoError(t, err, raw)
		require.Equal(t, want.path, string(got.Path), raw)
		require.Equal(t, want.authority, string(got.Host), raw)
		require.Equal(t, want.tls, got.TLS, raw)
		require.Regexp(t, `^(?i:https?)://a.test|^http://\[::1`, string(got.Absolute))
	}
}

// FuzzTarget: a request goes to the host and port that net/url parses. Its path is sent as the client wrote
// it.
func FuzzTarget(f *testing.F) {
	for _, raw := range []string{
		"http://a.test", "http://a.test/", "HTTPS://A.test:8443/b?c=d", "http://a.test?q", "http://[::1]:80/",
		"http://[fe80::1%25eth0]/", "http://a.test:/",
		"/path", "*", "http://u:p@a.test/", "http://a.test/#f", "http:///", "http://a.test:80:90/",
		"http://a.test\\@b.test/", "ftp://a.test/", "http://a,b/",
	} {
		f.Add("GET", raw)
	}
	f.Add("OPTIONS", "http://a.test")
	f.Add("GET", "wss://a.test?q")
	f.Fuzz(func(t *testing.T, method, raw string) {
		raw, _, _ = strings.Cut(raw, "#")
		to, err := ParseTarget([]byte(method), []byte(raw))
		if err != nil {
			return
		}
		switch path := string(to.Path); {
		case path == "/" || path == "*" && method == http.MethodOptions:
		case strings.HasPrefix(path, "/?") && strings.HasSuffix(raw, path[1:]):
		case strings.HasPrefix(path, "/") && strings.HasSuffix(raw, path):
		default:
			t.Fatalf("%s %q is sent on as %q", method, raw, path)
		}
		scheme, port := "http", "80"
		if to.TLS {
			scheme, port = "https", "443"
		}
		var a Authority
		u, err := url.Parse(raw)
		if a.Set(to.Host, port) != nil || err != nil {
			return // each may be stricter than the other, for example net/url about escapes
		}
		if web, ok := strings.CutPrefix(u.Scheme, "ws"); ok {
			u.Scheme = "http" + web
		}
		host, _, _ := strings.Cut(u.Hostname(), "%") // net/url decodes the sign before a zone
		at, got, err := net.SplitHostPort(a.HostPort)
		at, _, _ = strings.Cut(at, "%")
		if err != nil || u.Scheme != scheme || at != strings.ToLower(host) || got != cmp.Or(u.Port(), port) {
			t.Fatalf("%q goes by %s to %q; net/url: %s, %q", raw, scheme, a.HostPort, u.Scheme, u.Host)
		}
		if !strings.Contains(raw, string(to.Host)) {
			t.Fatalf("%q: Host %q", raw, to.Host)
		}
		for range 2 { // the second call knows the scheme and the authority
			again, err := a.SetURL([]byte(method), []byte(raw))
			if err != nil || !reflect.DeepEqual(again, to) {
				t.Fatalf("%q: SetURL returns %v, %v", raw, again, err)
			}
		}
	})
}

// SetURL gives the results of ParseTarget and Set, whatever the URL before was.
func TestSetURLAfterAnotherURL(t *testing.T) {
	urls := []string{
		"http://a.test/b?c#d", "http://a.test", "http://a.test/", "http://a.test?q", "http://a.test:80/",
		"http://a.tes/", "http://a.test#/", "HTTP://a.test/", "http://A.test/", "https://a.test/", "ws://a.test/",
		"wss://a.test/x",
		"http://a.test.b/", "http://a.test@b.test/", "http:///", "/b", "http://[::1]/", "http://a.test:1:2/",
	}
	get := []byte("GET")
	for _, first := range urls {
		for _, second := range urls {
			var a, want Authority
			a.SetURL(get, []byte(first))
			before := a
			got, err := a.SetURL(get, []byte(second))
			parsed, wantErr := ParseTarget(get, []byte(second))
			if wantErr == nil {
				wantErr = want.Set(parsed.Host, parsed.Port())
			}
			require.Equal(t, wantErr, err, "%s, %s", first, second)
			if err != nil {
				require.Equal(t, before, a)
				continue
			}
			require.Equal(t, parsed, got, "%s, %s", first, second)
			want.origin = a.origin
			require.Equal(t, want, a, "%s, %s", first, second)
			a.SetURL(get, []byte(first))
			a.Set([]byte("c.test:1"), "")
			require.Empty(t, a.origin)
		}
	}
}
