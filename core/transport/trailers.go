package transport

import (
	"net/http"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

// Trailers returns the trailer fields of a response whose body has been read to its end, in the form that
// http1.Body.Trailers returns. Over HTTP/2, a body with a Content-Length has trailers only if the head of the
// response announces them.
func (r *Response) Trailers() (section []byte) {
	if r.stream == nil {
		return r.Body.Trailers()
	}
	if r.Framing != http1.UntilClose {
		return nil
	}
	return http1.AppendTrailers(nil, r.stream.trailers)
}

// TrailerNames returns the value of the Trailer field for a client that gets the trailers of r; nil for none.
func (r *Response) TrailerNames() []byte {
	if r.stream == nil && r.Framing != http1.Chunked {
		return nil
	}
	return http1.AppendTrailerNames(nil, r.Fields)
}

// trailers returns the trailer section of the request's body. The body must have been sent.
func (r *Request) trailers() []byte {
	if r.Remainder != nil {
		return r.Remainder.Trailers()
	}
	return r.Trailers
}

// trailerHeader returns the trailer fields for a request over HTTP/2, or nil if it has none. If the request has
// Remainder, only the announced fields are known, and their values are not set.
func (r *Request) trailerHeader() http.Header {
	names := http.Header{}
	if r.Remainder == nil {
		for name, value := range http1.Trailers(r.Trailers) {
			names.Add(string(name), string(value))
		}
	} else {
		for name := range strings.SplitSeq(string(r.TrailerNames), ", ") {
			if name != "" {
				names[http.CanonicalHeaderKey(name)] = nil
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return names
}

// setTrailers sets the values of the fields in h from a trailer section. It ignores all other fields of the section.
func setTrailers(h http.Header, section []byte) {
	for name, value := range http1.Trailers(section) {
		key := http.CanonicalHeaderKey(string(name))
		if _, announced := h[key]; announced {
			h.Add(key, string(value))
		}
	}
}
