package socket

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A write has stalled after eight checks in a row without progress. Any progress starts the
// count again. A peer that has received everything has not stalled.
func TestStalled(t *testing.T) {
	var s Stall
	check := func(times int, acked uint64, queued int) (stalled bool) {
		for range times {
			stalled = s.isStalled(acked, queued)
		}
		return stalled
	}
	require.False(t, check(8, 100, 50), "the first check has nothing to compare with")
	require.False(t, check(8, 101, 50), "the peer reads, and as much is written")
	require.False(t, check(8, 101, 60), "more is written")
	require.True(t, check(1, 101, 60))
	require.False(t, check(100, 161, 0))
}

func TestStall(t *testing.T) {
	t.Run("the peer does not read", func(t *testing.T) {
		c, _ := pair(t)
		var s Stall
		c.OnWriteBlocked = func() { s.Start(c, 50*time.Millisecond) }
		_, err := c.Write(make([]byte, 64<<20))
		s.Stop()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
	t.Run("closed", func(t *testing.T) {
		c, _ := pair(t)
		var s Stall
		s.Start(c, time.Hour)
		c.Close()
		require.True(t, s.timer.Stop())
		s.check()
		require.False(t, s.timer.Stop(), "no further check is scheduled")
	})
	t.Run("the write succeeds although a check has ended it", func(t *testing.T) {
		c, far := pair(t)
		var s Stall
		c.OnWriteBlocked = func() {
			s.Start(c, time.Hour)
			for range checksPerIdle + 1 {
				s.check()
			}
		}
		_, err := c.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		s.Stop()
		c.OnWriteBlocked = nil
		go io.Copy(io.Discard, far)
		_, err = c.Write([]byte("the next one"))
		require.NoError(t, err)
	})
	t.Run("the peer reads slowly", func(t *testing.T) {
		c, far := pair(t)
		c.raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 64<<10)
		})
		var s Stall
		waits := 0
		c.OnWriteBlocked = func() {
			waits++
			s.Start(c, time.Second)
		}
		go func() { // 4 MiB in more than two seconds
			piece := make([]byte, 32<<10)
			for {
				if _, err := io.ReadFull(far, piece); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		_, err := c.Write(make([]byte, 4<<20))
		s.Stop()
		require.NoError(t, err)
		require.Positive(t, waits)
	})
}

func TestPeerClosed(t *testing.T) {
	for name, end := range map[string]func(far *net.TCPConn){
		"shut down": func(far *net.TCPConn) { far.CloseWrite() },
		"closed":    func(far *net.TCPConn) { far.Close() },
		"reset":     func(far *net.TCPConn) { far.SetLinger(0); far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, far := pair(t)
			require.False(t, PeerClosed(c))
			far.Write([]byte("unread"))
			require.False(t, PeerClosed(c))
			end(far)
			require.Eventually(t, func() bool { return PeerClosed(c) }, time.Minute, time.Millisecond)
		})
	}
}

// MayStall keeps a write from being ended.
func TestMayStall(t *testing.T) {
	const idle = 50 * time.Millisecond
	c, _ := pair(t)
	other, far := pair(t)
	s := Stall{MayStall: func() bool { return !PeerClosed(other) }}
	c.OnWriteBlocked = func() { s.Start(c, idle) }
	ended := make(chan error)
	go func() {
		_, err := c.Write(make([]byte, 64<<20))
		s.Stop()
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatal("the write was ended: ", err)
	case <-time.After(10 * idle):
	}
	far.Close()
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
}

// A write is ended if the peer reads too slowly for the length of Grace, although it makes progress.
func TestSlowPeers(t *testing.T) {
	s := Stall{MinRate: 100, Grace: 4 * time.Second, idle: checksPerIdle * time.Second}
	check := func(rate uint64, times int) (slow bool) {
		s.rateChecks = 0
		for i := range times {
			slow = s.isTooSlow(1000 + rate*uint64(i))
		}
		return slow
	}
	require.False(t, check(99, 4), "Grace has not passed")
	require.True(t, check(99, 5))
	require.False(t, check(100, 1000))
	s.MinRate = 0
	require.False(t, check(0, 1000))

	c, far := pair(t)
	slow := Stall{MinRate: 1 << 40, Grace: 100 * time.Millisecond}
	c.OnWriteBlocked = func() { slow.Start(c, 400*time.Millisecond) }
	go func() {
		for { // until the connection is closed
			if _, err := io.ReadFull(far, make([]byte, 64<<10)); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := c.Write(make([]byte, 1<<30))
	slow.Stop()
	c.Close()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestUnread(t *testing.T) {
	c, far := pair(t)
	require.Zero(t, Unread(c))
	_, err := far.Write(make([]byte, 10))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return Unread(c) == 10 }, time.Minute, time.Millisecond)
	c.Close()
	require.Zero(t, Unread(c))
	require.Zero(t, Unread(far))
}

// Peek returns the first unread bytes, and leaves them unread.
func TestPeek(t *testing.T) {
	conn, peer := pair(t)
	b := make([]byte, 8)
	require.Zero(t, Peek(conn, b))
	require.Zero(t, Peek(nil, b))
	_, err := peer.Write([]byte("0123456789"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return Unread(conn) == 10 }, 30*time.Second, time.Millisecond)
	for range 2 {
		require.Equal(t, "01234567", string(b[:Peek(conn, b)]))
	}
	require.Equal(t, 10, Unread(conn))
	require.Equal(t, "01", string(b[:Peek(conn, b[:2])]))
	conn.Close()
	require.Zero(t, Peek(conn, b))
}

// The time since the last bytes arrived counts from the beginning of the connection, and anew from each byte.
func TestSinceReceived(t *testing.T) {
	begin := time.Now() // before the bytes arrive, so that a pause of this process only makes the time longer
	conn, peer := pair(t)
	for range 2 {
		for SinceReceived(conn) < 30*time.Millisecond {
			require.Less(t, time.Since(begin), time.Minute)
			time.Sleep(time.Millisecond)
		}
		require.Greater(t, time.Since(begin), 10*time.Millisecond)
		begin = time.Now()
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	require.Zero(t, SinceReceived(nil))
}
