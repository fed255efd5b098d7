package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALoanReturnsItsWholeBuffer(t *testing.T) {
	l := pooledBuffer{pool: newBufferPool()}
	l.put() // there is no buffer to return
	l.buf = append(l.get(), "head"...)
	lent := l.pooled
	require.Empty(t, l.get())
	require.Same(t, lent, l.pooled, "one is enough")
	require.Equal(t, "head", string(l.buf))
	l.buf = append(l.buf, bytes.Repeat([]byte("x"), 100<<10)...)
	l.put()
	require.Nil(t, l.buf)
	require.Empty(t, l.get())
	l.buf = append(l.buf, make([]byte, maxPooledBuffer+1)...) // too large for the pool
	l.put()
	require.Nil(t, l.buf)
	require.LessOrEqual(t, cap(l.get()), maxPooledBuffer)
}

func TestTwoLoansShareNoBuffer(t *testing.T) {
	spares := newBufferPool()
	one, two := pooledBuffer{pool: spares}, pooledBuffer{pool: spares}
	for range 100 {
		one.buf, two.buf = append(one.get(), "one"...), append(two.get(), "two"...)
		require.Equal(t, "one two", string(one.buf)+" "+string(two.buf))
		one.put()
		two.put()
	}
}

func TestAllocOfALoan(t *testing.T) {
	l := pooledBuffer{pool: newBufferPool()}
	// The mean is not exactly zero, because a garbage collection empties the pool.
	require.Less(t, testing.AllocsPerRun(1000, func() { l.get(); l.put() }), 0.5)
}
