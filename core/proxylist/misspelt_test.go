package proxylist

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMisspeltOptions(t *testing.T) {
	for name, option := range map[string]string{
		"max_in_flght": "max_in_flight", "maxInFlight": "max_in_flight", "max-in-flight": "max_in_flight",
		"tag": "tags", "Rate": "rate", "costs": "cost", "wieght": "weight", "regoin": "region", "reusee": "reuse",
		"byte_per_day": "bytes_per_day", "min_intervall": "min_interval", "cost_per_reqest": "cost_per_request",
		// metadata
		"ip": "", "date": "", "secure": "", "note": "", "city": "", "vendor_id": "", "source": "", "session": "",
		// options
		"max_in_flight": "", "tier": "", "vendor": "", "country": "", "key": "",
	} {
		require.Equal(t, option, similarOption(name), name)
	}
}

func TestWarningsOfMisspeltOptions(t *testing.T) {
	specs, warnings, err := Parse(strings.NewReader("http://192.0.2.1:80#max_in_flght=3&city=x\n"+
		"192.0.2.2:80#max_in_flight=4\ngate.example:80#tgas=a\n"), Options{})
	require.NoError(t, err)
	require.Len(t, specs, 3)
	require.Equal(t, map[string]string{"max_in_flght": "3", "city": "x"}, specs[0].Extra().Metadata)
	require.Equal(t, 4, specs[1].Extra().MaxInFlight)
	require.Equal(t, []Warning{{1, `the option "max_in_flght" is not known, so it becomes metadata; did you mean ` +
		`max_in_flight?`, misspeltReason}}, warnings)

	_, warnings, err = Parse(strings.NewReader("url,max_in_flght,state\nhttp://192.0.2.1:80,3,open\n"), Options{})
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Equal(t, `the column "max_in_flght" is not used; did you mean max_in_flight?`, warnings[0].Msg)
}

// The texts behind a password are not part of it, but a colon alone does not end a password.
func TestDescriptionsBehindAPassword(t *testing.T) {
	for line, want := range map[string]string{
		"192.0.2.1:80:ann:pw:US":         "http://ann:pw@192.0.2.1:80",
		"192.0.2.1:80:ann:pw:US:elite":   "http://ann:pw@192.0.2.1:80",
		"192.0.2.1:80:ann:pw:elite":      "http://ann:pw%3Aelite@192.0.2.1:80",
		"192.0.2.1:80:ann:p:w":           "http://ann:p%3Aw@192.0.2.1:80",
		"192.0.2.1:80:ann:pw US":         "http://ann:pw@192.0.2.1:80",
		"192.0.2.1:80:ann:p;w":           "http://ann:p;w@192.0.2.1:80",
		"http://ann:pw@192.0.2.1:80 US":  "http://ann:pw@192.0.2.1:80",
		"http://ann:p|w@192.0.2.1:80|US": "http://ann:p%7Cw@192.0.2.1:80",
		"ann:pw@192.0.2.1:80;elite":      "http://ann:pw@192.0.2.1:80",
		"http://ann@192.0.2.1:80":        "http://ann:@192.0.2.1:80",
		"http://abcdefgh@192.0.2.1:80":   "http://abcdefgh:@192.0.2.1:80",
	} {
		specs, warnings, err := Parse(strings.NewReader(line), Options{})
		require.NoError(t, err)
		require.Len(t, specs, 1, "%s: %v", line, warnings)
		require.Equal(t, want, FormatLine(&specs[0]), line)
	}
}
