package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// If a connection begins to wait for a request at the moment when the drain begins, it is closed at
// once, like a connection that has waited before.
func TestADrainDuringTheStartOfAWait(t *testing.T) {
	var meanwhile atomic.Pointer[func()]
	r := newRig(t, nil, func(o *options) {
		o.now = func() time.Time {
			if f := meanwhile.Load(); f != nil {
				(*f)()
			}
			return time.Now()
		}
	})
	shut := make(chan struct{})
	drain := sync.OnceFunc(func() {
		go func() {
			defer close(shut)
			r.Shutdown(context.Background())
		}()
		for !r.draining.Load() {
			runtime.Gosched()
		}
		r.eachConn((*connection).drain) // if it has not been drained yet
	})
	meanwhile.Store(&drain)
	r.dial().ended() // reads the time to compute the end of its wait
	<-shut
}

// A drain closes idle connections and lets requests in flight finish. Their responses state that the
// connection ends.
func TestADrainLetsRequestsFinish(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	r := newRig(t, answering(func(q *http.Request, body string) string {
		if q.Host == "slow.test" {
			close(asked)
			<-answer
		}
		return ok("hello")
	}), nil)
	kept := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	kept.answer("GET")
	fresh := r.dial()
	running := r.ask("GET http://slow.test/ HTTP/1.1\r\nHost: slow.test\r\n\r\nGET http://a.test/ HTTP/1.1\r\n" +
		"Host: a.test\r\n\r\n")
	<-asked
	r.eventually("all are served", func() bool { return r.Connections() == 3 })
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		r.Shutdown(context.Background())
	}()
	kept.ended()
	fresh.ended()
	late := r.dial() // the caller of Shutdown must close the listener
	a, body := late.answer("GET")
	require.Equal(t, 503, a.StatusCode)
	require.Contains(t, body, "too_many_connections")
	late.ended()
	close(answer)
	a, body = running.answer("GET")
	require.Equal(t, "hello", body)
	require.True(t, a.Close)
	running.ended()
	<-shut
	require.Equal(t, []string{"success", "success"}, r.recorded.finals(), "the pipelined request was not begun")
}

// At the end of the grace period of a drain, requests that wait for a retry or a response get an error
// response. Tunnels, and responses that have begun, are cut off.
func TestTheEndOfADrain(t *testing.T) {
	begun, over := make(chan struct{}, 5), make(chan struct{})
	defer close(over)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		switch {
		case err != nil:
		case q.Method == "CONNECT":
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			begun <- struct{}{}
			<-over
		case q.Host == "long.test":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			begun <- struct{}{}
			<-over
		case q.Host == "silent.test":
			begun <- struct{}{}
			<-over
		default:
			io.WriteString(c, "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			begun <- struct{}{}
		}
	}, func(o *options) {
		o.ReplayLimit = 4
		o.policy = func(p *retry.Policy) { p.MaxAttempts, p.BaseDelay = 2, 30 }
	})
	tunnel := r.connect()
	sending := r.ask("PUT http://silent.test/ HTTP/1.1\r\nHost: silent.test\r\nContent-Length: 10\r\n\r\nhello")
	long := r.ask("GET http://long.test/ HTTP/1.1\r\nHost: long.test\r\n\r\n")
	waiting := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	silent := r.ask("GET http://silent.test/ HTTP/1.1\r\nHost: silent.test\r\n\r\n")
	for range 5 {
		<-begun
	}
	r.eventually("the retry waits", func() bool { return len(r.recorded.results()) == 2 }) // and the tunnel stays open
	for line := long.line(); line != ""; line = long.line() {
	}
	grace, cancel := context.WithCancel(context.Background())
	cancel()
	r.Shutdown(grace)
	for _, c := range []*client{waiting, silent, sending} {
		a, body := c.answer("GET")
		require.Equal(t, 503, a.StatusCode, body)
		require.Contains(t, body, "shutting_down")
		require.True(t, a.Close)
		c.ended()
	}
	_, err := io.ReadFull(long.r, make([]byte, 10))
	require.Error(t, err)
	tunnel.ended()
	require.Zero(t, r.Connections())
	require.Zero(t, r.proxy.InFlight())
}

// A client beyond the limit is refused. When another client has left, a new one is accepted.
func TestTheLimitOfConnections(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string {
		return ok("hello")
	}), func(o *options) { o.MaxConnections = 2 })
	one, two := r.dial(), r.dial()
	r.eventually("both are served", func() bool { return r.Connections() == 2 })
	three := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, body := three.answer("GET")
	require.Equal(t, 503, a.StatusCode)
	require.Contains(t, body, "too_many_connections")
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Contains(t, a.Header.Get("Proxy-Status"), "error=connection_limit_reached")
	require.True(t, a.Close)
	three.ended()
	two.goesOn()
	one.Close()
	r.eventually("a place is free", func() bool { return r.Connections() == 1 })
	r.dial().goesOn()

	set := r.settings.Load().Settings
	set.MaxConnections = 0
	r.Apply(set)
	for range 3 {
		r.dial().goesOn()
	}
}

// A tunnel whose target does not read does not delay the shutdown.
func TestADrainEndsAStalledTunnel(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, tunnelling(func(net.Conn, *bufio.Reader) { <-over }), nil)
	c := r.connect()
	c.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := c.Write(make([]byte, 64<<20)) // until all buffers on the way are full
	require.Error(t, err, n)
	grace, cancel := context.WithCancel(context.Background())
	cancel()
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		r.Shutdown(grace)
	}()
	select {
	case <-shut:
	case <-time.After(patience):
		t.Fatal("the shutdown waits for it")
	}
}

// A panic ends only the connection of its client, whether that client was served or refused.
func TestAPanicEndsOneClient(t *testing.T) {
	var broken atomic.Bool
	r := newRig(t, answering(func(*http.Request, string) string { return ok("hello") }), func(o *options) {
		o.MaxConnections = 1
		o.newID = func() core.RequestID {
			if broken.Swap(false) {
				panic("at the disco")
			}
			return 1
		}
	})
	c := r.dial()
	c.goesOn()
	broken.Store(true)
	r.dial().ended() // refused without a response
	require.False(t, broken.Load())
	c.goesOn()
	broken.Store(true)
	c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	c.ended()
	r.free()
}

// A drain does not wait for a client that got a response before it had sent its whole request.
func TestADrainEndsLingering(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string { return ok("hello") }), nil)
	c := r.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n")
	a, _ := c.answer("POST")
	require.Equal(t, 400, a.StatusCode)
	c.ended()
	begun, late := time.Now(), coretest.MeasureTimerDelay(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.Shutdown(ctx)
	require.Less(t, time.Since(begun), lingerWait/2+late())
}

// Nor does a drain wait for a client that continues to send after it got a response during the drain.
func TestADrainEndsAnUploadAfterItsResponse(t *testing.T) {
	asked, draining := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		close(asked)
		<-draining
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}, nil)
	c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\n")
	<-asked
	shut := make(chan time.Duration, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		begun := time.Now()
		r.Shutdown(ctx)
		shut <- time.Since(begun)
	}()
	r.eventually("it drains", r.draining.Load)
	close(draining)
	a, _ := c.answer("POST")
	require.Equal(t, 413, a.StatusCode)
	go func() {
		for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
			_, err = c.Write([]byte("more"))
		}
	}()
	require.Less(t, <-shut, lingerWait)
}

// WaitUntilBusy waits for a client that the listener has accepted just before it was closed.
func TestAClientAcceptedJustBeforeTheDrain(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string { return ok("hello") }), nil)
	l := &heldListener{accepting: make(chan struct{}), deliver: make(chan net.Conn)}
	go r.Serve(l)
	<-l.accepting
	r.listener.Close()
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		r.WaitUntilBusy(context.Background())
	}()
	select {
	case <-settled:
		t.Fatal("accept has not returned yet")
	case <-time.After(5 * busyPollInterval):
	}
	near, far := net.Pipe()
	defer far.Close()
	l.deliver <- near
	<-l.accepting
	close(l.deliver)
	_, err := io.WriteString(far, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	require.NoError(t, err)
	a, err := http.ReadResponse(bufio.NewReader(far), nil)
	require.NoError(t, err)
	require.Equal(t, 200, a.StatusCode)
	far.Close()
	<-settled
}

// heldListener is a listener of which Accept sends to accepting and then returns the next connection of deliver; it
// returns net.ErrClosed if deliver is closed.
type heldListener struct {
	net.Listener
	accepting chan struct{}
	deliver   chan net.Conn
}

func (l *heldListener) Accept() (net.Conn, error) {
	l.accepting <- struct{}{}
	if c, ok := <-l.deliver; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// After CloseAfterResponse, each connection is served until its next response, which announces the end of the
// connection. WaitUntilBusy waits until each connection has a request or is closed.
func TestLeavingBeforeADrain(t *testing.T) {
	r := newRig(t, answering(func(*http.Request, string) string { return ok("hello") }), nil)
	kept := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, _ := kept.answer("GET")
	require.False(t, a.Close)
	fresh := r.dial()
	r.eventually("both are served", func() bool { return r.Connections() == 2 })
	r.CloseAfterResponse()
	settled := make(chan struct{})
	r.listener.Close()
	go func() {
		defer close(settled)
		r.WaitUntilBusy(context.Background())
	}()
	for _, c := range []*client{kept, fresh} {
		select {
		case <-settled:
			t.Fatal("a connection has no request yet")
		default:
		}
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		a, body := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, "hello", body)
		require.True(t, a.Close)
		c.ended()
	}
	<-settled
	raw, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	r.wg.Go(func() { (&acceptor{Server: r.Server}).admit(raw, newSniffingFront) })
	r.eventually("it is served", func() bool { return r.Connections() == 1 })
	ended, end := context.WithCancel(context.Background())
	end()
	r.WaitUntilBusy(ended)
}
