package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// conns counts the open connections of a proxy, and the responses that were sent completely.
type conns struct {
	address    string
	open, idle atomic.Int64
}

// through returns an engine with one proxy, which responds in place of the target.
func through(t *testing.T, h http.HandlerFunc) (*engine.Engine, *conns) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &conns{address: l.Addr().String()}
	s := &http.Server{Handler: h, ConnState: func(_ net.Conn, st http.ConnState) {
		switch st {
		case http.StateNew:
			n.open.Add(1)
		case http.StateIdle:
			n.idle.Add(1)
		case http.StateClosed:
			n.open.Add(-1)
		}
	}}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	e := newEngine(t, nil, "http://"+l.Addr().String())
	t.Cleanup(func() { e.Shutdown(context.Background()) })
	return e, n
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, body)
}

func text(t *testing.T, r *http.Response) string {
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

// quiet waits until no attempt and no request is in flight.
func quiet(t *testing.T, e *engine.Engine) {
	require.Eventually(t, func() bool {
		return e.Tracker().InFlight() == 0 && e.Pool().Snapshot().All[0].InFlight() == 0
	}, time.Minute, time.Millisecond)
}

// In every case the request's body is closed, and the request itself does not change.
func TestTheTransportDoesNotChangeTheRequest(t *testing.T) {
	e, _ := through(t, echo)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		url    string
		header string
		length int64
		want   string // part of the error
	}{
		"as it should be":     {length: 4},
		"of unknown length":   {length: -1},
		"a bad override":      {length: 4, header: "max_attempts=0", want: "max_attempts must be 1 to 10"},
		"no URL of ours":      {length: 4, url: "ftp://a.test/", want: "http:// or https://"},
		"shorter than said":   {length: 5, want: "Content-Length"},
		"longer than said":    {length: 3, want: "Content-Length"},
		"its context is over": {ctx: gone, length: 4, want: "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			if c.url == "" {
				c.url = "http://a.test/"
			}
			b := &body{Reader: strings.NewReader("body")}
			q, err := http.NewRequestWithContext(c.ctx, "PUT", c.url, b)
			require.NoError(t, err)
			q.ContentLength = c.length
			q.Header["Connection"], q.Header["X-Whirlpool-Retry"], q.Header["X"] =
				[]string{"X"}, []string{"max_attempts=2"}, []string{"y"}
			if c.header != "" {
				q.Header["X-Whirlpool-Retry"] = []string{c.header}
			}
			before := q.Clone(q.Context())
			r, err := e.Transport().RoundTrip(q)
			if c.want == "" {
				require.NoError(t, err)
				require.Equal(t, "PUT a.test body", text(t, r))
				require.Same(t, q, r.Request)
			} else {
				require.ErrorContains(t, err, c.want)
			}
			require.True(t, b.closed.Load())
			require.Equal(t, before, q)
			quiet(t, e)
		})
	}
	require.EqualValues(t, 2, e.Metrics().Summary().Attempts)
}

// If the context ends, the wait for the request's body, for the response or for the response's body ends. The
// error is the cause of the context.
func TestTheTransportEndsWithTheContext(t *testing.T) {
	for _, where := range []string{"the request's body", "the answer", "the answer's body"} {
		t.Run(where, func(t *testing.T) {
			held := make(chan struct{})
			e, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
				if where == "the answer's body" {
					fmt.Fprint(w, "a")
					http.NewResponseController(w).Flush()
				}
				<-held
			})
			defer close(held)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			q, err := http.NewRequestWithContext(ctx, "GET", "http://a.test/", nil)
			require.NoError(t, err)
			if where == "the request's body" {
				q.Body, _ = io.Pipe() // its writer never writes
			}
			done := make(chan error)
			go func() {
				r, err := e.Transport().RoundTrip(q)
				if err == nil {
					_, err = io.ReadAll(r.Body)
					r.Body.Close()
				}
				done <- err
			}()
			select {
			case err = <-done:
			case <-time.After(time.Minute):
				t.Fatal("it waits on")
			}
			require.Equal(t, context.DeadlineExceeded, err)
			quiet(t, e)
			require.Zero(t, e.Pool().Snapshot().All[0].Breaker().Snapshot().FailureCount)
		})
	}
	t.Run("as http.Client's Timeout", func(t *testing.T) {
		held := make(chan struct{})
		e, _ := through(t, func(w http.ResponseWriter, r *http.Request) { <-held })
		defer close(held)
		_, err := (&http.Client{Transport: e.Transport(), Timeout: 50 * time.Millisecond}).Get("http://a.test/")
		require.True(t, os.IsTimeout(err), "%v", err)
	})
}

// After a response that was not read completely, the proxy connection is reused only if few bytes are left.
func TestAResponseThatIsClosedEarly(t *testing.T) {
	for name, c := range map[string]struct {
		rest int // bytes after the first one
		ends bool
		kept bool
	}{
		"nothing is left":        {0, true, true},
		"a little is left":       {10 << 10, true, true},
		"much is left":           {10 << 20, true, false},
		"it goes on for ever":    {0, false, false},
		"it goes on for a while": {100 << 10, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, at := through(t, func(w http.ResponseWriter, r *http.Request) {
				w.Write(make([]byte, 1+c.rest))
				http.NewResponseController(w).Flush()
				if !c.ends {
					<-r.Context().Done()
				}
			})
			r, err := e.Transport().RoundTrip(get(t, "http://a.test/"))
			require.NoError(t, err)
			_, err = io.ReadFull(r.Body, make([]byte, 1))
			require.NoError(t, err)
			if c.kept { // the remaining bytes are on their way
				require.Eventually(t, func() bool { return at.idle.Load() > 0 }, time.Minute, time.Millisecond)
			}
			require.NoError(t, r.Body.Close())
			require.NoError(t, r.Body.Close())
			_, err = r.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
			quiet(t, e)
			if c.kept {
				require.EqualValues(t, 1, at.open.Load())
			} else {
				require.Eventually(t, func() bool { return at.open.Load() == 0 }, time.Minute, time.Millisecond)
			}
			require.Zero(t, e.Pool().Snapshot().All[0].Breaker().Snapshot().FailureCount)
		})
	}
}

func get(t *testing.T, url string) *http.Request {
	q, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	return q
}

// One goroutine may close a body while another one reads it.
func TestCloseEndsARead(t *testing.T) {
	held := make(chan struct{})
	e, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a")
		http.NewResponseController(w).Flush()
		<-held
	})
	defer close(held)
	r, err := e.Transport().RoundTrip(get(t, "http://a.test/"))
	require.NoError(t, err)
	read := make(chan error)
	go func() {
		_, err := io.ReadFull(r.Body, make([]byte, 1))
		read <- err
		_, err = r.Body.Read(make([]byte, 1))
		read <- err
	}()
	require.NoError(t, <-read)
	time.Sleep(20 * time.Millisecond) // until the reader waits, or nearly
	require.NoError(t, r.Body.Close())
	require.Error(t, <-read)
	quiet(t, e)
}

// A response without a body holds no resources, even if it is not closed.
func TestAResponseWithoutABodyHoldsNoResources(t *testing.T) {
	e, at := through(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(map[string]int{"/204": 204, "/304": 304, "/200": 200}[r.URL.Path])
	})
	for _, path := range []string{"204", "304", "200"} {
		r, err := e.Transport().RoundTrip(get(t, "http://a.test/"+path))
		require.NoError(t, err)
		require.Equal(t, path, fmt.Sprint(r.StatusCode))
		quiet(t, e)
		require.NotNil(t, r.Body)
	}
	require.EqualValues(t, 1, at.open.Load(), "one connection served them all")
	(&http.Client{Transport: e.Transport()}).CloseIdleConnections()
	require.Eventually(t, func() bool { return at.open.Load() == 0 }, time.Minute, time.Millisecond)
}

// User information in a URL, and a host name that is not ASCII, are sent in the same way as by net/http's
// Transport.
func TestURLsAreSentAsByNetHTTP(t *testing.T) {
	e, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		fmt.Fprintf(w, "%s %s %s:%s", r.Host, r.RequestURI, user, password)
	})
	client := &http.Client{Transport: e.Transport(), Timeout: time.Minute}
	for url, want := range map[string]string{
		"http://me:secret@a.test/x?y": "a.test http://a.test/x?y me:secret",
		"http://bücher.test:80/":      "xn--bcher-kva.test:80 http://xn--bcher-kva.test:80/ :",
		"http://[::1]:81/":            "[::1]:81 http://[::1]:81/ :",
	} {
		r, err := client.Get(url)
		require.NoError(t, err)
		require.Equal(t, want, text(t, r))
	}
	for _, change := range []func(*url.URL){
		func(u *url.URL) { u.Opaque = "//b.test/other" },
		func(u *url.URL) { u.RawQuery = "q=1 HTTP/1.1\r\nHost: b.test\r\n\r\n" }, // a second request within the URL
		func(u *url.URL) { u.Host = "[fe80::1%a HTTP/1.1\r\nX: y]" },
	} {
		q := get(t, "http://a.test/")
		change(q.URL)
		_, err := client.Do(q)
		var bad *engine.RequestError
		require.ErrorAs(t, err, &bad, "%+v", q.URL)
	}
}

// Many requests share one Transport. One of them is redirected.
func TestTheTransportIsSafeForConcurrentUse(t *testing.T) {
	e, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			http.Redirect(w, r, "/second", http.StatusTemporaryRedirect)
			return
		}
		echo(w, r)
	})
	client := &http.Client{Transport: e.Transport()}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 25 {
				want := fmt.Sprint(i, " ", k)
				r, err := client.Post("http://a.test/first", "text/plain", strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				got, _ := io.ReadAll(r.Body)
				r.Body.Close()
				if string(got) != "POST a.test "+want {
					t.Errorf("%s: %q", want, got)
				}
			}
		})
	}
	wg.Wait()
	quiet(t, e)
	require.EqualValues(t, 400, e.Metrics().Summary().Requests)
}

// Shutdown waits for the requests of the Transport as for those of the gateway's clients. Then it ends the
// remaining requests, and refuses new ones.
func TestShutdownEndsTheTransport(t *testing.T) {
	held := make(chan struct{})
	e, at := through(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stuck" {
			<-r.Context().Done()
			return
		}
		<-held
		fmt.Fprint(w, "whole")
	})
	type end struct {
		r   *http.Response
		err error
	}
	ask := func(path string) chan end {
		c := make(chan end, 1)
		go func() {
			r, err := e.Transport().RoundTrip(get(t, "http://a.test/"+path))
			c <- end{r, err}
		}()
		return c
	}
	slow, stuck := ask("slow"), ask("stuck")
	require.Eventually(t, func() bool {
		return e.Tracker().InFlight() == 2 && at.open.Load() == 2
	}, time.Minute, time.Millisecond)
	ctx, cancel := context.WithCancel(context.Background())
	down := make(chan struct{})
	go func() {
		e.Shutdown(ctx)
		close(down)
	}()
	require.Eventually(t, e.Draining, time.Minute, time.Millisecond)
	_, err := e.Transport().RoundTrip(get(t, "http://a.test/late"))
	require.ErrorIs(t, err, executor.ErrShutdown)
	close(held)
	got := <-slow
	require.NoError(t, got.err)
	require.Equal(t, "whole", text(t, got.r))
	select {
	case <-down:
		t.Error("it does not wait for the other")
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	got = <-stuck
	require.ErrorIs(t, got.err, executor.ErrShutdown)
	<-down
	require.Eventually(t, func() bool {
		return at.open.Load() == 0
	}, time.Minute, time.Millisecond, "no connection is kept")
	var failed *engine.Error
	require.True(t, errors.As(got.err, &failed))
	require.Zero(t, e.Pool().Snapshot().All[0].Breaker().Snapshot().FailureCount)
}

// After a panic all resources are released, so that a caller that recovers can continue.
func TestAPanicInTheTransportHoldsNothing(t *testing.T) {
	e := newEngine(t, func(context.Context, string, string) (net.Conn, error) { panic("bug") }, "http://127.0.0.1:1")
	b := &body{Reader: strings.NewReader("body")}
	q, err := http.NewRequestWithContext(t.Context(), "PUT", "http://a.test/", b)
	require.NoError(t, err)
	require.PanicsWithValue(t, "bug", func() { e.Transport().RoundTrip(q) })
	quiet(t, e)
	require.True(t, b.closed.Load())
	q.Body = io.NopCloser(iotest.DataErrReader(nil)) // a read of this body panics
	require.Panics(t, func() { e.Transport().RoundTrip(q) })
	e.Shutdown(context.Background()) // does not wait for the request
}

// The trailers of a request are sent if its body is kept, and those of the response are there at the end of its body.
func TestTrailersOfTheTransport(t *testing.T) {
	e, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Down")
		fmt.Fprint(w, r.ContentLength, " ", r.Trailer)
		w.Header().Set("X-Down", "2")
		w.Header().Set(http.TrailerPrefix+"X-More", "3")
	})
	for up, want := range map[string]string{"X-Up": "-1 map[X-Up:[1]]", "Content-Length": "4 map[]"} {
		q, err := http.NewRequest("DELETE", "http://a.test/", io.MultiReader(strings.NewReader("body")))
		require.NoError(t, err)
		q.Trailer = http.Header{up: {"1"}}
		r, err := e.Transport().RoundTrip(q)
		require.NoError(t, err)
		require.Equal(t, http.Header{"X-Down": nil}, r.Trailer, "announced")
		require.Equal(t, want, text(t, r))
		require.Equal(t, http.Header{"X-Down": {"2"}, "X-More": {"3"}}, r.Trailer)
	}
}
