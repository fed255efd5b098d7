package gateway

import "sync"

// maxPooledBuffer is the maximum size of a buffer that is returned to its pool.
const maxPooledBuffer = 2 << 20

// newBufferPool returns a pool of buffers (*[]byte). A buffer grows while a pooledBuffer uses it. As in every
// sync.Pool, a buffer that is not used is dropped at the second garbage collection.
func newBufferPool() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, smallChunk); return &b }}
}

// pooledBuffer is a buffer that a connection takes from a pool for one message. Thus idle connections hold no buffer.
type pooledBuffer struct {
	pool   *sync.Pool
	buf    []byte  // nil without a buffer
	pooled *[]byte // the pool's pointer to buf
}

// get takes a buffer from the pool, unless b already has one. It returns the buffer with length 0. The caller appends
// to the buffer and stores the result in the field buf.
func (b *pooledBuffer) get() []byte {
	if b.pooled == nil {
		b.pooled = b.pool.Get().(*[]byte)
		b.buf = *b.pooled
	}
	return b.buf[:0]
}

func (b *pooledBuffer) put() {
	if b.pooled == nil {
		return
	}
	if cap(b.buf) <= maxPooledBuffer {
		*b.pooled = b.buf[:0]
		b.pool.Put(b.pooled)
	}
	b.buf, b.pooled = nil, nil
}
