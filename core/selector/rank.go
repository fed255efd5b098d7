package selector

import (
	"math"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// chooseBest ranks the candidates and acquires the best one that can be acquired.
func (s *Selector) chooseBest(c *choice, scorer core.Scorer) error {
	scores, tolerance := s.scoreCandidates(c, scorer)
	for len(scores) > 0 {
		i := s.pickBest(c, scores, tolerance)
		if c.acquire(c.candidates[i]) {
			return nil
		}
		// In the meantime, another request has brought the candidate to max_in_flight or another limit, or has become
		// its probe.
		last := len(scores) - 1
		scores[i], c.candidates[i] = scores[last], c.candidates[last]
		scores, c.candidates = scores[:last], c.candidates[:last]
	}
	return s.chooseLastResort(c, s.pool.Snapshot())
}

// scoreCandidates scores the candidates: with the scorer or, if it fails, by rotation.
func (s *Selector) scoreCandidates(c *choice, scorer core.Scorer) (scores []float64, tolerance float64) {
	n := len(c.candidates)
	if cap(c.scores) < n {
		c.scores = make([]float64, max(n, 16))
	}
	scores = c.scores[:n]
	if n == 1 {
		scores[0] = 0
		return scores, 0
	}
	c.seed = s.rand()
	if err := scorer.Score(c, scores); err != nil {
		distance := c.firstRotation()
		for i := range scores {
			scores[i] = -float64(distance)
			distance = c.nextRotation(distance)
		}
		return scores, 0
	}
	if t, ok := scorer.(core.Tolerance); ok {
		tolerance = t.Tolerance()
	}
	return scores, tolerance
}

// pickBest returns the index of the best candidate. Among the candidates whose scores are within the tolerance of the
// best score, it picks one with the least load (Upstream.Load). If several have this load, they take turns: in a first
// attempt by the rotation, in a retry by tieTurn.
func (s *Selector) pickBest(c *choice, scores []float64, tolerance float64) int {
	best := math.Inf(-1)
	for _, score := range scores {
		if score > best { // false for NaN
			best = score
		}
	}
	floor := best - tolerance*math.Abs(best)
	chosen, ties, load := 0, 0, math.Inf(1)
	for i, score := range scores {
		if !(score >= floor) {
			continue
		}
		switch l := c.candidates[i].Load(); {
		case l < load:
			chosen, ties, load = i, 1, l
		case l == load:
			ties++
		}
	}
	if ties < 2 {
		return chosen
	}
	// If a load has changed since the first loop, the second loop may find fewer candidates. The last one found is then
	// chosen.
	turn := c.turn
	switch {
	case c.Attempt > 0:
		turn = s.tieTurn.Add(1) - 1
	case c.firstHasTurn:
		turn = 0
	}
	turn %= uint64(ties)
	for i := chosen + 1; i < len(scores) && turn > 0; i++ {
		if scores[i] >= floor && c.candidates[i].Load() == load {
			chosen = i
			turn--
		}
	}
	return chosen
}

// firstRotation returns the rotation distance (core.Candidate.Rotation) of the first candidate.
func (c *choice) firstRotation() int {
	n := len(c.candidates)
	if c.firstHasTurn || n == 0 {
		return 0
	}
	if turn := int(c.turn % uint64(n)); turn > 0 {
		return n - turn
	}
	return 0
}

// nextRotation returns the rotation distance of the candidate that follows a candidate with the given distance.
func (c *choice) nextRotation(distance int) int {
	if distance++; distance == len(c.candidates) {
		return 0
	}
	return distance
}

var _ core.Candidates = (*choice)(nil)

// Len implements core.Candidates.
func (c *choice) Len() int { return len(c.candidates) }

// Fill implements core.Candidates.
func (c *choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest{
		Count: float64(len(c.candidates)), Now: float64(c.now.UnixNano()) / 1e9, Attempt: float64(c.Attempt),
		Turn: float64(c.turn), Seed: float64(c.seed >> 11), HostHash: c.HostHash, RegionHash: c.RegionHash,
		PoolSize: float64(c.poolSize), Idempotent: toFloat(c.Idempotent), Connect: toFloat(c.Connect),
	}
	slowest, distance := 0.0, c.firstRotation()
	rows = rows[:len(c.candidates)]
	for i, u := range c.candidates {
		row := &rows[i]
		u.Fill(row, c.elapsed, c.RegionHash)
		row.AffinityHash = core.Pair53(u.IDHash(), c.HostHash)
		row.Rotation = float64(distance)
		distance = c.nextRotation(distance)
		if row.LatencyMean > slowest {
			slowest = row.LatencyMean
		}
	}
	normalize(rows, slowest)
}

// Normalize sets NormalizedLatency in all rows. It is meant for rows that Fill has not filled.
func Normalize(rows []core.Candidate) {
	slowest := 0.0
	for i := range rows {
		slowest = max(slowest, rows[i].LatencyMean)
	}
	normalize(rows, slowest)
}

func normalize(rows []core.Candidate, slowest float64) {
	for i := range rows {
		c := &rows[i]
		switch {
		case c.LatencyMean > 0:
			c.NormalizedLatency = (c.LatencyMean + latencyNoise) / (slowest + latencyNoise)
		case c.Samples == 0:
			c.NormalizedLatency = 0.5 // unknown: in the middle
		case c.SuccessRate == 0:
			c.NormalizedLatency = 1 // the proxy has never succeeded
		default:
			c.NormalizedLatency = 0
		}
	}
}

// latencyNoise (seconds) is added to latencies before they are compared, so that a difference of a fraction
// of a millisecond has little effect.
const latencyNoise = 0.010

func toFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
