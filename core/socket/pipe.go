package socket

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Pipes passes bytes on from one connection to another, inside the kernel
// where that is possible (splice(2)). It is safe for concurrent use.
type Pipes struct {
	room    func() bool
	made    atomic.Int64
	free    chan pipe // spare ones
	moves   sync.Pool // of *move
	buffers sync.Pool // of *[]byte, for what passes without a pipe
}

// SpliceMin is from how many bytes on passing them on by Pipes costs less than reading
// and writing them.
const SpliceMin = 64 << 10

// spare is how many pipes are kept. A pipe is in use only while bytes are
// under way, so few serve many connections.
const spare = 16

// NewPipes returns Pipes that has made none yet. A pipe takes two descriptors, and
// a receiver that takes nothing keeps them in use for as long as it likes. So
// room, if not nil, is asked before a pipe is made whether there may be another;
// where there may not, bytes pass through a buffer.
func NewPipes(room func() bool) *Pipes {
	p := &Pipes{room: room, free: make(chan pipe, spare)}
	p.moves.New = func() any { return newMove(p) }
	p.buffers.New = func() any { b := make([]byte, 32<<10); return &b }
	runtime.AddCleanup(p, func(free chan pipe) {
		for len(free) > 0 {
			(<-free).close()
		}
	}, p.free)
	return p
}

// Made is the number of pipes, including those that room is being asked about.
func (p *Pipes) Made() int { return int(p.made.Load()) }

// Move waits until something comes on src, as Read does, and passes up to limit
// bytes of it on to dst, as Write does. n is the number of bytes that dst has
// taken. The end of src is io.EOF. An error of dst is a *WriteError; what had
// been taken from src by then is lost.
func (p *Pipes) Move(dst, src *Conn, limit int64) (n int64, err error) {
	m := p.moves.Get().(*move)
	n, err = m.move(dst, src, limit)
	p.moves.Put(m)
	return n, err
}

// copied is Move by way of a buffer.
func (p *Pipes) copied(dst, src *Conn, limit int64) (int64, error) {
	lent := p.buffers.Get().(*[]byte)
	defer p.buffers.Put(lent)
	buf := (*lent)[:min(limit, int64(len(*lent)))]
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
