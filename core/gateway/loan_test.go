package gateway

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALoanKeepsWhatIsThere(t *testing.T) {
	l := loan{from: newSpares()}
	own := append(make([]byte, 0, 512), "head"...)
	b := own
	l.take(&b)
	l.take(&b) // once is enough
	require.Equal(t, "head", string(b))
	require.GreaterOrEqual(t, cap(b), largeChunk)
	b = append(b, bytes.Repeat([]byte("x"), 100<<10)...) // outgrows even that
	l.back(&b)
	require.Empty(t, b)
	require.Equal(t, 512, cap(b), "its own buffer is back")
	l.back(&b)
	require.Equal(t, 512, cap(b), "twice does no harm")

	b = make([]byte, 10, smallBuffer+1) // grown without a loan
	l.back(&b)
	require.Zero(t, cap(b))
	b = make([]byte, 10, smallBuffer)
	l.back(&b)
	require.Equal(t, smallBuffer, cap(b))
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
		require.Equal(t, "onetwo", string(a)+string(b))
		one.back(&a)
		two.back(&b)
	}
}

func TestAllocOfALoan(t *testing.T) {
	l := loan{from: newSpares()}
	b := make([]byte, 0, 512)
	// Below one and not zero: a garbage collection empties the pool.
	require.Less(t, testing.AllocsPerRun(1000, func() { l.take(&b); l.back(&b) }), 0.5)
}

func TestTheErrorBodyIsJSON(t *testing.T) {
	for message, want := range map[string]string{
		"plain":          `{"error":"code","message":"plain"}`,
		`say "no" \ <b>`: `{"error":"code","message":"say \"no\" \\ \u003cb\u003e"}`,
		"über\n":         `{"error":"code","message":"über\n"}`,
		"bad \xff":       `{"error":"code","message":"bad \ufffd"}`,
		"":               `{"error":"code","message":""}`,
	} {
		require.Equal(t, want, string(appendError([]byte(nil), "code", message)))
	}
}
