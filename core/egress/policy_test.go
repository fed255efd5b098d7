package egress

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func policy(t testing.TB, c Config) *Policy {
	t.Helper()
	p, err := New(c)
	require.NoError(t, err)
	return p
}

// requireDenied requires that err is a Denied with the given rule, or nil if the rule is "".
func requireDenied(t *testing.T, want string, err error, about string) {
	t.Helper()
	if want == "" {
		require.NoError(t, err, about)
		return
	}
	var d *DeniedError
	require.ErrorAs(t, err, &d, about)
	require.Contains(t, d.Rule, want, about)
}

func TestCheck(t *testing.T) {
	whitelist := Config{Allow: []string{"*.ok.test", "192.0.2.0/24:25"}, Deny: []string{"bad.ok.test", "192.0.2.9"},
		Default: DefaultDeny}
	for _, c := range []struct {
		config Config
		name   string
		port   uint16
		want   string
	}{
		{Config{}, "a.test", 80, ""},
		{Config{}, "127.0.0.1", 80, ""}, // denied only by CheckAddr
		{Config{}, "a.test", 25, "port 25"},
		{Config{Deny: []string{"b.test"}}, "a.test", 25, "port 25"},
		{Config{Allow: []string{"mail.test:25"}}, "mail.test", 25, ""},
		{Config{Allow: []string{"mail.test:25"}}, "a.test", 25, "port 25"},
		{Config{Allow: []string{"a.test"}}, "b.test", 80, ""}, // without default = "deny" it only permits exceptions
		{whitelist, "a.ok.test", 80, ""},
		{whitelist, "bad.ok.test", 80, `egress.deny "bad.ok.test"`},
		{whitelist, "other.test", 80, "egress.default"},
		{whitelist, "192.0.2.1", 25, ""},
		{whitelist, "192.0.2.9", 25, `egress.deny "192.0.2.9"`},
		{whitelist, "0xc0.0.2.9", 25, `egress.deny "192.0.2.9"`},
		{whitelist, "\uff11\uff19\uff12.0.2.9", 25, `egress.deny "192.0.2.9"`}, // full-width digits
		{whitelist, "192\u30020\u30022\u30029", 25, `egress.deny "192.0.2.9"`}, // ideographic full stops
		{whitelist, "bad.\uff4fk.test", 80, `egress.deny "bad.ok.test"`},
		{whitelist, "b\u00adad.ok.test", 80, `egress.deny "bad.ok.test"`}, // a soft hyphen
		{Config{Deny: []string{"xn--bcher-kva.example"}}, "b\u00fccher.example", 80, "xn--bcher-kva.example"},
	} {
		requireDenied(t, c.want, policy(t, c.config).Check(c.name, c.port), c.name)
	}
	var none *Policy
	requireDenied(t, "port 25", none.Check("a.test", 25), "nil")
	requireDenied(t, "", none.Check("a.test", 80), "nil")
}

func TestCheckAddr(t *testing.T) {
	local := Config{Allow: []string{"10.0.0.0/8", "127.0.0.0/8:80", "*", "localhost"},
		Deny: []string{"10.9.0.0/16", "8.8.8.8"}}
	for _, c := range []struct {
		config Config
		to     string
		want   string
	}{
		{Config{}, "93.184.216.34:80", ""},
		{Config{}, "[2606:4700::1]:80", ""},
		{Config{}, "127.0.0.1:80", "loopback"},
		{Config{Allow: []string{"*", "localhost", ":80"}}, "127.0.0.1:80", "loopback"}, // a name permits no address
		{local, "127.0.0.1:80", ""},
		{local, "[::ffff:127.0.0.1]:80", ""},
		{local, "127.0.0.1:81", "loopback"},
		{local, "10.1.2.3:5432", ""},
		{local, "[64:ff9b::10.1.2.3]:80", ""},
		{local, "10.9.2.3:80", `egress.deny "10.9.0.0/16"`},
		{local, "[2002:0a09:203::1]:80", `egress.deny "10.9.0.0/16"`},
		{local, "8.8.8.8:53", `egress.deny "8.8.8.8"`},
	} {
		requireDenied(t, c.want, policy(t, c.config).CheckAddr(netip.MustParseAddrPort(c.to)), c.to)
	}
	var none *Policy
	requireDenied(t, "loopback", none.CheckAddr(netip.MustParseAddrPort("127.0.0.1:80")), "nil")
}

// Special addresses are recognized in all notations with which a kernel or a translator reaches them.
func TestSpecial(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1": "loopback", "127.255.1.2": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback",
		"64:ff9b::7f00:1": "loopback", "2002:7f00:1::": "loopback", "::ffff:0:127.0.0.1": "reserved",
		"::127.0.0.1": "reserved", "10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private",
		"172.32.0.1": "", "192.168.1.1": "private", "fd00:ec2::254": "private", "fec0::1": "private",
		"100.100.100.200": "private", "169.254.169.254": "metadata", "64:ff9b::a9fe:a9fe": "metadata",
		"2002:a9fe:a9fe::1": "metadata", "168.63.129.16": "metadata", "fe80::1%eth0": "metadata",
		"0.0.0.0": "unspecified", "::": "unspecified", "0.1.2.3": "unspecified", "192.0.0.192": "reserved",
		"198.18.0.1":      "reserved",
		"255.255.255.255": "reserved", "224.0.0.1": "multicast", "ff02::1": "multicast", "2001:0:1::1": "reserved",
		"2001:db8::1": "reserved", "64:ff9b:1::8.8.8.8": "reserved", "100::1": "reserved", "4000::1": "reserved",
		"8.8.8.8": "", "64:ff9b::8.8.8.8": "", "2002:808:808::1": "", "2606:4700:4700::1111": "", "2001:4860::1": "",
		"2a00:1450::1": "", "1.1.1.1": "", "11.0.0.1": "", "126.255.255.255": "", "128.0.0.1": "",
	} {
		got := SpecialKind(netip.MustParseAddr(addr))
		if want == "" {
			require.Empty(t, got, addr)
		} else {
			require.Contains(t, got, want, addr)
		}
	}
}

// FuzzSpecial: an address that package net classifies as private, loopback, link-local or multicast is never
// ordinary, and neither is an address that embeds one.
func FuzzSpecial(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{10, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		ip := net.IP(b)
		inner := ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified() || !ip.IsGlobalUnicast()
		require.False(t, inner && SpecialKind(addr) == "", "%s", addr)
		if addr.Is4() && SpecialKind(addr) != "" {
			v4 := addr.As4()
			mapped := netip.AddrFrom16(addr.As16())
			nat := netip.MustParseAddr("64:ff9b::").As16()
			copy(nat[12:], v4[:])
			sixToFour := [16]byte{0x20, 0x02}
			copy(sixToFour[2:], v4[:])
			for _, a := range []netip.Addr{mapped, netip.AddrFrom16(nat), netip.AddrFrom16(sixToFour)} {
				require.NotEmpty(t, SpecialKind(a), "%s", a)
			}
		}
	})
}

func TestFaultyConfigs(t *testing.T) {
	for key, c := range map[string]Config{
		"allow[1]": {Allow: []string{"a", ""}}, "deny[0]": {Deny: []string{"10.0.0.1/8"}}, "default": {Default: "Deny"},
	} {
		_, err := New(c)
		var e *ConfigError
		require.ErrorAs(t, err, &e)
		require.Equal(t, key, e.Key)
	}
}

func TestCheckWithoutRulesDoesNotAllocate(t *testing.T) {
	p := policy(t, Config{})
	require.Zero(t, testing.AllocsPerRun(100, func() { p.Check("127.0.0.1", 80) }))
}
