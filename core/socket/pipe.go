package socket

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Pipes copies bytes from one connection to another, inside the kernel if possible
// (splice(2)). It is safe for concurrent use.
type Pipes struct {
	mayOpen func() bool
	closed  func()
	open    atomic.Int64 // pipes that exist
	free    chan pipe    // unused pipes
	moves   sync.Pool    // of *move
	buffers sync.Pool    // of *[]byte, for copies without a pipe
}

// SpliceMin is the minimum number of bytes for which Pipes.Move costs less than a Read and a Write.
const SpliceMin = 64 << 10

// maxSpare is the maximum number of unused pipes that are kept. A pipe is in use only while it holds bytes, so a few
// pipes serve many connections.
const maxSpare = 16

// NewPipes returns a Pipes. Each pipe takes two file descriptors, and serves only one connection while it holds bytes
// that the peer does not read. The function mayOpen, if not nil, therefore limits the number of pipes: it is called
// before another pipe is created. If it returns false, Move copies the bytes through a buffer. For each pipe that
// mayOpen has permitted, the function closed, if not nil, is called once: when the pipe is closed, or if it could not
// be created.
func NewPipes(mayOpen func() bool, closed func()) *Pipes {
	p := &Pipes{mayOpen: mayOpen, closed: closed, free: make(chan pipe, maxSpare)}
	p.moves.New = func() any { return newMove(p) }
	p.buffers.New = func() any { b := make([]byte, 32<<10); return &b }
	runtime.AddCleanup(p, func(free chan pipe) {
		for len(free) > 0 {
			(<-free).close()
		}
	}, p.free)
	return p
}

// Open returns the number of pipes. It also counts pipes for which a call of mayOpen is in progress.
func (p *Pipes) Open() int { return int(p.open.Load()) }

// Move waits until src has bytes to read, as Read does, and copies up to limit bytes of src to dst, as Write does. It
// returns the number of bytes written to dst. At the end of src, the error is io.EOF. If the write to dst fails, the
// error is a *WriteError, and the bytes that were read from src and not written to dst are lost.
func (p *Pipes) Move(dst, src *Conn, limit int64) (n int64, err error) {
	m := p.moves.Get().(*spliceOp)
	n, err = m.move(dst, src, limit)
	p.moves.Put(m)
	return n, err
}

// moveBuffered copies bytes as Move does, but always through a buffer.
func (p *Pipes) moveBuffered(dst, src *Conn, limit int64) (int64, error) {
	buffer := p.buffers.Get().(*[]byte)
	defer p.buffers.Put(buffer)
	buf := (*buffer)[:min(limit, int64(len(*buffer)))]
	m, err := src.Read(buf)
	if m == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return 0, err
	}
	w, err := dst.Write(buf[:m])
	if err != nil {
		err = &WriteError{err}
	}
	return int64(w), err
}
