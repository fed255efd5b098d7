package sdk_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
)

// The map is compared with a model: a slice in the order of use.
func TestLRU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 9).Draw(t, "capacity")
		m := lru.New[int](capacity)
		type pair struct {
			key   float64
			value int
		}
		var model []pair // the newest last
		for i := range rapid.IntRange(0, 200).Draw(t, "uses") {
			key := float64(rapid.IntRange(0, 20).Draw(t, "key"))
			at := slices.IndexFunc(model, func(p pair) bool { return p.key == key })
			v := m.Get(key)
			require.Equal(t, at >= 0, v != nil)
			if v != nil {
				require.Equal(t, model[at].value, *v)
			}
			if rapid.Bool().Draw(t, "only looks") {
				continue
			}
			v = m.Put(key)
			p := pair{key: key}
			if at >= 0 {
				p = model[at]
				model = slices.Delete(model, at, at+1)
			}
			require.Equal(t, p.value, *v)
			*v, p.value = i, i
			model = append(model, p)
			model = model[max(0, len(model)-capacity):]
			require.Equal(t, len(model), m.Len())
		}
	})
}

func TestLRUAllocatesNothing(t *testing.T) {
	m := lru.New[[4]float64](100)
	key := 0.0
	require.Zero(t, testing.AllocsPerRun(1000, func() { m.Put(key); key++ }))
}
