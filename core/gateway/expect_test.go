package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

const (
	large      = 30 << 20 // far more than replay_limit
	largeAsked = "PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" +
		"Expect: 100-continue\r\nContent-Length: 31457280\r\n\r\n"
	goOn = "HTTP/1.1 100 Continue\r\n\r\n"
)

// head reads the head of a request, as a proxy does.
func head(t *testing.T, b *bufio.Reader) *http.Request {
	q, err := http.ReadRequest(b)
	if err != nil {
		return nil
	}
	if q.Header.Get("Expect") != "100-continue" || q.ContentLength != large {
		t.Errorf("the expectation does not go on: %v", q.Header)
	}
	return q
}

// counting counts the bytes that are read from a body.
type counting struct {
	io.Reader
	n atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// A target that responds to the head gets no part of the body. Its response, of any status, reaches the
// client without a 100 before it.
func TestAnExpectationMayEndWithTheResponse(t *testing.T) {
	for _, status := range []string{"413 Content Too Large", "417 Expectation Failed", "401 Unauthorized", "200 OK"} {
		rest := make(chan int64, 1)
		r := newRig(t, func(c net.Conn) {
			b := bufio.NewReader(c)
			if head(t, b) == nil {
				return
			}
			io.WriteString(c, reply(status, "no"))
			n, _ := io.Copy(io.Discard, b)
			rest <- n
		}, patient)
		c := r.ask(largeAsked)
		require.Equal(t, "HTTP/1.1 "+status, c.line(), "the first thing that the client hears")
		for line := c.line(); line != ""; line = c.line() {
		}
		body, err := io.ReadAll(c.r)
		require.NoError(t, err, "the connection ends properly")
		require.Equal(t, "no", string(body))
		c.Close()
		require.Zero(t, <-rest)
		r.free()
	}
}

// A body of unknown length may be long. Its client waits for the target's 100 or final response as well, unless the
// request may be repeated, for which the gateway keeps the body.
func TestAnExpectationOfUnknownLength(t *testing.T) {
	const asked = "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		head, atOnce string // atOnce is the part of the body that is sent with the head
		repeat       bool   // retry_non_idempotent
		expect       string // the Expect field that the proxy gets
		refuses      bool
	}{
		"refused":      {head: asked, expect: "100-continue", refuses: true},
		"accepted":     {head: asked, expect: "100-continue"},
		"repeated":     {head: asked, repeat: true},
		"idempotent":   {head: strings.Replace(asked, "POST", "DELETE", 1)},
		"sent at once": {head: asked, atOnce: "5\r\n"},
		"an upgrade":   {head: strings.Replace(asked, "Expect", "Connection: upgrade\r\nUpgrade: tcp\r\nExpect", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			rest := make(chan int64, 1)
			r := newRig(t, func(conn net.Conn) {
				b := bufio.NewReader(conn)
				q, err := http.ReadRequest(b)
				if err != nil {
					return
				}
				if got := q.Header.Get("Expect"); got != c.expect {
					t.Errorf("Expect: %q", got)
				}
				if c.refuses {
					io.WriteString(conn, reply("413 Content Too Large", "no"))
					n, _ := io.Copy(io.Discard, b)
					rest <- n
					return
				}
				if c.expect != "" {
					io.WriteString(conn, goOn)
				}
				body, _ := io.ReadAll(q.Body)
				io.WriteString(conn, ok(string(body)))
			}, func(o *options) {
				patient(o)
				o.policy = func(p *retry.Policy) { p.RetryNonIdempotent = c.repeat }
			})
			client := r.ask(c.head + c.atOnce)
			if c.refuses {
				require.Equal(t, "HTTP/1.1 413 Content Too Large", client.line(), "the first that the client hears")
				client.Close()
				require.Zero(t, <-rest)
				return
			}
			require.Equal(t, "HTTP/1.1 100 Continue", client.line())
			require.Empty(t, client.line())
			client.send(strings.TrimPrefix("5\r\nhello\r\n0\r\n\r\n", c.atOnce))
			_, body := client.answer("POST")
			require.Equal(t, "hello", body)
		})
	}
}

// The client of net/http waits for the 100, and sends no body.
func TestAClientThatWaitsSendsNothing(t *testing.T) {
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		if head(t, b) != nil {
			io.WriteString(c, reply("413 Content Too Large", "no"))
			io.Copy(io.Discard, b)
		}
	}, patient)
	body := &counting{Reader: io.LimitReader(zeros{}, large)}
	q, err := http.NewRequest("PUT", "http://a.test/", body)
	require.NoError(t, err)
	q.ContentLength = large
	q.Header.Set("Expect", "100-continue")
	gateway := &url.URL{Scheme: "http", Host: r.listener.Addr().String()}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(gateway), ExpectContinueTimeout: patience}}
	defer client.CloseIdleConnections()
	a, err := client.Do(q)
	require.NoError(t, err)
	a.Body.Close()
	require.Equal(t, 413, a.StatusCode)
	require.Zero(t, body.n.Load())
}

// zeros is an endless stream of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The client gets one 100 for its body: when the target sends one, or when the target has been silent for a
// while.
func TestAnExpectationGetsOne100(t *testing.T) {
	for name, say := range map[string]string{"asked": "HTTP/1.1 103 Hints\r\n\r\n" + goOn, "silent": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c net.Conn) {
				b := bufio.NewReader(c)
				q := head(t, b)
				if q == nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // in this time, no part of the body may be sent
				if n := b.Buffered(); n > 0 {
					t.Errorf("%d bytes before they were asked for", n)
				}
				io.WriteString(c, say)
				n, _ := io.Copy(io.Discard, q.Body)
				io.WriteString(c, ok(strconv.FormatInt(n, 10)))
			}, nil)
			c := r.dial()
			begun := time.Now()
			c.send(largeAsked)
			require.Equal(t, "HTTP/1.1 100 Continue", c.line())
			require.Empty(t, c.line())
			if name == "silent" {
				require.GreaterOrEqual(t, time.Since(begun), transport.ContinueWait)
			}
			go c.Write(make([]byte, large))
			require.Equal(t, "HTTP/1.1 200 OK", c.line())
			c.r = bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n"), c.r))
			_, body := c.answer("PUT")
			require.Equal(t, strconv.Itoa(large), body)
			c.ended()
			r.free()
			require.Equal(t, []string{"success"}, r.recorded.finals())
		})
	}
}

// Until the client has got the 100, the request is retried like a request without a body. After that it is
// not retried.
func TestAnExpectationIsRetriedBeforeThe100(t *testing.T) {
	for name, c := range map[string]struct {
		first    string // the proxy's response to the first attempt
		status   int
		attempts string
	}{
		"before": {reply("503 No", ""), 200, "2"},
		"after":  {goOn + reply("503 No", ""), 503, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int32
			r := newRig(t, func(conn net.Conn) {
				b := bufio.NewReader(conn)
				q := head(t, b)
				if q == nil {
					return
				}
				if tries.Add(1) == 1 {
					io.WriteString(conn, c.first)
					io.Copy(io.Discard, b)
					return
				}
				io.WriteString(conn, goOn)
				n, _ := io.Copy(io.Discard, q.Body)
				io.WriteString(conn, ok(strconv.FormatInt(n, 10)))
			}, func(o *options) {
				patient(o)
				o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay, p.RetryNonIdempotent = 3, 0.1, true }
			})
			client := r.ask(largeAsked)
			require.Equal(t, "HTTP/1.1 100 Continue", client.line())
			require.Empty(t, client.line())
			go client.Write(make([]byte, large))
			a, body := client.answer("PUT")
			require.Equal(t, c.status, a.StatusCode)
			require.Equal(t, c.attempts, a.Header.Get("X-Whirlpool-Attempts"))
			if c.status == 200 {
				require.Equal(t, strconv.Itoa(large), body)
			}
		})
	}
}

// If the proxy closes a reused connection when it has read the head, the request is replayed.
func TestAnExpectationOnAStaleConnection(t *testing.T) {
	var opened atomic.Int32
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		first := opened.Add(1) == 1
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		if first {
			io.WriteString(c, ok(""))
			http.ReadRequest(b)
			return
		}
		io.WriteString(c, goOn)
		n, _ := io.Copy(io.Discard, q.Body)
		io.WriteString(c, ok(strconv.FormatInt(n, 10)))
	}, patient)
	c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	c.answer("GET")
	c.send(strings.Replace(largeAsked, "PUT", "DELETE", 1)) // a method that may be repeated
	require.Equal(t, "HTTP/1.1 100 Continue", c.line())
	require.Empty(t, c.line())
	go c.Write(make([]byte, large))
	a, body := c.answer("PUT")
	require.Equal(t, "1", a.Header.Get("X-Whirlpool-Attempts"))
	require.Equal(t, strconv.Itoa(large), body)
	require.EqualValues(t, 2, opened.Load())
}
