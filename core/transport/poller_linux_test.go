//go:build linux && (amd64 || arm64)

package transport

import (
	"io"
	"net"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// A request whose proxy connection is off the poller ends in the same ways as any other one.
func TestRequestsOffThePoller(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	for name, x := range map[string]struct {
		proxy func(c net.Conn)
		limit time.Duration
		fire  bool
		cause any // nil for a response
	}{
		"a response": {proxy: func(c net.Conn) { io.WriteString(c, answer) }},
		"a response in part": {
			proxy: func(c net.Conn) { io.WriteString(c, answer[:9]) }, cause: verdict.ConnectionClosed,
		},
		"the proxy closes": {proxy: func(net.Conn) {}, cause: verdict.ConnectionClosed},
		"the deadline":     {proxy: silent, limit: maxPollerWait + 2*SlowAfter, cause: verdict.NoAnswerInTime},
		"it is ended":      {proxy: silent, fire: true, cause: verdict.NoAnswerInTime},
	} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
				for {
					if readRequest(c) == "" {
						return
					}
					<-hold
					x.proxy(c)
					if x.cause != nil {
						return
					}
				}
			}))
			tr := New(Config{MaxPolledWaits: -1})
			defer tr.Close()
			limit := time.Minute
			if x.limit > 0 {
				limit = x.limit
			}
			for rounds := 0; rounds < 2; rounds++ { // the second time on the same connection, if there was a response
				c := &Control{Deadline: time.Now().Add(limit)}
				var resp Response
				done := make(chan *verdict.Error, 1)
				go func() { done <- tr.RoundTrip(t.Context(), u, c, getRequest(), &resp) }()
				if x.limit == 0 {
					require.Eventually(t, func() bool { return isOffPoller(c) }, time.Minute, time.Millisecond)
				}
				switch {
				case x.fire:
					c.Interrupt.Cancel()
				case x.limit == 0:
					hold <- struct{}{}
				}
				verr := <-done
				if x.limit > 0 && verr != nil && verr.Cause == verdict.ProxyConnectTimeout { // on a busy machine
					limit, rounds = 2*limit, -1
					continue
				}
				if x.cause != nil {
					require.NotNil(t, verr)
					require.Equal(t, x.cause, verr.Cause)
					close(hold)
					return
				}
				require.Nil(t, verr)
				body, err := io.ReadAll(&resp.Body)
				require.NoError(t, err)
				require.Equal(t, "ok", string(body))
				require.False(t, socket.IsOffPoller(resp.pc.tcp))
				resp.Finish(c, time.Now())
			}
			require.Zero(t, tr.slowAttempts.Load())
		})
	}
}

// isOffPoller reports whether the connection of an attempt is off the poller.
func isOffPoller(c *Control) bool {
	c.Interrupt.mu.Lock()
	defer c.Interrupt.mu.Unlock()
	return c.Interrupt.offPollerStop != nil
}

// The more connections wait in the poller, the sooner other connections leave it.
func TestPollerWait(t *testing.T) {
	for polled, want := range map[int64]time.Duration{
		0: maxPollerWait, maxPolled / 2: maxPollerWait / 2, maxPolled: 0, 10 * maxPolled: 0,
	} {
		require.InDelta(t, want, pollerWait(polled), float64(time.Millisecond), "%d connections", polled)
	}
}

// A connection must not have the size class of a goroutine's descriptor (449 to 480 bytes). The runtime never frees
// these, so after a burst they would keep the memory between them, 3 MB for 10,000 requests.
func TestTheSizeOfAConnection(t *testing.T) {
	size := unsafe.Sizeof(persistConn{})
	require.False(t, size > 448 && size <= 480, "%d bytes", size)
}
