package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// An error response has the status and the code of its cause. The connection continues unless the beginning
// of the next request is unknown.
func TestRefusals(t *testing.T) {
	const host = "Host: a.test\r\n"
	r := newRig(t, answering(func(*http.Request, string) string { return reply("204 No Content", "") }),
		func(o *options) {
			o.Users = []User{{Name: "ann", Password: "p:w"}}
			o.Strategies = func(name string) bool { return name == "exponential" }
		})
	const login = "Proxy-Authorization: Basic YW5uOnA6dw==\r\n"
	const (
		get          = "GET http://a.test/ HTTP/1.1\r\n" + host
		post         = "POST http://a.test/ HTTP/1.1\r\n" + host
		unauthorized = "proxy_authentication_required"
		tooLarge     = "request_header_too_large"
	)
	for raw, want := range map[string]struct {
		status int
		code   string
		closes bool
	}{
		get + login + "\r\n":                  {status: 204},
		get + "\r\n":                          {407, unauthorized, false},
		connectTo:                             {407, unauthorized, false},
		post + "Content-Length: 3\r\n\r\nabc": {407, unauthorized, false},
		post + "Content-Length: 70000\r\n\r\n" + strings.Repeat("a", 70_000):          {407, unauthorized, true},
		post + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n":                    {407, unauthorized, true},
		post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n":                             {407, unauthorized, true},
		post + login + "Transfer-Encoding: chunked\r\n\r\nzz\r\n":                     {400, "malformed_request", true},
		"GET /a HTTP/1.1\r\n" + host + login + "\r\n":                                 {400, "bad_target", false},
		"CONNECT a.test HTTP/1.1\r\n" + host + login + "\r\n":                         {400, "bad_target", false},
		"CONNECT a.test:1 HTTP/1.1\r\n" + host + login + "Content-Length: 1\r\n\r\na": {400, "malformed_request", true},
		get + login + "X-Whirlpool-Retry: max_attempts=11\r\n\r\n": {400, "invalid_retry_policy",
			false},
		get + login + "X-Whirlpool-Region: EU;loose\r\n\r\n": {400, "invalid_region", false},
		get + login + "X-Whirlpool-Priority: urgent\r\n\r\n": {400, "invalid_priority", false},
		get + login + "X-Whirlpool-Priority:\r\n\r\n":        {400, "invalid_priority", false},
		get + login + "X-Whirlpool-Priority: low\r\nX-Whirlpool-Priority: low\r\n\r\n": {400, "invalid_priority",
			false},
		get + login + "X-Whirlpool-Priority: low\r\n\r\n": {status: 204},
		get + login + "X-Whirlpool-Retry: backoff_strategy=x\r\n\r\n": {400, "invalid_retry_policy",
			false},
		"GET http://a.test/ HTTP/1.1\r\n" + login + "\r\n":     {400, "malformed_request", true},
		"GET http://a.test/ HTTP/2.0\r\n" + host + "\r\n":      {400, "malformed_request", true},
		"GET http://a.test/\r\n\r\n":                           {400, "malformed_request", true},
		"\x16\x03\x01\x02\x00\r\n\r\n":                         {400, "malformed_request", true},
		get + "X: " + strings.Repeat("x", 70_000) + "\r\n\r\n": {431, tooLarge, true},
		get + strings.Repeat("X: x\r\n", 200) + "\r\n":         {431, tooLarge, true},
	} {
		c := r.ask(raw)
		method, _, _ := strings.Cut(raw, " ")
		a, body := c.answer(method)
		require.Equal(t, want.status, a.StatusCode, "%.100q", raw)
		require.Contains(t, body, want.code, "%.100q", raw)
		require.Equal(t, want.closes, a.Close, "%.100q", raw)
		if want.status == 407 {
			require.Contains(t, a.Header.Get("Proxy-Authenticate"), "Basic ")
		}
		if want.closes {
			c.ended()
		} else {
			c.goesOn()
		}
	}
}

// The version and the Connection field decide whether a connection continues. The response states this in the
// form of its version.
func TestKeepAlive(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		if q.Host == "cut.test" { // a body that ends with the connection
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
		}
		return ok("hello")
	}), nil)
	for _, c := range []struct {
		version, host, field string
		answer               string // its Connection field
		keep                 bool
	}{
		{"1.1", "a.test", "", "", true},
		{"1.1", "a.test", "Connection: keep-alive\r\n", "", true},
		{"1.1", "a.test", "Connection: close\r\n", "close", false},
		{"1.1", "a.test", "Connection: x, CLOSE\r\n", "close", false},
		{"1.1", "a.test", "Proxy-Connection: close\r\n", "close", false},
		{"1.0", "a.test", "", "close", false},
		{"1.0", "a.test", "Connection: keep-alive\r\n", "keep-alive", true},
		{"1.0", "a.test", "Proxy-Connection: Keep-Alive\r\n", "keep-alive", true},
		{"1.0", "a.test", "Connection: keep-alive, close\r\n", "close", false},
		{"1.0", "cut.test", "Connection: keep-alive\r\n", "close", false},
		{"1.1", "cut.test", "", "", true},
	} {
		for _, target := range []string{"http://" + c.host + "/", "/refused"} {
			conn := r.ask("GET " + target + " HTTP/" + c.version + "\r\nHost: " + c.host + "\r\n" + c.field + "\r\n")
			line := conn.line()
			require.True(t, strings.HasPrefix(line, "HTTP/1.1 "), line)
			field, keep := "", c.keep
			for ; line != ""; line = conn.line() {
				if value, ok := strings.CutPrefix(line, "Connection: "); ok {
					field = value
				}
				require.False(t, c.version == "1.0" && strings.HasPrefix(line, "Transfer-Encoding"),
					"HTTP/1.0 knows no chunks")
			}
			want := c.answer
			if target == "/refused" && c.host == "cut.test" { // this response has a length
				want, keep = map[string]string{"1.0": "keep-alive"}[c.version], true
			}
			require.Equal(t, want, field, "%+v %s", c, target)
			if keep {
				conn.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
			}
			rest, err := io.ReadAll(conn.r)
			require.NoError(t, err)
			require.Equal(t, keep, strings.Contains(string(rest), "HTTP/1.1 200 OK"), "%+v %s", c, target)
		}
	}
}

// A client of HTTP/1.1 gets 100 Continue when its request has been accepted.
func TestExpectContinue(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, body string) string { return ok(q.Header.Get("Expect") + body) }),
		nil)
	c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	require.Equal(t, "HTTP/1.1 100 Continue", c.line())
	require.Empty(t, c.line())
	c.send("hello")
	_, body := c.answer("POST")
	require.Equal(t, "hello", body)
	// A request without a body gets no 100.
	c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\r\n")
	require.Equal(t, "HTTP/1.1 200 OK", c.line())

	c = r.ask("POST http://a.test/ HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
	a, body := c.answer("POST")
	require.Equal(t, 200, a.StatusCode, "HTTP/1.0 has no interim answers")
	require.Equal(t, "hello", body, "and no expectations, which do not go on")
}

// A request whose body stalls gets an error response if no part of the request has been sent to a proxy.
func TestAStalledBodyGetsAnErrorResponse(t *testing.T) {
	r := newRig(t, answering(func(_ *http.Request, body string) string {
		return ok(body)
	}), func(o *options) { o.BodyIdle = 50 * time.Millisecond })
	c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhel")
	a, body := c.answer("POST")
	require.Equal(t, 408, a.StatusCode)
	require.Contains(t, body, "request_timeout")
	c.ended()
	require.Empty(t, r.recorded.results(), "nothing was tried")
}

func TestPoliciesOfOneConnection(t *testing.T) {
	var calls atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string {
		calls.Add(1)
		return reply("503 No", "")
	}), func(o *options) {
		o.policy = func(p *retry.Policy) { p.BaseDelay = 0.1 }
	})
	c := r.dial()
	for _, own := range []struct {
		header string
		calls  int
	}{
		{"", 1}, {"X-Whirlpool-Retry: max_attempts=2\r\n", 2}, {"", 1}, {"X-Whirlpool-Retry: max_attempts=3\r\n", 3},
	} {
		calls.Store(0)
		r.proxy.Breaker().Reset()
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + own.header + "\r\n")
		a, _ := c.answer("GET")
		require.Equal(t, 503, a.StatusCode)
		require.EqualValues(t, own.calls, calls.Load(), own.header)
	}
}

func TestUsersAreCheckedAgainAfterAReload(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string {
		return ok("")
	}), func(o *options) { o.Users = []User{{Name: "ann", Password: "p:w"}} })
	c := r.dial()
	ask := func() int {
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic YW5uOnA6dw==\r\n\r\n")
		a, _ := c.answer("GET")
		return a.StatusCode
	}
	require.Equal(t, 200, ask())
	require.Equal(t, 200, ask())
	set := r.settings.Load().Settings
	set.Users = []User{{Name: "bob", Password: "secret"}}
	r.Apply(set)
	require.Equal(t, 407, ask())
	set.Users = nil
	r.Apply(set)
	require.Equal(t, 200, ask())
}

// The gateway adds itself to Via in both directions, after the existing entries.
func TestVia(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return "HTTP/1.1 200 OK\r\nVia: 1.1 far\r\nX-Seen: " + strings.Join(q.Header.Values("Via"), "|") +
			"\r\nContent-Length: 0\r\n\r\n"
	}), func(o *options) { o.Via = true })
	a, _ := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 near\r\n\r\n").answer("GET")
	require.Equal(t, "1.0 near|1.1 whirlpool", a.Header.Get("X-Seen"))
	require.Equal(t, []string{"1.1 far", "1.1 whirlpool"}, a.Header.Values("Via"))
	a, _ = r.ask("GET http://a.test/ HTTP/1.0\r\n\r\n").answer("GET")
	require.Equal(t, "1.0 whirlpool", a.Header.Get("X-Seen"), "the version is the client's own")
}

func TestTheInnerOutcomeIsNotRelayed(t *testing.T) {
	r := newRig(t, answering(func(q *http.Request, _ string) string {
		return "HTTP/1.1 503 No\r\nX-Whirlpool-Outcome: pool_empty\r\nX-Whirlpool-Proxy-Id: inner\r\n" +
			"Content-Length: 0\r\n\r\n"
	}), nil)
	for _, q := range []string{"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"} {
		a, _ := r.ask(q).answer("GET")
		require.Equal(t, 503, a.StatusCode)
		require.Len(t, a.Header.Values("X-Whirlpool-Outcome"), 1, q)
		require.NotEqual(t, "pool_empty", a.Header.Get("X-Whirlpool-Outcome"), q)
		require.Equal(t, []string{"P"}, a.Header.Values("X-Whirlpool-Proxy-Id"), q)
	}
}

// Pipelined requests get their responses in order, whatever their sizes. If a response is slow, so that the
// client is watched, no byte of the next requests is lost. The last request may be a CONNECT.
func TestPipelinedRequests(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(b)
			if err != nil {
				return
			}
			if q.Method == "CONNECT" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				io.Copy(c, b) // echo
				return
			}
			body, err := io.ReadAll(q.Body)
			if err != nil {
				return
			}
			if q.Host == "slow.test" {
				time.Sleep(3 * transport.SlowAfter)
			}
			io.WriteString(c, ok(q.URL.Path+" "+strconv.Itoa(len(q.Header.Get("X-Long"))+len(body))))
		}
	}, nil)
	get := func(host, path string, long int) string {
		return "GET http://" + host + path + " HTTP/1.1\r\nHost: " + host + "\r\nX-Long: " + strings.Repeat("x", long) +
			"\r\n\r\n"
	}
	post := func(host, path string, long int) string {
		return "POST http://" + host + path + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: " +
			strconv.Itoa(long) +
			"\r\n\r\n" + strings.Repeat("y", long)
	}
	c := r.dial()
	go io.WriteString(c, get("slow.test", "/1", 10)+get("a.test", "/2", 10_000)+post("slow.test", "/3",
		20_000)+get("slow.test", "/4", 6_000)+
		post("a.test", "/5", 100_000)+get("slow.test", "/6", 1)+connectTo+strings.Repeat("z", 50_000))
	for _, want := range []string{"/1 10", "/2 10000", "/3 20000", "/4 6000", "/5 100000", "/6 1"} {
		a, body := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, want, body)
	}
	c.established()
	echo := make([]byte, 50_000)
	_, err := io.ReadFull(c.r, echo)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("z", 50_000), string(echo))
}

func TestAClientThatLeaves(t *testing.T) {
	asked, left := make(chan struct{}), make(chan struct{})
	defer close(left)
	r := newRig(t, answering(func(*http.Request, string) string {
		close(asked)
		<-left
		return ""
	}), nil)
	c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-asked
	c.Close()
	r.eventually("it is cancelled", func() bool { return len(r.recorded.finals()) == 1 })
	require.Equal(t, []string{core.FinalCancelled.String()}, r.recorded.finals())
	require.Equal(t, []string{core.ResultCancelled.String()}, r.recorded.results())
	r.free()
}

// A response before the end of the request's body reaches a client that is still sending. It is the last
// response on the connection.
func TestAResponseBeforeTheEndOfTheBody(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		if q, err := http.ReadRequest(b); err != nil || q.ContentLength != 64<<20 {
			return
		}
		io.WriteString(c, reply("413 Too much", "no")) // the proxy stops reading
		<-over
	}, nil)
	c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 67108864\r\n\r\n")
	go func() {
		for piece := make([]byte, 1<<20); ; {
			if _, err := c.Write(piece); err != nil {
				return
			}
		}
	}()
	a, body := c.answer("POST")
	require.Equal(t, "413 Too much", a.Status)
	require.Equal(t, "no", body)
	require.True(t, a.Close)
	c.Close()
	r.free()
	require.Equal(t, []string{"success"}, r.recorded.finals())
}

// If a body is copied inside the kernel, no bytes behind the body are sent. The connection ends with the
// body.
func TestBytesAfterALongBody(t *testing.T) {
	const size = 3<<20 + 7
	body := strings.Repeat("whirlpool", size/9+1)[:size]
	const behind = "GET http://a.test/behind HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for name, head := range map[string]string{
		"at once": "PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n",
		"asked": "PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: " +
			strconv.Itoa(size) + "\r\n\r\n",
		"HTTP/1.0": "PUT http://a.test/ HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: " + strconv.Itoa(size) +
			"\r\n\r\n",
		"chunked": "PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strconv.FormatInt(size, 16) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := make(chan bool, 1)
			more := make(chan string, 1)
			r := newRig(t, func(c net.Conn) {
				b := bufio.NewReader(c)
				q, err := http.ReadRequest(b)
				if err != nil {
					return
				}
				got, err := io.ReadAll(q.Body)
				whole <- err == nil && body == string(got)
				io.WriteString(c, ok("hello"))
				rest, _ := io.ReadAll(b)
				more <- string(rest)
			}, nil)
			c := r.ask(head)
			if name == "asked" {
				require.Equal(t, "HTTP/1.1 100 Continue", c.line())
				require.Empty(t, c.line())
			}
			end := ""
			if name == "chunked" {
				end = "\r\n0\r\n\r\n"
			}
			go io.WriteString(c, body+end+behind)
			a, said := c.answer("PUT")
			require.Equal(t, "hello", said)
			require.True(t, a.Close)
			require.True(t, <-whole)
			c.ended()
			r.free()
			r.Transport.Close()
			require.Empty(t, <-more)
		})
	}
}

// If the client ends the request's body early during the response, or the gateway stops, the proxy is not
// charged.
func TestAnInterruptedResponseIsNotCharged(t *testing.T) {
	for name, end := range map[string]func(c *client, s *Server){
		"by the client": func(c *client, _ *Server) { c.CloseWrite() },
		"by a shutdown": func(_ *client, s *Server) {
			over, cancel := context.WithCancel(context.Background())
			cancel()
			s.Shutdown(over)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c net.Conn) {
				if q, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
					io.Copy(io.Discard, q.Body)
				}
			}, nil)
			c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 67108864\r\n\r\n")
			a, err := http.ReadResponse(c.r, nil)
			require.NoError(t, err)
			_, err = io.ReadFull(a.Body, make([]byte, 5))
			require.NoError(t, err)
			end(c, r.Server)
			_, err = io.ReadAll(a.Body)
			require.Error(t, err, "the client sees that something is missing")
			r.free()
			require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount)
			require.Equal(t, []string{core.ResultCancelled.String()}, r.recorded.results())
		})
	}
}

func TestAFragmentIsNotForwarded(t *testing.T) {
	seen := make(chan string, 1)
	r := newRig(t, func(c net.Conn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		seen <- line
		io.WriteString(c, ok(""))
	}, nil)
	a, _ := r.ask("GET http://a.test/b?c#d HTTP/1.1\r\nHost: a.test\r\n\r\n").answer("GET")
	require.Equal(t, 200, a.StatusCode)
	require.Equal(t, "GET http://a.test/b?c HTTP/1.1\r\n", <-seen)
	a, _ = r.ask("CONNECT a.test:443#b HTTP/1.1\r\nHost: a.test\r\n\r\n").answer("CONNECT")
	require.Equal(t, 400, a.StatusCode)
}

func TestLogins(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.Users = []User{{Name: "ann", Password: "p:w"}, {Name: "bob"}}
	})
	for value, want := range map[string]int{
		basic("ann:p:w"): 200, strings.ToUpper(basic("ann:p:w")[:5]) + basic("ann:p:w")[5:]: 200,
		basic("bob:"): 407, basic("ann:p"): 407, basic("ann:"): 407, basic("bob"): 407, basic("eve:"): 407,
		basic(":"): 407, basic(""): 407, "": 407, "Basic": 407, "Basic !": 407,
		"Bearer " + basic("ann:p:w")[6:]: 407, basic("ann:p:w")[6:]: 407,
	} {
		a, _ := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" +
			"Proxy-Authorization: " + value + "\r\n\r\n").answer("GET")
		require.Equal(t, want, a.StatusCode, value)
	}
}

// Exactly one Host field is sent: that of the target, whatever Host fields the request has.
func TestHost(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		for {
			hosts := ""
			for {
				line, err := b.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				if strings.HasPrefix(strings.ToLower(line), "host:") {
					hosts += line
				}
			}
			io.WriteString(c, ok(hosts))
		}
	}, nil)
	for _, from := range []string{"1.0\r\n", "1.0\r\nHost:\r\n", "1.0\r\nHost: b.test\r\n", "1.1\r\nHost:\r\n",
		"1.1\r\nHost: b.test\r\n"} {
		_, body := r.ask("GET http://a.test:81/ HTTP/" + from + "\r\n").answer("GET")
		require.Equal(t, "Host: a.test:81\r\n", body, "%q", from)
	}
}
