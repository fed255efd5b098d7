package gateway

import "sync"

// spareBuffer is the size up to which a buffer is kept for the next borrower.
const spareBuffer = 2 << 20

// newSpares returns a pool of buffers (*[]byte). They grow as they are used; unused ones
// are freed by the second garbage collection.
func newSpares() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, smallChunk); return &b }}
}

// loan is a buffer that a connection has while a message needs it, so that thousands of
// idle connections hold none.
type loan struct {
	from *sync.Pool
	buf  []byte  // nil without a buffer
	lent *[]byte // where buf is from
}

// take borrows a buffer, unless there is one, and returns it empty. The caller stores
// what it makes of it in buf.
func (l *loan) take() []byte {
	if l.lent == nil {
		l.lent = l.from.Get().(*[]byte)
		l.buf = *l.lent
	}
	return l.buf[:0]
}

// back gives the buffer back, as large as it has grown.
func (l *loan) back() {
	if l.lent == nil {
		return
	}
	if cap(l.buf) <= spareBuffer {
		*l.lent = l.buf[:0]
		l.from.Put(l.lent)
	}
	l.buf, l.lent = nil, nil
}
