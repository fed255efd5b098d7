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
	require.Nil(t, offeredSchemes(nil))
	require.Nil(t, offeredSchemes([]http1.Field{{Name: []byte("WWW-Authenticate"), Value: []byte("Basic")}}))
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
		require.Equal(t, c.want, offeredSchemes(authenticate(c.values...)), c.values)
	}
}

func TestUnsupportedSchemes(t *testing.T) {
	for _, digestOnly := range []bool{false, true} {
		require.Equal(t, "Negotiate or NTLM", unsupportedSchemes([]string{"Negotiate", "NTLM"}, digestOnly))
		require.Empty(t, unsupportedSchemes([]string{"NTLM", "digest"}, digestOnly))
		require.Equal(t, "Negotiate", unsupportedSchemes([]string{"Negotiate"}, digestOnly))
		require.Empty(t, unsupportedSchemes([]string{"Digest", "BASIC"}, digestOnly))
	}
	require.Empty(t, unsupportedSchemes([]string{"BASIC"}, false))
	require.Equal(t, `NTLM or Basic (auth = "digest" excludes Basic)`,
		unsupportedSchemes([]string{"NTLM", "Basic"}, true))
	require.Empty(t, unsupportedSchemes([]string{}, false))
	require.Empty(t, unsupportedSchemes(nil, true))
}

// FuzzChallenges: the result is a few short tokens for every input, and a list of them parses to the same result.
func FuzzChallenges(f *testing.F) {
	for _, s := range []string{"Basic realm=\"x\"", "Digest a=b, c=\"d, e\", NTLM", "NTLM abc==", "\"", "a=", "=", ",",
		"Negotiate a b c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		schemes := offeredSchemes(authenticate(value))
		require.NotNil(t, schemes)
		require.LessOrEqual(t, len(schemes), maxSchemes)
		for _, s := range schemes {
			require.LessOrEqual(t, len(s), maxScheme)
			require.Equal(t, len(s), tokenLen(s, false))
			require.NotEmpty(t, s)
		}
		require.Equal(t, schemes, offeredSchemes(authenticate(strings.Join(schemes, ", "))))
	})
}

// Two challenges are the same if they have the same schemes and realms. Other parameters may differ.
func TestIdentifyChallenge(t *testing.T) {
	id := func(values ...string) uint64 { return identifyChallenge(authenticate(values...)) }
	require.Zero(t, id())
	require.Zero(t, identifyChallenge([]http1.Field{{Name: []byte("WWW-Authenticate"), Value: []byte("Basic")}}))
	all := map[uint64]string{}
	for _, same := range [][][]string{
		{{`Basic realm="x"`}, {`basic  Realm = "x"`}, {`Basic charset="UTF-8", realm="x"`}},
		{{`Basic realm="y"`}}, {{`Basic`}, {`Basic charset="UTF-8"`}}, {{""}},
		{{`Digest realm="a, b", nonce="1"`}, {`Digest nonce="2,realm=c", qop="auth", realm="a, b"`}},
		{{`Digest realm="a, b", nonce="1"`, `Basic realm="x"`}, {`Digest nonce="2", realm="a, b", Basic realm="x"`}},
	} {
		first := id(same[0]...)
		require.NotZero(t, first)
		require.NotContains(t, all, first, same[0])
		all[first] = same[0][0]
		for _, values := range same {
			require.Equal(t, first, id(values...), values)
		}
	}
}
