package proxyhttp

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.Bytes()
}

// If a part of a gzip stream has arrived, the result is the beginning of the decoded body.
func TestDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 3000, 3000).Draw(t, "text") +
			strings.Repeat("x", rapid.SampledFrom([]int{0, 9000, 1_000_000}).Draw(t, "more"))
		all := zipped(text)
		arrived := rapid.IntRange(0, len(all)).Draw(t, "arrived")
		n := rapid.IntRange(1, core.MaxExcerptBody).Draw(t, "wanted")
		e := &core.Excerpt{Body: bytes.Clone(all[:arrived]), Encoded: true, Whole: arrived == len(all)}
		decode(e, n)
		if e.Encoded {
			require.Less(t, arrived, 20, "the header of gzip has not arrived")
			return
		}
		require.True(t, strings.HasPrefix(text, string(e.Body)))
		require.LessOrEqual(t, len(e.Body), n)
		if arrived == len(all) {
			require.Len(t, e.Body, min(n, len(text)))
		}
		require.False(t, e.Whole && len(e.Body) < len(text))
		if len(text) < n {
			require.Equal(t, arrived == len(all), e.Whole)
		}
	})
}

func TestCodings(t *testing.T) {
	for value, want := range map[string]coding{
		"": codingNone, "Identity": codingNone, "GZIP": codingGzip, "x-gzip": codingGzip, "br": codingOther,
		"gzip, gzip": codingOther, "deflate": codingOther,
	} {
		require.Equal(t, want, codingOf([]byte(value)), value)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(zipped("hello"), 5)
	f.Add([]byte("\x1f\x8b\x08\x00"), 8192)
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		n = min(max(n, 1), core.MaxExcerptBody)
		if len(body) > n {
			body = body[:n]
		}
		e := &core.Excerpt{Body: bytes.Clone(body), Encoded: true}
		decode(e, n)
		require.LessOrEqual(t, len(e.Body), n)
		require.True(t, !e.Encoded || bytes.Equal(body, e.Body))
	})
}
