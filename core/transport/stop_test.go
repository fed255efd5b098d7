package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// Stop ends an attempt in each of its phases, and also the next attempt, until Resume is called.
func TestStop(t *testing.T) {
	hangs := func(c net.Conn) { io.Copy(io.Discard, c) }
	waits := make(chan struct{}, 8) // receives when the attempt has reached its phase
	dialing := func(ctx context.Context, _, _ string) (net.Conn, error) {
		waits <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, c := range map[string]struct {
		scheme string
		dial   DialFunc
		change func(*Request)
	}{
		"dialing":            {"http", dialing, nil},
		"TLS with the proxy": {"https", nil, nil},
		"CONNECT":            {"http", nil, func(q *Request) { q.TLS = true }},
		"SOCKS":              {"socks5", nil, nil},
		"the response":       {"http", nil, nil},
		"a long body":        {"http", nil, func(q *Request) { q.Prefix = [][]byte{make([]byte, 10<<20)} }},
	} {
		t.Run(name, func(t *testing.T) {
			u := proxyAt(t, c.scheme+"://"+coretest.Serve(t, func(conn net.Conn) {
				waits <- struct{}{}
				hangs(conn)
			}))
			tr, q := New(Config{Dial: c.dial}), getRequest()
			if c.change != nil {
				c.change(q)
			}
			control := &Control{Deadline: time.Now().Add(time.Minute), MayStop: true}
			late := coretest.MeasureTimerDelay(t)
			begun := time.Now()
			done := make(chan bool)
			go func() {
				<-waits
				time.Sleep(time.Millisecond)
				control.Interrupt.Stop()
				done <- true
			}()
			require.NotNil(t, tr.RoundTrip(t.Context(), u, control, q, &Response{}))
			<-done
			require.True(t, control.Interrupt.Ended())
			require.NotNil(t, tr.RoundTrip(t.Context(), u, control, q, &Response{}), "until Resume")
			require.Less(t, time.Since(begun), 10*time.Second+late())
			control.Interrupt.Resume()
			require.False(t, control.Interrupt.Ended())
			select {
			case <-waits:
			default:
			}
		})
	}
}

// A response that another Control adopts is read with that Control, and its connection becomes idle.
func TestAdopt(t *testing.T) {
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		for readRequest(c) != "" {
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
			io.WriteString(c, "hello")
		}
	}))
	tr := New(Config{})
	defer tr.Close()
	read := func(r *Response, c *Control) error {
		r.SetReadDeadline(c, time.Now().Add(time.Minute))
		for {
			if _, err := r.Body.Next(); err != nil {
				return err
			}
		}
	}
	var hedge, first Response
	old, own := &Control{Deadline: time.Now().Add(time.Minute)}, &Control{Deadline: time.Now().Add(time.Minute)}
	require.Nil(t, tr.RoundTrip(t.Context(), u, old, getRequest(), &hedge))
	first.Adopt(&hedge, old, own)
	old.Interrupt.Cancel() // has no effect any more
	require.Equal(t, io.EOF, read(&first, own))
	require.True(t, first.Finish(own, time.Now()))
	require.True(t, hedge.Finish(old, time.Now()), "it holds nothing")

	old = &Control{Deadline: time.Now().Add(time.Minute)}
	require.Nil(t, tr.RoundTrip(t.Context(), u, old, getRequest(), &hedge))
	require.True(t, first.Status == 200 && hedge.pc.reused)
	own.Interrupt.Cancel() // as if the client had left
	first.Adopt(&hedge, old, own)
	err := read(&first, own)
	require.True(t, err != io.EOF && errors.As(err, new(net.Error)), err)
	first.Finish(own, time.Now())
}

// The beginning of the body is read within the deadline of the response's own attempt. The deadline of the
// other attempt may have passed.
func TestPeekOfAnAdoptedResponse(t *testing.T) {
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
		time.Sleep(10 * time.Millisecond)
		io.WriteString(c, "hello")
	}))
	tr := New(Config{})
	defer tr.Close()
	var hedge, first Response
	old, own := &Control{Deadline: time.Now().Add(time.Minute)}, &Control{Deadline: time.Now().Add(-time.Second)}
	require.Nil(t, tr.RoundTrip(t.Context(), u, old, getRequest(), &hedge))
	first.Adopt(&hedge, old, own)
	body, whole := first.Peek(own, nil, 100)
	require.Equal(t, "hello", string(body))
	require.True(t, whole)
	first.Finish(own, time.Now())
}
