package gateway

import "sync"

// maxPooledBuffer is the maximum size of a buffer that is returned to its pool.
const maxPooledBuffer = 2 << 20

// newBufferPool returns a pool of buffers (*[]byte). A buffer grows while a borrowedBuffer uses it. As in every
// sync.Pool, a buffer that is not used is dropped at the second garbage collection.
func newBufferPool() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, smallChunk); return &b }}
}

// borrowedBuffer is a buffer that a connection borrows from a pool for one message. Thus idle connections hold no
// buffer.
type borrowedBuffer struct {
	pool   *sync.Pool
	buf    []byte  // nil without a buffer
	pooled *[]byte // the pool's pointer to buf
}

// The method borrow borrows a buffer from the pool, unless the connection already has one. It returns the buffer with
// length 0. The caller appends to the buffer and stores the result in the field buf.
func (l *borrowedBuffer) borrow() []byte {
	if l.pooled == nil {
		l.pooled = l.pool.Get().(*[]byte)
		l.buf = *l.pooled
	}
	return l.buf[:0]
}

func (l *borrowedBuffer) giveBack() {
	if l.pooled == nil {
		return
	}
	if cap(l.buf) <= maxPooledBuffer {
		*l.pooled = l.buf[:0]
		l.pool.Put(l.pooled)
	}
	l.buf, l.pooled = nil, nil
}
