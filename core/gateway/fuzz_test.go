package gateway

import (
	"bytes"
	"cmp"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzTarget: where a request goes is where net/url reads that it goes, and
// what is sent on is what the client wrote.
func FuzzTarget(f *testing.F) {
	for _, raw := range []string{
		"http://a.test", "http://a.test/", "HTTPS://A.test:8443/b?c=d", "http://a.test?q", "http://[::1]:80/", "http://[fe80::1%25eth0]/", "http://a.test:/",
		"/path", "*", "http://u:p@a.test/", "http://a.test/#f", "http:///", "http://a.test:80:90/", "http://a.test\\@b.test/", "ftp://a.test/", "http://a,b/",
	} {
		f.Add("GET", raw)
	}
	f.Add("OPTIONS", "http://a.test")
	f.Fuzz(func(t *testing.T, method, raw string) {
		to, authority, err := parseTarget([]byte(method), []byte(raw))
		if err != nil {
			return
		}
		switch path := string(to.path); {
		case path == "/" || path == "*" && method == http.MethodOptions:
		case strings.HasPrefix(path, "/?") && strings.HasSuffix(raw, path[1:]):
		case strings.HasPrefix(path, "/") && strings.HasSuffix(raw, path):
		default:
			t.Fatalf("%s %q is sent on as %q", method, raw, path)
		}
		scheme, port := "http", "80"
		if to.tls {
			scheme, port = "https", "443"
		}
		var m memo
		u, err := url.Parse(raw)
		if m.remember(authority, port) != nil || err != nil {
			return // either may be the stricter, net/url about escapes for one
		}
		host, _, _ := strings.Cut(u.Hostname(), "%") // it decodes what marks a zone
		at, got, err := net.SplitHostPort(m.authority)
		at, _, _ = strings.Cut(at, "%")
		if err != nil || u.Scheme != scheme || at != strings.ToLower(host) || got != cmp.Or(u.Port(), port) {
			t.Fatalf("%q goes by %s to %q; net/url: %s, %q", raw, scheme, m.authority, u.Scheme, u.Host)
		}
		if !bytes.Equal(to.host, authority) || !strings.Contains(raw, string(authority)) {
			t.Fatalf("%q: Host %q, authority %q", raw, to.host, authority)
		}
	})
}

// FuzzAllow: who is let in is who net/http reads from the same credentials.
func FuzzAllow(f *testing.F) {
	for _, value := range []string{"Basic YW5uOnA6dw==", "basic YW5uOnA6dw==", "Basic  YW5uOnA6dw== ", "Basic YW5uOnA6dw", "Basic YW5u", "Bearer YW5uOnA6dw==", "Basic", "", "Basic Ym9iOg==", "Basic Og=="} {
		f.Add(value)
	}
	list := map[string]string{"ann": "p:w", "bob": ""}
	var some []User
	for name, password := range list {
		some = append(some, User{name, password})
	}
	known := newUsers(some)
	f.Fuzz(func(t *testing.T, value string) {
		scheme, token, _ := strings.Cut(value, " ")
		name, password, ok := (&http.Request{Header: http.Header{"Authorization": {scheme + " " + strings.TrimSpace(token)}}}).BasicAuth()
		want, listed := list[name]
		if got := known.allow(value); got != (ok && listed && password == want) {
			t.Fatalf("%q is let in: %v; net/http: %q %q %v", value, got, name, password, ok)
		}
		if !newUsers(nil).allow(value) {
			t.Fatalf("%q is not let in where there are no users", value)
		}
	})
}
