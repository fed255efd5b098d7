package gateway

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// open opens the breaker of the rig's proxy.
func (r *rig) open() {
	for r.proxy.Breaker().State() == core.Closed {
		lease, ok := r.proxy.Acquire(r.Now())
		require.True(r.t, ok)
		lease.Settle(&core.Outcome{Verdict: core.Failure})
		lease.Release()
	}
}

// A strict session whose proxy is out gets its own code, over HTTP and for a CONNECT; the same session without
// strict gets the code of all requests.
func TestStrictSessionsAreRefused(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		require.Empty(t, q.Header.Get("X-Whirlpool-Session"))
		return ok("")
	}), nil)
	get := func(fields string) *client {
		return r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + fields + "\r\n")
	}
	a, _ := get("X-Whirlpool-Session: s; strict\r\n").answer("GET")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Empty(t, a.Header.Get("X-Whirlpool-Session-Moved"))
	r.open()
	for fields, code := range map[string]string{
		"X-Whirlpool-Session: s; strict\r\n":     "session_proxy_unavailable",
		"X-Whirlpool-Session: other; strict\r\n": "all_breakers_open",
		"X-Whirlpool-Session: s\r\n":             "all_breakers_open",
		"":                                       "all_breakers_open",
	} {
		a, body := get(fields).answer("GET")
		require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
		require.Contains(t, body, `"error":"`+code+`"`, fields)
		require.Equal(t, code, a.Header.Get("X-Whirlpool-Outcome"))
		require.NotEmpty(t, a.Header.Get("Retry-After"))
	}
	a, body := r.ask("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n" +
		"X-Whirlpool-Session: s; strict\r\n\r\n").answer("CONNECT")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Contains(t, body, "session_proxy_unavailable")
}

func TestWrongSessions(t *testing.T) {
	r := newRig(t, nil, nil)
	for _, fields := range []string{
		"X-Whirlpool-Session: a b\r\n", "X-Whirlpool-Session: a;ttl=1\r\nX-Whirlpool-Session: b\r\n",
		"X-Whirlpool-Session: a;ttl=100h\r\n",
	} {
		a, body := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + fields + "\r\n").answer("GET")
		require.Equal(t, http.StatusBadRequest, a.StatusCode)
		require.Contains(t, body, "invalid_session")
	}
}
