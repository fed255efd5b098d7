package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzAllow: net/http reads the same user and password from accepted credentials.
func FuzzAllow(f *testing.F) {
	for _, value := range []string{"Basic YW5uOnA6dw==", "basic YW5uOnA6dw==", "Basic  YW5uOnA6dw== ",
		"Basic YW5uOnA6dw", "Basic YW5u", "Bearer YW5uOnA6dw==", "Basic", "", "Basic Ym9iOg==", "Basic Og=="} {
		f.Add(value)
	}
	list := map[string]string{"ann": "p:w", "bob": ""}
	var some []User
	for name, password := range list {
		some = append(some, User{Name: name, Password: password})
	}
	known := newUsers(some)
	f.Fuzz(func(t *testing.T, value string) {
		scheme, token, _ := strings.Cut(value, " ")
		name, password, ok := (&http.Request{Header: http.Header{"Authorization": {scheme + " " +
			strings.TrimSpace(token)}}}).BasicAuth()
		want, listed := list[name]
		if _, got := known.allow(value); got != (ok && listed && password == want) {
			t.Fatalf("%q is let in: %v; net/http: %q %q %v", value, got, name, password, ok)
		}
		if _, got := newUsers(nil).allow(value); !got {
			t.Fatalf("%q is not let in where there are no users", value)
		}
	})
}
