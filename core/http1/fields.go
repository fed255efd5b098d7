package http1

import (
	"bytes"
	"strconv"
)

// fieldScanner collects data about the framing of a message from the header fields.
type fieldScanner struct {
	host, retryAfter []byte
	hosts            int
	length           int64
	hasLength        bool
	chunked          bool
	close, keepAlive bool
	expect100        bool
	nominated        int // number of field names in Connection
	kinds            kinds

	values   uint8 // bit of the table charClasses that stands for the bytes of a value
	limit    int   // maximum number of fields
	response bool  // the message is a response, so equal lengths count as one
	unframed bool  // Content-Length and Transfer-Encoding have no meaning (RFC 9110 section 9.3.6)
	bodiless bool  // the message has no body, whatever its fields (RFC 9112 section 6.3)
	noLength bool  // the message has no body and no valid length
}

// The method fields parses the header fields at the beginning of b, up to an empty line, and appends them to list. It
// returns the extended list, and the bytes after the empty line.
func (s *fieldScanner) fields(b []byte, list []Field) (fields []Field, rest []byte, err error) {
	values, limit := s.values, s.limit
	for len(b) < 2 || b[0] != '\r' || b[1] != '\n' {
		i := bytes.IndexByte(b, '\n')
		if i < 1 || b[i-1] != '\r' {
			return list, nil, malformed(bareLF)
		}
		line := b[:i-1]
		b = b[i+1:]
		colon := tokenLen(line)
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return list, nil, badLine(line)
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !allInClass(value, values) || len(list) == limit {
			return list, nil, s.lineError(name, value)
		}
		kind := kindOf(name)
		if kind != Other {
			s.kinds |= 1 << kind
			if err := s.addField(kind, value); err != nil {
				return list, nil, err
			}
		}
		list = append(list, Field{Name: name, Value: value, Kind: kind})
	}
	if s.nominated > 0 {
		markNominated(list)
	}
	return list, b[2:], nil
}

// looseFields is like the method fields, but makes the repairs of a response that ReadResponse lists.
func (s *fieldScanner) looseFields(block []byte, fields []Field) ([]Field, error) {
	for len(block) > 0 {
		end := bytes.IndexByte(block, '\n')
		folded := false
		for end+1 < len(block) && isBlank(block[end+1]) { // RFC 9112 section 5.2
			folded = true
			block[end] = ' '
			if end > 0 && block[end-1] == '\r' {
				block[end-1] = ' '
			}
			end += 1 + bytes.IndexByte(block[end+1:], '\n')
		}
		line := bytes.TrimSuffix(block[:end], cr)
		block = block[end+1:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return fields, badLine(line)
		}
		name := line[:colon]
		for len(name) > 0 && isBlank(name[len(name)-1]) { // RFC 9112 section 5.1
			name = name[:len(name)-1]
		}
		value := trim(line[colon+1:])
		if !isToken(name) || !allInClass(value, s.values) || len(fields) == s.limit {
			return fields, s.lineError(name, value)
		}
		kind := kindOf(name)
		if folded && kind == TransferEncoding && !s.bodiless {
			return fields, malformed("a folded Transfer-Encoding")
		}
		if kind != Other {
			if err := s.addField(kind, value); err != nil {
				return fields, err
			}
		}
		fields = append(fields, Field{Name: name, Value: value, Kind: kind})
	}
	if s.nominated > 0 {
		markNominated(fields)
	}
	return fields, nil
}

// badLine returns the error for a line that does not begin with a name and a colon.
func badLine(line []byte) error {
	if bytes.IndexByte(line, ':') <= 0 {
		return malformed("a header line without a name and a colon")
	}
	return malformed(badName)
}

// lineError returns the error for an invalid field.
func (s *fieldScanner) lineError(name, value []byte) error {
	switch {
	case !isToken(name):
		// badName covers obs-fold (a line that begins with white space) and white space before a colon.
		return malformed(badName)
	case !allInClass(value, s.values):
		return malformed(badValue)
	}
	return tooManyFields(s.limit)
}

func tooManyFields(limit int) error {
	return &ProtocolError{Detail: "more than " + strconv.Itoa(limit) + " header fields", Status: 431}
}

// addField interprets a field whose kind is not Other.
func (s *fieldScanner) addField(kind Kind, value []byte) error {
	if kind == ContentLength || kind == TransferEncoding {
		err := s.addFraming(kind, value)
		if err != nil && s.bodiless {
			s.noLength, err = true, nil
		}
		return err
	}
	switch kind {
	case Host:
		s.hosts++
		s.host = value
	case Connection, ProxyConnection:
		for rest := value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			switch {
			case len(token) == 0:
			case equalFold(token, "close"):
				s.close = true
			case equalFold(token, "keep-alive"):
				s.keepAlive = true
			case kind == Connection:
				if s.nominated++; s.nominated > maxNominated {
					return malformed("Connection names more than 100 fields")
				}
			}
		}
	case Expect:
		s.expect100 = equalFold(value, "100-continue")
	case RetryAfter:
		s.retryAfter = value
	}
	return nil
}

// addFraming interprets a Content-Length or Transfer-Encoding field.
func (s *fieldScanner) addFraming(kind Kind, value []byte) error {
	switch length := ParseLength(value); {
	case s.unframed:
	case kind == TransferEncoding:
		if s.chunked || !equalFold(value, "chunked") {
			return malformed("Transfer-Encoding is not exactly chunked")
		}
		s.chunked = true
	case !s.hasLength && length >= 0:
		s.length, s.hasLength = length, true
	case !s.response && s.hasLength:
		return malformed("more than one Content-Length")
	case !s.response:
		return malformed(badLength)
	default: // equal values count as one value, in one field or in several fields (RFC 9112 section 6.3)
		for rest, more := value, true; more; {
			var element []byte
			element, rest, more = bytes.Cut(rest, comma)
			n := ParseLength(withoutZeros(trim(element)))
			if n < 0 {
				return malformed(badLength)
			}
			if s.hasLength && n != s.length {
				return malformed("two Content-Lengths that differ")
			}
			s.length, s.hasLength = n, true
		}
	}
	return nil
}

const badLength = "Content-Length is not a number of digits"

const (
	badMethod  = "the method is not a token"
	badVersion = "the version is not HTTP/1.x"
	badName    = "a field name is not a token: white space before it or before its colon is refused"
	badValue   = "a field value has a control character"
	bareLF     = "a line ends in LF without CR"
)
