// Package proxylist parses lists of proxies in the forms that vendors and free lists use. A list has
// one proxy per line, or it is a table with a header line, or a JSON document.
//
// The forms of a line:
//
//	host:port                      [2001:db8::1]:port
//	host:port:user:pass            user:pass:host:port
//	user:pass@host:port            host:port@user:pass
//	host:port##user:pass           host,port,user,pass
//	scheme://[user:pass@]host:port[#region=us&weight=3&cost=0.2&max_in_flight=50&rate=2&reuse=false&id=a&NAME=VALUE]
//	scheme://host:port:user:pass   scheme host port [user pass]   scheme:host:port[:user:pass]
//	scheme:user:pass:host:port
//	host:port user pass            host port user pass            host:port user:pass
//	host:port:user:pass:scheme     https://t.me/socks?server=host&port=port&user=user&pass=pass
//	scheme://host:port@user:pass   user:pass|host:port             export http_proxy=URL
//	host:port:scheme:user:pass     host:port#max_in_flight=50      scheme://BASE64@host:port   (base64 of user:pass)
//	host:port:user:pass[LINK]      (LINK changes the exit address; it is not used)
//	- {name: a, type: socks5, server: host, port: port, username: user, password: pass}
//
// An unknown option becomes metadata. If its name is similar to the name of an option, a warning reports this.
//
// Options of https:// proxies are ca_file, insecure, cert and key (upstream.TLSOptions); the caller reads the files.
//
// In a URL, user and password may be percent-encoded, and the password may contain an '@'. In all other forms, user
// and password are not percent-decoded, and the password may contain a ':'. The default scheme is http, or
// Options.Scheme. A comment begins with '#', ';' or "//" at the beginning of a line or after white space. Behind two
// words, "//" begins a comment only if white space follows: it may be the beginning of a password. Blank lines are
// skipped. A line may have several addresses or URLs without credentials. A line in any other form is searched for an
// address: if it contains exactly one IPv4 address with a port, this is the address of the proxy. Tags of HTML are
// ignored.
//
// Four fields separated by colons are host:port:user:pass if only the second field is a port, and user:pass:host:port
// if only the fourth one is. If both are ports, and only one of the first and the third field contains a dot, that
// field is the host. Otherwise the line is host:port:user:pass. Fields that describe a proxy, such as US and elite, are
// not taken as user and password, nor as the end of a password (host:port:user:pass:US); a warning reports these lines.
// A comma belongs to the password only among options of a vendor (pass_country-us,de). In other lines the columns
// behind the comma must describe the proxy (host:port:user:pass,socks5,US).
//
// In the forms with spaces (words.go), the separator can also be a tab, a bar, a semicolon or a comma. Words that
// describe a proxy, such as a country or a level of anonymity, are not taken as user and password (description.go). A
// row with more than four columns has no user and no password. A mark before a line, such as "- " or "1. ", and
// quotes around a line are removed.
//
// A table begins with a line of column names (table.go), separated by commas, semicolons, tabs or vertical bars. If all
// of them are protocols, each cell is the address of a proxy. If one of them is url, columns that are named like
// options (Columns) have the options of the row's proxy. A JSON document is an array of strings, objects or rows of a
// table, or an object that contains such arrays (json.go). The fields of an object may be options, too
// (jsonoptions.go).
package proxylist

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// MaxLine is the maximum length of a line, in bytes.
const MaxLine = 64 << 10

// Warning is a message about a line that was skipped or is ambiguous. It contains no credentials.
type Warning struct {
	Line   int // number of the line; 0 for the whole list
	Msg    string
	Reason string // Msg without the values that it quotes; a list has few different reasons
}

// String returns the message with the number of its line.
func (w Warning) String() string {
	if w.Line == 0 {
		return w.Msg
	}
	return fmt.Sprintf("line %d: %s", w.Line, w.Msg)
}

// ReasonIDTaken is the reason of the warnings about proxies whose id another proxy has.
const ReasonIDTaken = "the id is already used by another proxy"

// MaxWarnings is the number of warnings that Parse returns in any case. Parse returns a later warning only if fewer
// than MaxLinesOfReason earlier warnings have the same reason.
const (
	MaxWarnings      = 1000
	MaxLinesOfReason = 5
)

// Options configure how a list is parsed.
type Options struct {
	Name    string          // becomes the Source of each proxy
	Scheme  string          // scheme of lines without a scheme; "" for http
	UsedIDs map[string]bool // ids in use, to which Parse adds the ids of the list; may be nil
	// HasIDTemplate reports that the caller sets an upstream.IDTemplate. The ids of JSON objects whose address is not
	// in the field "url" are then ignored.
	HasIDTemplate bool
	// Entries is the expected number of entries; 0 if it is unknown. If it is known, Parse needs less memory for a long
	// list.
	Entries int
	Counts  *EntryCounts // Parse counts the entries of the list in it; may be nil

	Original *Original // Parse adds the entries to it as they were read; may be nil
	Lines    *[]int    // Parse adds the line of each proxy to it; may be nil

	// ShareTexts is called with the address of each proxy. It may replace the texts of the address by equal texts that
	// are in memory already. It may be nil.
	ShareTexts func(*upstream.Address)
}

// Parse parses a list. A line that is not a proxy, or whose id is taken, is skipped with a warning. A long list may
// have more warnings than Parse returns (MaxWarnings); Counts has their number. The error is a read error of r.
func Parse(r io.Reader, o Options) (specs []upstream.Spec, warnings []Warning, err error) {
	if o.UsedIDs == nil {
		o.UsedIDs = map[string]bool{}
	}
	if o.Scheme == "" {
		o.Scheme = upstream.HTTP
	}
	if o.Counts == nil {
		o.Counts = &EntryCounts{}
	}
	l := listParser{Options: o, seed: maphash.MakeSeed(), lineByHash: map[uint64]int{}}
	in := bufio.NewReaderSize(r, 4096)
	if bom, _ := in.Peek(2); string(bom) == "\xff\xfe" || string(bom) == "\xfe\xff" {
		text, err := decodeUTF16(in)
		if err != nil {
			return nil, nil, err
		}
		in = bufio.NewReaderSize(strings.NewReader(text), 4096)
	}
	if isJSON(in) {
		err = l.parseJSON(in)
	} else {
		err = l.parseLines(in)
	}
	l.warnOfLines(l.describedLines, describedWarning)
	l.warnOfLines(l.textLines, "there is text beside the address; it is not used")
	l.warnOfLines(l.guessedLogins, guessedWarning)
	l.warnOfUnusedFields()
	return l.specs.all(), l.warnings, err
}

// listParser is the state of parsing a list, with the result so far.
type listParser struct {
	Options
	table      *tableHeader // nil without a header line
	seed       maphash.Seed
	lineByHash map[uint64]int // the line of each proxy, by the hash of its address
	specs      chunks
	warnings   []Warning

	entryText      string    // the text of the entry that is being read; "" if it cannot be read alone
	describedLines lineCount // lines with fields that are taken as a description of the proxy
	textLines      lineCount // lines with text beside the address
	guessedLogins  lineCount // lines whose words are taken as user and password
	unusedFields   fieldCount
}

// chunks holds proxies in slices of 1,024; the first slice may be longer. They need less memory than a slice
// that grows, because a Spec is large.
type chunks [][]upstream.Spec

const (
	chunkSize  = 1024
	maxEntries = 1 << 17 // upper limit of Options.Entries
)

// The method add appends a proxy. The parameter entries is Options.Entries.
func (c *chunks) add(s upstream.Spec, entries int) {
	last := len(*c) - 1
	switch {
	case last < 0: // if entries is 0, the first slice begins small and grows, because most lists are short
		*c = append(*c, make([]upstream.Spec, 0, min(entries, maxEntries)))
		last++
	case len((*c)[last]) == cap((*c)[last]) && cap((*c)[last]) >= chunkSize:
		*c = append(*c, make([]upstream.Spec, 0, chunkSize))
		last++
	}
	(*c)[last] = append((*c)[last], s)
}

// The method all returns the proxies in one slice. At most a quarter of the slice's capacity is unused.
func (c chunks) all() []upstream.Spec {
	if len(c) == 1 && len(c[0]) >= cap(c[0])/4*3 {
		return c[0]
	}
	return slices.Concat(c...)
}

// lineCount counts the lines of one kind, and holds the number of the first of them.
type lineCount struct{ first, n int }

func (c *lineCount) add(line int) {
	if c.n++; c.n == 1 {
		c.first = line
	}
}

func countLines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}

func (l *listParser) warnOfLines(lines lineCount, reason string) {
	if lines.n > 0 {
		l.warnFor(lines.first, fmt.Sprintf("on %s, this one the first, %s", countLines(lines.n), reason), reason)
	}
}

func (l *listParser) warn(n int, reason string) { l.warnFor(n, reason, reason) }

func (l *listParser) warnFor(n int, msg, reason string) {
	incrementCount(&l.Counts.Warnings, reason)
	if len(l.warnings) < MaxWarnings || l.Counts.Warnings[reason] <= MaxLinesOfReason {
		l.warnings = append(l.warnings, Warning{n, msg, reason})
	}
}

// normalizeText removes the characters without width (Unicode class Cf) that web pages put around addresses. It
// replaces no-break spaces by spaces, and the line separators of Unicode by CR. In a line without a colon, it replaces
// full-width digits and punctuation, such as U+FF1A, by ASCII characters.
func normalizeText(line string) string {
	isASCII := func(r rune) bool { return r < 0x80 }
	if strings.TrimFunc(line, isASCII) == "" {
		return line
	}
	hasColon := strings.Contains(line, ":")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\u00a0':
			return ' '
		case r == '\u0085' || r == '\u2028' || r == '\u2029':
			return '\r'
		case unicode.Is(unicode.Cf, r):
			return -1
		case !hasColon && r >= '\uff01' && r <= '\uff5e':
			return r - '\uff01' + '!'
		}
		return r
	}, line)
}

func (l *listParser) parseLines(in *bufio.Reader) error {
	for n := 1; ; n++ {
		line, tooLong, err := readLine(in)
		if tooLong {
			l.skip(n, fmt.Errorf("the line is longer than %d bytes", MaxLine))
		} else if strings.TrimRight(line, " \t\r\n") == clashKey {
			return l.parseClash(n, in)
		} else {
			// Old files have CR as line ends.
			for part := range strings.SplitSeq(strings.TrimSpace(normalizeText(line)), "\r") {
				if part = stripComment(part); part != "" {
					l.parseLine(n, part)
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// parseLine parses the line with number n, and adds its proxies to the result.
func (l *listParser) parseLine(n int, line string) {
	l.entryText = line
	if l.table == nil && l.specs == nil {
		if l.table = parseHeader(line); l.table != nil {
			if l.Original != nil {
				l.Original.header = line
			}
			l.warnOfColumns(n, line)
			return
		}
	}
	if l.table != nil && l.table.separator == '|' && markdownRule.MatchString(line) {
		return
	}
	if l.table != nil && l.table.protocols {
		l.addCells(n, line)
		return
	}
	if l.table != nil {
		spec, err := l.table.parseRow(line, l.Scheme)
		l.add(n, formTable, spec, "", err)
		return
	}
	if addresses := splitAddresses(line); addresses != nil {
		for _, l.entryText = range addresses {
			spec, _, err := parseAddress(l.entryText, l.Scheme)
			l.add(n, formOf(l.entryText, spec.Address), spec, "", err)
		}
		return
	}
	line = stripListMark(line)
	if strings.ContainsAny(line, " \t;|") {
		if m := textAfterPassword.FindStringSubmatch(line); m != nil && descriptionOf(m[2]) == certainDescription {
			line = m[1]
			l.textLines.add(n)
		}
	}
	line, scheme, cut := cutColumns(line, l.Scheme)
	if cut {
		l.textLines.add(n)
	}
	if m := changeLink.FindStringSubmatch(line); m != nil {
		line = m[1]
		l.textLines.add(n)
	}
	spec, warning, err := parseAddress(line, scheme)
	if err != nil {
		if m := textAfterLogin.FindStringSubmatch(line); m != nil && !strings.ContainsAny(m[2], "@") {
			if spec, warning, err = parseAddress(m[1], cmp.Or(schemeInText(m[2]), scheme)); err == nil {
				line = m[1]
				l.textLines.add(n)
			}
		}
	}
	if err == nil {
		l.add(n, formOf(line, spec.Address), spec, warning, nil)
		return
	}
	var misspelt upstream.TemplateError
	if errors.As(err, &misspelt) {
		l.skip(n, err)
		return
	}
	if words, loginGuessed, ok := parseWords(line, scheme); ok {
		form := formWords
		if words.Address.Username != "" {
			form = formLogin
		}
		err := checkTemplates(&words.Address)
		if loginGuessed && err == nil {
			l.guessedLogins.add(n)
		}
		l.add(n, form, words, "", err)
		return
	}
	if l.parseClashLine(n, line) {
		return
	}
	if text, ok := parseText(line, scheme); ok {
		l.textLines.add(n)
		l.add(n, formText, text, "", nil)
		if isSentence(line) {
			l.Counts.Sentences++
		}
		return
	}
	l.skip(n, err)
}

// addCells adds the proxies of a row of a table with protocols.
func (l *listParser) addCells(n int, line string) {
	for i, cell := range splitCells(line, l.table.separator) {
		if cell == "" || i >= len(l.table.columns) {
			continue
		}
		l.entryText = "" // a cell alone does not have its protocol
		spec, warning, err := parseAddress(cell, l.table.protocolOf(i))
		l.add(n, formTable, spec, warning, err)
	}
}

// warnOfColumns adds a warning for each column of the header line that is probably a misspelt option.
func (l *listParser) warnOfColumns(n int, header string) {
	for i, name := range splitCells(header, l.table.separator) {
		if l.table.options == nil || l.table.options[i] != "" || l.table.columns[i] != fieldUnused {
			continue
		}
		if option := similarOption(name); option != "" {
			l.warn(n, fmt.Sprintf("the column %.40q is not used; did you mean %s?", name, option))
		}
	}
}

// changeLink matches an address with the link that changes its exit address, as vendors of mobile proxies write it:
// host:port:user:pass[https://vendor/change?key=KEY]. A link without a path or with a login would be a second proxy.
var changeLink = regexp.MustCompile(`^((?:\w+://)?[^\s/\[|]+)` +
	`(?:\[https?://[^\s/?@\]]+(?:[/?][^\s\]]*)?\]|[|: \t]https?://[^\s/?@]+[/?]\S+)$`)

// textAfterPassword matches host:port:user:pass before other text.
var textAfterPassword = regexp.MustCompile(`^([^\s/@]+:\d+:[^\s:/]+:[^\s;|]+)(?:[ \t]+|[ \t]*[;|])(.+)$`)

// textAfterLogin matches user:pass@host:port, with or without a scheme, before other text.
var textAfterLogin = regexp.MustCompile(`^(\S+@[^\s@|;,/]+:\d+)/?(?:[ \t]+|[ \t]*[|;,])(.*)$`)

func (l *listParser) skip(n int, err error) { l.skipFor(n, err.Error(), reasonOf(err)) }

func (l *listParser) skipFor(n int, msg, reason string) {
	l.warnFor(n, msg, reason)
	incrementCount(&l.Counts.Skipped, reason)
}

// schemeError is the error of a scheme or protocol that is not supported.
type schemeError struct{ name, kind string }

func (e *schemeError) Error() string {
	return fmt.Sprintf("the %s %.20q is not supported; %s", e.kind, e.name, useSchemes)
}

const useSchemes = "use " + upstream.ProxySchemes

// reasonOf returns the text of err without the values that it quotes.
func reasonOf(err error) string {
	var scheme *schemeError
	var spec *upstream.SpecError
	switch {
	case errors.As(err, &scheme):
		return "the " + scheme.kind + " is not supported; " + useSchemes
	case errors.As(err, &spec):
		field, _, _ := strings.Cut(spec.Field, "[")
		return field + " is not valid"
	}
	return err.Error()
}

// The method add adds the proxy of line n to the result. If err is not nil, or the proxy cannot be added, it skips the
// line with a warning.
func (l *listParser) add(n int, form string, spec upstream.Spec, warning string, err error) {
	if err == nil {
		err = checkCredentials(&spec.Address)
	}
	if err == nil {
		err = upstream.CheckSpec(&spec)
	}
	if err == nil && isBadIPv4(spec.Address.Host) {
		err = errIPv4
	}
	// In a list of 100,000 addresses, the probability that any two have the same hash is one in four billion.
	hash := maphash.Comparable(l.seed, spec.Address)
	first, duplicate := l.lineByHash[hash]
	switch {
	case err != nil:
		l.skip(n, err)
	case duplicate:
		l.skipFor(n, fmt.Sprintf("the same proxy as on line %d", first), "the same proxy as on another line")
	case spec.ID != "" && l.UsedIDs[spec.ID]:
		l.skipFor(n, fmt.Sprintf("the id %q is already used by another proxy", spec.ID), ReasonIDTaken)
	default:
		switch warning {
		case "":
		case describedWarning:
			l.describedLines.add(n)
		case guessedWarning:
			l.guessedLogins.add(n)
		default:
			l.warn(n, warning)
		}
		l.lineByHash[hash] = n
		if spec.ID != "" {
			l.UsedIDs[spec.ID] = true
		}
		incrementCount(&l.Counts.Forms, form)
		spec.Source = l.Name
		if spec.Extras != nil {
			for _, warning := range MetadataWarnings(spec.Extras.Metadata) {
				l.warnFor(n, warning, misspeltReason)
			}
		}
		if l.ShareTexts != nil {
			l.ShareTexts(&spec.Address)
		}
		l.specs.add(spec, l.Entries)
		l.Original.add(l.entryText)
		if l.Lines != nil {
			*l.Lines = append(*l.Lines, n)
		}
	}
}

// decodeUTF16 decodes a list that begins with the byte order mark of UTF-16.
func decodeUTF16(in io.Reader) (string, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return "", err
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if b[0] == 0xfe {
		order = binary.BigEndian
	}
	units := make([]uint16, 0, len(b)/2-1)
	for b = b[2:]; len(b) >= 2; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return string(utf16.Decode(units)), nil
}

// readLine returns the next line. In place of a line longer than MaxLine, it returns an empty line.
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

// stripComment returns line without its comment, and without white space at the beginning and the end.
func stripComment(line string) string {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") || strings.HasPrefix(line, "//") {
		return ""
	}
	row := strings.IndexAny(line, ",;|\"\t") // a row of columns may have "//" in any of them
	for i := 1; i < len(line); i++ {
		if line[i-1] != ' ' && line[i-1] != '\t' {
			continue
		}
		if line[i] == '#' || line[i] == ';' || (row < 0 || i < row) && isSlashComment(line, i) {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// isSlashComment reports whether a comment begins with a "//" at line[i:]. After one word, every "//" begins a comment.
// After several words, such as host, port and user, a word that begins with "//" may be the password, so "//" begins a
// comment only at the end of the line or before a space.
func isSlashComment(line string, i int) bool {
	rest, found := strings.CutPrefix(line[i:], "//")
	return found && (rest == "" || rest[0] == ' ' || strings.TrimSpace(line[strings.IndexByte(line, ' '):i]) == "")
}
