package proxylist

import (
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// EntryCounts counts the entries of a list. Entries that gave a proxy are counted by form, and entries that were left
// out by reason. It contains no credentials.
type EntryCounts struct {
	Forms   map[string]int `json:"forms"`    // number of proxies by form
	Skipped map[string]int `json:"left_out"` // number of entries that gave no proxy, by reason

	// Sentences is the number of lines whose address is among words that do not describe a proxy, as in "Not available
	// at 192.0.2.1:80".
	Sentences int `json:"-"`

	Warnings map[string]int `json:"-"` // number of warnings by reason, also of those that Parse does not return
}

// The forms of entries for which formOf is not called.
const (
	formTable = "row of a table"
	formJSON  = "JSON"
	formClash = "Clash"
	formWords = "scheme host port"
	formLogin = "host port user pass"
	formText  = "address in text"
)

// formOf returns the form of a line that parseAddress has read as a proxy at the address a.
func formOf(line string, a upstream.Address) string {
	scheme, _, isURL := strings.Cut(line, "://")
	_, hostFirst := strings.CutPrefix(line, a.Host)
	switch {
	case isURL && !strings.ContainsAny(scheme, ":@, \t"):
		return "URL"
	case a.Username == "" && a.Password == "":
		return "host:port"
	case strings.Contains(line, "##"):
		return "host:port##user:pass"
	case hostFirst && strings.HasPrefix(line[len(a.Host):], "@"):
		return "host:port@user:pass"
	case hostFirst:
		return "host:port:user:pass"
	case strings.HasSuffix(line, "@"+a.Host):
		return "user:pass@host:port"
	case strings.HasSuffix(line, ":"+a.Host):
		return "user:pass:host:port"
	}
	return "host,port,user,pass"
}

func incrementCount(counts *map[string]int, key string) {
	if *counts == nil {
		*counts = map[string]int{}
	}
	(*counts)[key]++
}

// WarningCount returns the number of all warnings.
func (c *EntryCounts) WarningCount() (n int) {
	for _, count := range c.Warnings {
		n += count
	}
	return n
}
