package http1

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// headEnd finds the same end as a search for two CRLFs.
func TestHeadEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte("\r\n\r\na")), 0, 40).Draw(t, "head")
		want := bytes.Index(b, []byte("\r\n\r\n"))
		if want >= 0 {
			want += 2
		}
		require.Equal(t, want, headEnd(b))
	})
}
