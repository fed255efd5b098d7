package socket

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moveAll moves all of src to dst.
func moveAll(p *Pipes, dst, src *Conn) (n int64, err error) {
	for err == nil {
		var m int64
		m, err = p.Move(dst, src, math.MaxInt64)
		n += m
	}
	return n, err
}

func TestMove(t *testing.T) {
	p := NewPipes(nil, nil)
	var all sync.WaitGroup
	for i := range 8 { // concurrently
		src, from := pair(t)
		dst, to := pair(t)
		sent := make([]byte, 4<<20+i)
		random := rand.New(rand.NewPCG(1, uint64(i)))
		for j := range sent {
			sent[j] = byte(random.Uint32())
		}
		all.Go(func() {
			for rest := sent; len(rest) > 0; { // in pieces of different sizes
				n := min(1+random.IntN(100_000), len(rest))
				if _, err := from.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			from.CloseWrite()
		})
		all.Go(func() {
			n, err := moveAll(p, dst, src)
			if err != io.EOF || n != int64(len(sent)) {
				t.Errorf("moved %d of %d: %v", n, len(sent), err)
			}
			dst.CloseWrite()
		})
		all.Go(func() {
			got, err := io.ReadAll(to)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d of %d, or not the same: %v", len(got), len(sent), err)
			}
		})
	}
	all.Wait()
}

func TestMoveLimit(t *testing.T) {
	p := NewPipes(nil, nil)
	src, from := pair(t)
	dst, to := pair(t)
	from.Write([]byte("hello, world"))
	n, err := p.Move(dst, src, 5)
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	got := make([]byte, 5)
	_, err = io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	rest := make([]byte, 7)
	_, err = io.ReadFull(src, rest)
	require.NoError(t, err)
	require.Equal(t, ", world", string(rest), "the rest can be read")
}

func TestMoveEnds(t *testing.T) {
	p := NewPipes(nil, nil)
	t.Run("read deadline", func(t *testing.T) {
		src, from := pair(t)
		dst, to := pair(t)
		src.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := p.Move(dst, src, math.MaxInt64)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var w *WriteError
		require.False(t, errors.As(err, &w), "the error is that of the source")
		src.SetReadDeadline(time.Time{})
		from.Write([]byte("late"))
		_, err = p.Move(dst, src, math.MaxInt64)
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = io.ReadFull(to, got)
		require.NoError(t, err)
		require.Equal(t, "late", string(got))
	})
	t.Run("write deadline", func(t *testing.T) {
		src, from := pair(t)
		dst, _ := pair(t)
		go from.Write(make([]byte, 64<<20))
		require.Eventually(t, func() bool { return !src.Idle() }, time.Minute, time.Millisecond)
		dst.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := moveAll(p, dst, src)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var w *WriteError
		require.ErrorAs(t, err, &w)
		require.Positive(t, n, "the bytes written before the deadline are counted")
	})
	t.Run("destination closed", func(t *testing.T) {
		src, from := pair(t)
		dst, to := pair(t)
		to.Close()
		go from.Write(make([]byte, 64<<20))
		_, err := moveAll(p, dst, src)
		var w *WriteError
		require.ErrorAs(t, err, &w)
	})
	t.Run("source reset", func(t *testing.T) {
		src, from := pair(t)
		dst, _ := pair(t)
		from.SetLinger(0)
		from.Close()
		_, err := moveAll(p, dst, src)
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF, "a reset is no end of the stream")
		var w *WriteError
		require.False(t, errors.As(err, &w))
	})
	t.Run("source closed by another goroutine", func(t *testing.T) {
		src, _ := pair(t)
		dst, _ := pair(t)
		time.AfterFunc(10*time.Millisecond, func() { src.Close() })
		_, err := p.Move(dst, src, math.MaxInt64)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
