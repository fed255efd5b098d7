package api

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// start is the beginning of most hostile requests.
const start = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"

// chunked is the beginning of the hostile requests with a chunked body.
const chunked = start + "Transfer-Encoding: chunked\r\n"

// hostileRequests are malformed requests for /healthz. A strict parser of HTTP/1.1 accepts none of them, because a
// server may read one request where a proxy in front of it has read two (RFC 9112 section 11.2).
var hostileRequests = map[string]string{
	// fasthttp takes the host from such a target. A web page could use this to look like a loopback client.
	"a target that begins with //":      "GET //127.0.0.1/healthz?x=:// HTTP/1.1\r\nHost: a\r\n\r\n",
	"bare LF after the request line":    "GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
	"bare LF after a field":             "GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
	"bare LF at the end":                start + "\n",
	"bare CR in a value":                start + "X: a\rb\r\n\r\n",
	"NUL in a value":                    start + "X: a\x00b\r\n\r\n",
	"NUL in a name":                     start + "X\x00: a\r\n\r\n",
	"control character in a value":      start + "X: a\x01b\r\n\r\n",
	"space before the colon":            start + "X : a\r\n\r\n",
	"space in a name":                   start + "X Y: a\r\n\r\n",
	"empty name":                        start + ": a\r\n\r\n",
	"field without a colon":             start + "X\r\n\r\n",
	"folded field":                      start + "X: a\r\n b\r\n\r\n",
	"space before the first field":      "GET /healthz HTTP/1.1\r\n Host: localhost\r\nHost: localhost\r\n\r\n",
	"no Host":                           "GET /healthz HTTP/1.1\r\nX: y\r\n\r\n",
	"two Hosts":                         start + "Host: localhost\r\n\r\n",
	"two spaces in the request line":    "GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"tab in the request line":           "GET\t/healthz\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
	"four words in the request line":    "GET /healthz x HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"HTTP/1.10":                         "GET /healthz HTTP/1.10\r\nHost: localhost\r\n\r\n",
	"HTTP/2.0":                          "GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
	"HTTP/0.9":                          "GET /healthz\r\n\r\n",
	"lower-case version":                "GET /healthz http/1.1\r\nHost: localhost\r\n\r\n",
	"method that is not a token":        "G(T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"xchunked":                          start + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"chunked, identity":                 start + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"chunked twice":                     chunked + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"length and chunked":                start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"two lengths that differ":           start + "Content-Length: 0\r\nContent-Length: 1\r\n\r\nx",
	"a list of lengths":                 start + "Content-Length: 0, 0\r\n\r\n",
	"length +1":                         start + "Content-Length: +1\r\n\r\nx",
	"length 0x1":                        start + "Content-Length: 0x1\r\n\r\nx",
	"empty length":                      start + "Content-Length: \r\n\r\n",
	"chunk size with bare LF":           chunked + "\r\n1\nx\r\n0\r\n\r\n",
	"chunk size 0x1":                    chunked + "\r\n0x1\r\nx\r\n0\r\n\r\n",
	"chunk size -1":                     chunked + "\r\n-1\r\nx\r\n0\r\n\r\n",
	"chunk without its end":             chunked + "\r\n1\r\nxy0\r\n\r\n",
	"chunk size of 17 digits":           chunked + "\r\n10000000000000001\r\nx\r\n0\r\n\r\n",
	"Content-Length hidden by a space":  start + "Content-Length : 5\r\n\r\nGET /",
	"Transfer-Encoding hidden by a tab": start + "Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n",
	"chunked with HTTP/1.0":             "GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"space in the target":               "GET /health z HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"control character in the target":   "GET /healthz\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"byte of UTF-8 in a name":           start + "X\xc3\xa9: a\r\n\r\n",
}

// strictConn is a connection with the strict reader, as the API's listener returns it.
type strictConn struct {
	*memoryConn
	requests *strictReader
}

func (s strictConn) Read(p []byte) (int, error) { return s.requests.Read(p) }

// usualLimits are the default limits of clients.
func usualLimits() Limits {
	return Limits{Head: 10 * time.Second, BodyIdle: time.Minute, MinBodyRate: 100}
}

// A head that is late and a body that is slow or stops end with a 408. A body at the minimum rate may take any time.
func TestSlowRequestsGetA408(t *testing.T) {
	const post = "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"
	for name, c := range map[string]struct {
		begin    string
		perPiece int // bytes each 0.7 s
		after    time.Duration
		message  string // "" if the request is read completely
	}{
		"nothing":                   {after: 30 * time.Second},
		"a head that stops":         {"GET /a HT", 0, 10 * time.Second, "timeouts.head"},
		"a head byte by byte":       {"GET /", 1, 10 * time.Second, "timeouts.head"},
		"a body that stops":         {post, 0, 30 * time.Second, "gateway.min_body_rate"},
		"a body byte by byte":       {post, 1, 30 * time.Second, "gateway.min_body_rate"},
		"a body at 90 B/s":          {post, 63, 30 * time.Second, "gateway.min_body_rate"},
		"a body of several minutes": {post, 150, 279 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				r := newStrictReader(server, time.Now, usualLimits)
				var wg sync.WaitGroup
				wg.Go(func() {
					_, err := io.WriteString(client, c.begin)
					for c.perPiece > 0 && err == nil {
						_, err = client.Write(bytes.Repeat([]byte("x"), c.perPiece))
						time.Sleep(700 * time.Millisecond)
					}
				})
				response := make(chan string)
				go func() {
					all, _ := io.ReadAll(client)
					response <- string(all)
				}()
				begin := time.Now()
				n := 0
				var err error
				for p := make([]byte, 4096); err == nil && n < 60000; {
					var m int
					m, err = r.Read(p)
					n += m
				}
				require.Equal(t, c.after, time.Since(begin).Round(time.Second))
				server.Close()
				wg.Wait()
				got := <-response
				if c.message == "" {
					require.Empty(t, got)
					return
				}
				require.Equal(t, io.EOF, err)
				require.Contains(t, got, "HTTP/1.1 408 Request Timeout")
				require.Contains(t, got, c.message)
			})
		})
	}
}

// The API refuses each of hostileRequests with a 4xx or 505 in JSON, and closes the connection.
func TestHostileRequests(t *testing.T) {
	g := newRig(t, nil)
	g.app.Handler() // builds the tree of routes
	for name, raw := range hostileRequests {
		c := &memoryConn{}
		c.in.WriteString(raw + start + "\r\n")
		_ = g.app.Server().ServeConn(strictConn{c, newStrictReader(c, time.Now,
			usualLimits)}) // an error here is also in the response
		r := bufio.NewReader(&c.out)
		a, err := http.ReadResponse(r, nil)
		if !assert.NoError(t, err, name) {
			continue
		}
		body, err := io.ReadAll(a.Body)
		assert.NoError(t, err, name)
		assert.True(t, a.StatusCode >= 400 && a.StatusCode < 500 || a.StatusCode == 505, "%s: %d", name, a.StatusCode)
		assert.Equal(t, "application/json", a.Header.Get("Content-Type"), name)
		assert.True(t, strings.HasPrefix(string(body), "{"), "%s: %s", name, body)
		_, err = r.Peek(1)
		assert.Equal(t, io.EOF, err, "%s: the connection goes on", name)
	}
}

// The API's port has the strict reader and its limits. A change of the limits holds for the next request.
func TestThePortIsStrict(t *testing.T) {
	g := newRig(t, func(_ *rig, c *Config) { c.Now, c.Limits = time.Now, usualLimits() })
	on, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error)
	go func() { ended <- g.Serve(on) }()
	dial := func(raw string) net.Conn {
		c, err := net.Dial("tcp", on.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(c, raw)
		require.NoError(t, err)
		return c
	}
	ask := func(raw string) int {
		c := dial(raw)
		defer c.Close()
		a, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		return a.StatusCode
	}
	require.Equal(t, 200, ask(start+"\r\n"))
	require.Equal(t, 400, ask("GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n"))
	g.SetLimits(Limits{Head: time.Minute, BodyIdle: time.Millisecond})
	c := dial("POST /api/v1/proxies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
	defer c.Close()
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(all), "timeouts.body_idle")
	require.Equal(t, 1, bytes.Count(all, []byte("HTTP/1.1 ")), "one response: %s", all)
	g.SetLimits(Limits{Head: time.Millisecond, BodyIdle: time.Minute})
	require.Equal(t, 408, ask("GET /healthz HT"))
	require.NoError(t, g.Shutdown(t.Context()))
	require.NoError(t, <-ended)
}

// Valid requests keep their meaning: several requests on one connection, with bodies of both framings.
func TestStrictReaderKeepsRequests(t *testing.T) {
	c := &memoryConn{}
	c.in.WriteString("POST /a HTTP/1.1\r\nhost: localhost\r\nX:  y \r\nX: z\r\nContent-Length: 5\r\n\r\nhello" +
		"PUT /b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n" +
		"GET /c?d HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /e HTTP/1.1\r\nHost: localhost\r\n\r\n")
	all, err := io.ReadAll(strictConn{c, newStrictReader(c, time.Now, usualLimits)})
	require.NoError(t, err)
	require.Equal(t, "POST /a HTTP/1.1\r\nhost: localhost\r\nX: y\r\nX: z\r\nContent-Length: 5\r\n\r\nhello"+
		"PUT /b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+
		"GET /c?d HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /e HTTP/1.1\r\nHost: localhost\r\n\r\n", string(all))
}

// FuzzStrictReader: net/http accepts the requests that the reader returns.
func FuzzStrictReader(f *testing.F) {
	for _, raw := range hostileRequests {
		f.Add([]byte(raw))
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &memoryConn{}
		c.in.Write(raw)
		out, err := io.ReadAll(strictConn{c, newStrictReader(c, time.Now, usualLimits)})
		whole := err == nil && c.out.Len() == 0
		for r := bufio.NewReader(bytes.NewReader(out)); ; {
			q, err := http.ReadRequest(r)
			if err == io.EOF || !whole && err != nil {
				return
			}
			if err != nil && strings.Contains(err.Error(), "parse ") { // net/http parses the target, too
				return
			}
			require.NoError(t, err, "%q", out)
			_, err = io.Copy(io.Discard, q.Body)
			require.True(t, err == nil || !whole, "%q: %v", out, err)
			if err != nil {
				return
			}
		}
	})
}
