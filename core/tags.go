package core

import (
	"fmt"
	"strings"
)

// MaxTag is the maximum length of a proxy's tag in bytes.
const MaxTag = 64

// CheckTag returns an error if s cannot be a tag of a proxy.
func CheckTag(s string) error {
	if s == "" || len(s) > MaxTag || strings.ContainsFunc(s, notTagRune) {
		return fmt.Errorf("must be a word of at most %d letters, digits, '-', '_' and '.'", MaxTag)
	}
	return nil
}

func notTagRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
}
