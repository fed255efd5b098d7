//go:build amd64 || arm64

package socket

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func descriptors(t *testing.T) int {
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(open)
}

// Whoever waits holds no pipe, and of those that were in use few are kept.
func TestPipesAreFew(t *testing.T) {
	p := NewPipes(nil)
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
			if !src[i].Idle() {
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

// Those who take nothing hold no more than there may be; what comes for the
// others passes, too.
func TestPipesAreNoMoreThan(t *testing.T) {
	const most, many, size = 3, 12, 8 << 20
	var p *Pipes
	p = NewPipes(func() bool { return p.Made() <= most })
	var dst, src [many]*Conn
	var to, from [many]*net.TCPConn
	for i := range many {
		dst[i], to[i] = pair(t)
		src[i], from[i] = pair(t)
		go from[i].Write(make([]byte, size))
	}
	before := descriptors(t)
	var stuck atomic.Int32
	done := make(chan struct{})
	for i := range many {
		dst[i].OnFull = sync.OnceFunc(func() { stuck.Add(1) })
		go func() {
			through(p, dst[i], src[i])
			done <- struct{}{}
		}()
	}
	require.Eventually(t, func() bool { return stuck.Load() == many }, 10*time.Second, time.Millisecond)
	require.Equal(t, most, p.Made())
	require.LessOrEqual(t, descriptors(t), before+2*most) // fewer when those of earlier tests go meanwhile
	for i := range many {
		_, err := io.ReadFull(to[i], make([]byte, size))
		require.NoError(t, err)
		from[i].Close()
		<-done
	}
}

// Pipes that nobody has any longer leave no descriptor behind.
func TestPipesAreClosedWithTheirOwner(t *testing.T) {
	src, from := pair(t)
	dst, _ := pair(t)
	var fd, is string
	func() {
		p := NewPipes(nil)
		from.Write([]byte("hello"))
		_, err := p.Move(dst, src, 5)
		require.NoError(t, err)
		spare := <-p.free
		fd = fmt.Sprint("/proc/self/fd/", spare.in)
		is, err = os.Readlink(fd)
		require.NoError(t, err)
		p.put(spare)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		now, err := os.Readlink(fd)
		return err != nil || now != is
	}, 10*time.Second, time.Millisecond)
}

// Without a descriptor left for a pipe the bytes go through a buffer.
func TestMoveWithoutPipes(t *testing.T) {
	p := NewPipes(nil)
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

// Whether there is a pipe is decided anew after each wait, and whoever waits has
// no buffer either.
func TestMoveWithPipesNowAndThen(t *testing.T) {
	var asked atomic.Int32
	p := NewPipes(func() bool { return asked.Add(1)%3 == 0 })
	p.free = make(chan pipe) // none is kept
	src, from := pair(t)
	dst, to := pair(t)
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	go func() {
		for rest := sent; len(rest) > 0; rest = rest[min(10_000, len(rest)):] {
			from.Write(rest[:min(10_000, len(rest))])
			time.Sleep(100 * time.Microsecond) // so that it waits now and then
		}
		from.CloseWrite()
	}()
	go func() {
		through(p, dst, src)
		dst.CloseWrite()
	}()
	got, err := io.ReadAll(to)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	require.Greater(t, asked.Load(), int32(30))
}

// A user without privileges may have so many pipes of full size; further ones,
// which the kernel makes small, are not used.
func TestSmallPipesAreNotUsed(t *testing.T) {
	soft, err := os.ReadFile("/proc/sys/fs/pipe-user-pages-soft")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.TrimSpace(string(soft)))
	require.NoError(t, err)
	most := pages * os.Getpagesize() / pipeSize
	if most == 0 || most > 1000 {
		t.Skip("here nobody makes them small: ", pages)
	}
	runtime.LockOSThread() // for good: the thread ends with the test, without its privileges
	var none [2]unix.CapUserData
	require.NoError(t, unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
	p := NewPipes(nil)
	var all []pipe
	for range most + 1 { // of the user's, who may have others
		before := descriptors(t)
		have, ok := p.get()
		if !ok {
			require.LessOrEqual(t, descriptors(t), before, "it leaves nothing behind")
			break
		}
		all = append(all, have)
		size, err := unix.FcntlInt(uintptr(have.in), unix.F_GETPIPE_SZ, 0)
		require.NoError(t, err)
		require.Equal(t, pipeSize, size)
	}
	require.LessOrEqual(t, len(all), most)
	require.Equal(t, len(all), p.Made())
	for _, have := range all {
		p.drop(have)
	}
}

// What the poller said of bytes that have been taken since is no reason to
// leave the kernel: a peek tells it from urgent data.
func TestMoveAfterALateWord(t *testing.T) {
	p := NewPipes(nil)
	m := newMove(p)
	src, from := pair(t)
	m.again, m.limit = true, 100
	src.raw.Control(func(fd uintptr) { require.False(t, m.filled(fd), "nothing there: it waits") })
	require.False(t, m.plain)
	from.Write([]byte("x"))
	require.Eventually(t, func() bool { return !src.Idle() }, 10*time.Second, time.Millisecond)
	src.raw.Control(func(fd uintptr) { require.True(t, m.filled(fd)) })
	require.Equal(t, 1, m.held)
	p.drop(m.pipe)
}

// Urgent data, which splice(2) does not pass, stops nothing: what follows goes
// on, as with Read.
func TestMovePastUrgentData(t *testing.T) {
	p := NewPipes(nil)
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
