package http1

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCutLineIsCutAtCRLF(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		b := make([]byte, random.IntN(12))
		for i := range b {
			b[i] = "\r\na"[random.IntN(3)]
		}
		line, rest, ok := cutLine(b)
		wantLine, wantRest, wantOK := bytes.Cut(b, crlf)
		require.Equal(t, wantLine, line, "%q", b)
		require.Equal(t, wantRest, rest, "%q", b)
		require.Equal(t, wantOK, ok, "%q", b)
	}
}
