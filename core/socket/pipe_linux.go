//go:build linux && (amd64 || arm64)

package socket

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe holds the file descriptors of the two ends of a pipe.
type pipe struct{ out, in int }

// pipeSize is the capacity of a pipe (F_SETPIPE_SZ). A user without privileges may have 256 such pipes
// (pipe-user-pages-soft in pipe(7)). Any pipe above this number would hold only 8 KiB, and be slower than a copy
// through a buffer.
const pipeSize = 256 << 10

func (p *Pipes) get() (pipe, bool) {
	select {
	case unused := <-p.free:
		return unused, true
	default:
	}
	var fds [2]int
	p.open.Add(1)
	if p.mayOpen != nil && !p.mayOpen() {
		p.open.Add(-1)
		return pipe{}, false
	}
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		p.countClosed()
		return pipe{}, false // for example, no file descriptor is left
	}
	made := pipe{out: fds[0], in: fds[1]}
	if _, err := unix.FcntlInt(uintptr(made.out), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.closePipe(made)
		return pipe{}, false
	}
	return made, true
}

func (p *Pipes) put(unused pipe) {
	select {
	case p.free <- unused:
	default:
		p.closePipe(unused)
	}
}

func (p *Pipes) closePipe(old pipe) {
	old.close()
	p.countClosed()
}

// countClosed updates the number of pipes after a pipe was closed.
func (p *Pipes) countClosed() {
	p.open.Add(-1)
	if p.closed != nil {
		p.closed()
	}
}

// CloseUnused closes a pipe that is not in use. It returns false if there is no such pipe.
func (p *Pipes) CloseUnused() bool {
	select {
	case unused := <-p.free:
		p.closePipe(unused)
		return true
	default:
		return false
	}
}

func (p pipe) close() {
	unix.Close(p.out)
	unix.Close(p.in)
}

// spliceOp is the state of one call of Move. Its function values are created once, so that a Move allocates no memory.
type spliceOp struct {
	pipes     *Pipes
	pipe      pipe
	dst       *Conn
	limit     int
	inPipe    int  // bytes in the pipe
	written   int  // bytes written to dst
	waited    bool // the poller has waited for src at least once
	buffered  bool // splice(2) cannot be used: moveBuffered copies the bytes
	errno     syscall.Errno
	fillCall  func(fd uintptr) (done bool)
	drainCall func(fd uintptr) (done bool)
}

func newMove(p *Pipes) *spliceOp {
	m := &spliceOp{pipes: p}
	m.fillCall, m.drainCall = m.fillPipe, m.drainPipe
	return m
}

func (m *spliceOp) move(dst, src *Conn, limit int64) (int64, error) {
	m.dst, m.limit, m.inPipe, m.written, m.waited, m.buffered, m.errno = dst, int(min(limit, pipeSize)), 0, 0,
		false, false, 0
	defer func() { m.dst = nil }()
	err := src.raw.Read(m.fillCall)
	switch {
	case err != nil:
		return 0, writeErrorOf(err)
	case m.buffered:
		return m.pipes.moveBuffered(dst, src, limit)
	case m.errno != 0:
		return 0, os.NewSyscallError("splice", m.errno)
	}
	src.Meters.CountBytes(0, m.inPipe)
	if err = dst.raw.Write(m.drainCall); err != nil {
		err = writeErrorOf(err)
	} else if m.errno != 0 {
		err = os.NewSyscallError("splice", m.errno)
	}
	dst.Meters.CountBytes(m.written, 0)
	if err != nil {
		m.pipes.closePipe(m.pipe)
		return int64(m.written), &WriteError{err}
	}
	m.pipes.put(m.pipe)
	return int64(m.written), nil
}

// fillPipe moves bytes from fd into a pipe. It holds neither a pipe nor a buffer while it waits. If fd has urgent data
// (tcp(7)), splice(2) may report the end of the stream, or no bytes to read although the poller reports fd readable.
// Both reports may be wrong. A normal read then finds the real state and skips the urgent data.
func (m *spliceOp) fillPipe(fd uintptr) bool {
	var ok bool
	if m.pipe, ok = m.pipes.get(); !ok {
		m.buffered = true
		return peekErrno(fd) != syscall.EAGAIN
	}
	m.buffered = false
	if m.inPipe, m.errno = splice(int(fd), m.pipe.in, m.limit); m.inPipe > 0 {
		return true
	}
	m.pipes.put(m.pipe)
	switch {
	case m.errno == syscall.EAGAIN && (!m.waited || peekErrno(fd) == syscall.EAGAIN):
		m.waited = true // the bytes that the poller has reported may have been read already
		return false
	case m.errno == 0 || m.errno == syscall.EAGAIN:
		m.buffered = true
	}
	return true
}

func (m *spliceOp) drainPipe(fd uintptr) bool {
	for m.written < m.inPipe {
		var n int
		n, m.errno = splice(m.pipe.out, int(fd), m.inPipe-m.written)
		m.written += n
		if m.errno == syscall.EAGAIN {
			if m.dst.OnWriteBlocked != nil {
				m.dst.OnWriteBlocked()
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
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
			unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(moved), 0
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}
