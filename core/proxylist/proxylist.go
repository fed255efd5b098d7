// Package proxylist parses lists of proxies in the forms that vendors and free lists use. A list has
// one proxy per line, or it is a table with a header line, or a JSON document.
//
// The forms of a line:
//
//	host:port                      [2001:db8::1]:port
//	host:port:user:pass            user:pass:host:port
//	user:pass@host:port            host:port@user:pass
//	host:port##user:pass           host,port,user,pass
//	scheme://[user:pass@]host:port[#region=us&weight=3&cost=0.2&max_in_flight=50&reuse=false&id=a&NAME=VALUE]
//	scheme://host:port:user:pass   scheme host port [user pass]
//
// Options of https:// proxies are ca_file, insecure, cert and key (upstream.TLSOptions); the caller reads the files.
//
// In a URL, user and password may be percent-encoded, and the password may contain an '@'. In the other
// forms user and password are not percent-decoded, and the password may contain a ':'. The default scheme is
// http, or Options.Scheme. A comment begins with '#' or ';' at the beginning of a line or after white space.
// Blank lines are skipped. A line in any other form is searched for an address: if it contains exactly one
// IPv4 address with a port, this is the address of the proxy.
//
// Four fields separated by colons are host:port:user:pass if only the second field is a port, and
// user:pass:host:port if only the fourth one is. If both are ports, the host is the field that contains a dot.
// If this does not decide, the line is host:port:user:pass.
//
// A table begins with a line of column names (table.go), separated by commas, semicolons, tabs or
// vertical bars. A JSON document is an array of strings or objects, or an object that has one
// (json.go).
package proxylist

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// MaxLine is the maximum length of a line, in bytes.
const MaxLine = 64 << 10

// Warning is a message about a line that was skipped or is ambiguous. It contains no
// credentials.
type Warning struct {
	Line int // number of the line; 0 for the whole list
	Msg  string
}

// Options configure how a list is parsed.
type Options struct {
	Name   string          // Source of each proxy
	Scheme string          // scheme of lines without a scheme; "" for http
	Taken  map[string]bool // ids in use, to which Parse adds the ids of the list; may be nil
}

// Parse parses a list. A line that is not a proxy, or whose id is taken, is skipped with a
// warning. err is a read error of r.
func Parse(r io.Reader, o Options) (specs []upstream.Spec, warnings []Warning, err error) {
	if o.Taken == nil {
		o.Taken = map[string]bool{}
	}
	if o.Scheme == "" {
		o.Scheme = upstream.HTTP
	}
	l := list{Options: o, lines: map[upstream.Address]int{}}
	in := bufio.NewReaderSize(r, 4096)
	if isJSON(in) {
		err = l.parseJSON(in)
	} else {
		err = l.parseLines(in)
	}
	if l.textLines > 0 {
		l.warn(l.textLine, "on %d lines, this one the first, there is text beside the address; it is not used",
			l.textLines)
	}
	return l.specs, l.warnings, err
}

// list is the result of parsing a part of a list.
type list struct {
	Options
	table    *table                   // nil without a header line
	lines    map[upstream.Address]int // the line of each proxy
	specs    []upstream.Spec
	warnings []Warning

	textLine, textLines int // first line with text beside its address, and the number of such lines
}

func (l *list) warn(n int, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{n, fmt.Sprintf(format, args...)})
}

// invisible removes characters without width, which web pages put around addresses, and replaces no-break
// spaces by spaces.
var invisible = strings.NewReplacer("\u200b", "", "\u200c", "", "\u200d", "", "\u2060", "", "\ufeff", "", "\u00a0", " ")

// parseLines parses a list with one proxy per line.
func (l *list) parseLines(in *bufio.Reader) error {
	for n := 1; ; n++ {
		line, tooLong, err := readLine(in)
		if tooLong {
			l.warn(n, "the line is longer than %d bytes", MaxLine)
		} else if line = stripComment(invisible.Replace(line)); line != "" {
			l.parseLine(n, line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// parseLine parses line n and adds its proxy.
func (l *list) parseLine(n int, line string) {
	if l.table == nil && len(l.specs) == 0 {
		if l.table = parseHeader(line); l.table != nil {
			return
		}
	}
	if l.table != nil {
		spec, err := l.table.parseRow(line, l.Scheme)
		l.add(n, spec, "", err)
		return
	}
	spec, warning, err := parse(line, l.Scheme)
	if err == nil {
		l.add(n, spec, warning, nil)
		return
	}
	if words, ok := parseWords(line); ok {
		l.add(n, words, "", nil)
		return
	}
	if text, ok := parseText(line, l.Scheme); ok {
		if l.textLines++; l.textLines == 1 {
			l.textLine = n
		}
		l.add(n, text, "", nil)
		return
	}
	l.add(n, spec, "", err)
}

// add adds the proxy of line n. If err is not nil, or the proxy cannot be added, the line is skipped
// with a warning.
func (l *list) add(n int, spec upstream.Spec, warning string, err error) {
	if err == nil {
		err = upstream.CheckSpec(&spec)
	}
	first, duplicate := l.lines[spec.Address]
	switch {
	case err != nil:
		l.warn(n, "%v", err)
	case duplicate:
		l.warn(n, "the same proxy as on line %d", first)
	case spec.ID != "" && l.Taken[spec.ID]:
		l.warn(n, "the id %q is already used by another proxy", spec.ID)
	default:
		if warning != "" {
			l.warn(n, "%s", warning)
		}
		l.lines[spec.Address], l.Taken[spec.ID] = n, true
		spec.Source = l.Name
		l.specs = append(l.specs, spec)
	}
}

// readLine reads one line. If it is too long, line is empty.
func readLine(in *bufio.Reader) (line string, tooLong bool, err error) {
	var b []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(b)+len(part) > MaxLine {
			tooLong, b = true, nil
		} else if !tooLong {
			b = append(b, part...)
		}
		if err != bufio.ErrBufferFull {
			return string(b), tooLong, err
		}
	}
}

// stripComment returns line without comment and surrounding white space.
func stripComment(line string) string {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
		return ""
	}
	for i := 1; i < len(line); i++ {
		if (line[i] == '#' || line[i] == ';') && (line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}
