package gateway

import "sync"

// spareBuffer is the size up to which a buffer is kept for the next borrower.
const spareBuffer = 2 << 20

// newSpares returns a pool of buffers (*[]byte). They grow as they are used; those
// that nobody uses are freed by the second garbage collection.
func newSpares() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, smallChunk); return &b }}
}

// loan is a buffer that a connection has while a message needs it, so that
// thousands of idle connections hold none.
type loan struct {
	from *sync.Pool
	lent *[]byte // nil when there is none
}

// take lends b a buffer, unless it has one.
func (l *loan) take(b *[]byte) {
	if l.lent == nil {
		l.lent = l.from.Get().(*[]byte)
		*b = *l.lent
	}
}

// back takes the buffer back from b, as large as it has grown.
func (l *loan) back(b *[]byte) {
	if l.lent == nil {
		return
	}
	if cap(*b) <= spareBuffer {
		*l.lent = (*b)[:0]
		l.from.Put(l.lent)
	}
	*b, l.lent = nil, nil
}
