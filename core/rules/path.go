package rules

import "bytes"

// normalPath returns the form in which a path is compared with patterns: without the query, with unreserved characters
// decoded (RFC 3986 section 6.2.2.2), and without dot segments (section 5.2.4). So no other spelling of a path evades a
// rule. A path without "%" and "/." needs no allocation.
func normalPath(path []byte) []byte {
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	if bytes.IndexByte(path, '%') < 0 && !bytes.Contains(path, []byte("/.")) {
		return path
	}
	return removeDotSegments(decodeUnreserved(path))
}

// decodeUnreserved decodes the unreserved characters (RFC 3986 section 2.3) and writes the digits of other
// percent-encoded characters in upper case.
func decodeUnreserved(path []byte) []byte {
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
			out = append(out, path[i])
			continue
		}
		c := hexValue(path[i+1])<<4 | hexValue(path[i+2])
		if isUnreserved(c) {
			out = append(out, c)
		} else {
			out = append(append(out, '%'), bytes.ToUpper(path[i+1:i+3])...)
		}
		i += 2
	}
	return out
}

// removeDotSegments removes the segments "." and "..".
func removeDotSegments(path []byte) []byte {
	if len(path) == 0 || path[0] != '/' {
		return path // the * of OPTIONS
	}
	out := make([]byte, 0, len(path))
	for rest := path; len(rest) > 0; {
		end := bytes.IndexByte(rest[1:], '/') + 1
		if end == 0 {
			end = len(rest)
		}
		segment := rest[:end]
		rest = rest[end:]
		switch string(segment) {
		case "/..":
			out = out[:max(bytes.LastIndexByte(out, '/'), 0)]
			fallthrough
		case "/.":
			if len(rest) == 0 {
				out = append(out, '/')
			}
		default:
			out = append(out, segment...)
		}
	}
	return out
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		bytes.IndexByte([]byte("-._~"), c) >= 0
}
