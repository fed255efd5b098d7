package egress

import (
	"net/netip"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func list(t testing.TB, rules ...string) List {
	t.Helper()
	l, err := ParseList(rules)
	require.NoError(t, err)
	return l
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		rule string
		yes  []string // hosts that match at port 443
		no   []string
	}{
		{"example.com", []string{"example.com", "EXAMPLE.com", "example.com."}, []string{"a.example.com"}},
		{"Example.COM.", []string{"example.com"}, nil},
		{"*.example.com", []string{"a.example.com", "a.b.example.com."}, []string{"example.com", "badexample.com"}},
		{"*", []string{"a", "10.0.0.1", "::1"}, nil},
		{"api-*.*.test", []string{"api-1.eu.test", "api-.x.y.test"}, []string{"api.eu.test", "api-1.test"}},
		{"example.com:443", []string{"example.com"}, nil},
		{"example.com:80", nil, []string{"example.com"}},
		{":443", []string{"a", "10.0.0.1"}, nil},
		{":400-500", []string{"a"}, nil},
		{":444-500", nil, []string{"a"}},
		{"10.0.0.0/8", []string{"10.1.2.3", "10.1.2.3.", "::ffff:10.1.2.3", "167838211", "0xa.1.2.3", "012.66051",
			"10.66051", "10.1.0x203", "64:ff9b::10.1.2.3", "2002:0a01:0203::1", "::ffff:0:10.1.2.3"},
			[]string{"11.1.2.3", "10.example.com", "a", "::1", "256.1.2.3", "10.1.2.3.4", "0xa.1.2.65536"}},
		{"::ffff:10.0.0.0/104", []string{"10.1.2.3"}, []string{"11.1.2.3"}},
		{"192.0.2.1", []string{"192.0.2.1", "3221225985", "0300.0.02.01"}, []string{"192.0.2.2"}},
		{"10.0.0.0/8:443", []string{"10.1.2.3"}, nil},
		{"10.0.0.0/8:80", nil, []string{"10.1.2.3"}},
		{"2001:db8::/32", []string{"2001:db8::1", "2001:DB8:0:0::1", "2001:db8::1%eth0"}, []string{"2001:db9::1"}},
		{"[2001:db8::/32]:443", []string{"2001:db8::1"}, nil},
		{"[::1]", []string{"::1"}, []string{"::2"}},
		{"::1", []string{"::1", "0:0:0:0:0:0:0:1"}, []string{"127.0.0.1"}},
	} {
		l := list(t, "other.test", c.rule)
		for _, h := range c.yes {
			rule, ok := l.Match(h, 443)
			require.True(t, ok, "%s: %s", c.rule, h)
			require.Equal(t, c.rule, rule)
		}
		for _, h := range c.no {
			_, ok := l.Match(h, 443)
			require.False(t, ok, "%s: %s", c.rule, h)
		}
	}
}

func TestMatchAddr(t *testing.T) {
	l := list(t, "*", ":443", "10.0.0.0/8:80-81", "::1")
	for to, want := range map[string]string{
		"10.1.2.3:80": "10.0.0.0/8:80-81", "[::ffff:10.1.2.3]:81": "10.0.0.0/8:80-81", "10.1.2.3:443": "",
		"[::1]:443": "::1", "192.0.2.1:443": "", "[64:ff9b::a01:203]:80": "10.0.0.0/8:80-81",
	} {
		a := netip.MustParseAddrPort(to)
		rule, ok := l.MatchAddr(a.Addr(), a.Port())
		require.Equal(t, want, rule, to)
		require.Equal(t, want != "", ok, to)
	}
}

func TestFaultyRules(t *testing.T) {
	for rule, says := range map[string]string{
		"": "empty", ":": "port is missing", "a:": "port is missing", ":0": "port", ":65536": "port", ":9-8": "port",
		"a:b": "port", ":+80": "port", "10.0.0.1/8": "did you mean 10.0.0.0/8", "10.0.0.0/33": "not a network",
		"a/8": "not a network", "[::1": "not closed", "[a]:80": "IPv6 addresses only", "[::1]80": "after the bracket",
		"[::1]:": "after the bracket", "fe80::1%eth0": "without a zone", "exämple.com": "xn--",
		"a b":      "not a valid name",
		"http://a": "port", "127.1": "127.0.0.1: write that", "0x7f000001": "write that", ".": "1 to 253",
		"..": "empty part", ".a.test": "names below", "a..b": "empty part",
		"::g": "not an IPv6 address", "a?": "not a valid name", strings.Repeat("a", 254): "1 to 253",
	} {
		_, err := ParseList([]string{"ok", rule})
		var e *RuleError
		require.ErrorAs(t, err, &e, rule)
		require.Equal(t, 1, e.Index)
		require.ErrorContains(t, err, says, rule)
	}
}

func TestAMatchOfANameDoesNotAllocate(t *testing.T) {
	l := list(t, "*.example.com", "10.0.0.0/8", "other.test:80")
	require.Zero(t, testing.AllocsPerRun(100, func() { l.Match("a.example.org", 443) }))
}

// FuzzList: a rule that is accepted matches itself if it is a name or an address, and a match never panics.
func FuzzList(f *testing.F) {
	for _, s := range []string{"a.test:80", "10.0.0.0/8", "[::1]:1-2", ":25", "*.*a*b", "0x7f.1"} {
		f.Add(s, "127.1")
	}
	f.Fuzz(func(t *testing.T, rule, host string) {
		l, err := ParseList([]string{rule})
		if err != nil {
			return
		}
		l.Match(host, 80)
		r := l.rules[0]
		port := max(r.first, 1)
		switch {
		case r.prefix.IsValid():
			_, ok := l.Match(r.prefix.Addr().String(), port)
			require.True(t, ok)
			_, ok = l.MatchAddr(r.prefix.Addr(), port)
			require.True(t, ok)
		case r.glob != "":
			_, ok := l.Match(strings.ReplaceAll(r.glob, "*", "y"), port)
			require.True(t, ok)
		}
	})
}

// FuzzGlob compares the patterns with those of package path.
func FuzzGlob(f *testing.F) {
	f.Add("*.a*b", "x.acab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.ContainsFunc(pattern, isInvalidNameRune) || strings.ContainsFunc(name, isInvalidNameRune) {
			return
		}
		want, err := path.Match(pattern, name)
		require.NoError(t, err)
		require.Equal(t, want, GlobMatches(pattern, name))
	})
}
