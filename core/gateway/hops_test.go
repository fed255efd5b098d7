package gateway

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// The gateway decrements Max-Forwards for TRACE and OPTIONS only. If it is 0, the gateway responds itself.
func TestMaxForwards(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return ok("went on with " + q.Header.Get("Max-Forwards"))
	}), nil)
	const fields = "Host: a.test\r\nAuthorization: Basic eDp5\r\nProxy-Authorization: Basic eDp5\r\nCookie: a=b\r\n" +
		"X-Seen: 1\r\n"
	for _, want := range []struct{ method, value, body string }{
		{"TRACE", "5", "went on with 4"},
		{"OPTIONS", "1", "went on with 0"},
		{"GET", "0", "went on with 0"},
		{"TRACE", "-1", "went on with -1"},
		{"OPTIONS", "0", ""},
		{"TRACE", "0", "TRACE http://a.test/x HTTP/1.1\r\nHost: a.test\r\nX-Seen: 1\r\nmax-forwards: 0\r\n\r\n"},
	} {
		c := r.ask(want.method + " http://a.test/x HTTP/1.1\r\n" + fields + "max-forwards: " + want.value + "\r\n\r\n")
		a, body := c.answer(want.method)
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, want.body, body, want)
		if want.method == "TRACE" && want.value == "0" {
			require.Equal(t, "message/http", a.Header.Get("Content-Type"))
			require.Equal(t, "0", a.Header.Get("X-Whirlpool-Attempts"))
		}
		c.goesOn()
	}
}
