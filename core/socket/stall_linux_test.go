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

// Eight looks in a row without progress, not fewer; whatever the client takes
// begins the count anew, and one that has taken all is waited for.
func TestWhenAClientStandsStill(t *testing.T) {
	var s Stall
	looks := func(times int, acked uint64, queued int) (stands bool) {
		for range times {
			stands = s.stands(acked, queued)
		}
		return stands
	}
	require.False(t, looks(8, 100, 50), "the first only sees where it is")
	require.False(t, looks(8, 101, 50), "it takes, while as much comes after")
	require.False(t, looks(8, 101, 60), "more is written: there was room")
	require.True(t, looks(1, 101, 60))
	require.False(t, looks(100, 161, 0))
}

func TestStall(t *testing.T) {
	t.Run("nobody takes", func(t *testing.T) {
		c, _ := pair(t)
		var s Stall
		c.OnFull = func() { s.Start(c, 50*time.Millisecond) }
		_, err := c.Write(make([]byte, 64<<20))
		s.Stop()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
	t.Run("it is closed", func(t *testing.T) {
		c, _ := pair(t)
		var s Stall
		s.Start(c, time.Hour)
		c.Close()
		require.True(t, s.timer.Stop())
		s.look()
		require.False(t, s.timer.Stop(), "nobody looks any longer")
	})
	t.Run("it gets through as it is ended", func(t *testing.T) {
		c, far := pair(t)
		var s Stall
		c.OnFull = func() {
			s.Start(c, time.Hour)
			for range looks + 1 {
				s.look()
			}
		}
		_, err := c.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		s.Stop()
		c.OnFull = nil
		go io.Copy(io.Discard, far)
		_, err = c.Write([]byte("the next one"))
		require.NoError(t, err)
	})
	t.Run("somebody takes little by little", func(t *testing.T) {
		c, far := pair(t)
		c.raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 64<<10) })
		var s Stall
		waits := 0
		c.OnFull = func() {
			waits++
			s.Start(c, time.Second)
		}
		go func() { // 4 MiB in two seconds and more
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

func TestLeft(t *testing.T) {
	for name, leave := range map[string]func(far *net.TCPConn){
		"it has no more to say": func(far *net.TCPConn) { far.CloseWrite() },
		"it closes":             func(far *net.TCPConn) { far.Close() },
		"it resets":             func(far *net.TCPConn) { far.SetLinger(0); far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, far := pair(t)
			require.False(t, PeerClosed(c))
			far.Write([]byte("unread"))
			require.False(t, PeerClosed(c))
			leave(far)
			require.Eventually(t, func() bool { return PeerClosed(c) }, 10*time.Second, time.Millisecond)
		})
	}
}

// A write may stand still while another is there, but no longer.
func TestStallWhile(t *testing.T) {
	const idle = 50 * time.Millisecond
	c, _ := pair(t)
	other, far := pair(t)
	s := Stall{MayStall: func() bool { return !PeerClosed(other) }}
	c.OnFull = func() { s.Start(c, idle) }
	ended := make(chan error)
	go func() {
		_, err := c.Write(make([]byte, 64<<20))
		s.Stop()
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatal("it was ended: ", err)
	case <-time.After(10 * idle):
	}
	far.Close()
	require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
}
