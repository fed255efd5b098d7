package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func TestFields(t *testing.T) {
	for value, want := range map[string]Request{
		"":                            {},
		" ":                           {},
		"abc123":                      {ID: "abc123", TTL: DefaultTTL},
		" a.b_c~d-e ; strict ":        {ID: "a.b_c~d-e", TTL: DefaultTTL, Strict: true},
		"abc;TTL=30s":                 {ID: "abc", TTL: 30 * time.Second},
		"abc;ttl=5; STRICT":           {ID: "abc", TTL: 5 * time.Minute, Strict: true},
		"strict":                      {ID: "strict", TTL: DefaultTTL},
		"a;ttl=24h":                   {ID: "a", TTL: MaxTTL},
		string(make64('x')):           {ID: string(make64('x')), TTL: DefaultTTL},
		"a;ttl=10m;ttl=1s;strict":     {ID: "a", TTL: time.Second, Strict: true},
		"a; ttl=1h30m":                {ID: "a", TTL: 90 * time.Minute},
		"0123456789-ABCDEF; ttl=1440": {ID: "0123456789-ABCDEF", TTL: MaxTTL},
	} {
		got, err := ParseField(value)
		require.NoError(t, err, value)
		require.Equal(t, want, got, value)
	}
	for value, message := range map[string]string{
		"; strict":                "the id of a session has 1 to 64",
		"a b":                     "the id of a session has 1 to 64",
		"a,b":                     "the id of a session has 1 to 64",
		string(make64('x')) + "x": "the id of a session has 1 to 64",
		"a;":                      `has the parameter ""`,
		"a;strict=1":              `has the parameter "strict"`,
		"a;ttl":                   `has the parameter "ttl"`,
		"a;rotate":                `has the parameter "rotate"; the parameters are ttl=10m and strict`,
		"a;ttl=0":                 "from 1s to 24h: such",
		"a;ttl=25h":               "from 1s to 24h: such",
		"a;ttl=-1m":               "from 1s to 24h: such",
		"a;ttl=soon":              "from 1s to 24h: such",
		"a;ttl=99999":             "from 1s to 24h: such",
	} {
		_, err := ParseField(value)
		require.ErrorContains(t, err, message, value)
		require.ErrorContains(t, err, Field, value)
	}
}

func make64(c byte) []byte {
	b := make([]byte, MaxID)
	for i := range b {
		b[i] = c
	}
	return b
}

func TestOptions(t *testing.T) {
	ten := DefaultTTL
	for text, want := range map[string]Options{
		"session-abc123": {Session: Request{ID: "abc123", TTL: ten}},
		"session-abc123-region-us-ttl-10m-retry-5-strict": {
			Session: Request{ID: "abc123", TTL: ten, Strict: true}, Region: "us", RegionStrict: true, MaxAttempts: 6},
		"session-abc123-region-us-city-X-ttl-10m-retry-5-strict": {
			Session: Request{ID: "abc123", TTL: ten, Strict: true}, Region: "us", RegionStrict: true,
			CityTag: core.Hash53("city-x"), MaxAttempts: 6},
		"country-us-session-abc-sessionduration-30": {Session: Request{ID: "abc", TTL: 30 * time.Minute}, Region: "us"},
		"cc-US-sessid-abc12345-sesstime-10":         {Session: Request{ID: "abc12345", TTL: ten}, Region: "US"},
		"cc-US-session-abc123-lifetime-60":          {Session: Request{ID: "abc123", TTL: time.Hour}, Region: "US"},
		"SESSION-strict":                            {Session: Request{ID: "strict", TTL: ten}},
		"strict-region-de":                          {Region: "de", RegionStrict: true},
		"retries-0":                                 {MaxAttempts: 1},
		"ttl-2h-session-x":                          {Session: Request{ID: "x", TTL: 2 * time.Hour}},
	} {
		got, err := ParseOptions(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, message := range map[string]string{
		"":                        `the unknown option ""`,
		"planet-x":                `the unknown option "planet"; the options are session-ID, region-NAME`,
		"sesion-a":                `unknown option "sesion"; did you mean session?; the options are session-ID`,
		"session-a-planet-x":      `the unknown option "planet"`,
		"session-a-b":             `the unknown option "b"`,
		"session-a-":              `the unknown option ""`,
		"session":                 `the option "session" in the user name has no value`,
		"session--region-us":      `the option "session" in the user name has no value`,
		"session-a-sessid-b":      `the option "sessid" twice, perhaps under two names`,
		"strict-session-a-strict": `the option "strict" twice`,
		"session-a b":             "the id of a session has 1 to 64",
		"session-a-ttl-soon":      "from 1s to 24h: such",
		"ttl-10m":                 "a ttl without a session",
		"strict":                  "strict without a session or a region",
		"retry-10":                "must be a number from 0 to 9",
		"retry-x":                 "must be a number from 0 to 9",
		"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz": `option "abcdefghijklmnopqrstuvwxyzabcdef..."`,
	} {
		o, err := ParseOptions(text)
		require.ErrorContains(t, err, message, text)
		require.Equal(t, Options{}, o)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("session-abc123-region-us-ttl-10m-retry-5-strict")
	f.Add("cc-US-sessid-a-sesstime-10")
	f.Add("strict-region-\xff--")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOptions(s)
		if err != nil {
			require.ErrorAs(t, err, new(*OptionError))
			require.Zero(t, o)
			return
		}
		require.NotZero(t, o, "%q is neither an error nor an option", s)
		requireValid(t, o.Session)
		require.True(t, o.MaxAttempts >= 0 && o.MaxAttempts <= MaxRetries+1)
		require.False(t, o.RegionStrict && o.Region == "")
	})
}

func FuzzField(f *testing.F) {
	f.Add("abc123; ttl=10m; strict")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseField(s); err == nil {
			requireValid(t, r)
		} else {
			require.Zero(t, r)
		}
	})
}

func requireValid(t *testing.T, r Request) {
	if r.ID == "" {
		require.Zero(t, r)
		return
	}
	require.True(t, validID(r.ID))
	require.True(t, r.TTL >= MinTTL && r.TTL <= MaxTTL)
}
