package transport

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// serving is a proxy that responds to every request.
func serving(t *testing.T) *upstream.Upstream {
	return proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		for readRequest(c) != "" {
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
		}
	}))
}

func roundTrip(t *testing.T, tr *Transport, u *upstream.Upstream) *verdict.Error {
	c, resp := &Control{Deadline: time.Now().Add(10 * time.Second)}, &Response{}
	verr := tr.RoundTrip(t.Context(), u, c, getRequest(), resp)
	if verr == nil {
		require.True(t, resp.Drain(c))
		resp.Finish(c, time.Now())
	}
	return verr
}

// Each connection takes a descriptor until it is closed. Idle connections are closed to make room for new
// ones, the oldest first. A check closes none.
func TestFilesOfConnections(t *testing.T) {
	files := budget.NewFiles(12, time.Now) // the limit is 9, and checks may use 7
	tr := New(Config{Files: files})
	files.SetClosers(tr.CloseOldestIdle)
	var proxies []*upstream.Upstream
	for range 20 {
		u := serving(t)
		proxies = append(proxies, u)
		require.Nil(t, roundTrip(t, tr, u))
		require.LessOrEqual(t, files.Used(), files.Limit())
	}
	for i, u := range proxies {
		require.Equal(t, i >= 20-files.Limit(), tr.pool(u).count == 1, "proxy %d", i)
	}
	verr := tr.Reach(t.Context(), proxies[0])
	require.NotNil(t, verr)
	assert.Equal(t, verdict.LocalLimit, verr.Cause)
	require.Equal(t, files.Limit(), files.Used(), "a check closes nothing")
	for files.Used() > 5 {
		require.True(t, tr.CloseOldestIdle())
	}
	require.Nil(t, tr.Reach(t.Context(), proxies[0]))
	require.Equal(t, 5, files.Used(), "the check's descriptor is free again")

	require.True(t, files.Acquire(budget.ForClients, files.Limit()-5))
	tr.CloseAllIdle()
	require.True(t, files.Acquire(budget.ForClients, 5))
	verr = roundTrip(t, tr, proxies[0])
	require.NotNil(t, verr)
	assert.Equal(t, verdict.LocalLimit, verr.Cause)
	files.Release(budget.ForClients, files.Limit())

	dead := proxyAt(t, "http://127.0.0.1:1")
	require.NotNil(t, roundTrip(t, tr, dead))
	require.NotNil(t, roundTrip(t, tr, proxyAt(t, "http://no-such-host.invalid:1")))
	require.Zero(t, files.Used())
	require.False(t, tr.CloseOldestIdle())
}

// While a proxy reads nothing of a body, the gateway does not wait for the client.
func TestAWaitForTheProxyIsNotForTheClient(t *testing.T) {
	const size = 64 << 20
	read := make(chan struct{})
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		<-read
		io.Copy(io.Discard, io.LimitReader(c, size))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}))
	tr := New(Config{})
	defer tr.Close()
	q, client := uploadRequest(t, size)
	go client.Write(make([]byte, size))
	var waits, bytes atomic.Int64
	var once atomic.Bool
	q.BeforeRead = func() { waits.Store(1) }
	q.AfterRead = func(n int64) {
		waits.Store(0)
		bytes.Add(n)
		if n == 0 && once.CompareAndSwap(false, true) {
			close(read) // the proxy reads only after the end of the wait for the client was reported
		}
	}
	c := &Control{Deadline: time.Now().Add(time.Minute), BodyIdle: time.Minute}
	require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, &Response{}))
	require.EqualValues(t, size, bytes.Load())
	require.Zero(t, waits.Load())
}

// Most idle connections that a burst of requests has left are closed after a while; connections that were in
// use before the burst stay.
func TestTheSurplusOfABurst(t *testing.T) {
	for _, idle := range []int{minIdleKept, minIdleKept + 20} {
		now := time.Unix(1000, 0)
		tr := New(Config{Now: func() time.Time { return now }})
		u := proxyAt(t, "http://127.0.0.1:1")
		pool := tr.pool(u)
		for i := range idle {
			near, _ := coretest.Pair(t)
			key := ""
			if i%3 == 0 {
				key = "a.test:443"
			}
			pool.put(newPersistConn(near, key, "", key != "", ""), now.Add(time.Duration(i)*time.Millisecond))
		}
		tr.CloseSurplus()
		require.Equal(t, idle, pool.count)
		now = now.Add(surplusAge + 11*time.Millisecond)
		tr.CloseSurplus()
		require.Equal(t, max(minIdleKept, idle-11), pool.count)
		now = now.Add(time.Second)
		tr.CloseSurplus()
		require.Equal(t, minIdleKept, pool.count)
	}
}
