package trace

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

const example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" // of the specification

func TestParse(t *testing.T) {
	c, ok := Parse([]byte(example))
	require.True(t, ok)
	require.Equal(t, uint64(0x00f067aa0ba902b7), c.Parent)
	require.True(t, c.Sampled)
	require.Equal(t, example, string(c.Header(c.Parent)))
	c, ok = Parse([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02"))
	require.True(t, ok)
	require.False(t, c.Sampled)
	_, ok = Parse([]byte("cc" + example[2:] + "-what-the-future-brings"))
	require.True(t, ok, "a later version")
	for _, bad := range []string{"", "00", example[:54], example + "-x", "ff" + example[2:], "cc" + example[2:] + "x",
		"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} {
		_, ok := Parse([]byte(bad))
		require.False(t, ok, bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, field []byte) {
		c, ok := Parse(field)
		if !ok {
			require.Zero(t, c)
			return
		}
		again, ok := Parse(c.Header(c.Parent))
		require.True(t, ok)
		require.Equal(t, c, again)
	})
}

// A new trace has an id of its own, and the given share of traces is sampled.
func TestBegin(t *testing.T) {
	c := ContextOf([]byte(example), 7, 0)
	require.True(t, c.Sampled, "the client decides")
	require.NotZero(t, c.Parent)
	sampled, ids := 0, map[[16]byte]bool{}
	for id := range core.RequestID(10_000) {
		c := ContextOf(nil, id, 0.25)
		require.Zero(t, c.Parent)
		ids[c.ID] = true
		if c.Sampled {
			sampled++
		}
		require.True(t, ContextOf([]byte("bad"), id, 1).Sampled)
		require.False(t, ContextOf(nil, id, 0).Sampled)
	}
	require.Len(t, ids, 10_000)
	require.InDelta(t, 2500, sampled, 200)
}

// The spans of a request have different ids.
func TestSpans(t *testing.T) {
	ids := map[uint64]bool{}
	for id := range core.RequestID(1000) {
		ids[RequestSpan(id)] = true
		for i := range 10 {
			ids[AttemptSpan(id, i)] = true
		}
	}
	require.Len(t, ids, 11_000)
	require.NotContains(t, ids, uint64(0))
}
