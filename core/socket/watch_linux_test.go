//go:build linux && (amd64 || arm64)

package socket

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const noEvent = 30 * time.Millisecond // time after which a test assumes that there is no event

// A watch calls its function when the peer ends the connection in any way, and not as long as bytes are unread.
func TestWatch(t *testing.T) {
	var w Watcher
	defer w.Close()
	for name, end := range map[string]func(peer *net.TCPConn){
		"close":       func(peer *net.TCPConn) { peer.Close() },
		"half-closed": func(peer *net.TCPConn) { peer.CloseWrite() },
		"reset": func(peer *net.TCPConn) {
			peer.SetLinger(0)
			peer.Close()
		},
	} {
		for _, before := range []bool{false, true} {
			conn, peer := pair(t)
			closed := make(chan struct{})
			h := w.NewWatch(conn, func() { close(closed) })
			if before { // the end comes before the watch
				end(peer)
				require.Eventually(t, func() bool { return PeerClosed(conn) }, time.Minute, time.Millisecond)
			}
			require.True(t, h.Start())
			if !before {
				end(peer)
			}
			select {
			case <-closed:
			case <-time.After(time.Minute):
				t.Fatal(name, before)
			}
			h.Stop()
		}
	}
	conn, peer := pair(t)
	var calls atomic.Int32
	h := w.NewWatch(conn, func() { calls.Add(1) })
	require.True(t, h.Start())
	_, err := io.WriteString(peer, "x")
	require.NoError(t, err)
	peer.Close()
	require.Eventually(t, func() bool { return PeerClosed(conn) }, time.Minute, time.Millisecond)
	time.Sleep(noEvent)
	require.Zero(t, calls.Load(), "a byte is unread")
	h.Stop()
	_, err = conn.Read(make([]byte, 1))
	require.NoError(t, err)
	require.True(t, h.Start())
	require.Eventually(t, func() bool { return calls.Load() == 1 }, time.Minute, time.Millisecond)
	h.Stop()
}

// After Stop and after Close no function is called. A watch of a closed connection does not disturb the next
// connection with the same descriptor.
func TestWatchThatHasEnded(t *testing.T) {
	var w Watcher
	conn, peer := pair(t)
	var calls atomic.Int32
	first := w.NewWatch(conn, func() { calls.Add(1) })
	require.True(t, first.Start())
	first.Stop()
	peer.CloseWrite()
	time.Sleep(noEvent)
	require.Zero(t, calls.Load())

	one, onePeer := pair(t)
	old := w.NewWatch(one, func() { calls.Add(1) })
	require.True(t, old.Start())
	one.Close()
	onePeer.Close()
	var next *Watch
	var nextPeer *net.TCPConn
	for next == nil || next.fd != old.fd {
		var c *Conn
		c, nextPeer = pair(t)
		next = w.NewWatch(c, func() { calls.Add(1) })
		require.True(t, next.Start())
	}
	old.Stop()
	require.Zero(t, calls.Load())
	nextPeer.Close()
	require.Eventually(t, func() bool { return calls.Load() == 1 }, time.Minute, time.Millisecond)

	w.Close()
	w.Close()
	require.False(t, old.Start(), "after Close")
	next.Stop()
	require.Nil(t, w.watches, "no memory is kept without watches")
	var unused Watcher
	unused.Close()
}
