package gateway

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

func loginField(name, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password)) + "\r\n"
}

// The mode of a user decides what an override may ask for. A user without a mode has the mode of the gateway, and the
// default of the gateway depends on whether there are users.
func TestOverrideModes(t *testing.T) {
	calls := atomic.Int32{}
	r := newRig(t, answering(func(*http.Request, string) string {
		calls.Add(1)
		return "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
	}), func(o *options) { o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay = 2, 0.1 } })
	const any, capped, none, unset = retry.OverrideAny, retry.OverrideCapped, retry.OverrideNone, retry.OverrideDefault
	for _, x := range []struct {
		users         bool
		gateway, user retry.OverrideMode
		attempts      int32 // attempts of a request that asks for four
	}{
		{false, unset, unset, 4}, {false, any, unset, 4}, {false, capped, unset, 2}, {false, none, unset, 0},
		{true, unset, unset, 2}, {true, any, unset, 4}, {true, none, unset, 0}, {true, capped, any, 4},
		{true, any, capped, 2}, {true, any, none, 0}, {true, none, capped, 2},
	} {
		set := r.settings.Load().Settings
		set.Override, set.Users = x.gateway, nil
		if x.users {
			set.Users = []User{{Name: "ann", Password: "p:w", Limits: access.Limits{Override: x.user}}}
		}
		r.Apply(set)
		calls.Store(0)
		r.proxy.Breaker().Reset()
		a, body := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + loginField("ann", "p:w") +
			"X-Whirlpool-Retry: max_attempts=4\r\n\r\n").answer("GET")
		require.Equal(t, x.attempts, calls.Load(), x)
		if x.attempts == 0 {
			require.Equal(t, 403, a.StatusCode, x)
			require.Contains(t, body, `"override_not_allowed"`)
		}
	}
}

// A user's limits hold for HTTP, CONNECT and SOCKS5. When a request ends, it no longer counts for
// max_in_flight.
func TestLimitsOfAUser(t *testing.T) {
	held := make(chan struct{})
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		if q.URL.Path == "/held" {
			<-held
		}
		return ok("0123456789")
	}), nil)
	user := User{Name: "ann", Password: "p:w"}
	apply := func(l access.Limits) {
		user.Limits = l
		set := r.settings.Load().Settings
		set.Users = []User{user}
		r.Apply(set)
	}
	get := func(target string) (int, string, string) {
		a, body := r.ask("GET http://" + target + " HTTP/1.1\r\nHost: a\r\n" +
			loginField("ann", "p:w") + "\r\n").answer("GET")
		return a.StatusCode, body, a.Header.Get("Retry-After")
	}
	today := func() access.DailyUsage { return r.Users()[0] }

	apply(access.Limits{Allow: []string{"*.test"}, Deny: []string{"bad.test", ":25"}})
	for target, want := range map[string]int{
		"a.test/": 200, "a.test:8080/": 200, "a.test:25/": 403, "bad.test/": 403, "BAD.TEST./": 403, "a.example/": 403,
	} {
		status, body, _ := get(target)
		require.Equal(t, want, status, target)
		require.Equal(t, want == 403, strings.Contains(body, `"user_target_denied"`), body)
	}
	a, _ := r.ask("CONNECT bad.test:443 HTTP/1.1\r\nHost: a\r\n" + loginField("ann", "p:w") + "\r\n").answer("CONNECT")
	require.Equal(t, 403, a.StatusCode)
	c := r.dial()
	c.send("\x05\x01\x02" + "\x01\x03ann\x03p:w" + "\x05\x01\x00\x03\x08bad.test\x01\xbb")
	reply := make([]byte, 2+2+4)
	_, err := io.ReadFull(c.r, reply)
	require.NoError(t, err)
	require.Equal(t, []byte{5, 2, 1, 0, 5, 2, 0, 1}, reply, "not allowed by the rules")

	require.EqualValues(t, 2, today().Requests, "a refused request is not counted")
	apply(access.Limits{RequestsPerDay: 3})
	status, _, _ := get("a.test/")
	require.Equal(t, 200, status)
	status, body, retryAfter := get("a.test/")
	require.Equal(t, 429, status)
	require.Contains(t, body, `"user_requests_spent"`)
	require.NotEmpty(t, retryAfter)

	apply(access.Limits{MaxInFlight: 1})
	r.eventually("the earlier requests have ended", func() bool { return today().InFlight == 0 })
	slow := r.ask("GET http://a.test/held HTTP/1.1\r\nHost: a\r\n" + loginField("ann", "p:w") + "\r\n")
	r.eventually("a request is in flight", func() bool { return today().InFlight == 1 })
	status, body, retryAfter = get("a.test/")
	require.Equal(t, 429, status)
	require.Contains(t, body, `"user_in_flight"`)
	require.Equal(t, "1", retryAfter)
	close(held)
	slow.answer("GET")
	r.eventually("it has ended", func() bool { return today().InFlight == 0 })
	status, _, _ = get("a.test/")
	require.Equal(t, 200, status)

	r.eventually("its bytes are counted", func() bool { return today().InFlight == 0 })
	before := today().Bytes
	apply(access.Limits{BytesPerDay: before + 1})
	a, _ = r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a\r\n" + loginField("ann", "p:w") +
		"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n").answer("POST")
	require.Equal(t, 200, a.StatusCode)
	r.eventually("the bytes are counted", func() bool { return today().Bytes >= before+5+10 })
	status, body, _ = get("a.test/")
	require.Equal(t, 429, status)
	require.Contains(t, body, `"user_bytes_spent"`)
}

// A tunnel counts the bytes of both directions, and ends when the bytes of the day are used up.
func TestATunnelEndsWithTheBytesOfTheDay(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, len("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")))
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(c, c)
	}, func(o *options) {
		o.Users = []User{{Name: "ann", Password: "p:w", Limits: access.Limits{BytesPerDay: 1 << 20}}}
	})
	c := r.dial()
	c.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n" + loginField("ann", "p:w") + "\r\n")
	c.established()
	c.send("hello")
	echo := make([]byte, 5)
	_, err := io.ReadFull(c.r, echo)
	require.NoError(t, err)
	require.Equal(t, "hello", string(echo))
	go func() {
		for piece := make([]byte, 16<<10); ; {
			if _, err := c.Write(piece); err != nil {
				return
			}
		}
	}()
	c.SetReadDeadline(time.Now().Add(patience))
	n, err := io.Copy(io.Discard, c.r) // ends by a reset or by the end of the stream
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, int64(8<<20))
	r.eventually("the tunnel has ended", func() bool { return r.Users()[0].InFlight == 0 })
	require.GreaterOrEqual(t, r.Users()[0].Bytes, int64(1<<20))
	require.EqualValues(t, 0, r.proxy.Breaker().Snapshot().FailureCount, "no proxy is charged")
}
