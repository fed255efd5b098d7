package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzParseBasic: net/http parses the same user and password from the credentials.
func FuzzParseBasic(f *testing.F) {
	for _, value := range []string{"Basic YW5uOnA6dw==", "basic YW5uOnA6dw==", "Basic  YW5uOnA6dw== ",
		"Basic YW5uOnA6dw", "Basic YW5u", "Bearer YW5uOnA6dw==", "Basic", "", "Basic Ym9iOg==", "Basic Og=="} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		scheme, token, _ := strings.Cut(value, " ")
		name, password, ok := (&http.Request{Header: http.Header{"Authorization": {scheme + " " +
			strings.TrimSpace(token)}}}).BasicAuth()
		gotName, gotPassword := parseBasic(value)
		if ok && (gotName != name || gotPassword != password) || !ok && gotPassword != "" {
			t.Fatalf("%q: %q %q; net/http: %q %q %v", value, gotName, gotPassword, name, password, ok)
		}
	})
}
