package proxyhttp

import (
	"bytes"
	"compress/gzip"
	"io"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

var _ executor.Excerpter = (*RequestSender)(nil)

// Excerpt implements executor.Excerpter. It waits at most 0.1 s for the beginning of the body.
func (s *RequestSender) Excerpt(w *core.ExcerptSpec, e *core.Excerpt) {
	r := &s.Response
	e.Fields, e.Body, e.Encoded, e.Whole, e.Length = e.Fields[:0], e.Body[:0], false, false, r.Length
	if r.Framing != http1.Length {
		e.Length = -1
	}
	coding := codingNone
	for i := range r.Fields {
		field := &r.Fields[i]
		if http1.EqualFold(field.Name, "content-encoding") {
			coding = max(coding, codingOf(field.Value))
		}
		for _, name := range w.Fields {
			if len(e.Fields) < core.MaxExcerptFields && http1.EqualFold(field.Name, name) {
				value := field.Value[:min(len(field.Value), core.MaxExcerptValue)]
				e.Fields = append(e.Fields, core.ExcerptField{Name: name, Value: value})
			}
		}
	}
	if w.Body == 0 {
		return
	}
	e.Body, e.Whole = r.Peek(&s.Control, e.Body, w.Body)
	e.Encoded = len(e.Body) > 0 && coding != codingNone
	if coding == codingGzip {
		decode(e, w.Body)
	}
}

// coding is the content coding of a body (RFC 9110 section 8.4.1).
type coding uint8

const (
	codingNone coding = iota
	codingGzip
	codingOther // another coding, or several codings
)

func codingOf(value []byte) coding {
	switch {
	case len(value) == 0, http1.EqualFold(value, "identity"):
		return codingNone
	case http1.EqualFold(value, "gzip"), http1.EqualFold(value, "x-gzip"):
		return codingGzip
	}
	return codingOther
}

// inflater decodes gzip. Unused inflaters are kept in a sync.Pool for reuse, because each one takes much memory.
type inflater struct {
	in  bytes.Reader
	gz  gzip.Reader
	out [core.MaxExcerptBody]byte
}

var inflaters = sync.Pool{New: func() any { return &inflater{} }}

// decode decompresses the body of an excerpt, which is the beginning of a gzip stream. It keeps at most n bytes of the
// result. A body that is not a gzip stream stays unchanged.
func decode(e *core.Excerpt, n int) {
	d := inflaters.Get().(*inflater)
	defer inflaters.Put(d)
	d.in.Reset(e.Body)
	if d.gz.Reset(&d.in) != nil {
		return
	}
	got, err := 0, error(nil)
	for got < n && err == nil { // err is set at the end of the part that has arrived
		var more int
		more, err = d.gz.Read(d.out[got:n])
		got += more
	}
	e.Body, e.Encoded = append(e.Body[:0], d.out[:got]...), false
	e.Whole = e.Whole && err == io.EOF
}
