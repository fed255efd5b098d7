package socket

import (
	"io"
	"math"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func descriptors(t *testing.T) int {
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(open)
}

// Whoever waits holds no pipe, and of those that were in use few are kept.
func TestPipesAreFew(t *testing.T) {
	p := NewPipes()
	const many = 4 * spare
	var dst, src [many]*Conn
	for i := range many {
		dst[i], _ = pair(t)
		var from io.Writer
		src[i], from = pair(t)
		from.Write(make([]byte, 10_000))
	}
	before := descriptors(t)
	done := make(chan struct{})
	for i := range many {
		go func() {
			through(p, dst[i], src[i]) // nothing more comes: it waits
			done <- struct{}{}
		}()
	}
	require.Eventually(t, func() bool {
		for i := range many {
			if !src[i].Quiet() {
				return false
			}
		}
		return descriptors(t) <= before+2*spare
	}, 10*1e9, 1e6)
	for i := range many {
		src[i].Close()
	}
	for range many {
		<-done
	}
}

// Without a descriptor left for a pipe the bytes go through a buffer.
func TestMoveWithoutPipes(t *testing.T) {
	p := NewPipes()
	src, from := pair(t)
	dst, to := pair(t)
	from.Write([]byte("hello"))
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	none := old
	none.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	n, err := p.Move(dst, src, math.MaxInt64)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
	got := make([]byte, 5)
	_, err = io.ReadFull(to, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
}

// Urgent data, which splice(2) does not pass, stops nothing: what follows goes
// on, as with Read.
func TestMovePastUrgentData(t *testing.T) {
	p := NewPipes()
	src, from := pair(t)
	dst, to := pair(t)
	raw, err := from.SyscallConn()
	require.NoError(t, err)
	from.Write(make([]byte, 10_000))
	require.NoError(t, raw.Control(func(fd uintptr) { err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil) }))
	require.NoError(t, err)
	from.Write(make([]byte, 10_000))
	from.CloseWrite()
	src.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := through(p, dst, src)
	require.Equal(t, io.EOF, err)
	require.EqualValues(t, 20_000, n)
	dst.CloseWrite()
	got, err := io.ReadAll(to)
	require.NoError(t, err)
	require.Len(t, got, 20_000)
}
