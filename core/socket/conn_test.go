package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// pair returns a Conn and its peer.
func pair(t testing.TB) (*Conn, *net.TCPConn) {
	near, far := coretest.Pair(t)
	return Wrap(near).(*Conn), far
}

func TestReadWrite(t *testing.T) {
	c, far := pair(t)
	go func() { io.Copy(far, far); far.CloseWrite() }() // echo
	sent := bytes.Repeat([]byte("whirlpool"), 1<<19)
	go func() {
		n, err := c.Write(sent) // more than the sockets' buffers hold, so that Write waits
		if err != nil || n != len(sent) {
			t.Errorf("wrote %d: %v", n, err)
		}
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err, "the end of the stream is io.EOF")
	require.True(t, bytes.Equal(sent, got))
}

func TestWriteThenRead(t *testing.T) {
	buf := make([]byte, 64)
	t.Run("a response", func(t *testing.T) {
		c, far := pair(t)
		go io.Copy(far, far)
		n, err := c.WriteThenRead([]byte("hello"), buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		n, err = c.WriteThenRead([]byte("world"), buf)
		require.NoError(t, err)
		require.Equal(t, "world", string(buf[:n]))
	})
	t.Run("a message larger than the socket's buffer", func(t *testing.T) {
		c, far := pair(t)
		message := strings.Repeat("x", 16<<20)
		go func() {
			io.CopyN(io.Discard, far, int64(len(message)))
			far.Write([]byte("got it"))
		}()
		n, err := c.WriteThenRead([]byte(message), buf)
		require.NoError(t, err)
		require.Equal(t, "got it", string(buf[:n]))
	})
	t.Run("bytes that arrived before the write", func(t *testing.T) {
		c, far := pair(t)
		far.Write([]byte("early "))
		require.Eventually(t, func() bool { return !c.Idle() }, time.Minute, time.Millisecond)
		go func() {
			io.ReadFull(far, make([]byte, 5))
			far.Write([]byte("bytes!"))
		}()
		got := make([]byte, 12)
		n, err := c.WriteThenRead([]byte("hello"), got)
		require.NoError(t, err)
		_, err = io.ReadFull(c, got[n:])
		require.NoError(t, err)
		require.Equal(t, "early bytes!", string(got))
	})
	t.Run("closed by the peer", func(t *testing.T) {
		c, far := pair(t)
		far.Close()
		require.Eventually(t, func() bool { return !c.Idle() }, time.Minute, time.Millisecond)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := c.WriteThenRead([]byte("hello"), buf)
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the reset ends the read")
		_, err = c.WriteThenRead([]byte("hello"), buf)
		var w *WriteError
		require.ErrorAs(t, err, &w)
	})
	t.Run("no response", func(t *testing.T) {
		c, far := pair(t)
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := c.WriteThenRead([]byte("hello"), buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		got := make([]byte, 5)
		_, err = io.ReadFull(far, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
	})
	t.Run("an end of the stream before the write", func(t *testing.T) {
		c, far := pair(t)
		far.CloseWrite()
		require.Eventually(t, func() bool { return !c.Idle() }, time.Minute, time.Millisecond)
		// Nothing may happen after the write that ends the read, so the caller sets a
		// deadline and reads again.
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := c.WriteThenRead([]byte("hello"), buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.SetReadDeadline(time.Time{})
			_, err = c.Read(buf)
		}
		require.ErrorIs(t, err, io.EOF)
	})
	t.Run("a deadline that has passed", func(t *testing.T) {
		c, far := pair(t)
		c.SetReadDeadline(time.Unix(1, 0))
		_, err := c.WriteThenRead([]byte("hello"), buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var w *WriteError
		require.False(t, errors.As(err, &w), "the deadline is that of the read")
		got := make([]byte, 5)
		_, err = io.ReadFull(far, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
	})
	t.Run("closed by another goroutine", func(t *testing.T) {
		c, far := pair(t)
		go func() {
			io.ReadFull(far, make([]byte, 5))
			c.Close()
		}()
		_, err := c.WriteThenRead([]byte("hello"), buf)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestDeadlines(t *testing.T) {
	c, _ := pair(t)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout())
	require.True(t, c.Idle(), "a passed deadline has no effect")
	much := make([]byte, 16<<20)
	c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := c.Write(much)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Positive(t, n, "the bytes written before the deadline are counted")
}

// OnWriteBlocked is called if the peer does not read, and only then. Its deadline applies to the
// write that called it.
func TestOnWriteBlocked(t *testing.T) {
	for name, write := range map[string]func(*Conn, []byte) error{
		"Write": func(c *Conn, p []byte) error { _, err := c.Write(p); return err },
		"WriteThenRead": func(c *Conn, p []byte) error {
			_, err := c.WriteThenRead(p, make([]byte, 1))
			var w *WriteError
			if errors.As(err, &w) {
				return w.Err
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, far := pair(t)
			calls := 0
			c.OnWriteBlocked = func() {
				calls++
				c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			}
			go func() {
				io.ReadFull(far, make([]byte, 5))
				far.Write([]byte("x"))
			}()
			require.NoError(t, write(c, []byte("hello")))
			if runtime.GOOS == "linux" {
				require.Zero(t, calls)
			}
			require.ErrorIs(t, write(c, make([]byte, 64<<20)), os.ErrDeadlineExceeded)
			require.Positive(t, calls)
		})
	}
}

func TestIdle(t *testing.T) {
	c, far := pair(t)
	require.True(t, c.Idle())
	far.Write([]byte("x"))
	require.Eventually(t, func() bool { return !c.Idle() }, time.Minute, time.Millisecond)
	b := make([]byte, 1)
	_, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "x", string(b), "Idle consumed nothing")
	far.Close()
	require.Eventually(t, func() bool { return !c.Idle() }, time.Minute, time.Millisecond)
}

func TestWrap(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	require.Equal(t, near, Wrap(near))
	c, _ := pair(t)
	require.Equal(t, net.Conn(c), Wrap(c))
}

func TestNoAllocation(t *testing.T) {
	c, far := pair(t)
	go func() {
		b := make([]byte, 64)
		for {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			far.Write(b[:n])
		}
	}()
	message, buf := []byte("hello"), make([]byte, 64)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := c.WriteThenRead(message, buf); err != nil {
			t.Error(err)
		}
		c.Write(message)
		c.Read(buf)
		if !c.Idle() {
			t.Error("there is more to read")
		}
	})
	require.Zero(t, allocs)
}
