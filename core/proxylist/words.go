package proxylist

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// splitWords splits a line at tabs or, if it has none, at bars, semicolons, commas or white space. A line of
// proxychains may have both tabs and spaces.
func splitWords(line string) (words []string, separator rune) {
	if fields := proxychainsFields(line); fields != nil {
		return fields, ' '
	}
	for _, separator := range "\t|;," {
		if strings.ContainsRune(line, separator) {
			return splitCells(line, separator), separator
		}
	}
	return strings.Fields(strings.ReplaceAll(line, " : ", " ")), ' '
}

// proxychainsFields returns the fields of a line of proxychains that has tabs: scheme, host, port and perhaps user and
// password, with tabs or spaces between them. For any other line it returns nil.
func proxychainsFields(line string) []string {
	if !strings.ContainsRune(line, '\t') {
		return nil
	}
	f := strings.Fields(line)
	if n := len(f); (n != 3 && n != 5) || !isScheme(f[0]) || !isPort(f[2]) {
		return nil
	}
	if len(f) == 5 && properName.MatchString(f[3]) && properName.MatchString(f[4]) {
		return nil // no fields of proxychains: a cell such as New York
	}
	if cells := splitCells(line, '\t'); len(cells) == 4 && strings.Contains(cells[3], " ") {
		return nil // no fields of proxychains: a cell such as "120 ms"
	}
	return f
}

// splitCells splits a line at a separator, and removes the space around each cell. A cell may be in double quotes.
func splitCells(line string, separator rune) (cells []string) {
	if strings.Contains(line, `"`) {
		cells, _ = splitRow(line, separator)
	}
	if cells == nil {
		cells = strings.Split(line, string(separator))
	}
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	if separator == '|' && len(cells) > 2 { // a row of a table in Markdown begins and ends with a bar
		if cells[0] == "" {
			cells = cells[1:]
		}
		if last := len(cells) - 1; cells[last] == "" {
			cells = cells[:last]
		}
		for i, cell := range cells {
			cells[i] = markdownMark.ReplaceAllString(cell, "$1$2")
		}
	}
	return cells
}

// markdownMark matches a cell in the marks of Markdown for code or bold text.
var markdownMark = regexp.MustCompile("^(?:`([^`]+)`|\\*\\*([^*]+)\\*\\*)$")

// markdownRule matches the line between the header and the rows of a table in Markdown.
var markdownRule = regexp.MustCompile(`^\|?(?:[ \t]*:?-+:?[ \t]*\|)+(?:[ \t]*:?-+:?[ \t]*)?$`)

// parseWords parses a line with a separator between its fields:
//
//	host:port user pass     host:port user:pass     host port user pass     user,pass,host,port
//
// It also parses a line with only a scheme and an address. The scheme may be the first or the last field. A line
// without a scheme gets the given scheme. A line has at most four fields, or five if one of them is the scheme and the
// separator is a space or a tab. The host is an IP address or has a dot. If the line has user and password, spaces as
// separators, and no scheme, loginGuessed is true: the last two fields may then be other text. loginGuessed is also
// true if both fields are proper names, such as Berlin.
func parseWords(line, scheme string) (spec upstream.Spec, loginGuessed, ok bool) {
	f, separator := splitWords(line)
	if !isText(line) || len(f) == 0 || len(f) > 4 && separator != ' ' && separator != '\t' || len(f) > 5 {
		return spec, false, false // a row of columns
	}
	hasScheme := true
	switch last := len(f) - 1; {
	case last > 0 && isScheme(f[0]):
		scheme, f = strings.ToLower(f[0]), f[1:]
	case last > 0 && isScheme(f[last]):
		scheme, f = parseProtocols(f[last])[0], f[:last]
	default:
		hasScheme = false
		if before, after, found := strings.Cut(f[0], "://"); found && isScheme(before) {
			scheme, f[0], hasScheme = strings.ToLower(before), after, true
		}
	}
	if len(f) == 5 {
		return spec, false, false
	}
	login := []string{}
	host := ""
	switch {
	case len(f) == 1, len(f) == 2 && isPort(f[1]):
		if host = strings.Join(f, ":"); !hasScheme {
			return spec, false, false // host:port or a row of columns
		}
	case len(f) == 2:
		if separator != ' ' && isPlainAddress(f[1]) && !isPlainAddress(f[0]) { // user:pass|host:port
			f[0], f[1] = f[1], f[0]
		}
		user, password, found := strings.Cut(f[1], ":")
		if host = f[0]; found && isLogin(f[1], f[1]) && !isLink(f[1]) {
			login = []string{user, password}
		}
	case len(f) == 3:
		host, login = f[0], f[1:]
	case isPort(f[1]):
		host, login = joinPort(f[0], f[1]), f[2:]
	case separator != ' ' && isIPv4(f[2]):
		host, login = f[2]+":"+f[3], f[:2]
	}
	if len(login) == 0 && len(f) > 1 && !isPort(f[1]) || !isPlainAddress(host) ||
		len(login) > 0 && (!isLogin(login[0], login[1]) || isLink(login[0])) {
		return spec, false, false
	}
	spec.Address = upstream.Address{Scheme: scheme}
	spec.Address.Host, _ = upstream.HostPort(host, "")
	if len(login) > 0 {
		spec.Address.Username, spec.Address.Password = login[0], upstream.Secret(login[1])
	}
	guessed := separator == ' ' && !hasScheme
	if len(login) > 0 && properName.MatchString(login[0]) && properName.MatchString(login[1]) {
		guessed = true // such as Berlin,Hetzner
	}
	return spec, guessed && len(login) > 0, true
}

// isLink reports whether a word is a link to a page, an application or a proxy.
func isLink(word string) bool {
	scheme, _, found := strings.Cut(strings.ToLower(word), "://")
	return found && (isScheme(scheme) || slices.Contains([]string{"socks", "tg", "ftp", "ws", "wss"}, scheme))
}

// splitAddresses returns the addresses in a line that consists only of addresses, at least two, such as "1.2.3.4:80,
// 1.2.3.5:80" or a list in the notation of Python. It ignores tags of HTML, such as <br>. For any other line it returns
// nil. Each address is an IPv4 address with a port, with or without a scheme, or each is a URL with a login.
func splitAddresses(line string) []string {
	if strings.Count(line, ":") < 2 || strings.ContainsRune(line, '@') && strings.Count(line, "://") < 2 {
		return nil
	}
	addresses := strings.FieldsFunc(withoutTags(line),
		func(r rune) bool { return strings.ContainsRune(" \t,;|[]'\"", r) })
	for _, address := range addresses {
		if scheme, rest, ok := strings.Cut(address, "://"); ok && isScheme(scheme) {
			address = strings.TrimSuffix(rest[strings.LastIndexByte(rest, '@')+1:], "/")
		}
		if host, _, ok := strings.Cut(address, ":"); !ok || !isIPv4(host) || !isHostPort(address) {
			return nil
		}
	}
	if len(addresses) < 2 {
		return nil
	}
	return addresses
}

// joinPort returns host:port, with the brackets of an IPv6 address.
func joinPort(host, port string) string {
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

func isIPv4(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is4()
}

// isPlainAddress reports whether s is host:port, and the host is an IP address or has a dot.
func isPlainAddress(s string) bool {
	host, err := upstream.HostPort(s, "")
	return err == nil && !isBadIPv4(host) && (strings.ContainsAny(host, ".[") || strings.HasPrefix(host, "localhost:"))
}

// listMark matches the characters before an item of a list, such as "- " and "12. ".
var listMark = regexp.MustCompile(`^(?:[-*•–+]|\d{1,6}[.)])[ \t]+`)

// assignment matches the text before the URL in the setting of a shell, such as "export http_proxy=".
var assignment = regexp.MustCompile(`(?i)^(?:export[ \t]+|set[ \t]+|\$env:)?[a-z_]*proxy[ \t]*=[ \t]*`)

// stripListMark removes the mark before an item of a list, the name of a setting before it, quotes around the item, and
// a comma after the quotes.
func stripListMark(line string) string {
	line = line[len(listMark.FindString(line)):]
	line = line[len(assignment.FindString(line)):]
	if len(line) > 2 && strings.IndexByte("\"'`", line[0]) >= 0 {
		end := strings.IndexByte(line[1:], line[0]) + 1
		if rest := line[end+1:]; end > 1 && (rest == "" || rest == ",") {
			return line[1:end]
		}
	}
	return line
}

// parseTelegram parses the query of a Telegram link to a SOCKS5 proxy.
func parseTelegram(arguments string) (spec upstream.Spec, err error) {
	q, err := url.ParseQuery(arguments)
	if err != nil {
		return spec, errForm
	}
	if err := upstream.CheckTemplates(arguments); err != nil {
		return spec, err
	}
	spec.Address = upstream.Address{Scheme: upstream.SOCKS5, Username: q.Get("user"),
		Password: upstream.Secret(q.Get("pass"))}
	spec.Address.Host, err = upstream.HostPort(joinPort(q.Get("server"), q.Get("port")), "")
	return spec, err
}
