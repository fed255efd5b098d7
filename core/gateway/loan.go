package gateway

import "sync"

const (
	// smallBuffer is what a connection may keep of a buffer while it is idle.
	smallBuffer = 8 << 10
	// spareBuffer is the size up to which a large buffer is kept for others.
	spareBuffer = 2 << 20
)

// newSpares returns a pool of large buffers (*[]byte).
func newSpares() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, 2*largeChunk); return &b }}
}

// loan is a large buffer that stands in for a connection's own while a message
// needs it, so that thousands of idle connections hold none.
type loan struct {
	from *sync.Pool
	lent *[]byte // nil when there is none
	own  []byte  // what b was before
}

// take lends b a large buffer; what b holds is kept.
func (l *loan) take(b *[]byte) {
	if l.lent == nil {
		l.lent, l.own = l.from.Get().(*[]byte), *b
		*b = append((*l.lent)[:0], *b...)
	}
}

// back takes it away again; b is empty then, and small.
func (l *loan) back(b *[]byte) {
	if l.lent != nil {
		if cap(*b) <= spareBuffer {
			*l.lent = (*b)[:0]
			l.from.Put(l.lent)
		}
		*b, l.lent, l.own = l.own, nil, nil
	}
	if *b = (*b)[:0]; cap(*b) > smallBuffer {
		*b = nil
	}
}
