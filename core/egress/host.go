package egress

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// host is the host of a target: a name or an address.
type host struct {
	name  string        // in lower case without a trailing dot; for an address, its usual text
	addrs [2]netip.Addr // the address, and the IPv4 address embedded in it; the zero Addr if there is no such address
}

// parseHost parses the host of a target, without brackets. Unusual spellings of IPv4 addresses, which inet_aton(3) and
// many resolvers accept, become addresses. Characters beyond ASCII are converted as a proxy may convert them (UTS #46):
// full-width letters and digits to ASCII, an international name to its form with xn--.
func parseHost(s string) host {
	if !isASCII(s) {
		if mapped, err := idna.Lookup.ToASCII(s); err == nil {
			s = mapped
		}
	}
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if !mayBeAddress(s) { // avoids ParseAddr, which allocates an error
		return host{name: s}
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var ok bool
		if addr, ok = parseLooseIPv4(s); !ok {
			return host{name: s}
		}
	}
	h := hostOf(addr)
	h.name = h.addrs[0].String()
	return h
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// hostOf returns a host with the given address and without a name.
func hostOf(addr netip.Addr) host {
	addr = addr.WithZone("").Unmap()
	return host{addrs: [2]netip.Addr{addr, embeddedIPv4(addr)}}
}

// mayBeAddress reports whether s can be an address. The last label of a domain name is not a number
// (RFC 3696 section 2).
func mayBeAddress(s string) bool {
	if strings.IndexByte(s, ':') >= 0 {
		return true
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	return last != "" && last[0] >= '0' && last[0] <= '9'
}

// isIn reports whether one of the addresses of h is in the network p.
func (h *host) isIn(p netip.Prefix) bool {
	return p.Contains(h.addrs[0]) || h.addrs[1].IsValid() && p.Contains(h.addrs[1])
}

// parseLooseIPv4 parses an IPv4 address in the notation of inet_aton(3): one to four numbers, each decimal, octal
// (0...) or hexadecimal (0x...). The last number fills the remaining bytes.
func parseLooseIPv4(s string) (netip.Addr, bool) {
	value, parts := uint64(0), 0
	for rest, more := s, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ".")
		if parts++; parts > 4 {
			return netip.Addr{}, false
		}
		n, ok := parseLooseNumber(part)
		switch {
		case !ok:
			return netip.Addr{}, false
		case more && n > 255:
			return netip.Addr{}, false
		case more:
			value |= n << (8 * (4 - parts))
		default:
			if n >= 1<<(8*(5-parts)) {
				return netip.Addr{}, false
			}
			value |= n
		}
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

func parseLooseNumber(s string) (uint64, bool) {
	base := 10
	switch {
	case len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X'):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	if s == "" || s[0] == '+' || s[0] == '-' || strings.IndexByte(s, '_') >= 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 33)
	return n, err == nil
}

// embeddedIPv4 returns the IPv4 address to which a translator or a tunnel forwards connections to the IPv6 address a:
// NAT64 (RFC 6052), 6to4 (RFC 3056), stateless translation (RFC 2765) and IPv4-compatible addresses (RFC 4291 section
// 2.5.5.1). For any other address, the result is invalid.
func embeddedIPv4(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return netip.Addr{}
	}
	b := a.As16()
	for _, e := range embeddingNetworks {
		if e.prefix.Contains(a) {
			return netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
		}
	}
	return netip.Addr{}
}

// embeddingNetworks are the networks whose addresses embed an IPv4 address. The number after a network is the index of
// the IPv4 address's first byte.
var embeddingNetworks = [...]struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12},
	{netip.MustParsePrefix("::/96"), 12},
}
