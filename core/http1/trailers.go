package http1

import (
	"bytes"
	"maps"
	"slices"
)

// maxTrailers is the maximum size of the trailer section that a Body keeps, in bytes.
const maxTrailers = 16 << 10

// KeepTrailers makes b keep the trailer fields that may be forwarded (see Trailers). Its argument has the header fields
// of the message, because a trailer field that the Connection field names is not forwarded (RFC 9110 section 7.6.1).
// KeepTrailers must be called after Start, while the header fields are valid.
func (b *Body) KeepTrailers(fields []Field) {
	if b.framing != Chunked {
		return
	}
	b.keepTrailers = true
	for i := range fields {
		if fields[i].Kind != Connection {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var token []byte
			if token, rest = nextToken(rest); len(token) > 0 && kindOf(token).isOther() && !equalFold(token, "close") {
				b.nominated = append(append(b.nominated, token...), ',')
			}
		}
	}
}

// Trailers returns the trailer fields of the body, each as "Name: value" CRLF. It returns nil before the end of the
// body, if the body has no trailer fields, and if KeepTrailers was not called. The slice is valid until the next
// Start.
func (b *Body) Trailers() []byte {
	if !b.Done() {
		return nil
	}
	return b.trailers
}

// addTrailerLine reads one line of the trailer section (RFC 9112 section 7.1.2). It keeps the field if it may be
// forwarded. A line without a colon or with a forbidden byte is an error. Three more faults are errors in a request: a
// name that is not a token, a folded line, and a section of more than maxTrailers bytes. A response with such a fault
// loses its trailers (RFC 9110 section 6.5.1 permits this).
func (b *Body) addTrailerLine(line []byte) error {
	limit, values := int64(MaxFields), uint8(valueChar)
	if b.r.responses {
		limit, values = MaxResponseFields, responseChar
	}
	colon := bytes.IndexByte(line, ':')
	if b.r.responses && isBlank(line[0]) { // a folded line needs no colon
		colon = 0
	}
	if b.remaining++; b.remaining > limit || colon < 0 || line[0] == ':' || !allInClass(line, values) {
		return malformed("the trailer section")
	}
	name := line[:colon]
	if isToken(name) && len(b.trailers)+len(line)+4 <= maxTrailers {
		if b.keepTrailers && !hasElement(b.nominated, name) {
			b.trailers = AppendTrailer(b.trailers, name, line[colon+1:])
		}
		return nil
	}
	if !b.r.responses {
		if isToken(name) {
			return malformed("the trailer section is larger than 16 KiB")
		}
		return malformed(badName)
	}
	b.keepTrailers, b.trailers = false, nil
	return nil
}

// hasElement reports whether name is an element of list, which is separated by commas. It ignores case.
func hasElement(list, name []byte) bool {
	for len(list) > 0 {
		var token []byte
		if token, list = nextToken(list); equalFoldBytes(token, name) {
			return true
		}
	}
	return false
}

// AppendTrailer appends the trailer field if it is valid and may be forwarded. A field of the framing, the routing,
// the authentication, the request's conditions or the content's format must not be sent as a trailer (RFC 9110
// section 6.5.1). A recipient that merges trailers into the head would act on such a field.
func AppendTrailer(dst, name, value []byte) []byte {
	if value = trim(value); !permittedTrailer(name) || !allInClass(value, responseChar) {
		return dst
	}
	return append(append(append(append(dst, name...), ": "...), value...), "\r\n"...)
}

// forbiddenTrailers are the fields without a Kind that AppendTrailer does not append.
var forbiddenTrailers = map[string]bool{
	"age": true, "authorization": true, "cache-control": true, "content-encoding": true, "content-range": true,
	"content-type": true, "cookie": true, "date": true, "expires": true, "forwarded": true, "location": true,
	"pragma": true, "range": true, "set-cookie": true, "vary": true, "www-authenticate": true,
	"x-forwarded-for": true, "x-forwarded-host": true, "x-forwarded-proto": true, "x-real-ip": true,
}

// AppendTrailerNames appends the field names in the values of the Trailer fields, separated by commas. It leaves out
// the names of fields that AppendTrailer does not append.
func AppendTrailerNames(dst []byte, fields []Field) []byte {
	for i := range fields {
		if fields[i].Kind != Trailer {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var name []byte
			if name, rest = nextToken(rest); !permittedTrailer(name) {
				continue
			}
			if len(dst) > 0 {
				dst = append(dst, ", "...)
			}
			dst = append(dst, name...)
		}
	}
	return dst
}

// AppendTrailers appends to dst the fields that AppendTrailer permits. It orders the fields by name. The argument dst
// must be an empty trailer section. If the section would be larger than 16 KiB, AppendTrailers returns nil.
func AppendTrailers(dst []byte, fields map[string][]string) []byte {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			dst = AppendTrailer(dst, []byte(name), []byte(value))
		}
	}
	if len(dst) > maxTrailers {
		return nil
	}
	return dst
}

// permittedTrailer reports whether name is a valid field name that AppendTrailer permits.
func permittedTrailer(name []byte) bool {
	return isToken(name) && kindOf(name).isOther() && !forbiddenTrailers[string(bytes.ToLower(name))] &&
		!(len(name) > 3 && equalFold(name[:3], "if-"))
}

// Trailers returns an iterator over the fields of section, a trailer section in the form that Body.Trailers returns.
func Trailers(section []byte) func(yield func(name, value []byte) bool) {
	return func(yield func(name, value []byte) bool) {
		for len(section) > 0 {
			var line []byte
			line, section, _ = bytes.Cut(section, crlf)
			if name, value, _ := bytes.Cut(line, colonSpace); !yield(name, value) {
				return
			}
		}
	}
}

var colonSpace = []byte(": ")

// AppendLastChunk appends the end of a chunked body. The parameter trailers is the trailer section, as Body.Trailers
// returns it.
func AppendLastChunk(b, trailers []byte) []byte {
	b = append(append(b, "0\r\n"...), trailers...)
	return append(b, "\r\n"...)
}
