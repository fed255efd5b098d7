package proxylist

import (
	"encoding/json"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Original keeps the entries of a list in the form in which they were read (Options.Original). It contains
// credentials.
type Original struct {
	header  string   // header line of a table; "" for none
	json    bool     // the entries are elements of a JSON array
	entries []string // by index of the proxy; "" for an entry that cannot be read alone
}

func (o *Original) add(text string) {
	if o != nil {
		o.entries = append(o.entries, text)
	}
}

// AddEntryOf adds an entry of another list. An entry of a table or of a JSON document is added as "", because it cannot
// be read alone.
func (o *Original) AddEntryOf(list *Original, index int) {
	if list.json || list.header != "" {
		o.add("")
		return
	}
	o.add(list.entries[index])
}

// setEntry stores the JSON text of an element as the text of the current entry, if the caller has asked for an
// Original.
func (l *listParser) setEntry(element any) {
	if l.Original != nil {
		text, _ := json.Marshal(element) // cannot fail: the element was decoded from JSON
		l.entryText, l.Original.json = string(text), true
	}
}

// Format writes proxies of the original list as a new list. The caller also passes their indexes in the original list.
// A proxy is written as its original entry if Parse, with the default scheme http, reads this entry as the same proxy;
// otherwise it is written as a URL. If an entry of a table or of a JSON array must become a URL, all entries do.
func (o *Original) Format(specs []upstream.Spec, indexes []int) string {
	lines := make([]string, len(specs))
	same := true
	for i := range specs {
		url := FormatLine(&specs[i])
		if lines[i] = o.entries[indexes[i]]; !o.isReadAs(lines[i], url) {
			lines[i], same = url, false
		}
	}
	whole := o.json || o.header != ""
	if whole && !same {
		for i := range specs {
			lines[i] = FormatLine(&specs[i])
		}
	}
	switch {
	case len(lines) == 0:
		return ""
	case o.json && same:
		return "[\n" + strings.Join(lines, ",\n") + "\n]\n"
	case o.header != "" && same:
		lines = append([]string{o.header}, lines...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// isReadAs reports whether Parse reads the entry alone as exactly one proxy, and FormatLine writes this proxy as the
// URL.
func (o *Original) isReadAs(entry, url string) bool {
	text := entry
	switch {
	case entry == "":
		return false
	case o.json:
		text = "[" + entry + "]"
	case o.header != "":
		text = o.header + "\n" + entry
	}
	specs, _, err := Parse(strings.NewReader(text), Options{})
	return err == nil && len(specs) == 1 && FormatLine(&specs[0]) == url
}
