package transport

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

func authenticate(values ...string) (fields []http1.Field) {
	for _, v := range values {
		fields = append(fields, http1.Field{Name: []byte("Proxy-Authenticate"), Value: []byte(v),
			Kind: http1.ProxyAuthenticate})
	}
	return fields
}

func TestChallenges(t *testing.T) {
	require.Nil(t, challenges(nil))
	require.Nil(t, challenges([]http1.Field{{Name: []byte("WWW-Authenticate"), Value: []byte("Basic")}}))
	for _, c := range []struct {
		values []string
		want   []string
	}{
		{[]string{`Basic realm="x"`}, []string{"Basic"}},
		{[]string{`basic`}, []string{"basic"}},
		{[]string{`Digest realm="lab", nonce="c4", qop="auth", stale=false`, `Basic realm="lab"`},
			[]string{"Digest", "Basic"}}, // squid 5.7
		{[]string{"Negotiate", "NTLM"}, []string{"Negotiate", "NTLM"}},
		{[]string{"Negotiate, NTLM, Basic realm=x"}, []string{"Negotiate", "NTLM", "Basic"}},
		{[]string{`Digest realm="a, Basic realm=b", nonce = "\"", NTLM`}, []string{"Digest", "NTLM"}},
		{[]string{"NTLM TlRMTVNTUAACAAAA==, Basic"}, []string{"NTLM", "Basic"}},
		{[]string{"NTLM TlRM/+=="}, []string{"NTLM"}},
		{[]string{`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`},
			[]string{"Newauth", "Basic"}}, // RFC 9110 section 11.6.1
		{[]string{" ,, Basic ,"}, []string{"Basic"}},
		{[]string{"Basic", "BASIC", "basic"}, []string{"Basic"}},
		{[]string{""}, []string{}},
		{[]string{`"quoted`}, []string{}},
		{[]string{`realm="x"`}, []string{}},
		{[]string{"\xff\xfe, Basic"}, []string{"Basic"}},
		{[]string{strings.Repeat("a", 33) + ", Basic"}, []string{"Basic"}},
		{[]string{"a, b, c, d, e, f, g, h, i, j"}, []string{"a", "b", "c", "d", "e", "f", "g", "h"}},
	} {
		require.Equal(t, c.want, challenges(authenticate(c.values...)), c.values)
	}
}

func TestUnsupportedSchemes(t *testing.T) {
	require.Equal(t, "Digest or NTLM", unsupportedSchemes([]string{"Digest", "NTLM"}))
	require.Equal(t, "Negotiate", unsupportedSchemes([]string{"Negotiate"}))
	require.Empty(t, unsupportedSchemes([]string{"Digest", "BASIC"}))
	require.Empty(t, unsupportedSchemes([]string{}))
	require.Empty(t, unsupportedSchemes(nil))
}

// FuzzChallenges: the result is a few short tokens for every input, and a list of them parses to the same result.
func FuzzChallenges(f *testing.F) {
	for _, s := range []string{"Basic realm=\"x\"", "Digest a=b, c=\"d, e\", NTLM", "NTLM abc==", "\"", "a=", "=", ",",
		"Negotiate a b c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		schemes := challenges(authenticate(value))
		require.NotNil(t, schemes)
		require.LessOrEqual(t, len(schemes), maxSchemes)
		for _, s := range schemes {
			require.LessOrEqual(t, len(s), maxScheme)
			require.Equal(t, len(s), tokenLen(s, false))
			require.NotEmpty(t, s)
		}
		require.Equal(t, schemes, challenges(authenticate(strings.Join(schemes, ", "))))
	})
}
