package http1

import (
	"bytes"
	"errors"
	"io"
)

// Body reads the body of a message after a Reader has read the message's head, and removes the framing. The zero value
// is an empty body. The trailer fields are dropped, unless KeepTrailers is called.
type Body struct {
	r         *Reader
	framing   Framing
	remaining int64 // bytes left of the body (Length) or of the current chunk (Chunked)
	state     chunkState
	received  int64 // see Received
	err       error // the error that ended the body; each later call returns it too

	keepTrailers bool
	nominated    []byte // the names in the head's Connection field, each followed by a comma
	trailers     []byte // see Trailers
}

type chunkState uint8

const (
	chunkSize chunkState = iota // a size line is next
	chunkData
	chunkEnd // the CRLF after a chunk's data
	chunkTrailer
)

// ErrTruncated is the error of a body that is shorter than its framing announces.
var ErrTruncated = errors.New("the body was cut short")

// Start prepares b for a message read from r.
func (b *Body) Start(r *Reader, f Framing, length int64) {
	*b = Body{r: r, framing: f, remaining: length}
	if f == NoBody || f == Length && length == 0 {
		b.err = io.EOF
	}
}

// Done reports whether the body has been read to its end, without an error.
func (b *Body) Done() bool { return b.r == nil || b.err == io.EOF }

// Err returns the error that ended the body: nil if the body has not ended, io.EOF after its regular end.
func (b *Body) Err() error { return b.err }

// Resume permits more calls of Next after a call that failed at the read deadline of the connection.
func (b *Body) Resume() { b.err = nil }

// Remaining returns the number of bytes of the body that have not been read, or -1 if the number is
// unknown.
func (b *Body) Remaining() int64 {
	switch {
	case b.Done():
		return 0
	case b.framing == Length:
		return b.remaining
	}
	return -1
}

// Received returns the number of bytes of the body that have been read.
func (b *Body) Received() int64 { return b.received }

// Next returns the next piece of the body. The piece is a view that is valid until the next call. Next blocks only if
// no bytes are buffered. At the regular end of the body it returns io.EOF. If the body is cut short, it returns
// ErrTruncated or the connection's error.
func (b *Body) Next() ([]byte, error) { return b.nextPiece(true) }

// NextBuffered is like Next, but does not block. If no bytes are buffered, it returns nil, nil.
func (b *Body) NextBuffered() ([]byte, error) { return b.nextPiece(false) }

func (b *Body) nextPiece(block bool) ([]byte, error) {
	for b.err == nil && b.r != nil {
		if b.framing == Chunked && b.state != chunkData {
			ok, err := b.readChunkLine()
			if err != nil {
				b.err = err
				break
			}
			if ok {
				continue
			}
		} else if have := b.r.w - b.r.r; have > 0 {
			return b.takePiece(have), nil
		}
		if !block {
			return nil, nil
		}
		if err := b.fill(); err != nil {
			b.err = b.endError(err)
		}
	}
	if b.r == nil {
		return nil, io.EOF
	}
	return nil, b.err
}

// takePiece consumes buffered bytes of the body and returns them. Its argument is the number of all buffered bytes.
func (b *Body) takePiece(have int) []byte {
	if b.framing != UntilClose && int64(have) > b.remaining {
		have = int(b.remaining)
	}
	p := b.r.buf[b.r.r : b.r.r+have]
	b.r.r += have
	b.received += int64(have)
	if b.framing == UntilClose {
		return p
	}
	b.remaining -= int64(have)
	if b.remaining == 0 {
		if b.framing == Length {
			b.err = io.EOF
		} else {
			b.state = chunkEnd
		}
	}
	return p
}

func (b *Body) fill() error {
	// If the last read has filled the whole buffer, and all bytes in it have been consumed, fill takes a larger buffer.
	// The rest of the body then needs fewer reads.
	if r := b.r; r.r == r.w && r.w == len(r.buf) && len(r.buf) < bulkBuffer && r.buf != nil {
		r.grow(bulkBuffer)
	}
	return b.r.fill(bulkBuffer)
}

func (b *Body) endError(err error) error {
	switch {
	case err == io.EOF && b.framing == UntilClose:
		return io.EOF
	case err == io.EOF:
		return ErrTruncated
	case err == errFull:
		return malformed("a chunk's size line or a trailer is too long")
	}
	return err
}

// readChunkLine consumes one line of chunked framing (RFC 9112 section 7.1). It returns false if no complete line is
// buffered yet.
func (b *Body) readChunkLine() (bool, error) {
	buffered := b.r.Buffered()
	i := bytes.IndexByte(buffered, '\n')
	if i < 0 {
		if len(buffered) > maxChunkLine {
			return false, malformed("a chunk's size line or a trailer is too long")
		}
		return false, nil
	}
	if i == 0 || buffered[i-1] != '\r' {
		return false, malformed("a line of chunked framing ends in LF without CR")
	}
	line := buffered[:i-1]
	b.r.r += i + 1
	switch b.state {
	case chunkEnd:
		if len(line) != 0 {
			return false, malformed("a chunk is longer than its size")
		}
		b.state = chunkSize
	case chunkSize:
		size, err := parseChunkSize(line, b.r.responses)
		if err != nil {
			return false, err
		}
		b.remaining, b.state = size, chunkData
		if size == 0 {
			b.state = chunkTrailer
		}
	case chunkTrailer:
		if len(line) == 0 {
			b.err = io.EOF
			return true, nil
		}
		return true, b.addTrailerLine(line)
	}
	return true, nil
}

const maxChunkLine = 4 << 10

// parseChunkSize parses a chunk size of at most 15 hexadecimal digits. In a response it also accepts further zeros
// before them: some servers always write 16 digits.
func parseChunkSize(line []byte, response bool) (int64, error) {
	digits, ext := line, []byte(nil)
	if i := bytes.IndexAny(line, "; \t"); i >= 0 {
		digits, ext = line[:i], trim(line[i:])
		if len(ext) > 0 && ext[0] != ';' || !isValue(ext) {
			return 0, malformed("a chunk's size line")
		}
	}
	for response && len(digits) > 15 && digits[0] == '0' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 15 {
		return 0, malformed("a chunk's size is not 1 to 15 hexadecimal digits")
	}
	n := int64(0)
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, malformed("a chunk's size is not hexadecimal")
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	piece, err := b.Next()
	if err != nil {
		return 0, err
	}
	n := copy(p, piece)
	if n < len(piece) { // return to the reader the bytes that do not fit into p
		b.putBack(len(piece) - n)
	}
	return n, nil
}

func (b *Body) putBack(n int) {
	b.r.r -= n
	if b.framing != UntilClose {
		b.remaining += int64(n)
		b.state = chunkData
		b.err = nil
	}
}

// Peek appends up to n buffered bytes of the body to dst without consuming them. It also reports whether the body ends
// with these bytes.
func (b *Body) Peek(dst []byte, n int) (_ []byte, whole bool) {
	if b.r == nil {
		return dst, true
	}
	before, at := *b, b.r.r
	for n > 0 {
		p, _ := b.NextBuffered()
		if p == nil {
			break
		}
		if len(p) > n {
			b.putBack(len(p) - n)
			p = p[:n]
		}
		dst = append(dst, p...)
		n -= len(p)
	}
	if b.framing == Chunked && b.state == chunkEnd {
		b.NextBuffered() // reads the end of the chunked framing if it is buffered
	}
	whole = b.Done()
	*b, b.r.r = before, at
	return dst, whole
}

// Drain reads the rest of the body and drops it. It stops when it has read more than limit bytes. It may block. It
// reports whether the body has been read to its end.
func (b *Body) Drain(limit int64) bool {
	for limit >= 0 {
		if b.Done() {
			return true
		}
		p, err := b.Next()
		if err != nil {
			return err == io.EOF
		}
		limit -= int64(len(p))
	}
	return false
}

// DirectlyReadable returns the number of bytes of the body that may be read directly from the connection, for a copy
// inside the kernel. It returns false if bytes are buffered, or if the framing does not permit such a read.
func (b *Body) DirectlyReadable() (left int64, ok bool) {
	if b.Done() || b.err != nil || b.r.r != b.r.w || b.framing != Length {
		return 0, false
	}
	return b.remaining, true
}

// RecordRead records that n bytes of the body have been read directly from the connection (see DirectlyReadable). The
// parameter err is the error with which the connection has ended, or nil.
func (b *Body) RecordRead(n int64, err error) {
	b.remaining -= n
	b.received += n
	switch {
	case b.remaining == 0:
		b.err = io.EOF
	case err != nil:
		b.err = b.endError(err)
	}
}
