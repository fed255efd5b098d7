package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// rule is one rule of a List. A field with its zero value restricts nothing.
type rule struct {
	text   string       // the rule as it was written
	prefix netip.Prefix // network of IPv4 or IPv6 addresses; invalid if the rule has no network and no address
	glob   string       // pattern of a name, in lower case; "" if the rule has no name
	first  uint16       // the ports from first to last; 0 and 0 for all ports
	last   uint16
}

// parseRule parses a rule:
//
//	example.com            a name
//	*.example.com          a pattern; * stands for any characters, dots included
//	10.0.0.0/8, 192.0.2.1  a network (RFC 4632, RFC 4291 section 2.3), or an address
//	:25, :8000-8999        ports of every host
//	*.example.com:443, 10.0.0.0/8:80, [2001:db8::/32]:443
func parseRule(text string) (rule, error) {
	r := rule{text: text}
	host, ports, err := splitPorts(strings.ToLower(text))
	if err != nil {
		return r, err
	}
	if ports != "" {
		if r.first, r.last, err = parsePorts(ports); err != nil {
			return r, err
		}
	}
	switch {
	case host == "" && ports == "":
		return r, errors.New("a rule is empty")
	case host == "":
		return r, nil
	case strings.ContainsAny(host, "/:"):
		r.prefix, err = parsePrefix(host)
		return r, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		r.prefix = netip.PrefixFrom(addr, addr.BitLen())
		return r, nil
	}
	r.glob, err = parseGlob(host)
	return r, err
}

// splitPorts splits a rule into host and ports.
func splitPorts(text string) (host, ports string, err error) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		host, after, closed := strings.Cut(rest, "]")
		if !closed {
			return "", "", errors.New("a bracket is not closed")
		}
		if !strings.Contains(host, ":") {
			return "", "", errors.New("brackets are for IPv6 addresses only")
		}
		if after == "" {
			return host, "", nil
		}
		if ports, ok = strings.CutPrefix(after, ":"); !ok || ports == "" {
			return "", "", errors.New("after the bracket must come a colon and ports")
		}
		return host, ports, nil
	}
	if strings.Count(text, ":") != 1 { // a name, or an IPv6 address without ports
		return text, "", nil
	}
	host, ports, _ = strings.Cut(text, ":")
	if ports == "" {
		return "", "", errors.New("the port is missing after the colon")
	}
	return host, ports, nil
}

// parsePorts parses "443" or "8000-8999".
func parsePorts(s string) (first, last uint16, err error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || a > b {
		return 0, 0, fmt.Errorf("%q is neither a port from 1 to 65535 nor a range such as 8000-8999", s)
	}
	return uint16(a), uint16(b), nil
}

// parsePrefix parses a network, or an IPv6 address. A network of IPv4-mapped addresses becomes one of IPv4 addresses.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an IPv6 address without a zone", s)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or 2001:db8::/32", s)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q has bits after its prefix; did you mean %s?", s, p.Masked())
	}
	return p, nil
}

// maxName is the maximum length of a domain name in its text form (RFC 1035 section 3.1).
const maxName = 253

func parseGlob(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	switch {
	case s == "" || len(s) > maxName:
		return "", fmt.Errorf("a name has 1 to %d characters", maxName)
	case strings.ContainsFunc(s, isInvalidNameRune):
		return "", fmt.Errorf("%q is not a valid name: only letters, digits, '-', '_', '.' and '*' are allowed "+
			"(write an international name in its form xn--)", s)
	}
	if s[0] == '.' || strings.Contains(s, "..") || s[len(s)-1] == '.' {
		return "", fmt.Errorf("%q has an empty part between dots "+
			"(*.example.com stands for the names below example.com)", s)
	}
	if addr, ok := parseLooseIPv4(s); ok {
		return "", fmt.Errorf("%q is an unusual spelling of the address %s: write that", s, addr)
	}
	return s, nil
}

func isInvalidNameRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.*", r))
}

func (r *rule) hasPort(port uint16) bool { return r.last == 0 || port >= r.first && port <= r.last }

func (r *rule) matches(h *host, port uint16) bool {
	switch {
	case !r.hasPort(port):
		return false
	case r.glob != "":
		return GlobMatches(r.glob, h.name)
	case r.prefix.IsValid():
		return h.isIn(r.prefix)
	}
	return true
}

// GlobMatches reports whether name matches the pattern, in which * stands for any number of characters. It takes at
// most time in proportion to the product of both lengths.
func GlobMatches[T string | []byte](pattern string, name T) bool {
	p, n := 0, 0
	star, resume := -1, 0 // the index of the last * before p, and the index in name at which the match of this * ends
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
