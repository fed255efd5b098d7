package budget

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The reservations of all requests together never exceed the limit, and nothing stays reserved.
func TestReservations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1000
		memory := &Memory{}
		all := make([]Reservation, 5)
		want := make([]int64, len(all))
		sum := int64(0)
		for i := range all {
			all[i] = memory.Reservation()
		}
		index := rapid.IntRange(0, len(all)-1)
		t.Repeat(map[string]func(*rapid.T){
			"grow": func(t *rapid.T) {
				i, n := index.Draw(t, "request"), rapid.Int64Range(0, 600).Draw(t, "bytes")
				fits := sum+n <= limit
				require.Equal(t, fits, all[i].Grow(n, limit))
				if fits {
					want[i] += n
					sum += n
				}
			},
			"release": func(t *rapid.T) {
				i := index.Draw(t, "request")
				all[i].Release()
				sum -= want[i]
				want[i] = 0
			},
			"shrink": func(t *rapid.T) {
				i := index.Draw(t, "request")
				n := rapid.Int64Range(0, want[i]).Draw(t, "bytes")
				all[i].Shrink(n)
				sum -= n
				want[i] -= n
			},
			"": func(t *rapid.T) { require.Equal(t, sum, memory.Used()) },
		})
	})
}
