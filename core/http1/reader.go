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
	bulkBuffer  = 40 << 10 // 32 KiB of a body and its head
)

// buffers and bulks are pools of buffers of the two sizes above. Buffers of other sizes are not
// pooled.
var (
	buffers = sync.Pool{New: func() any { b := make([]byte, startBuffer); return &b }}
	bulks   = sync.Pool{New: func() any { b := make([]byte, bulkBuffer); return &b }}
)

// Reader reads messages from one connection. It is not safe for concurrent
// use.
type Reader struct {
	src    io.Reader
	buf    []byte
	r, w   int
	pooled *[]byte // the pool's pointer to buf
	start  *sync.Pool

	// OnPart, if not nil, is called when a part of a head has been read and the rest has not arrived. It may
	// be called several times for one head.
	OnPart func()

	failed    error // the error that the next read returns
	begin     int   // beginning, in buf, of the head that was read last
	responses bool  // heads are parsed as responses, with repairs
}

// pooledSource is a source that takes a buffer only when there is something to read, so that a waiting
// connection holds no buffer.
type pooledSource interface {
	ReadPooled(buffers *sync.Pool) (*[]byte, int, error)
}

// NewReader returns a reader of src. The reader takes a buffer at its first read.
func NewReader(src io.Reader) *Reader { return &Reader{src: src, start: &buffers} }

// NewBulkReader returns a reader that takes a large buffer at once. It is meant for the peer that sends most
// of the bytes: a proxy.
func NewBulkReader(src io.Reader) *Reader { return &Reader{src: src, start: &bulks} }

// Buffered returns a view of the bytes that have been read but not consumed.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard consumes n buffered bytes.
func (r *Reader) Discard(n int) { r.r += min(n, r.w-r.r) }

// Release returns the buffer to its pool if it is empty. The next read takes another buffer. Views of the
// buffer are invalid afterwards.
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
		bulks.Put(r.pooled)
	}
	r.pooled = nil
}

// ReadAhead waits until more bytes are buffered, or the source ends. It only appends, so views stay valid. If
// the buffer is full, it does nothing.
func (r *Reader) ReadAhead() error {
	if r.buf == nil {
		return r.first()
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

// Fail makes the next read return err. A caller of ReadAhead uses it to pass on the error, because the
// source returns an error only once.
func (r *Reader) Fail(err error) { r.failed = err }

// first takes a buffer and reads into it.
func (r *Reader) first() (err error) {
	if src, ok := r.src.(pooledSource); ok {
		if r.pooled, r.w, err = src.ReadPooled(r.start); r.pooled != nil {
			r.buf = *r.pooled
		}
		return err
	}
	r.pooled = r.start.Get().(*[]byte)
	r.buf = *r.pooled
	return r.fill(maxHead)
}

// fill reads more bytes and lets the buffer grow up to limit bytes. If limit bytes are buffered, it
// returns errFull.
func (r *Reader) fill(limit int) error {
	if r.buf == nil {
		return r.first()
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
	if r.failed != nil {
		return r.failed
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
		pooled = bulks.Get().(*[]byte)
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
	crlf2             = []byte("\r\n\r\n")
	crlf              = []byte("\r\n")
	cr                = []byte("\r")
	lf                = []byte("\n")
	comma             = []byte(",")
	colon             = []byte(":")
)

// head returns a view of the next head without its final empty line, and consumes the head. The error is
// io.EOF if the connection ended before the head's first byte.
func (r *Reader) head() ([]byte, error) {
	var u unfinished
	for {
		for bytes.HasPrefix(r.buf[r.r:r.w], crlf) {
			r.r += 2 // RFC 9112 section 2.2: empty lines before a request are ignored
			u = unfinished{}
		}
		if r.r < r.w && class[r.buf[r.r]]&tokenChar == 0 && r.buf[r.r] != '\r' && r.buf[r.r] != '\n' {
			// refused now, because the end of such a message may never arrive
			return nil, malformed("this does not begin like an HTTP message: is it TLS, or SOCKS4?")
		}
		// The end of the head may begin in the last three bytes that have already been searched.
		from := r.r + max(u.searched-3, 0)
		if i := bytes.Index(r.buf[from:r.w], crlf2); i >= 0 {
			return r.consume(from+i+2, from+i+4), nil
		}
		if r.w > r.r {
			if whole, err := r.unfinished(&u); whole != nil || err != nil {
				return whole, err
			}
			if r.OnPart != nil {
				r.OnPart()
			}
		}
		if err := r.fill(maxHead); err != nil {
			if err == io.EOF && u.searched > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			if err == errFull && bytes.IndexByte(r.Buffered(), '\n') < 0 {
				return nil, errLongLine
			}
			return nil, err
		}
	}
}

// unfinished checks a head whose end has not been found. If it is the head of a response and ends
// with a bare LF, unfinished consumes and returns it.
func (r *Reader) unfinished(u *unfinished) ([]byte, error) {
	head := r.buf[r.r:r.w]
	if r.responses {
		if end, next := looseEnd(head, max(u.searched-2, 0)); end > 0 {
			return r.consume(r.r+end, r.r+next), nil
		}
		if err := u.response(head); err != nil {
			return nil, err
		}
	} else if err := u.request(head); err != nil {
		return nil, err
	}
	u.searched = len(head)
	return nil, nil
}

// consume consumes a head that ends at end, and the empty line after it, up to next.
func (r *Reader) consume(end, next int) []byte {
	r.begin, r.r = r.r, next
	return r.buf[r.begin:end]
}

// looseEnd searches for the end of a head with bare LFs, beginning at index from. It returns the indices
// before and after its final empty line, or 0, 0 if there is no end.
func looseEnd(b []byte, from int) (end, next int) {
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
