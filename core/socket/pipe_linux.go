//go:build linux && (amd64 || arm64)

package socket

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe is an empty pipe, by its two ends.
type pipe struct{ out, in int }

// pipeSize is how much a pipe is made to hold (F_SETPIPE_SZ). A user without
// privileges may have 256 of them; further ones would hold 8 KiB (pipe(7),
// pipe-user-pages-soft), for which a buffer does better.
const pipeSize = 256 << 10

func (p *Pipes) get() (pipe, bool) {
	select {
	case have := <-p.free:
		return have, true
	default:
	}
	var fds [2]int
	p.made.Add(1)
	if p.room != nil && !p.room() || unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		p.made.Add(-1)
		return pipe{}, false // out of descriptors, say
	}
	made := pipe{out: fds[0], in: fds[1]}
	if _, err := unix.FcntlInt(uintptr(made.out), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.drop(made)
		return pipe{}, false
	}
	return made, true
}

func (p *Pipes) put(have pipe) {
	select {
	case p.free <- have:
	default:
		p.drop(have)
	}
}

// drop gives up a pipe.
func (p *Pipes) drop(have pipe) {
	have.close()
	p.made.Add(-1)
}

func (p pipe) close() {
	unix.Close(p.out)
	unix.Close(p.in)
}

// move is one Move under way; its functions are bound once, so that it costs no
// allocation.
type move struct {
	pipes *Pipes
	pipe  pipe
	dst   *Conn
	limit int
	held  int  // in the pipe
	taken int  // by dst
	again bool // src has been waited for
	plain bool // splice(2) will not do: it goes by way of a buffer
	errno syscall.Errno
	fill  func(fd uintptr) (done bool)
	drain func(fd uintptr) (done bool)
}

func newMove(p *Pipes) *move {
	m := &move{pipes: p}
	m.fill, m.drain = m.filled, m.drained
	return m
}

func (m *move) move(dst, src *Conn, limit int64) (int64, error) {
	m.dst, m.limit, m.held, m.taken, m.again, m.plain, m.errno = dst, int(min(limit, pipeSize)), 0, 0, false, false, 0
	defer func() { m.dst = nil }()
	err := src.raw.Read(m.fill)
	switch {
	case err != nil:
		return 0, ended(err)
	case m.plain:
		return m.pipes.copied(dst, src, limit)
	case m.errno != 0:
		return 0, os.NewSyscallError("splice", m.errno)
	}
	if err = dst.raw.Write(m.drain); err != nil {
		err = ended(err)
	} else if m.errno != 0 {
		err = os.NewSyscallError("splice", m.errno)
	}
	if err != nil {
		m.pipes.drop(m.pipe)
		return int64(m.taken), &WriteError{err}
	}
	m.pipes.put(m.pipe)
	return int64(m.taken), nil
}

// filled takes what lies in fd; while it waits for something it holds neither a
// pipe nor a buffer. Urgent data (tcp(7)) looks to splice(2) like the end of the
// stream, or like nothing although the poller says that something is there. A
// Read can tell, and gets past it.
func (m *move) filled(fd uintptr) bool {
	var ok bool
	if m.pipe, ok = m.pipes.get(); !ok {
		m.plain = true
		return peek(fd) != syscall.EAGAIN
	}
	m.plain = false
	if m.held, m.errno = splice(int(fd), m.pipe.in, m.limit); m.held > 0 {
		return true
	}
	m.pipes.put(m.pipe)
	switch {
	case m.errno == syscall.EAGAIN && (!m.again || peek(fd) == syscall.EAGAIN):
		m.again = true // the poller may speak of what has been taken since
		return false
	case m.errno == 0 || m.errno == syscall.EAGAIN:
		m.plain = true
	}
	return true
}

// drained gives fd what the pipe holds.
func (m *move) drained(fd uintptr) bool {
	for m.taken < m.held {
		var n int
		n, m.errno = splice(m.pipe.out, int(fd), m.held-m.taken)
		m.taken += n
		if m.errno == syscall.EAGAIN {
			if m.dst.OnFull != nil {
				m.dst.OnFull()
			}
			return false
		}
		if m.errno != 0 {
			return true
		}
	}
	return true
}

func splice(from, to, n int) (int, syscall.Errno) {
	for {
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(moved), 0
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}
