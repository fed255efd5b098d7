package upstream

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

func TestIDTemplates(t *testing.T) {
	for _, test := range []struct{ template, url, want string }{
		{"{user}@{host}:{port}", "http://ann:pass@gw.test:8000", "ann@gw.test:8000"},
		{"{user}@{host}:{port}", "http://gw.test:8000", "gw.test:8000"},
		{"{user}@{host}:{port}", "http://ann@[2001:db8::1]:80", "ann@[2001:db8::1]:80"},
		{"{user}@{host}:{port}", "direct://", "direct"},
		{"{scheme}://{host}:{port}", "socks5://ann@gw.test", "socks5://gw.test:1080"},
		{"{host}-{user}", "http://gw.test:8000", "gw.test"},
		{"{host}-{user}", "http://a%40b-{session}@gw.test:8000", "gw.test-a@b-{session}"},
		{"{user}{user}:{port}", "http://gw.test:8000", "8000"},
		{"{user}", "http://{port}@gw.test:8000", "{port}"},
		{"{user}", "http://gw.test:8000", "gw.test:8000"},
		{"{user}", "http://metrics@gw.test:8000", "metrics-1"},
		{"{user}", "http://direct@gw.test:8000", "direct-1"},
		{"{user}", "http://a%09b%ffc@gw.test:8000", "a_b_c"},
		{"{user}", "http://" + strings.Repeat("é", 200) + "@gw.test:8000", strings.Repeat("é", 120)},
		{"{user}", "http://a" + strings.Repeat("é", 200) + "@gw.test:8000", "a" + strings.Repeat("é", 119)},
	} {
		require.NoError(t, IDTemplate(test.template).Check())
		a, err := ParseAddress(test.url)
		require.NoError(t, err, test.url)
		require.Equal(t, test.want, IDTemplate(test.template).expand(a), "%s %s", test.template, test.url)
	}
}

func TestWrongIDTemplates(t *testing.T) {
	for template, want := range map[string]string{
		"{usr}@{host}":                       `unknown placeholder "{usr}"; did you mean {user}?`,
		"{USER}":                             "did you mean {user}?",
		"{user}:{password}":                  "must not have the password: ids are in logs and metrics",
		"{pass}":                             "must not have the password",
		"{line}":                             `unknown placeholder "{line}"; the placeholders are {user}, {host}, `,
		"{user":                              `has a "{" that belongs to no placeholder`,
		"user}":                              `has a "}" that belongs to no placeholder`,
		"{}":                                 `has a "{" that belongs to no placeholder`,
		"{{user}}":                           `has a "{" that belongs to no placeholder`,
		"vendor":                             "has no placeholder, so all proxies of the list would have the same id",
		"{user}\n":                           "has a character that is not printable ASCII",
		"ü{user}":                            "has a character that is not printable ASCII",
		"{" + strings.Repeat("x", 300) + "}": "unknown placeholder",
		strings.Repeat("{user}", 50):         "has 300 bytes; at most 240 are allowed",
	} {
		require.ErrorContains(t, IDTemplate(template).Check(), want, template)
		require.Less(t, len(IDTemplate(template).Check().Error()), 200)
	}
	require.NoError(t, IDTemplate("").Check())
}

// The ids of a list with a template are those of the lines, in any order. Only lines with the same text have a number,
// which stays with its line.
func TestProxiesWithATemplateKeepTheirIDs(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	for _, step := range []struct {
		template IDTemplate
		urls     []string
		want     []string
	}{
		{"{user}@{host}", []string{"http://a@h:1", "http://b@h:1"}, []string{"a@h", "b@h"}},
		{"{user}@{host}", []string{"http://b@h:1", "http://a@h:1"}, []string{"b@h", "a@h"}},
		{"{user}@{host}", []string{"http://a@h:1", "http://a@h:2", "http://a@h:3"}, []string{"a@h", "a@h-2", "a@h-3"}},
		{"{user}@{host}", []string{"http://a@h:3", "http://a@h:2"}, []string{"a@h-3", "a@h-2"}},
		{"{user}@{host}", []string{
			"http://a:n@h:2", "http://a@h:9", "http://a@h:3"}, []string{"a@h-2", "a@h", "a@h-3"}},
		{"{user}", []string{"http://x@h:1", "http://x-2@h:2"}, []string{"x", "x-2"}},
		{"{user}", []string{"http://x-2@h:2", "http://y@h:1", "http://x@h:3"}, []string{"x-2", "y", "x"}},
		{"{user}", []string{"http://x@h:1", "http://x@h:2", "http://x-2@h:3"}, []string{"x", "x-3", "x-2"}},
		{"{user}", []string{"http://x-2@h:3", "http://x@h:2", "http://x@h:1"}, []string{"x-2", "x-3", "x"}},
	} {
		list := specs(t, step.urls...)
		SetIDTemplate(list, step.template)
		require.NoError(t, p.Apply(list))
		ids := map[string]string{}
		for _, s := range p.Snapshot().specs() {
			ids[s.Address.Username+"@"+s.Address.Host+string(s.Address.Password)] = s.ID
		}
		var got []string
		for i := range list {
			a := list[i].Address
			got = append(got, ids[a.Username+"@"+a.Host+string(a.Password)])
		}
		require.Equal(t, step.want, got, step.urls)
	}
}

// A proxy without an id gets the template; the others, and their Extras, stay as they are.
func TestSetIDTemplate(t *testing.T) {
	list := specs(t, "http://a:1", "http://b:1", "http://c:1")
	list[0].ID = "own"
	before := &Extras{Rate: 2}
	list[1].Extras = before
	SetIDTemplate(list, "{host}")
	AssignIDs(list)
	require.Equal(t, "own b c", list[0].ID+" "+list[1].ID+" "+list[2].ID)
	require.Equal(t, Extras{Rate: 2}, *before)
	require.Equal(t, 2.0, list[1].Extra().Rate)
}

// FuzzIDTemplate: each valid template makes an id that a proxy may have, for each user name.
func FuzzIDTemplate(f *testing.F) {
	f.Add("{user}@{host}:{port}", "ann")
	f.Add("{scheme}{user}", "a\x00b\xff"+strings.Repeat("é", 300))
	f.Add("{host}-{user}-{user}", "")
	f.Fuzz(func(t *testing.T, template, user string) {
		for _, host := range []string{"h:80", "[2001:db8::1]:8080"} {
			s := Spec{Address: Address{Scheme: HTTP, Host: host, Username: user}}
			list := []Spec{s, s}
			SetIDTemplate(list, IDTemplate(template))
			AssignIDs(list)
			require.NotEqual(t, list[0].ID, list[1].ID)
			if IDTemplate(template).Check() != nil {
				continue
			}
			require.True(t, utf8.ValidString(list[0].ID))
			for i := range list {
				require.NoError(t, CheckSpec(&list[i]))
			}
		}
	})
}
