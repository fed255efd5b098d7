package wasmhost

import (
	"strings"
	"unicode"
)

// said is the beginning of what a guest wrote to its standard output or error
// during a call: the reason for a panic, or why it refused its configuration.
type said []byte

const maxSaid = 200

func (s *said) add(p []byte) {
	*s = append(*s, p[:min(len(p), maxSaid-len(*s))]...)
}

// because is its first line, to follow what happened; "" if nothing was said.
func (s said) because() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(s)), "\n")
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, line)
	if line == "" {
		return ""
	}
	return ": " + line
}
