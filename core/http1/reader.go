package http1

import (
	"bytes"
	"io"
	"sync"
)

// Limits of one head.
const (
	MaxHead   = 64 << 10 // bytes
	MaxFields = 200
)

const (
	startBuffer = 4 << 10
	bulkBuffer  = 40 << 10 // 32 KiB and a head
)

// buffers and bulks lend out buffers of these two sizes. Buffers of other sizes
// are left to the garbage collector.
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
	pooled *[]byte // buf's origin, to be given back
	start  *sync.Pool
}

// pooledSource is a source that takes a buffer only once there is something to
// read, so that a connection that waits holds none.
type pooledSource interface {
	ReadPooled(buffers *sync.Pool) (*[]byte, int, error)
}

// NewReader returns a reader of src. It takes a buffer with its first read.
func NewReader(src io.Reader) *Reader { return &Reader{src: src, start: &buffers} }

// NewBulkReader returns a reader that takes a large buffer from the start: for
// the side that sends most of the bytes.
func NewBulkReader(src io.Reader) *Reader { return &Reader{src: src, start: &bulks} }

// Buffered returns the bytes read but not consumed: a view.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard consumes n buffered bytes.
func (r *Reader) Discard(n int) { r.r += min(n, r.w-r.r) }

// Release gives the buffer back if it holds nothing; the next read takes
// another. Views of it are void then.
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

// ReadAhead blocks until more bytes than now are buffered, or the source ends.
// Views stay valid: it appends only, and does nothing when the buffer is full.
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

// first reads into a new buffer.
func (r *Reader) first() (err error) {
	if src, ok := r.src.(pooledSource); ok {
		if r.pooled, r.w, err = src.ReadPooled(r.start); r.pooled != nil {
			r.buf = *r.pooled
		}
		return err
	}
	r.pooled = r.start.Get().(*[]byte)
	r.buf = *r.pooled
	return r.fill(MaxHead)
}

// fill reads more, growing the buffer up to limit bytes. When that many are
// buffered already it returns errFull, which the caller may replace by an error of
// its own.
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
)

// head returns the next head without its final empty line: a view that is
// consumed. io.EOF is a clean end before its first byte.
func (r *Reader) head() ([]byte, error) {
	scanned := 0
	for {
		for bytes.HasPrefix(r.buf[r.r:r.w], crlf) {
			r.r += 2 // RFC 9112 section 2.2: empty lines before a request are ignored
			scanned = 0
		}
		if r.r < r.w && class[r.buf[r.r]]&tokenChar == 0 && r.buf[r.r] != '\r' && r.buf[r.r] != '\n' {
			return nil, malformed("this does not begin like an HTTP message: is it TLS, or SOCKS?") // and may never have an end
		}
		// The terminator may straddle what was scanned before.
		from := r.r + max(scanned-3, 0)
		if i := bytes.Index(r.buf[from:r.w], crlf2); i >= 0 {
			end := from + i + 2
			head := r.buf[r.r:end]
			r.r = end + 2
			return head, nil
		}
		if bareLF(r.buf[from:r.w]) {
			return nil, malformed("a line ends in LF without CR")
		}
		scanned = r.w - r.r
		if err := r.fill(MaxHead); err != nil {
			if err == io.EOF && scanned > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			if err == errFull && bytes.IndexByte(r.Buffered(), '\n') < 0 {
				return nil, errLongLine
			}
			return nil, err
		}
	}
}

// bareLF looks for an LF without CR before it, in a head that is incomplete: its
// end would otherwise be waited for in vain. The first byte of b is passed over,
// since what stands before it is not known.
func bareLF(b []byte) bool {
	for i := 0; ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return false
		}
		i += j
		if i > 0 && b[i-1] != '\r' {
			return true
		}
		i++
	}
}
