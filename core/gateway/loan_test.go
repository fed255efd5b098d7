package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALoanReturnsItsWholeBuffer(t *testing.T) {
	l := borrowedBuffer{pool: newBufferPool()}
	l.giveBack() // there is no buffer to return
	l.buf = append(l.borrow(), "head"...)
	lent := l.pooled
	require.Empty(t, l.borrow())
	require.Same(t, lent, l.pooled, "one is enough")
	require.Equal(t, "head", string(l.buf))
	l.buf = append(l.buf, bytes.Repeat([]byte("x"), 100<<10)...)
	l.giveBack()
	require.Nil(t, l.buf)
	require.Empty(t, l.borrow())
	l.buf = append(l.buf, make([]byte, maxPooledBuffer+1)...) // too large for the pool
	l.giveBack()
	require.Nil(t, l.buf)
	require.LessOrEqual(t, cap(l.borrow()), maxPooledBuffer)
}

func TestTwoLoansShareNoBuffer(t *testing.T) {
	spares := newBufferPool()
	one, two := borrowedBuffer{pool: spares}, borrowedBuffer{pool: spares}
	for range 100 {
		one.buf, two.buf = append(one.borrow(), "one"...), append(two.borrow(), "two"...)
		require.Equal(t, "one two", string(one.buf)+" "+string(two.buf))
		one.giveBack()
		two.giveBack()
	}
}

func TestAllocOfALoan(t *testing.T) {
	l := borrowedBuffer{pool: newBufferPool()}
	// The mean is not exactly zero, because a garbage collection empties the pool.
	require.Less(t, testing.AllocsPerRun(1000, func() { l.borrow(); l.giveBack() }), 0.5)
}
