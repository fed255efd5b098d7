package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Fault is one error in a configuration.
type Fault struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"` // 0 if the key is not in the file
	Key   string `json:"key"`
	Value string `json:"value,omitempty"` // never a secret
	Msg   string `json:"message"`
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(f.Key)
	if f.Value != "" {
		b.WriteString(" = " + f.Value)
	}
	if f.Key != "" {
		b.WriteString(": ")
	}
	b.WriteString(f.Msg)
	return b.String()
}

// Error holds all faults of a configuration.
type Error struct{ Faults []Fault }

func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func (l *loader) fault(key string, value any, msg string) {
	l.faults = append(l.faults, l.place(key, value, msg))
}

// place returns a fault with the place at which its key was set. The fault includes the value unless the
// value may be a secret.
func (l *loader) place(key string, value any, msg string) Fault {
	f := Fault{File: l.src.File, Line: lineOf(l.lines, key), Key: maskedKey(key), Msg: msg}
	if _, flag := l.src.Overrides[key]; flag || strings.HasPrefix(key, "--") {
		f.File, f.Line = "command line", 0
	}
	for set, name := range l.fromEnv {
		if set == key || strings.HasPrefix(key, set+"[") || f.Line == 0 && strings.HasPrefix(set, key+".") {
			f.File, f.Line = "environment variable "+name, 0
		}
	}
	if value != nil && !secret(key) {
		switch value.(type) {
		case map[string]any, []any:
		default:
			if text, err := json.Marshal(value); err == nil && len(text) < 200 {
				f.Value = string(text)
			}
		}
	}
	return f
}

// maskedKey returns a key for use in a fault. It masks a part that needs quotes in TOML. No known key does,
// so the part may be a credential on the wrong side of a "=".
func maskedKey(key string) string {
	odd := strings.IndexFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_-.[]", r))
	})
	if odd < 0 {
		return key
	}
	return key[:strings.LastIndexByte(key[:odd], '.')+1] + "***"
}

// secret reports whether the value of a key may contain a credential. This includes values that contain a
// credential only by mistake, such as a proxy's URL in place of the path of a proxy list.
func secret(key string) bool {
	for _, section := range []string{"proxies", "gateway.users", "api.keys", "pool"} {
		if strings.HasPrefix(key, section) {
			return !strings.HasSuffix(key, ".role")
		}
	}
	return strings.HasPrefix(key, "plugins.") && (strings.Contains(key, ".config") || strings.HasSuffix(key, ".url"))
}

// Fault returns a fault that was detected when the configuration was used.
func (c *Config) Fault(key string, value any, msg string) Fault { return c.place(key, value, msg) }
