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

// A waiting Move holds no pipe, and few unused pipes are kept.
func TestUnusedPipes(t *testing.T) {
	p := NewPipes(nil, nil)
	const many = 4 * maxSpare
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
			moveAll(p, dst[i], src[i]) // waits, as nothing more is sent
			done <- struct{}{}
		}()
	}
	require.Eventually(t, func() bool {
		for i := range many {
			if !src[i].Idle() {
				return false
			}
		}
		return descriptors(t) <= before+2*maxSpare
	}, 10*1e9, 1e6)
	for i := range many {
		src[i].Close()
	}
	for range many {
		<-done
	}
}

// Destinations that are not read hold at most the permitted number of pipes. The bytes for the
// other destinations are still moved.
func TestPipeLimit(t *testing.T) {
	const most, many, size = 3, 12, 8 << 20
	var p *Pipes
	p = NewPipes(func() bool { return p.Open() <= most }, nil)
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
		dst[i].OnWriteBlocked = sync.OnceFunc(func() { stuck.Add(1) })
		go func() {
			moveAll(p, dst[i], src[i])
			done <- struct{}{}
		}()
	}
	require.Eventually(t, func() bool { return stuck.Load() == many && p.Open() == most }, time.Minute,
		time.Millisecond)
	require.LessOrEqual(t, descriptors(t), before+2*most) // fewer if those of earlier tests are closed meanwhile
	for i := range many {
		_, err := io.ReadFull(to[i], make([]byte, size))
		require.NoError(t, err)
		from[i].Close()
		<-done
	}
}

// A Pipes that is no longer referenced leaves no file descriptor behind.
func TestPipesAreCollected(t *testing.T) {
	src, from := pair(t)
	dst, _ := pair(t)
	var fd, link string
	func() {
		p := NewPipes(nil, nil)
		from.Write([]byte("hello"))
		_, err := p.Move(dst, src, 5)
		require.NoError(t, err)
		unused := <-p.free
		fd = fmt.Sprint("/proc/self/fd/", unused.in)
		link, err = os.Readlink(fd)
		require.NoError(t, err)
		p.put(unused)
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		now, err := os.Readlink(fd)
		return err != nil || now != link
	}, 10*time.Second, time.Millisecond)
}

// Without a file descriptor for a pipe, the bytes are moved through a buffer.
func TestMoveWithoutPipes(t *testing.T) {
	p := NewPipes(nil, nil)
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

// After each wait Move decides again whether it uses a pipe or a buffer. While it waits it holds
// neither.
func TestMoveAlternates(t *testing.T) {
	var asked atomic.Int32
	p := NewPipes(func() bool { return asked.Add(1)%3 == 0 }, nil)
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
			for !src.Idle() { // so that Move waits for each piece
				time.Sleep(100 * time.Microsecond)
			}
		}
		from.CloseWrite()
	}()
	go func() {
		moveAll(p, dst, src)
		dst.CloseWrite()
	}()
	got, err := io.ReadAll(to)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	require.Greater(t, asked.Load(), int32(30))
}

// A user without privileges may have a limited number of pipes of full size. The kernel makes
// further pipes small, and these are not used.
func TestSmallPipesAreNotUsed(t *testing.T) {
	soft, err := os.ReadFile("/proc/sys/fs/pipe-user-pages-soft")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.TrimSpace(string(soft)))
	require.NoError(t, err)
	most := pages * os.Getpagesize() / pipeSize
	if most == 0 || most > 1000 {
		t.Skip("this kernel does not make pipes small: ", pages)
	}
	runtime.LockOSThread() // never unlocked: the thread, without its privileges, ends with the test
	var none [2]unix.CapUserData
	require.NoError(t, unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
	p := NewPipes(nil, nil)
	var all []pipe
	for range most + 1 { // the user may have others already
		before := descriptors(t)
		have, ok := p.get()
		if !ok {
			require.LessOrEqual(t, descriptors(t), before, "no file descriptor is left behind")
			break
		}
		all = append(all, have)
		size, err := unix.FcntlInt(uintptr(have.in), unix.F_GETPIPE_SZ, 0)
		require.NoError(t, err)
		require.Equal(t, pipeSize, size)
	}
	require.LessOrEqual(t, len(all), most)
	require.Equal(t, len(all), p.Open())
	for _, have := range all {
		p.closePipe(have)
	}
}

// If the poller reports bytes that were read since, Move waits again and does not switch to a
// buffer. A peek tells this case apart from urgent data.
func TestMoveAfterOutdatedReport(t *testing.T) {
	p := NewPipes(nil, nil)
	m := newMove(p)
	src, from := pair(t)
	m.waited, m.limit = true, 100
	src.raw.Control(func(fd uintptr) { require.False(t, m.fillPipe(fd), "there is nothing to read") })
	require.False(t, m.buffered)
	from.Write([]byte("x"))
	require.Eventually(t, func() bool { return !src.Idle() }, time.Minute, time.Millisecond)
	src.raw.Control(func(fd uintptr) { require.True(t, m.fillPipe(fd)) })
	require.Equal(t, 1, m.inPipe)
	p.closePipe(m.pipe)
}

// splice(2) does not move urgent data. Move skips it, as Read does.
func TestMoveSkipsUrgentData(t *testing.T) {
	p := NewPipes(nil, nil)
	src, from := pair(t)
	dst, to := pair(t)
	raw, err := from.SyscallConn()
	require.NoError(t, err)
	from.Write(make([]byte, 10_000))
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
	}))
	require.NoError(t, err)
	from.Write(make([]byte, 10_000))
	from.CloseWrite()
	src.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := moveAll(p, dst, src)
	require.Equal(t, io.EOF, err)
	require.EqualValues(t, 20_000, n)
	dst.CloseWrite()
	got, err := io.ReadAll(to)
	require.NoError(t, err)
	require.Len(t, got, 20_000)
}
