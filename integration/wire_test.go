package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// sendRaw sends bytes to an address and reads one response.
func sendRaw(t *testing.T, addr, raw string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(eventTimeout))
	_, err = io.WriteString(c, raw)
	require.NoError(t, err)
	method, _, _ := strings.Cut(raw, " ")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	require.NoError(t, err, "%.100q", raw)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r, string(body)
}

// A request is not forwarded in an endless loop if the pool contains the gateway itself.
func TestTheGatewayIsNoProxyOfItsOwn(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	for _, url := range []string{"http://" + w.gateway, "https://" + w.gateway, "socks5://" + w.gateway,
		"http://" + w.api} {
		status, body, _ := w.call("POST", "/proxies", `{"id":"self","url":"`+url+`"}`)
		require.Equal(t, 201, status, "%s", body)
		for range 2 {
			require.Equal(t, 200, w.get().status, "by the other one")
		}
		require.EqualValues(t, 1, w.breaker("self")["failure_count"], url)
		status, _, _ = w.call("DELETE", "/proxies/self", "")
		require.Equal(t, 204, status)
	}
	eventually(t, "the log says why", func() bool { return strings.Contains(w.log.String(), "proxy_loop_detected") })
	require.Equal(t, 8.0, w.getJSON("/metrics/retries")["total_requests"], "none came back")
}

// direct:// reaches all addresses except the address of the API, because the API trusts connections from this machine.
func TestS12DirectDoesNotLeadToTheAPI(t *testing.T) {
	t.Parallel()
	w := start(t, 0, confK+"[egress]\nallow = [\"127.0.0.0/8\", \"0.0.0.0\"]\n[[proxies]]\nurl = \"direct://\"\n")
	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	_, port, err := net.SplitHostPort(w.api)
	require.NoError(t, err)
	for _, host := range []string{"127.0.0.1:", "localhost:", "0.0.0.0:", "[::ffff:127.0.0.1]:"} {
		r, body := sendRaw(t, w.gateway, "GET http://"+
			host+port+"/api/v1/retry/policy HTTP/1.1\r\nHost: x\r\nX-Whirlpool-Retry: max_attempts=1\r\n\r\n")
		require.Equal(t, 403, r.StatusCode, body)
		require.Contains(t, r.Header.Get("Proxy-Status"), "destination_ip_prohibited")
	}
	status, _, _ := w.connect(w.api)
	require.Equal(t, 403, status)
	require.Zero(t, w.breaker("direct")["failure_count"])
	r, _ := sendRaw(t, w.gateway, "GET http://"+origin.Addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, 200, r.StatusCode)
}

// The API is not a proxy: it refuses requests for other hosts. If it cannot parse a request, its error does not quote
// the request.
func TestS12TheAPIIsNoProxy(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	for raw, want := range map[string]int{
		"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n":                              421,
		"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n":                                  404,
		"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n":                                421,
		"GET /api/v1/retry/policy HTTP/1.1\r\nHost: rebound.example\r\n\r\n":                           421,
		"GET /api/v1/proxies HTTP/1.1\r\nHost: rebound.example\r\nX-Forwarded-Host: localhost\r\n\r\n": 421,
		"GET /api/v1/proxies HTTP/1.1\r\nHost: rebound.example\r\nForwarded: host=localhost\r\n\r\n":   421,
		"PUT /api/v1/retry/policy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
			"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n{": 415,
		"POST /api/v1/plugins?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/wasm\r\n" +
			"Content-Encoding: br\r\nContent-Length: 1\r\n\r\n{": 415,
		"GET /healthz HTTP/1.0\r\n\r\n":                     200,
		"GET /healthz HTTP/1.1\r\nHost: [::1]:8889\r\n\r\n": 200,
		"canary\r\n\r\n":                                    400,
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer canary\r\nContent-Length: -1\r\n\r\n": 400,
		"GET /" + strings.Repeat("a", 20_000) +
			" HTTP/1.1\r\nHost: localhost\r\n\r\n": 431,
		"PUT /api/v1/retry/policy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{":           413,
		"POST /api/v1/circuit-breakers/F1/reset HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test\r\n\r\n": 403,
	} {
		r, body := sendRaw(t, w.api, raw)
		require.Equal(t, want, r.StatusCode, "%.100q: %s", raw, body)
		require.NotContains(t, body, "canary")
		require.Equal(t, "application/json", r.Header.Get("Content-Type"))
		require.True(t, strings.HasPrefix(body, "{"), body)
	}
	require.Zero(t, w.arrivals())
	require.NotContains(t, w.log.String(), "canary")

	// The gateway's port serves no endpoint of the API.
	for _, path := range []string{"/", "/api/v1/retry/policy", "/metrics", "/healthz"} {
		r, body := sendRaw(t, w.gateway, "GET "+path+" HTTP/1.1\r\nHost: "+w.api+"\r\n\r\n")
		require.Equal(t, 400, r.StatusCode)
		require.Contains(t, body, "HTTP proxy")
		require.Equal(t, "not_retryable", r.Header.Get("X-Whirlpool-Outcome"))
		require.NotEmpty(t, r.Header.Get("Proxy-Status"))
	}
}

// exchangeAll sends raw to the gateway. It returns all bytes that arrive until none has arrived for a
// moment.
func (w *whirl) exchangeAll(raw string) string {
	c, err := net.Dial("tcp", w.gateway)
	require.NoError(w.t, err)
	defer c.Close()
	_, err = io.WriteString(c, raw)
	require.NoError(w.t, err)
	var all []byte
	buf := make([]byte, 64<<10)
	begin := time.Now()
	for wait := eventTimeout; ; wait = 100*time.Millisecond + tolerance(begin) {
		c.SetReadDeadline(time.Now().Add(wait))
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		if err == io.EOF {
			return string(all) + "<closed>"
		}
		if err != nil {
			return string(all)
		}
	}
}

// The proxy gets the client's message with these changes.
func TestRequestsOnTheWire(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[[gateway.users]]\nname = \"ann\"\npassword = \"p:w\"\n")
	login := "Proxy-Authorization: bAsIc  YW5uOnA6dw==\r\n"
	for _, c := range []struct{ name, sent, target string }{
		{"absolute form", "GET http://o.test/a?b HTTP/1.1\r\nHost: o.test\r\n", "http://o.test/a?b"},
		{"the target's host wins", "GET http://o.test:81/ HTTP/1.1\r\nHost: other\r\n", "http://o.test:81/"},
		{"HTTP/1.0 without a Host", "GET http://o.test/ HTTP/1.0\r\n", "http://o.test/"},
		{"an empty port", "GET http://o.test:/ HTTP/1.1\r\nHost: o.test\r\n", "http://o.test:/"},
		{"IPv6", "GET http://[2001:db8::1]:8/ HTTP/1.1\r\nHost: x\r\n", "http://[2001:db8::1]:8/"},
		{"upper case", "GET HTTP://O.TEST/ HTTP/1.1\r\nHost: x\r\n", "HTTP://O.TEST/"},
		{"of this hop", "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nConnection: X-Gone, close\r\nX-Gone: 1\r\n" +
			"Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\n" +
			"TE: trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\nX-Whirlpool-Region: US\r\nX-WHIRLPOOL-Nonsense: 1\r\n" +
			"X-Whirlpool-Retry: max_attempts=1\r\n", "http://o.test/"},
	} {
		w.clearArrivals()
		got := w.exchangeAll(c.sent + login + "X-Stays: 1\r\n\r\n")
		require.Contains(t, got, "HTTP/1.1 200 ", c.name)
		a := w.fakes[0].Arrivals()[0]
		require.Equal(t, c.target, a.Target, c.name)
		a.Header.Del("X-Stays")
		require.Equal(t, "Basic dXNlcjpodW50ZXIyc2VjcmV0", a.Header.Get("Proxy-Authorization"),
			"the pool's, not the client's")
		a.Header.Del("Proxy-Authorization")
		require.Empty(t, a.Header, c.name)
	}

	// Pipelined requests with bodies get their responses in order. A refused request among them does not affect
	// the others.
	w.clearArrivals()
	got := w.exchangeAll("POST http://o.test/1 HTTP/1.1\r\nHost: o\r\n" + login + "Content-Length: 3\r\n\r\nabc" +
		"POST http://o.test/no HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\n\r\nabc" +
		"HEAD http://o.test/2 HTTP/1.1\r\nHost: o\r\n" + login + "\r\n" +
		"CONNECT o.test:443 HTTP/1.1\r\nHost: o\r\n\r\n" +
		"POST http://o.test/3 HTTP/1.1\r\nHost: o\r\n" + login +
		"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n" +
		"GET http://o.test/4 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n" + login + "\r\n")
	require.Equal(t, []string{"200", "407", "200", "407", "100", "200", "200"}, statuses(got), got)
	require.True(t, strings.HasSuffix(got, "<closed>"))
	var bodies []string
	for _, a := range w.fakes[0].Arrivals() {
		bodies = append(bodies, a.Method+" "+a.Target+" "+string(a.Body))
	}
	require.Equal(t, []string{"POST http://o.test/1 abc", "HEAD http://o.test/2 ", "POST http://o.test/3 de",
		"GET http://o.test/4 "}, bodies)

	// Refused requests: each error response has all fields.
	before := w.arrivals()
	for raw, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: o\r\n" + login:                                                           "400",
		"OPTIONS * HTTP/1.1\r\nHost: o\r\n" + login:                                                       "400",
		"GET ftp://o/ HTTP/1.1\r\nHost: o\r\n" + login:                                                    "400",
		"GET http:///a HTTP/1.1\r\nHost: o\r\n" + login:                                                   "400",
		"GET http://u:canary@o/ HTTP/1.1\r\nHost: o\r\n" + login:                                          "400",
		"GET http://[o]:80/ HTTP/1.1\r\nHost: o\r\n" + login:                                              "400",
		"GET http://o:0/ HTTP/1.1\r\nHost: o\r\n" + login:                                                 "400",
		"CONNECT o HTTP/1.1\r\nHost: o\r\n" + login:                                                       "400",
		"CONNECT o:99999 HTTP/1.1\r\nHost: o\r\n" + login:                                                 "400",
		"GET http://o/ HTTP/1.1\r\nHost: o\r\nX-Whirlpool-Retry: max_attempts=11\r\n" + login:             "400",
		"CONNECT o:443 HTTP/1.1\r\nHost: o\r\nX-Whirlpool-Retry: nonsense=\r\n" + login:                   "400",
		"GET http://o/ HTTP/1.1\r\nHost: o\r\nX-Whirlpool-Region: a\r\nX-Whirlpool-Region: b\r\n" + login: "400",
		"GET http://o/ HTTP/1.1\r\nHost: o\r\nProxy-Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==\r\n":        "407",
		"GET http://o/ HTTP/1.1\r\nHost: o\r\nAuthorization: Basic YW5uOnA6dw==\r\n":                      "407",
		"CONNECT o:443 HTTP/1.1\r\nHost: o\r\nProxy-Authorization: Bearer canary\r\n":                     "407",
		"GET http://o/ HTTP/2.0\r\nHost: o\r\n":                                                           "400",
		"GET http://o/ HTTP/1.1\r\nHost: o\r\nX: " + strings.Repeat("a", 70_000) + "\r\n":                 "431",
	} {
		got := w.exchangeAll(raw + "\r\n")
		require.Equal(t, []string{want}, statuses(got), "%.120q", raw)
		for _, field := range []string{"X-Whirlpool-Request-Id: ", "X-Whirlpool-Attempts: 0\r\n",
			"X-Whirlpool-Proxy-Id: -\r\n", "X-Whirlpool-Outcome: not_retryable\r\n",
			"Proxy-Status: whirlpool; error=http_request_", "Content-Type: application/json\r\n", `{"error":"`} {
			require.Contains(t, got, field, "%.120q", raw)
		}
		require.NotContains(t, got, "canary")
	}
	require.Equal(t, before, w.arrivals())
}

// statuses returns the statuses of the responses in got, in order.
func statuses(got string) (codes []string) {
	for _, m := range regexp.MustCompile(`HTTP/1\.1 (\d{3}) `).FindAllStringSubmatch(got, -1) {
		codes = append(codes, m[1])
	}
	return codes
}

// The client gets the proxy's response with these changes.
func TestResponsesOnTheWire(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	w.putPolicy(`{"max_attempts":1}`)
	for _, c := range []struct {
		name, method, minor, answer string
		want                        []string // in order
		not                         string
	}{
		{"interim answers", "GET", "1", "100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n" +
			"Content-Length: 2\r\n\r\nhi", []string{"200 OK", "\r\n\r\nhi"}, "HTTP/1.1 103"},
		{"of this hop", "GET", "1", "200 OK\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\n" +
			"Proxy-Authenticate: Basic\r\nX-Whirlpool-Attempts: 9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n" +
			"Content-Length: 2\r\n\r\nhi",
			[]string{"Set-Cookie: a", "Set-Cookie: b", "X-Whirlpool-Attempts: 1", "\r\n\r\nhi"}, "X-Gone"},
		{"until the end", "GET", "1", "200 OK\r\n\r\nhello", []string{"Transfer-Encoding: chunked",
			"5\r\nhello\r\n0\r\n\r\n"}, "Content-Length"},
		{"until the end, for HTTP/1.0", "GET", "0", "200 OK\r\n\r\nhello",
			[]string{"Connection: close", "\r\n\r\nhello<closed>"}, "chunked"},
		{"chunks, for HTTP/1.0", "GET", "0", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			[]string{"Connection: close", "\r\n\r\nhello<closed>"}, "chunked"},
		{"trailers", "GET", "1", "200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\n" +
			"X-T: 1\r\nSet-Cookie: a\r\n\r\n", []string{"\r\nTrailer: X-T\r\n", "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"},
			"Set-Cookie"},
		{"trailers, for HTTP/1.0", "GET", "0", "200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\n" +
			"hello\r\n0\r\nX-T: 1\r\n\r\n", []string{"\r\n\r\nhello<closed>"}, "X-T"},
		{"204", "GET", "1", "204 No\r\nContent-Length: 5\r\n\r\n", []string{"204 No", "\r\n\r\n"}, "Content-Length"},
		{"304", "GET", "1", "304 Not\r\nContent-Length: 50\r\nETag: x\r\n\r\n",
			[]string{"304 Not", "ETag: x", "Content-Length: 50"}, "chunked"},
		{"HEAD", "HEAD", "1", "200 OK\r\nContent-Length: 50\r\n\r\n", []string{"200 OK", "Content-Length: 50"},
			"chunked"},
		{"HEAD of chunks", "HEAD", "1", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", []string{"200 OK"}, "chunked"},
		{"a status of its own", "GET", "1", "999 Request denied\r\nContent-Length: 2\r\n\r\nno",
			[]string{"999 Request denied", "Outcome: success", "\r\n\r\nno"}, "HTTP/1.1 502"},
		{"more than it said", "GET", "1", "200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\nsmuggled",
			[]string{"200 OK", "\r\n\r\nhi"}, "smuggled"},
		{"a length and chunks", "GET", "1", "200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n" +
			"hi\r\n0\r\n\r\n", []string{"200 OK", "chunked", "2\r\nhi\r\n0\r\n\r\n"}, "Content-Length"},
		{"what can be repaired", "GET", "1", " 200 OK\nA : b\r\n c\nContent-Length: 02\nContent-Length: 2\n\nhi",
			[]string{"HTTP/1.1 200 OK\r\nA: b   c\r\nContent-Length: 2\r\n", "\r\n\r\nhi"}, "HTTP/1.1 502"},
		{"two lengths", "GET", "1", "200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
			[]string{"502 Bad Gateway", "error=http_protocol_error"}, "hi\r\n"},
		{"101", "GET", "1", "101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
			[]string{"502 Bad Gateway", "error=http_protocol_error"}, "101 Switching Protocols\r\n"},
		{"nothing", "GET", "1", "", []string{"502 Bad Gateway", "error=connection_terminated"}, "200 OK"},
	} {
		raw := ""
		if c.answer != "" {
			raw = "HTTP/1.1 " + c.answer
		}
		if w.fakes[0].SetBehaviour(lab.Behaviour{Garbage: raw}); raw == "" {
			w.fakes[0].SetBehaviour(lab.Behaviour{Fin: true})
		}
		got := w.exchangeAll(c.method + " http://o.test/ HTTP/1." + c.minor + "\r\nHost: o.test\r\n\r\n")
		at := 0
		for _, want := range c.want {
			i := strings.Index(got[at:], want)
			require.GreaterOrEqual(t, i, 0, "%s: %q in %q", c.name, want, got)
			at += i
		}
		require.NotContains(t, got, c.not, c.name)
	}
}
