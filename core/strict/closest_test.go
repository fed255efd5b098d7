package strict

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestClosest(t *testing.T) {
	keys := []string{"failure_threshold", "window_duration", "timeout_duration", "max_timeout", "blame", "id"}
	for word, want := range map[string]string{
		"failure_treshold": "failure_threshold", "window_durations": "window_duration", "blaem": "blame",
		"BLAME": "blame", "max-timeout": "max_timeout", "timeout": "", "di": "id", "ip": "id", "xy": "",
		"failure": "failure_threshold", "wind": "window_duration", "blames_whom": "blame", "dura": "", "fai": "",
		"": "", strings.Repeat("blame", 100): "",
	} {
		require.Equal(t, want, Closest(word, keys), word)
	}
	require.Equal(t, "; did you mean blame?", DidYouMean("blam", keys))
	require.Empty(t, DidYouMean("colour", keys))
}

// The distance is 0 for equal words only, is symmetric, and grows by at most 1 with one edit.
func TestEditDistance(t *testing.T) {
	word := rapid.StringMatching(`[a-cé]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := editDistance(a, b)
		require.Equal(t, a == b, d == 0)
		require.Equal(t, d, editDistance(b, a))
		require.LessOrEqual(t, editDistance(a+"x", b), d+1)
		require.LessOrEqual(t, editDistance("x"+a, b), d+1)
	})
}
