package http1

import "strconv"

// AppendRequestLine appends METHOD SP TARGET SP HTTP/1.1 CRLF.
func AppendRequestLine(b, method, target []byte) []byte {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	return append(b, " HTTP/1.1\r\n"...)
}

// AppendStatusLine appends HTTP/1.1 SP STATUS SP REASON CRLF.
func AppendStatusLine(b []byte, status int, reason []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	return append(b, "\r\n"...)
}

// AppendField appends one header field.
func AppendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// AppendFields appends the fields that are not hop-by-hop.
func AppendFields(b []byte, fields []Field) []byte {
	for i := range fields {
		f := &fields[i]
		if f.HopByHop() {
			continue
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return b
}

// AppendFraming appends the Content-Length or Transfer-Encoding field if the message needs one of them.
func AppendFraming(b []byte, f Framing, length int64) []byte {
	switch {
	case f == Chunked:
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	case f == Length, f == NoBody && length >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		return append(b, "\r\n"...)
	}
	return b
}

// AppendChunk appends p as one chunk. If p is empty, it appends nothing, because an empty chunk would end the
// body.
func AppendChunk(b, p []byte) []byte {
	if len(p) == 0 {
		return b
	}
	b = strconv.AppendInt(b, int64(len(p)), 16)
	b = append(b, "\r\n"...)
	b = append(b, p...)
	return append(b, "\r\n"...)
}

// LastChunk ends a chunked body without trailers.
const LastChunk = "0\r\n\r\n"

// AppendUpgrade appends an Upgrade field, and the Connection field that names it (RFC 9110 section 7.8).
func AppendUpgrade(b, protocols []byte) []byte {
	b = append(b, "Connection: Upgrade\r\n"...)
	return AppendField(b, "Upgrade", protocols)
}
