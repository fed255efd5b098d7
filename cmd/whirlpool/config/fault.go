package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Fault is one error in a configuration.
type Fault struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"` // line of Key in File; 0 if File does not have the key
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

func (l *loader) addFault(key string, value any, msg string) {
	l.faults = append(l.faults, l.locateFault(key, value, msg+similarChoice(key, value)))
}

// locateFault returns a fault with the place where the key was set: a file with a line, the command line, or an
// environment variable. The fault shows the value unless the value may be a secret.
func (l *loader) locateFault(key string, value any, msg string) Fault {
	f := Fault{File: l.src.File, Line: lineOf(l.lines, key), Key: maskedKey(key), Msg: msg}
	if _, flag := l.src.Overrides[key]; flag || strings.HasPrefix(key, "--") {
		f.File, f.Line = "command line", 0
	}
	for set, name := range l.fromEnv {
		if set == key || strings.HasPrefix(key, set+"[") || f.Line == 0 && strings.HasPrefix(set, key+".") {
			f.File, f.Line = "environment variable "+name, 0
		}
	}
	if value != nil && !mayHaveSecret(key) {
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

// maskedKey replaces the first part of a key that would need quotes in TOML, and all parts after it, by "***". No known
// key has such a part. The part may be a credential that the user has written on the left side of a "=".
func maskedKey(key string) string {
	quoted := strings.IndexFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_-.[]", r))
	})
	if quoted < 0 {
		return key
	}
	return key[:strings.LastIndexByte(key[:quoted], '.')+1] + "***"
}

// mayHaveSecret reports whether the value of a key may contain a credential, even by mistake. An example of a mistake
// is the URL of a proxy in place of the path of a proxy list.
func mayHaveSecret(key string) bool {
	for _, section := range []string{"proxies", "gateway.users", "api.keys", "pool"} {
		if strings.HasPrefix(key, section) {
			return !strings.HasSuffix(key, ".role")
		}
	}
	return strings.HasPrefix(key, "plugins.") && (strings.Contains(key, ".config") || strings.HasSuffix(key, ".url"))
}

// Fault returns a fault of a configuration that has been loaded. It is for faults that are found only when a part of
// the gateway uses the configuration. The fault has the place where the key was set.
func (c *Config) Fault(key string, value any, msg string) Fault {
	return c.locateFault(key, value, msg)
}
