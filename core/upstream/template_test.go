package upstream

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTemplates(t *testing.T) {
	v := Values{Session: "s1", Random: "r2", Region: "eu-west:x@\r\n"}
	for url, want := range map[string]struct {
		user, password                string
		templated, random, withoutOne bool
	}{
		"http://u:p@h:1":                       {"u", "p", false, false, false},
		"http://u-{city}:{p}@h:1":              {"u-{city}", "{p}", false, false, false},
		"http://u-session-{session}:p@h:1":     {"u-session-s1", "p", true, false, true},
		"socks5://u:p_{rand8}@h:1":             {"u", "p_r2", true, true, true},
		"http://u-cc-{region}-{session}:p@h:1": {"u-cc-eu-westx-s1", "p", true, false, true},
		"http://{session}{session}{rand8}@h:1": {"s1s1r2", "", true, true, true},
		"http://u-%7Bsession%7D:p@h:1":         {"u-s1", "p", true, false, true},
		"http://u-{region}:p@h:1":              {"u-eu-westx", "p", true, false, false},
	} {
		a, err := ParseAddress(url)
		require.NoError(t, err)
		require.Equal(t, want.templated, a.HasTemplates(), url)
		require.Equal(t, want.random, a.Random(true), url)
		require.Equal(t, want.withoutOne, a.Random(false), url)
		filled := a.Fill(v)
		require.Equal(t, want.user, filled.Username)
		require.Equal(t, want.password, filled.Password.Reveal())
		require.NotContains(t, fmt.Sprintf("%v %+v %s", filled, filled, filled), "s1", "no verb prints a login")
	}
}

func TestMisspeltTemplates(t *testing.T) {
	for credentials, similar := range map[string]string{
		"user-{sesion}:pass":        "{session}",
		"user-{SESSION}:pass":       "{session}",
		"user-{ session }:pass":     "{session}",
		"user-{session_id}:pass":    "{session}",
		"user:{regoin}":             "{region}",
		"user-{random}:pass":        "{rand8}",
		"user-{rand16}:pass":        "{rand8}",
		"{evn:LOGIN}:pass":          "{env:NAME}",
		"{env:MY-LOGIN}:{session}":  "{env:NAME}",
		"{session}:{ENV:PASSWORD}":  "{env:NAME}",
		"{session}{sesion}:pass":    "{session}",
		"u-{session}-{rand8}:p":     "",
		"{region}:{rand8}{session}": "",
		"user:p{}a{s}{country}{":    "",
		"user:{ab:cd}{1}{sess ion}": "",
		"user:p}session{":           "",
	} {
		_, err := ParseAddress("http://" + credentials + "@10.0.0.1:80")
		if similar == "" {
			require.NoError(t, err, credentials)
			continue
		}
		require.ErrorContains(t, err, similar, credentials)
		require.NotContains(t, err.Error(), "LOGIN")
	}
	a, err := ParseAddress("http://user:%7Bsesion}@10.0.0.1:80")
	require.NoError(t, err, "the brace is escaped")
	require.Equal(t, "{sesion}", a.Password.Reveal())
}
