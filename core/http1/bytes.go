package http1

import (
	"bytes"
	"math"
)

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// withoutZeros removes leading zeros. If all digits are zeros, it keeps the last zero.
func withoutZeros(digits []byte) []byte {
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	return digits
}

// equalFold reports whether b equals lower, ignoring ASCII case. The argument lower must be in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c != lower[i] && (c < 'A' || c > 'Z' || c|0x20 != lower[i]) { // most letters are in lower case
			return false
		}
	}
	return true
}

func equalFoldBytes(a, b []byte) bool {
	return len(a) == len(b) && bytes.EqualFold(a, b)
}

// EqualFold reports whether b equals lower, ignoring ASCII case. The argument lower must be in lower case.
func EqualFold(b []byte, lower string) bool { return equalFold(b, lower) }

// version returns the minor version x if b is HTTP/1.x, and otherwise -1.
func version(b []byte) int {
	if len(b) == 8 && string(b[:7]) == "HTTP/1." && '0' <= b[7] && b[7] <= '9' {
		return int(b[7] - '0')
	}
	return -1
}

// ParseLength parses a number of 1 to 18 digits. For any other text it returns -1.
func ParseLength(b []byte) int64 {
	if len(b) == 0 || len(b) > 18 {
		return -1
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// The table charClasses has a set of bits for each byte. Each bit stands for a part of a message, such as a field
// value, in which the byte is permitted.
var charClasses = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z',
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0:
			t[c] |= tokenChar
		}
		if c > ' ' && c != 0x7f {
			t[c] |= targetChar
		}
		if c >= ' ' && c != 0x7f || c == '\t' {
			t[c] |= valueChar
		}
		if c != 0 && c != '\r' && c != '\n' {
			t[c] |= responseChar
		}
	}
	return t
}()

const (
	tokenChar = 1 << iota
	targetChar
	valueChar    // the value of a field in a request
	responseChar // the value of a field in a response, with control characters (RFC 9110 section 5.5)
)

// allInClass reports whether every byte of b has the given bit in the table charClasses. It checks eight bytes in each
// step.
func allInClass(b []byte, bit uint8) bool {
	and := uint8(math.MaxUint8)
	for ; len(b) >= 8; b = b[8:] {
		c := (*[8]byte)(b)
		and &= charClasses[c[0]] & charClasses[c[1]] & charClasses[c[2]] & charClasses[c[3]] &
			charClasses[c[4]] & charClasses[c[5]] & charClasses[c[6]] & charClasses[c[7]]
	}
	for _, c := range b {
		and &= charClasses[c]
	}
	return and&bit != 0
}

// tokenLen returns the length of the token at the beginning of b.
func tokenLen(b []byte) int {
	for i, c := range b {
		if charClasses[c]&tokenChar == 0 {
			return i
		}
	}
	return len(b)
}

func isToken(b []byte) bool { return len(b) > 0 && allInClass(b, tokenChar) }

func isTarget(b []byte) bool { return len(b) > 0 && allInClass(b, targetChar) }

func isValue(b []byte) bool { return allInClass(b, valueChar) }

// cutLine cuts b around its first CRLF. For most lines it is several times as fast as bytes.Cut.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	if i := bytes.IndexByte(b, '\n'); i > 0 && b[i-1] == '\r' {
		return b[:i-1], b[i+1:], true
	}
	return bytes.Cut(b, crlf)
}
