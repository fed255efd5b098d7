package http1

import (
	"bytes"
	"io"
	"sync"
)

// Limits of one head.
const (
	maxHead           = 64 << 10 // bytes
	MaxFields         = 200      // of a request
	MaxResponseFields = 1000     // of a response
)

const (
	startBuffer = 4 << 10
	bulkBuffer  = 40 << 10 // 32 KiB of a body, and a head
)

// buffers and bulkBuffers are pools of buffers with the sizes startBuffer and bulkBuffer. Buffers of other sizes are
// not pooled.
var (
	buffers     = sync.Pool{New: func() any { b := make([]byte, startBuffer); return &b }}
	bulkBuffers = sync.Pool{New: func() any { b := make([]byte, bulkBuffer); return &b }}
)

// Reader reads messages from one connection. It is not safe for concurrent use.
type Reader struct {
	src    io.Reader
	buf    []byte
	r, w   int
	pooled *[]byte // the pointer to buf that its pool gave; nil if buf is not pooled
	pool   *sync.Pool

	// OnPart, if not nil, is called when only a part of a head has arrived. It may be called several times for one
	// head.
	OnPart func()

	readErr   error // the error that the next fill returns; see Fail
	responses bool  // heads are parsed as responses, with repairs
}

// pooledSource is a source that takes a buffer only when there are bytes to read. A connection that waits therefore
// holds no buffer.
type pooledSource interface {
	ReadPooled(buffers *sync.Pool) (*[]byte, int, error)
}

// NewReader returns a reader of src. The reader takes a buffer at its first read.
func NewReader(src io.Reader) *Reader { return &Reader{src: src, pool: &buffers} }

// NewBulkReader returns a reader that takes a large buffer at its first read, not a small one that grows. It is meant
// for the peer that sends most of the bytes: a proxy.
func NewBulkReader(src io.Reader) *Reader { return &Reader{src: src, pool: &bulkBuffers} }

// Buffered returns a view of the bytes that have been read but not consumed.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard consumes n buffered bytes.
func (r *Reader) Discard(n int) { r.r += min(n, r.w-r.r) }

// Release returns the reader's buffer to its pool, unless the buffer has bytes that were not consumed. The next read
// takes another buffer. Views of the buffer are invalid afterwards.
func (r *Reader) Release() {
	if r.r != r.w || r.buf == nil {
		return
	}
	r.giveBack()
	r.buf, r.r, r.w = nil, 0, 0
}

func (r *Reader) giveBack() {
	switch {
	case r.pooled == nil:
	case len(*r.pooled) == startBuffer:
		buffers.Put(r.pooled)
	default:
		bulkBuffers.Put(r.pooled)
	}
	r.pooled = nil
}

// ReadAhead waits until more bytes are buffered, or the source ends. It only appends bytes to the buffer, so views
// stay valid. If the buffer is full, it does nothing.
func (r *Reader) ReadAhead() error {
	if r.buf == nil {
		return r.fillFirst()
	}
	if r.w == len(r.buf) {
		return nil
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// Fail makes the next read return err. After ReadAhead has returned an error, its caller passes the error to Fail,
// because the source returns an error only once.
func (r *Reader) Fail(err error) { r.readErr = err }

// fillFirst is called for the first read. It takes a buffer and reads into it.
func (r *Reader) fillFirst() (err error) {
	if src, ok := r.src.(pooledSource); ok {
		if r.pooled, r.w, err = src.ReadPooled(r.pool); r.pooled != nil {
			r.buf = *r.pooled
		}
		return err
	}
	r.pooled = r.pool.Get().(*[]byte)
	r.buf = *r.pooled
	return r.fill(maxHead)
}

// fill reads more bytes, and increases the size of the buffer up to limit bytes. If limit bytes are buffered already,
// it returns errFull.
func (r *Reader) fill(limit int) error {
	if r.buf == nil {
		return r.fillFirst()
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if r.w == len(r.buf) {
		if r.r > 0 {
			r.w = copy(r.buf, r.buf[r.r:r.w])
			r.r = 0
		} else if len(r.buf) >= limit {
			return errFull
		} else {
			r.grow(min(2*len(r.buf), limit))
		}
	}
	if r.readErr != nil {
		return r.readErr
	}
	for range 100 {
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func (r *Reader) grow(size int) {
	var pooled *[]byte
	var bigger []byte
	if size == bulkBuffer {
		pooled = bulkBuffers.Get().(*[]byte)
		bigger = *pooled
	} else {
		bigger = make([]byte, size)
	}
	r.w = copy(bigger, r.buf[r.r:r.w])
	r.r = 0
	r.giveBack()
	r.buf, r.pooled = bigger, pooled
}

var (
	errFull     error = &ProtocolError{Detail: "the head is larger than 64 KiB", Status: 431}
	errLongLine error = &ProtocolError{Detail: "the first line is longer than 64 KiB", Status: 414}
	crlf              = []byte("\r\n")
	cr                = []byte("\r")
	lf                = []byte("\n")
	comma             = []byte(",")
	colon             = []byte(":")
)

// fillIfEmpty reads bytes if none are buffered. The error is io.EOF if the connection has ended.
func (r *Reader) fillIfEmpty() error {
	if r.r == r.w {
		return r.fill(maxHead)
	}
	return nil
}

// AwaitRequest waits until the whole head of the next request has arrived. It does not consume the head, so ReadRequest
// then returns without a wait. Its errors are those of ReadRequest.
func (r *Reader) AwaitRequest() error {
	if err := r.fillIfEmpty(); err != nil {
		return err
	}
	_, err := r.awaitHead()
	return err
}

// readHead returns a view of the next head with its final empty line, and consumes the head. The error is io.EOF if the
// connection ended before the head's first byte. Some bytes must be buffered.
func (r *Reader) readHead() ([]byte, error) {
	end, err := r.awaitHead()
	if err != nil {
		return nil, err
	}
	return r.consume(end), nil
}

// awaitHead is like readHead, but does not consume the head. It returns the index at which the head ends in the buffer.
func (r *Reader) awaitHead() (end int, err error) {
	var u partialHead
	for {
		for bytes.HasPrefix(r.buf[r.r:r.w], crlf) {
			r.r += 2 // RFC 9112 section 2.2: empty lines before a request are ignored
			u = partialHead{}
		}
		if r.r < r.w && charClasses[r.buf[r.r]]&tokenChar == 0 && r.buf[r.r] != '\r' && r.buf[r.r] != '\n' {
			// The message is refused now, because its end may never arrive.
			return 0, malformed("this does not begin like an HTTP message: is it TLS, or SOCKS4?")
		}
		// The first u.searched bytes of the head have been searched. The end of the head may begin in the last three
		// of them.
		from := r.r + max(u.searched-3, 0)
		if i := headEnd(r.buf[from:r.w]); i >= 0 {
			return from + i + 2, nil
		}
		if r.w > r.r {
			if end, err := r.checkPartialHead(&u); end > 0 || err != nil {
				return end, err
			}
			if r.OnPart != nil {
				r.OnPart()
			}
		}
		if err := r.fill(maxHead); err != nil {
			if err == io.EOF && u.searched > 0 {
				return 0, io.ErrUnexpectedEOF
			}
			if err == errFull && bytes.IndexByte(r.Buffered(), '\n') < 0 {
				return 0, errLongLine
			}
			return 0, err
		}
	}
}

// checkPartialHead checks a head in which headEnd has found no end. A response's head may end with a bare LF. If it
// does, the method returns the index at which the head ends in the buffer. Otherwise it returns 0 if the head may still
// become valid.
func (r *Reader) checkPartialHead(u *partialHead) (end int, err error) {
	head := r.buf[r.r:r.w]
	if r.responses {
		if end, next := endWithBareLF(head, max(u.searched-2, 0)); end > 0 {
			return r.r + next, nil
		}
		if err := u.checkResponse(head); err != nil {
			return 0, err
		}
	} else if err := u.checkRequest(head); err != nil {
		return 0, err
	}
	u.searched = len(head)
	return 0, nil
}

// consume consumes and returns the buffered bytes before the index end.
func (r *Reader) consume(end int) []byte {
	consumed := r.buf[r.r:end]
	r.r = end
	return consumed
}

// headEnd returns the index of the empty line at the end of a head in b, or -1 if b has no such line. The last line
// of the head and the empty line must end in CRLF. headEnd is several times as fast as bytes.Index with two CRLFs,
// because lines are short.
func headEnd(b []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return -1
		}
		at += i + 1
		if at+1 < len(b) && b[at] == '\r' && b[at+1] == '\n' && at > 1 && b[at-2] == '\r' {
			return at
		}
	}
}

// endWithBareLF searches b for the end of a head in which lines may end in bare LFs. The search begins at the index
// from. endWithBareLF returns the indices before and after the final empty line, or 0, 0 if there is no such line.
func endWithBareLF(b []byte, from int) (end, next int) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, 0
		}
		from += i + 1
		switch {
		case bytes.HasPrefix(b[from:], lf):
			return from, from + 1
		case bytes.HasPrefix(b[from:], crlf):
			return from, from + 2
		}
	}
}
