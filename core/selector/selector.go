// Package selector chooses the proxy of the next attempt: candidates of a pool
// snapshot, ranked by a scorer plugin. Candidates are looked at without taking
// anything; the breaker's permit is taken for the chosen one only.
package selector

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ErrNoneLeft: the proxies still admissible have refused this request's
// credentials; trying one of them again cannot help.
var ErrNoneLeft = errors.New("every admissible proxy refused the pool's credentials")

// DefaultMaxCandidates is how many proxies are scored for one choice. Of a
// larger pool a sample is.
const DefaultMaxCandidates = 256

// Tried is a proxy that a request has been tried through.
type Tried struct {
	U      *upstream.Upstream
	Barred bool // not again for this request
}

// Query is one request's side of its choices. It is reused, with its scratch
// space, so that a choice costs no allocation.
type Query struct {
	Attempt              int // 0 for the first
	Idempotent, Connect  bool
	Region               string // wanted, "" for none
	HostHash, RegionHash float64
	Tried                []Tried // oldest first

	now        time.Time
	turn       uint64
	seed       uint64
	poolSize   int
	ordered    bool // candidates are in the rotation's order
	candidates []*upstream.Upstream
	scores     []float64
}

// Reset readies q for another request.
func (q *Query) Reset() {
	clear(q.Tried)
	*q = Query{Tried: q.Tried[:0], candidates: q.candidates[:0], scores: q.scores}
}

// Selector is safe for concurrent use.
type Selector struct {
	pool  *upstream.Pool
	now   func() time.Time
	rand  func() uint64
	limit int
	turn  atomic.Uint64
	ties  atomic.Uint64 // choices settled by turns
}

// New returns a selector of pool's proxies.
func New(pool *upstream.Pool, now func() time.Time, rand func() uint64, maxCandidates int) *Selector {
	return &Selector{pool: pool, now: now, rand: rand, limit: max(maxCandidates, 1)}
}

// NextTest is the pool's.
func (s *Selector) NextTest() (time.Time, bool) { return s.pool.NextTest() }

// Select chooses a proxy and takes its permit. Errors: core.ErrPoolEmpty,
// core.ErrAllBreakersOpen, core.ErrAllBusy, ErrNoneLeft. A scorer that fails
// leaves the choice to the rotation.
func (s *Selector) Select(q *Query, scorer core.Scorer) (upstream.Lease, error) {
	snap := s.pool.Snapshot()
	q.now, q.poolSize = s.now(), len(snap.All)
	if q.poolSize == 0 {
		return upstream.Lease{}, core.ErrPoolEmpty
	}
	q.turn = s.turn.Load()
	if q.Attempt == 0 {
		q.turn = s.turn.Add(1) - 1
		if lease, ok := s.overdue(q); ok {
			return lease, nil
		}
	}
	s.gather(q, snap)
	if len(q.candidates) == 0 {
		return s.again(q, snap)
	}
	return s.best(q, scorer)
}

// overdue gives a half-open breaker that no scorer has chosen its probe.
func (s *Selector) overdue(q *Query) (upstream.Lease, bool) {
	for _, u := range s.pool.Overdue() {
		if !u.Draining() && u.Breaker().Overdue() {
			if lease, ok := u.Acquire(q.now); ok {
				return lease, true
			}
		}
	}
	return upstream.Lease{}, false
}

// gather lists the candidates: all admissible untried proxies or, of a large
// pool, a sample of them.
func (s *Selector) gather(q *Query, snap *upstream.Snapshot) {
	q.candidates = q.candidates[:0]
	all := snap.All
	q.ordered = len(all) > s.limit || len(q.Tried) > 0
	if len(all) <= s.limit {
		// A retry's rotation goes on behind the proxy tried last.
		begin := 0
		if n := len(q.Tried); n > 0 {
			begin = slices.Index(all, q.Tried[n-1].U) + 1
		}
		for i := range all {
			if u := all[(begin+i)%len(all)]; q.admissible(u) {
				q.candidates = append(q.candidates, u)
			}
		}
		return
	}
	// The pool's turn-th proxy (or the next admissible one) comes first, so
	// that a rotation covers a pool of any size; then every k-th from a random
	// place on, a systematic sample without repetition.
	n := uint64(len(all))
	first := q.turn % n
	for i := range uint64(s.limit) {
		if u := all[(first+i)%n]; q.admissible(u) {
			first = (first + i) % n
			q.candidates = append(q.candidates, u)
			break
		}
	}
	step := n / uint64(s.limit)
	at := s.rand() % n
	for range s.limit {
		if u := all[at]; at != first && q.admissible(u) && len(q.candidates) < s.limit {
			q.candidates = append(q.candidates, u)
		}
		if at += step; at >= n {
			at -= n
		}
	}
	if len(q.candidates) == 0 { // nearly all are out: look at each
		for _, u := range all {
			if q.admissible(u) && len(q.candidates) < s.limit {
				q.candidates = append(q.candidates, u)
			}
		}
	}
}

// admissible reports whether u may be chosen. A half-open breaker's probe is
// for idempotent requests, since it may well fail.
func (q *Query) admissible(u *upstream.Upstream) bool {
	if !u.Breaker().Admissible() || u.Draining() || u.Full() || q.tried(u) {
		return false
	}
	return q.Idempotent || u.Breaker().State() == core.Closed
}

func (q *Query) tried(u *upstream.Upstream) bool {
	for i := range q.Tried {
		if q.Tried[i].U == u {
			return true
		}
	}
	return false
}

// Untried reports whether a proxy that q has not tried is admissible.
func (s *Selector) Untried(q *Query) bool {
	s.gather(q, s.pool.Snapshot())
	return len(q.candidates) > 0
}

// again chooses when no untried proxy is a candidate: a half-open one for a
// request that would rather not probe, else the one tried longest ago.
func (s *Selector) again(q *Query, snap *upstream.Snapshot) (upstream.Lease, error) {
	busy, barred := false, false
	for _, u := range snap.All {
		switch {
		case u.Draining() || q.tried(u) || !u.Breaker().Admissible():
		case u.Full():
			busy = true
		default:
			if lease, ok := u.Acquire(q.now); ok {
				return lease, nil
			}
		}
	}
	for i, t := range q.Tried {
		later := false
		for _, o := range q.Tried[i+1:] {
			later = later || o.U == t.U
		}
		switch {
		case later || snap.Get(t.U.ID()) != t.U || t.U.Draining() || !t.U.Breaker().Admissible():
		case t.Barred:
			barred = true
		case t.U.Full():
			busy = true
		default:
			if lease, ok := t.U.Acquire(q.now); ok {
				return lease, nil
			}
		}
	}
	switch {
	case busy:
		return upstream.Lease{}, core.ErrAllBusy
	case barred:
		return upstream.Lease{}, ErrNoneLeft
	}
	return upstream.Lease{}, core.ErrAllBreakersOpen
}

// best scores the candidates and acquires the best that lets itself be.
func (s *Selector) best(q *Query, scorer core.Scorer) (upstream.Lease, error) {
	n := len(q.candidates)
	if cap(q.scores) < n {
		q.scores = make([]float64, max(n, 16))
	}
	scores := q.scores[:n]
	tolerance := 0.0
	if n == 1 {
		scores[0] = 0
	} else {
		q.seed = s.rand()
		if err := scorer.Score(q, scores); err != nil {
			for i := range scores {
				scores[i] = -q.rotation(i)
			}
		} else if t, ok := scorer.(core.Tolerance); ok {
			tolerance = t.Tolerance()
		}
	}
	for len(scores) > 0 {
		i := s.pick(q, scores, tolerance)
		if lease, ok := q.candidates[i].Acquire(q.now); ok {
			return lease, nil
		}
		// Somebody was faster: choose again among the rest.
		last := len(scores) - 1
		scores[i], q.candidates[i] = scores[last], q.candidates[last]
		scores, q.candidates = scores[:last], q.candidates[:last]
	}
	return s.again(q, s.pool.Snapshot())
}

// pick returns the candidate with the best score. Scores within the tolerance
// count as equal: then the fewest in flight for its weight wins, then they take
// turns.
func (s *Selector) pick(q *Query, scores []float64, tolerance float64) int {
	best := math.Inf(-1)
	for _, score := range scores {
		if score > best { // false for NaN
			best = score
		}
	}
	floor := best - tolerance*math.Abs(best)
	chosen, equals, load := 0, 0, math.Inf(1)
	for i, score := range scores {
		if !(score >= floor) {
			continue
		}
		switch l := q.load(i); {
		case l < load:
			chosen, equals, load = i, 1, l
		case l == load:
			equals++
		}
	}
	if equals < 2 {
		return chosen
	}
	// Load may have changed meanwhile; then an earlier one of them is as good.
	turn := (s.ties.Add(1) - 1) % uint64(equals)
	for i := chosen + 1; i < len(scores) && turn > 0; i++ {
		if scores[i] >= floor && q.load(i) == load {
			chosen = i
			turn--
		}
	}
	return chosen
}

// load is a candidate's requests in flight for its weight.
func (q *Query) load(i int) float64 {
	return float64(q.candidates[i].InFlight()) / q.candidates[i].Spec().Weight
}

func (q *Query) rotation(i int) float64 {
	n := len(q.candidates)
	if q.ordered {
		return float64(i)
	}
	return float64((uint64(i) + uint64(n) - q.turn%uint64(n)) % uint64(n))
}

// Len implements core.Candidates.
func (q *Query) Len() int { return len(q.candidates) }

// Fill implements core.Candidates.
func (q *Query) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest{
		Count: float64(len(q.candidates)), Now: float64(q.now.UnixNano()) / 1e9, Attempt: float64(q.Attempt),
		Turn: float64(q.turn), Seed: float64(q.seed >> 11), HostHash: q.HostHash, RegionHash: q.RegionHash,
		PoolSize: float64(q.poolSize), Idempotent: flag(q.Idempotent), Connect: flag(q.Connect),
	}
	slowest := 0.0
	for i, u := range q.candidates {
		c := &rows[i]
		u.Fill(c, q.now)
		c.RegionMatch = flag(q.Region != "" && u.Spec().Region == q.Region)
		c.AffinityHash = core.Pair53(u.IDHash(), q.HostHash)
		c.Rotation = q.rotation(i)
		slowest = max(slowest, c.LatencyMean)
	}
	for i := range rows[:len(q.candidates)] {
		c := &rows[i]
		switch {
		case c.LatencyMean > 0:
			c.NormalizedLatency = (c.LatencyMean + jitter) / (slowest + jitter) // D14
		case c.Samples == 0:
			c.NormalizedLatency = 0.5 // D13
		case c.SuccessRate == 0:
			c.NormalizedLatency = 1 // it never succeeded: nothing speaks for its speed
		default:
			c.NormalizedLatency = 0
		}
	}
}

// jitter (s) is added to latencies before they are compared: a fraction of a
// millisecond between two near proxies is noise, and must not decide.
const jitter = 0.010

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
