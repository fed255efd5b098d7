package plugins_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// seeded is a choice with its own seed.
type seeded struct {
	rows
	seed float64
}

func (s seeded) Fill(q *core.RankRequest, to []core.Candidate) {
	s.rows.Fill(q, to)
	q.Seed = s.seed
}

// uniform does the same in Go as the function uniform of the built-ins.
func uniform(seed float64, i int) float64 {
	z := math.Float64bits(seed) + uint64(i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float64(z>>11+1) / (1 << 53)
}

func TestWeightedChoosesByWeight(t *testing.T) {
	s, err := registry(t).Scorer("weighted", plugins.FallbackRetry)
	require.NoError(t, err)
	weights := []float64{1, 2, 3, 4}
	list := make([]core.Candidate, len(weights))
	for i, w := range weights {
		list[i].Weight = w
	}
	const n = 20_000
	scores, chosen := make([]float64, len(list)), make([]float64, len(list))
	for k := range n {
		seed := float64(k) * 7919
		require.NoError(t, s.Score(seeded{list, seed}, scores))
		best := 0
		for i := range scores {
			require.InDelta(t, math.Log(uniform(seed, i))/weights[i], scores[i], 1e-12)
			if scores[i] > scores[best] {
				best = i
			}
		}
		chosen[best]++
	}
	for i, w := range weights {
		require.InDelta(t, w/10, chosen[i]/n, 0.014, "weight %v", w) // four standard deviations
	}
}

func TestRandomIsUniform(t *testing.T) {
	s, err := registry(t).Scorer("random", plugins.FallbackRetry)
	require.NoError(t, err)
	scores := make([]float64, 3)
	require.NoError(t, s.Score(seeded{make(rows, 3), 4711}, scores))
	for i, score := range scores {
		require.InDelta(t, uniform(4711, i), score, 1e-15)
	}
}
