package loop

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuard(t *testing.T) {
	a, b := New(rand.Uint64), New(rand.Uint64)
	check := func(g *Guard, value []byte, want error) {
		t.Helper()
		valid, err := g.Check(value)
		require.True(t, valid)
		require.Equal(t, want, err)
	}
	first := a.Append(nil, nil)
	check(a, first, ErrOwnToken)
	check(b, first, nil)
	both := b.Append(nil, first)
	check(a, both, ErrOwnToken)
	check(b, both, ErrOwnToken)
	check(New(rand.Uint64), both, nil)
	require.NotEqual(t, first[:16], a.Append(nil, nil)[:16], "tokens of one process have nothing in common")
	long := []byte(nil)
	for range maxHops - 1 {
		long = b.Append(nil, long)
		check(a, long, nil)
	}
	check(a, b.Append(nil, long), ErrTooManyGateways)
	for _, bad := range []string{"", ",", "x", strings.Repeat("g", 32), strings.Repeat("0", 31), string(first) + ","} {
		valid, err := b.Check([]byte(bad))
		require.False(t, valid, bad)
		require.NoError(t, err)
	}
}

func TestCheckVia(t *testing.T) {
	entry := "1.1 relay (tinyproxy/1.11)"
	require.NoError(t, CheckVia([]byte(strings.Repeat(entry+", ", 6)+entry)))
	require.ErrorIs(t, CheckVia([]byte(strings.Repeat(entry+",1.1 b ,", 7)+entry)), ErrRepeatedVia)
	for _, fine := range []string{"", ",", ",,,,,,,,,,,", "1.1 a", strings.Repeat("1.1 a, ", 20) + "1.1 b"} {
		require.NoError(t, CheckVia([]byte(fine)), fine)
	}
}

func TestTokensDoNotAllocate(t *testing.T) {
	g, b := New(rand.Uint64), make([]byte, 0, 100)
	require.Zero(t, testing.AllocsPerRun(100, func() { g.Check(g.Append(b[:0], nil)) }))
}

// FuzzCheck: no value from outside counts as a token of this process, and a list that Append extends stays valid.
func FuzzCheck(f *testing.F) {
	g := New(rand.Uint64)
	f.Add([]byte("00000000000000000000000000000000, 11111111111111111111111111111111"))
	f.Fuzz(func(t *testing.T, value []byte) {
		CheckVia(value)
		valid, err := g.Check(value)
		require.NotEqual(t, ErrOwnToken, err)
		if valid && err == nil {
			valid, err = g.Check(g.Append(nil, value))
			require.True(t, valid)
			require.Equal(t, ErrOwnToken, err)
			require.False(t, bytes.ContainsAny(value, "\r\n\x00"))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	g, buf := New(rand.Uint64), make([]byte, 0, 100)
	for b.Loop() {
		g.Append(buf[:0], nil)
	}
}
