package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALoanGoesBackWhole(t *testing.T) {
	l := loan{from: newSpares()}
	var b []byte
	l.back(&b) // nothing to give back
	l.take(&b)
	b = append(b, "head"...)
	l.take(&b) // once is enough
	require.Equal(t, "head", string(b))
	b = append(b, bytes.Repeat([]byte("x"), 100<<10)...)
	l.back(&b)
	require.Nil(t, b)
	l.take(&b)
	require.Empty(t, b)
	b = append(b, make([]byte, spareBuffer+1)...) // too large for others
	l.back(&b)
	require.Nil(t, b)
	l.take(&b)
	require.LessOrEqual(t, cap(b), spareBuffer)
}

// Two connections never hold the same buffer.
func TestLoansAreApart(t *testing.T) {
	spares := newSpares()
	one, two := loan{from: spares}, loan{from: spares}
	var a, b []byte
	for range 100 {
		one.take(&a)
		two.take(&b)
		a, b = append(a, "one"...), append(b, "two"...)
		require.Equal(t, "one two", string(a)+" "+string(b))
		one.back(&a)
		two.back(&b)
	}
}

func TestAllocOfALoan(t *testing.T) {
	l := loan{from: newSpares()}
	var b []byte
	// Below one and not zero: a garbage collection empties the pool.
	require.Less(t, testing.AllocsPerRun(1000, func() { l.take(&b); l.back(&b) }), 0.5)
}
