package http1

import "bytes"

// partialHead checks a head that is not complete yet. If the head cannot become valid any more, it is refused without
// a wait for its end, which may never arrive. Each byte is checked once; a request line is checked again when it is
// complete.
type partialHead struct {
	searched     int          // number of bytes in which the end of the head was searched
	checked      int          // number of bytes that were checked
	lines        int          // number of complete lines among the checked bytes
	lineStart    int          // index at which the first incomplete line begins
	hasName      bool         // the incomplete line contains its method or name, and the delimiter after it
	spaces       int          // number of spaces in a request's first line
	versionStart int          // index at which the version begins, after the second space
	fields       fieldScanner // result of reading the fields in the complete lines
}

// checkRequest checks the beginning of a request's head.
func (u *partialHead) checkRequest(head []byte) error {
	for {
		text := head[u.checked:]
		end := bytes.IndexByte(text, '\n')
		if end >= 0 {
			text = text[:end]
		}
		last := len(text)
		text = bytes.TrimSuffix(text, cr) // a final CR is checked again if no LF follows it
		if end >= 0 && len(text) == last {
			return malformed(bareLF)
		}
		if err := u.checkText(text); err != nil {
			return err
		}
		if end < 0 && u.lines == 0 {
			if err := u.checkVersionStart(text, head[:u.checked+len(text)]); err != nil {
				return err
			}
		}
		if end < 0 {
			u.checked += len(text)
			return nil
		}
		if u.lines == 0 {
			if _, _, _, err := requestLine(head[:u.checked+len(text)]); err != nil {
				return err
			}
		}
		if !u.hasName {
			return malformed("a header line without a name and a colon")
		}
		if u.lines > 0 {
			if err := u.checkField(head[u.lineStart : u.checked+len(text)]); err != nil {
				return err
			}
		}
		if u.lines++; u.lines > MaxFields+1 {
			return tooManyFields(MaxFields)
		}
		u.checked += end + 1
		u.lineStart, u.hasName = u.checked, false
	}
}

// checkVersionStart checks the part of the version that has arrived, in a request line that is not complete. The
// parameter line has all bytes of the line that have arrived. The parameter text has the last of these bytes, which
// have not been checked. The method returns an error if the version cannot become valid any more.
func (u *partialHead) checkVersionStart(text, line []byte) error {
	for i, c := range text {
		if c != ' ' {
			continue
		}
		if u.spaces++; u.spaces == 2 {
			u.versionStart = u.checked + i + 1
		}
	}
	if u.spaces < 2 {
		return nil
	}
	const begin = "HTTP/1."
	v := line[u.versionStart:]
	n := min(len(v), len(begin))
	if u.spaces > 2 || string(v[:n]) != begin[:n] || len(v) > len(begin) && version(v) < 0 {
		return malformed(badVersion)
	}
	return nil
}

// checkField checks one field, which is a complete line, together with the fields before it.
func (u *partialHead) checkField(line []byte) error {
	name, value, _ := bytes.Cut(line, colon)
	kind := kindOf(name)
	if kind == Other {
		return nil
	}
	if err := u.fields.addField(kind, trim(value)); err != nil {
		return err
	}
	switch {
	case u.fields.hosts > 1:
		return malformed("more than one Host field")
	case u.fields.chunked && u.fields.hasLength:
		return malformed("both Content-Length and Transfer-Encoding")
	}
	return nil
}

// checkText checks b, the next piece of the incomplete line.
func (u *partialHead) checkText(b []byte) error {
	if !u.hasName {
		delimiter, bad := byte(':'), badName
		if u.lines == 0 {
			delimiter, bad = ' ', badMethod
		}
		name := b
		i := bytes.IndexByte(b, delimiter)
		if i >= 0 {
			name = b[:i]
			u.hasName = true
		}
		if !allInClass(name, tokenChar) || i == 0 && u.checked == u.lineStart {
			return malformed(bad)
		}
		b = b[len(name):]
	}
	if !allInClass(b, valueChar) {
		return malformed("a line has a control character")
	}
	return nil
}

// checkResponse checks the beginning of a response's head: its status line.
func (u *partialHead) checkResponse(head []byte) error {
	const begin = "HTTP/1."
	if n := min(len(head), len(begin)); string(head[:n]) != begin[:n] && string(head) != "\r" {
		return malformed(badStatusLine)
	}
	if u.lines > 0 {
		return nil
	}
	end := bytes.IndexByte(head[u.searched:], '\n')
	if end < 0 {
		return nil
	}
	u.lines++
	_, _, _, err := statusLine(bytes.TrimSuffix(head[:u.searched+end], cr))
	return err
}
