package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALoanReturnsItsWholeBuffer(t *testing.T) {
	l := loan{from: newSpares()}
	l.back() // there is no buffer to return
	l.buf = append(l.take(), "head"...)
	lent := l.lent
	require.Empty(t, l.take())
	require.Same(t, lent, l.lent, "one is enough")
	require.Equal(t, "head", string(l.buf))
	l.buf = append(l.buf, bytes.Repeat([]byte("x"), 100<<10)...)
	l.back()
	require.Nil(t, l.buf)
	require.Empty(t, l.take())
	l.buf = append(l.buf, make([]byte, spareBuffer+1)...) // too large for the pool
	l.back()
	require.Nil(t, l.buf)
	require.LessOrEqual(t, cap(l.take()), spareBuffer)
}

// Two connections never have the same buffer.
func TestTwoLoansShareNoBuffer(t *testing.T) {
	spares := newSpares()
	one, two := loan{from: spares}, loan{from: spares}
	for range 100 {
		one.buf, two.buf = append(one.take(), "one"...), append(two.take(), "two"...)
		require.Equal(t, "one two", string(one.buf)+" "+string(two.buf))
		one.back()
		two.back()
	}
}

func TestAllocOfALoan(t *testing.T) {
	l := loan{from: newSpares()}
	// The mean is not exactly zero, because a garbage collection empties the pool.
	require.Less(t, testing.AllocsPerRun(1000, func() { l.take(); l.back() }), 0.5)
}
