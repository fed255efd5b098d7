package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// chunkedPost returns a request with a chunked body of size bytes and the given trailer section.
func chunkedPost(size int, announced, section string) string {
	return fmt.Sprintf("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n%s\r\n"+
		"%x\r\n%s\r\n0\r\n%s\r\n", announced, size, strings.Repeat("x", size), section)
}

// The trailers of a request reach the target, also after a repeat, except trailers that must not be sent. A body that
// is not kept has its trailers as well. A kept body without trailers has a length.
func TestRequestTrailers(t *testing.T) {
	var failures atomic.Int32
	r := newRig(t, answering(func(q *http.Request, body string) string {
		if failures.Add(-1) >= 0 {
			return reply("503 Service Unavailable", "")
		}
		return ok(fmt.Sprint(len(body), " ", q.ContentLength, " ", q.Trailer, " ", q.Header.Get("Trailer")))
	}), func(o *options) {
		o.ReplayLimit = 1000
		o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay, p.RetryNonIdempotent = 3, 0.1, true }
	})
	const forged = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\nHost: b.test\r\nAuthorization: a\r\n" +
		"Proxy-Authorization: a\r\nX-Whirlpool-Retry: a\r\n"
	for name, c := range map[string]struct {
		size               int
		announced, section string
		failures           int32
		attempts, want     string
	}{
		"kept":                {5, "", "X-Sum: 7\r\n", 0, "1", "5 -1 map[X-Sum:[7]] "},
		"announced":           {5, "Trailer: X-Sum, Host\r\n", "X-Sum: 7\r\n", 0, "1", "5 -1 map[X-Sum:[7]] "},
		"repeated":            {5, "", "X-Sum: 7\r\n", 2, "3", "5 -1 map[X-Sum:[7]] "},
		"not kept":            {5000, "Trailer: X-Sum\r\n", "X-Sum: 7\r\n", 0, "1", "5000 -1 map[X-Sum:[7]] "},
		"forbidden":           {5, "", forged, 0, "1", "5 5 map[] "},
		"forbidden, not kept": {5000, "", forged + "X-Sum: 7\r\n", 0, "1", "5000 -1 map[X-Sum:[7]] "},
		"nominated": {5, "Connection: X-Mine, keep-alive\r\n", "X-Mine: 1\r\nX-Sum: 7\r\n", 0, "1",
			"5 -1 map[X-Sum:[7]] "},
		"none":       {5, "Trailer: X-Sum\r\n", "", 0, "1", "5 5 map[] "},
		"empty body": {0, "", "X-Sum: 7\r\n", 0, "1", "0 -1 map[X-Sum:[7]] "},
	} {
		failures.Store(c.failures)
		raw := chunkedPost(c.size, c.announced, c.section)
		if c.size == 0 {
			raw = strings.Replace(raw, "0\r\n\r\n0\r\n", "0\r\n", 1)
		}
		client := r.ask(raw)
		a, body := client.answer("POST")
		require.Equal(t, 200, a.StatusCode, name)
		require.Equal(t, c.attempts, a.Header.Get("X-Whirlpool-Attempts"), name)
		require.Equal(t, c.want, body, name)
		if c.size < 1000 {
			client.goesOn()
		}
		client.Close()
		r.proxy.Breaker().Reset()
	}
	for name, section := range map[string]string{"a fold": "X-A: 1\r\n b: 2\r\n", "a space": "X-A : 1\r\n",
		"too large": strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 17)} {
		client := r.ask(chunkedPost(5, "", section))
		a, body := client.answer("POST")
		require.Equal(t, 400, a.StatusCode, name)
		require.Contains(t, body, "malformed_request", name)
		client.ended()
	}
}

// The trailers of a response reach a client of HTTP/1.1. A client of HTTP/1.0 gets none, and a response whose trailers
// are not valid fields has none.
func TestResponseTrailers(t *testing.T) {
	var section atomic.Value
	r := newRig(t, answering(func(*http.Request, string) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length\r\n\r\n2\r\nhi\r\n" +
			"0\r\n" + section.Load().(string) + "\r\n"
	}), nil)
	for sent, want := range map[string]string{
		"X-Sum: 7\r\n": "X-Sum: 7\r\n",
		"X-Sum: 7\r\nContent-Length: 9\r\nSet-Cookie: a\r\nX-Whirlpool-Attempts: 9\r\n" +
			"Server-Timing: x\r\n": "X-Sum: 7\r\nServer-Timing: x\r\n",
		"":                           "",
		"X-Sum: 7\r\n X-Fold: 1\r\n": "",
	} {
		section.Store(sent)
		c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(c.r)
		require.NoError(t, err)
		head, rest, _ := strings.Cut(string(all), "\r\n\r\n")
		require.Contains(t, head+"\r\n", "\r\nTrailer: X-Sum\r\n")
		require.Equal(t, "2\r\nhi\r\n0\r\n"+want+"\r\n", rest, sent)
	}
	section.Store("X-Sum: 7\r\n")
	c := r.ask("GET http://a.test/ HTTP/1.0\r\n\r\n")
	all, err := io.ReadAll(c.r)
	require.NoError(t, err)
	require.NotContains(t, string(all), "X-Sum")
	require.True(t, strings.HasSuffix(string(all), "\r\n\r\nhi"))
}

// Inside an intercepted site, trailers pass in both directions between any versions of HTTP.
func TestInterceptedTrailers(t *testing.T) {
	for _, target2 := range []bool{false, true} {
		i := newIntercepting(t, target2, func(w http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			w.Header().Set("Trailer", "X-Down")
			fmt.Fprint(w, q.Proto, " ", len(body), " ", q.Trailer)
			w.Header().Set("X-Down", "2")
			w.Header().Set(http.TrailerPrefix+"X-More", "3")
		}, nil)
		for _, client2 := range []bool{false, true} {
			for _, size := range []int{5, 5 << 20} { // kept, and streamed
				q, err := http.NewRequest("PUT", "https://a.test/",
					io.LimitReader(strings.NewReader(strings.Repeat("x", size)), int64(size)))
				require.NoError(t, err)
				q.Trailer = http.Header{"X-Up": {"1"}}
				resp, err := i.client(client2, nil).Do(q)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Regexp(t, fmt.Sprintf(`^HTTP/[12]\.[01] %d map\[X-Up:\[1\]\]$`, size), string(body))
				require.Equal(t, http.Header{"X-Down": {"2"}, "X-More": {"3"}}, resp.Trailer, "%v %v", client2, target2)
			}
		}
	}
}
