package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
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

// A strict session whose proxy is not admissible gets its own code, over HTTP and for a CONNECT; the same
// session without strict gets the code of all requests.
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

// withUsers makes a rig whose users are ann, who may override the retry policy, and bob, who may not.
func withUsers(o *options) {
	o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay = 2, 0.1 }
	o.Users = []User{
		{Name: "ann", Password: "pw", Limits: access.Limits{Override: retry.OverrideAny}},
		{Name: "bob", Password: "pw", Limits: access.Limits{Override: retry.OverrideNone}},
		{Name: "ann-session-x", Password: "other"},
	}
}

// The options of a user name have the same effect over HTTP as the fields. If both are present, the fields apply.
func TestOptionsInUserNames(t *testing.T) {
	calls := atomic.Int32{}
	r := newRig(t, answering(func(*http.Request, string) string {
		calls.Add(1)
		return "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
	}), withUsers)
	for _, x := range []struct {
		user, fields string
		attempts     int32
		status       int
		code         string
	}{
		{"ann", "", 2, 503, ""},
		{"ann-retry-3", "", 4, 503, ""},
		{"ann-retry-0-session-a", "", 1, 503, ""},
		{"ann-retry-3", "X-Whirlpool-Retry: max_attempts=3\r\n", 3, 503, ""},
		{"bob-session-a", "", 2, 503, ""},
		{"bob-retry-3", "", 0, 403, "override_not_allowed"},
		{"ann-region-us-strict", "", 0, 503, "no_proxy_in_region"},
		{"ann-region-us-strict", "X-Whirlpool-Region: us\r\n", 2, 503, ""},
		{"ann-planet-x", "", 0, 407, "invalid_user_option"},
		{"ann-session-a-b", "", 0, 407, "invalid_user_option"},
		{"ann-", "", 0, 407, "proxy_authentication_required"},
		{"eve-planet-x", "", 0, 407, "proxy_authentication_required"},
		{"ann-session-x", "", 0, 407, "proxy_authentication_required"}, // a user of this name has another password
	} {
		calls.Store(0)
		r.proxy.Breaker().Reset()
		a, body := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + loginField(x.user, "pw") + x.fields +
			"\r\n").answer("GET")
		require.Equal(t, x.status, a.StatusCode, x)
		require.Equal(t, x.attempts, calls.Load(), x)
		require.Contains(t, body, x.code, x)
		require.NotContains(t, body, "pw")
	}
	a, body := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + loginField("ann-session-a-planet-x", "pw") +
		"\r\n").answer("GET")
	require.NotEmpty(t, a.Header.Get("Proxy-Authenticate"))
	require.Contains(t, body, `the unknown option \"planet\"`)
}

// Options belong to one login: if the next login on the same connection has no options, none apply.
func TestOptionsEndWithTheLogin(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), withUsers)
	c := r.dial()
	for _, x := range []struct {
		user   string
		status int
	}{
		{"ann", 200}, {"ann-region-us-strict", 503}, {"ann-region-us-strict", 503}, {"ann", 200}, {"ann-planet-x", 407},
		{"ann-session-a", 200},
	} {
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + loginField(x.user, "pw") + "\r\n")
		a, _ := c.answer("GET")
		require.Equal(t, x.status, a.StatusCode, x.user)
	}
}

// A SOCKS5 client is refused at the login if its user name has an unknown option, or names a session whose proxy is not
// admissible.
func TestOptionsOfSOCKS5Clients(t *testing.T) {
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) { c.Write([]byte("hi")) }), withUsers)
	login := func(user string) (c *client, status byte) {
		c = r.dial()
		c.send("\x05\x01\x02")
		var b [2]byte
		_, err := io.ReadFull(c, b[:])
		require.NoError(t, err)
		c.send("\x01" + string(rune(len(user))) + user + "\x02pw")
		_, err = io.ReadFull(c, b[:])
		require.NoError(t, err)
		return c, b[1]
	}
	connect := func(c *client) byte {
		c.send("\x05\x01\x00\x03\x06a.test\x01\xbb")
		var b [10]byte
		_, err := io.ReadFull(c, b[:])
		require.NoError(t, err)
		return b[1]
	}
	for user, want := range map[string]byte{"ann-session-a-strict-retry-1": 0, "bob-session-a": 0, "bob-retry-3": 2} {
		c, status := login(user)
		require.Zero(t, status, user)
		require.Equal(t, want, connect(c), user)
	}
	for _, user := range []string{"ann-planet-x", "eve-session-a", "ann-session-x"} {
		_, status := login(user)
		require.EqualValues(t, 1, status, user)
	}
}
