//go:build linux && (amd64 || arm64)

package socket

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dialled returns both ends of a connection that Dial has opened.
func dialled(t *testing.T) (conn *Conn, peer *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), time.Now().Add(time.Minute), nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	far, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { far.Close() })
	return c.(*Conn), far.(*net.TCPConn)
}

func minute() time.Duration { return time.Minute }

// The wait of a connection off the poller ends with each event. After that the connection can be used as before.
func TestAwaitOffPoller(t *testing.T) {
	var w Watcher
	defer w.Close()
	for name, event := range map[string]func(peer *net.TCPConn, stop chan struct{}){
		"bytes arrive":            func(peer *net.TCPConn, _ chan struct{}) { io.WriteString(peer, "x") },
		"the peer is half-closed": func(peer *net.TCPConn, _ chan struct{}) { peer.CloseWrite() },
		"it is stopped":           func(_ *net.TCPConn, stop chan struct{}) { stop <- struct{}{} },
	} {
		for _, before := range []bool{false, true} { // the event comes before the wait
			conn, peer := dialled(t)
			stop := make(chan struct{}, 1)
			if before {
				event(peer, stop)
			} else {
				time.AfterFunc(noEvent, func() { event(peer, stop) })
			}
			require.NoError(t, conn.AwaitOffPoller(&w, minute, stop), name)

			_, err := io.WriteString(conn, "to the peer")
			require.NoError(t, err, name)
			peer.SetReadDeadline(time.Now().Add(time.Minute))
			got := make([]byte, len("to the peer"))
			_, err = io.ReadFull(peer, got)
			require.NoError(t, err, name)
			if name == "it is stopped" {
				conn.SetReadDeadline(time.Now().Add(noEvent))
			}
			n, err := conn.Read(got)
			switch name {
			case "bytes arrive":
				require.Equal(t, 1, n)
			case "it is stopped":
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			default:
				require.ErrorIs(t, err, io.EOF)
			}
			require.Equal(t, peer.LocalAddr().String(), conn.RemoteAddr().String())
			require.NoError(t, conn.Close())
			_, err = peer.Read(got)
			require.ErrorIs(t, err, io.EOF, "%s: no copy of the descriptor is left", name)
		}
	}
}

// next returns how long the wait lasts. It is called again and again.
func TestTheTimeOfAWaitOffThePoller(t *testing.T) {
	var w Watcher
	defer w.Close()
	conn, _ := dialled(t)
	waits := []time.Duration{0, time.Microsecond, time.Microsecond, time.Microsecond}
	next := func() time.Duration {
		last := waits[len(waits)-1]
		waits = waits[:len(waits)-1]
		return last
	}
	require.NoError(t, conn.AwaitOffPoller(&w, next, nil))
	require.Empty(t, waits)
	require.True(t, conn.Idle())
}

// A connection that cannot leave the poller is not waited for.
func TestConnectionsThatCannotLeaveThePoller(t *testing.T) {
	never := func() time.Duration {
		t.Error("it waits")
		return 0
	}
	var closed Watcher
	closed.Close()
	conn, _ := dialled(t)
	require.NoError(t, conn.AwaitOffPoller(&closed, never, nil))
	require.True(t, conn.Idle())
	conn.Close()
	var w Watcher
	defer w.Close()
	require.NoError(t, conn.AwaitOffPoller(&w, never, nil))
	of, _ := pair(t) // of package net
	require.NoError(t, of.AwaitOffPoller(&w, never, nil))
}

// A watch waits for no other one: during a burst thousands of watches start and end at the same time, and each of them
// makes system calls, which may take long on a busy machine.
func TestWatchesDoNotWaitForEachOther(t *testing.T) {
	var w Watcher
	defer w.Close()
	slow, _ := dialled(t)
	require.True(t, slow.LeavePoller())
	p := slow.stream.(*unpolledSocket)
	blocked := w.NewWatch(slow, func() {})
	require.True(t, blocked.Start())
	p.mu.Lock() // the next system call with this connection takes long
	ended := make(chan struct{})
	go func() {
		blocked.Stop()
		close(ended)
	}()
	for range 100 {
		conn, peer := pair(t)
		closed := make(chan struct{})
		h := w.NewWatch(conn, func() { close(closed) })
		require.True(t, h.Start())
		peer.Close()
		select {
		case <-closed:
		case <-time.After(time.Minute):
			p.mu.Unlock()
			t.Fatal("no event")
		}
		h.Stop()
	}
	p.mu.Unlock()
	<-ended
}
