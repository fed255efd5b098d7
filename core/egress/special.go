package egress

import "net/netip"

// SpecialKind returns the kind of an address that no target on the internet has, such as "loopback address". For an
// ordinary address, it returns "". The special networks are those in the IANA registries of special-purpose addresses
// (RFC 6890) that are not globally reachable. All IPv6 addresses outside of 2000::/3 are special, too. An address that
// embeds an IPv4 address (NAT64, 6to4) is special if this IPv4 address is special.
func SpecialKind(a netip.Addr) string {
	h := hostOf(a)
	if kind := specialNetworkKind(h.addrs[0]); kind != "" && !nat64.Contains(h.addrs[0]) {
		return kind
	}
	if h.addrs[1].IsValid() {
		return specialNetworkKind(h.addrs[1])
	}
	return ""
}

func specialNetworkKind(a netip.Addr) string {
	for i := range specialNetworks {
		if specialNetworks[i].prefix.Contains(a) {
			return specialNetworks[i].kind
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) {
		return "reserved address"
	}
	return ""
}

var (
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	globalUnicast = netip.MustParsePrefix("2000::/3")     // RFC 4291 section 2.4
)

// specialNetworks are searched in this order.
var specialNetworks = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback address"},
	{netip.MustParsePrefix("::1/128"), "loopback address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private address"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private address"},
	{netip.MustParsePrefix("fc00::/7"), "private address"},
	{netip.MustParsePrefix("fec0::/10"), "private address"},     // site-local, deprecated by RFC 3879
	{netip.MustParsePrefix("100.64.0.0/10"), "private address"}, // carrier-grade NAT (RFC 6598)
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local or metadata address"},
	{netip.MustParsePrefix("fe80::/10"), "link-local or metadata address"},
	{netip.MustParsePrefix("168.63.129.16/32"), "link-local or metadata address"}, // Azure
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified address"},
	{netip.MustParsePrefix("::/128"), "unspecified address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved address"},
	{netip.MustParsePrefix("192.0.2.0/24"), "reserved address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "reserved address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "reserved address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "reserved address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "reserved address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved address"},
	{netip.MustParsePrefix("ff00::/8"), "multicast address"},
	{netip.MustParsePrefix("2001::/23"), "reserved address"}, // protocol assignments, Teredo among them
	{netip.MustParsePrefix("2001:db8::/32"), "reserved address"},
	{netip.MustParsePrefix("3fff::/20"), "reserved address"},
}
