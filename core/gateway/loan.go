package gateway

import "sync"

// spareBuffer is the maximum size of a buffer that is returned to its pool.
const spareBuffer = 2 << 20

// newSpares returns a pool of buffers (*[]byte). A buffer grows while a loan uses it. As in every sync.Pool, a buffer
// that is not used is dropped at the second garbage collection.
func newSpares() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, smallChunk); return &b }}
}

// loan is a buffer that a connection borrows from a pool for one message. Thus idle connections hold no buffer.
type loan struct {
	from *sync.Pool
	buf  []byte  // nil without a buffer
	lent *[]byte // the pool's pointer to buf
}

// take borrows a buffer if the loan has none, and returns the buffer with length 0. The caller appends to it and stores
// the result in the field buf.
func (l *loan) take() []byte {
	if l.lent == nil {
		l.lent = l.from.Get().(*[]byte)
		l.buf = *l.lent
	}
	return l.buf[:0]
}

// back returns the buffer to the pool.
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
