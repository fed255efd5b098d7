// Package selector chooses the proxy of the next attempt: candidates of a pool
// snapshot, ranked by a scorer plugin. Candidates are looked at without taking
// anything; the breaker's permit is taken for the chosen one only.
package selector

import (
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ErrCredentialsRefused says that the proxies still admissible have refused the pool's
// credentials for this request; trying one of them again cannot help.
var ErrCredentialsRefused = errors.New("every admissible proxy refused the pool's credentials")

// DefaultMaxCandidates is how many proxies are scored for one choice at most; of
// a larger pool a sample of that size is scored.
const DefaultMaxCandidates = 256

// Tried is a proxy that a request has been tried through.
type Tried struct {
	Proxy  *upstream.Upstream
	Barred bool // not again for this request
}

// Query is one request's side of its choices.
type Query struct {
	Attempt              int // 0 for the first
	Idempotent, Connect  bool
	Retryable            bool    // another attempt may follow a failed one: the request will do for an exploration
	HostHash, RegionHash float64 // core.Hash53; RegionHash is the wanted region's, 0 for none
	Region               Region
	Tried                []Tried // oldest first
}

// Region is how a request's wanted region (Query.RegionHash) is taken.
type Region uint8

// The ways to take it.
const (
	RegionScored    Region = iota // scorers are told of it
	RegionPreferred               // first attempts keep to it while a proxy of it is admissible
	RegionStrict                  // no other region is used, in retries neither
)

// kept reports whether the next attempt keeps to the wanted region.
func (q *Query) kept() bool {
	return q.Region == RegionStrict || q.Region == RegionPreferred && q.Attempt == 0
}

// barred reports whether u is of a region that q may not use.
func (q *Query) barred(u *upstream.Upstream) bool {
	return q.Region == RegionStrict && u.RegionHash() != q.RegionHash
}

// Reset readies q for another request; it keeps the memory of Tried.
func (q *Query) Reset() {
	clear(q.Tried)
	*q = Query{Tried: q.Tried[:0]}
}

func (q *Query) tried(u *upstream.Upstream) bool {
	for i := range q.Tried {
		if q.Tried[i].Proxy == u {
			return true
		}
	}
	return false
}

// choice is one choice under way. It is reused with its memory, which belongs
// to the selector and not to the requests: many wait, few choose.
type choice struct {
	*Query
	now        time.Time
	elapsed    time.Duration // now, as upstreams take it
	turn       uint64
	seed       uint64
	poolSize   int
	ordered    bool // candidates are in the rotation's order
	candidates []*upstream.Upstream
	scores     []float64
}

// Selector is safe for concurrent use.
type Selector struct {
	pool     *upstream.Pool
	rand     func() uint64
	limit    int
	turn     atomic.Uint64
	explored atomic.Uint64 // the turn from which an idle proxy may be explored again
	shut     atomic.Pointer[shut]
	ties     atomic.Uint64 // retries' choices settled by turns
	idle     sync.Pool     // of *choice
}

// shut is the finding that every breaker is open. It holds for everybody until
// the pool changes or the first of them is due.
type shut struct {
	changes uint64 // of the pool, when it was found
	until   time.Time
}

// New returns a selector of pool's proxies; rand is its only chance.
func New(pool *upstream.Pool, rand func() uint64, maxCandidates int) *Selector {
	return &Selector{pool: pool, rand: rand, limit: max(maxCandidates, 1)}
}

// NextTest is the pool's.
func (s *Selector) NextTest() (time.Time, bool) { return s.pool.NextTest() }

// Select chooses a proxy at the moment now and takes its permit. Errors:
// core.ErrPoolEmpty, core.ErrAllBreakersOpen, core.ErrAllBusy, ErrCredentialsRefused; with
// RegionStrict a *core.RegionError for the first two. A scorer that fails leaves
// the choice to the rotation.
func (s *Selector) Select(q *Query, scorer core.Scorer, now time.Time) (upstream.Lease, error) {
	snap, changes := s.pool.Snapshot(), s.pool.Changes()
	switch {
	case q.Region == RegionStrict && (len(snap.All) == 0 || s.isShut(changes, now)):
		return upstream.Lease{}, s.regionError(q, now)
	case len(snap.All) == 0:
		return upstream.Lease{}, core.ErrPoolEmpty
	case s.isShut(changes, now):
		return upstream.Lease{}, core.ErrAllBreakersOpen
	}
	c := s.begin(q, now)
	defer s.end(c)
	lease, err := s.choose(c, snap, scorer)
	switch {
	case err == core.ErrAllBreakersOpen && q.Region == RegionStrict, err == core.ErrPoolEmpty && q.Region == RegionStrict:
		err = s.regionError(q, now)
	case err == core.ErrAllBreakersOpen:
		if at, ok := s.pool.NextTest(); ok && at.After(now) { // no probe under way
			s.shut.Store(&shut{changes, at})
		}
	}
	return lease, err
}

func (s *Selector) begin(q *Query, now time.Time) *choice {
	c, ok := s.idle.Get().(*choice)
	if !ok {
		c = &choice{}
	}
	c.Query, c.now, c.elapsed = q, now, s.pool.Elapsed(now)
	return c
}

func (s *Selector) end(c *choice) {
	c.Query = nil
	s.idle.Put(c)
}

func (s *Selector) choose(q *choice, snap *upstream.Snapshot, scorer core.Scorer) (upstream.Lease, error) {
	q.poolSize = len(snap.All)
	q.turn = s.turn.Load()
	if q.Attempt == 0 {
		q.turn = s.turn.Add(1) - 1
		if lease, ok := s.overdue(q, snap); ok {
			return lease, nil
		}
		if lease, ok := s.explore(q, snap); ok {
			return lease, nil
		}
		if q.kept() {
			if g := snap.Region(q.RegionHash); g != nil {
				q.turn = g.Turn.Add(1) - 1 // else requests for two regions by turns would share one rotation
			}
		}
	}
	s.gather(q, snap)
	if len(q.candidates) == 0 {
		return s.again(q, snap)
	}
	q.prefer()
	return s.best(q, scorer)
}

func (s *Selector) isShut(changes uint64, now time.Time) bool {
	found := s.shut.Load()
	return found != nil && found.changes == changes && now.Before(found.until)
}

// overdue sends the request, as its probe, to a half-open breaker that no scorer
// has chosen for too long.
func (s *Selector) overdue(q *choice, snap *upstream.Snapshot) (upstream.Lease, bool) {
	for _, u := range s.pool.Overdue() {
		if !u.Draining() && q.suits(u, snap) && u.Breaker().Overdue() {
			if lease, ok := u.Acquire(q.now); ok {
				return lease, true
			}
		}
	}
	return upstream.Lease{}, false
}

// suits reports whether an attempt of q may go to u as far as regions matter.
func (q *choice) suits(u *upstream.Upstream, snap *upstream.Snapshot) bool {
	return !q.kept() || u.RegionHash() == q.RegionHash || q.Region != RegionStrict && snap.Region(q.RegionHash) == nil
}

// Explorations are bounded: between two of them there are so many first attempts.
const (
	exploreEvery = 20
	trialEvery   = 5 // if the second is of a proxy on trial
)

// explore sends an idempotent request to a proxy that no choice has reached for
// too long (package upstream says which and why).
func (s *Selector) explore(q *choice, snap *upstream.Snapshot) (upstream.Lease, bool) {
	list := s.pool.Idle()
	if len(list) == 0 || !q.Idempotent || !q.Retryable {
		return upstream.Lease{}, false
	}
	from := s.explored.Load()
	for _, u := range list {
		if q.turn+exploreEvery-trialEvery < from {
			break
		}
		if _, yes := u.Unexplored(q.elapsed); !yes || q.turn < from && !u.OnTrial() || !q.suits(u, snap) {
			continue
		}
		if !s.explored.CompareAndSwap(from, q.turn+exploreEvery) {
			break // another request explores
		}
		return u.Explore(q.now)
	}
	return upstream.Lease{}, false
}

// gather lists the candidates: all admissible untried proxies or, of many, a
// sample of them. They are those of the wanted region, if q keeps to it and there
// are any or it has to.
func (s *Selector) gather(q *choice, snap *upstream.Snapshot) {
	if q.kept() {
		q.candidates = q.candidates[:0]
		if g := snap.Region(q.RegionHash); g != nil {
			s.gatherOf(q, g)
		}
		if len(q.candidates) > 0 || q.Region == RegionStrict {
			return
		}
	}
	s.gatherOf(q, snap.Group)
}

// prefer leaves out the candidates that have not shown that they work (package
// upstream says which), if there are others.
func (q *choice) prefer() {
	n := 0
	for _, u := range q.candidates {
		if u.Preferred() {
			n++
		}
	}
	if n == 0 || n == len(q.candidates) {
		return
	}
	all := q.candidates
	q.candidates = q.candidates[:0]
	for _, u := range all {
		if u.Preferred() {
			q.candidates = append(q.candidates, u)
		}
	}
	if len(q.candidates) == 0 { // other requests have taken these places meanwhile
		q.candidates = all
	}
}

func (s *Selector) gatherOf(q *choice, snap *upstream.Group) {
	q.candidates = q.candidates[:0]
	if len(snap.All) > s.limit {
		s.sample(q, snap)
		return
	}
	q.ordered = len(q.Tried) > 0
	// A retry's rotation goes on behind the proxy tried last.
	begin := 0
	if n := len(q.Tried); n > 0 {
		begin = slices.Index(snap.All, q.Tried[n-1].Proxy) + 1
	}
	for _, part := range [2][]*upstream.Upstream{snap.All[begin:], snap.All[:begin]} {
		for _, u := range part {
			if u.Free() && len(q.Tried) == 0 || q.admissible(u) {
				q.candidates = append(q.candidates, u)
			}
		}
	}
}

// sample lists candidates of a large pool. The pool's turn-th proxy, or the next
// admissible one, comes first, so that a rotation covers a pool of any size. Then
// come those that follow a random place in the mixed order, which is nearly the
// order of memory as well.
func (s *Selector) sample(q *choice, snap *upstream.Group) {
	q.ordered = true
	all := snap.All
	n := uint64(len(all))
	var first *upstream.Upstream
	for i := range uint64(s.limit) {
		if u := all[(q.turn+i)%n]; q.admissible(u) {
			first = u
			q.candidates = append(q.candidates, u)
			break
		}
	}
	at := int(s.rand() % n)
	for i := 0; i < s.limit && len(q.candidates) < s.limit; i++ {
		if u := snap.Mixed[at]; u != first && (u.Free() && len(q.Tried) == 0 || q.admissible(u)) {
			q.candidates = append(q.candidates, u)
		}
		if at++; at == len(all) {
			at = 0
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
func (q *choice) admissible(u *upstream.Upstream) bool {
	return u.Admissible(q.elapsed, q.Idempotent) && !(len(q.Tried) > 0 && q.tried(u))
}

// Untried reports whether a proxy that q has not tried is admissible at the
// moment now.
func (s *Selector) Untried(q *Query, now time.Time) bool {
	c := s.begin(q, now)
	defer s.end(c)
	s.gather(c, s.pool.Snapshot())
	return len(c.candidates) > 0
}

// Blocked says why no proxy at all would be chosen for q at the moment now:
// core.ErrPoolEmpty, core.ErrAllBreakersOpen or a *core.RegionError; nil if one
// might be, even if it is at its max_in_flight now.
func (s *Selector) Blocked(q *Query, now time.Time) error {
	snap := s.pool.Snapshot()
	if q.Region == RegionStrict {
		if g := snap.Region(q.RegionHash); g == nil || blocked(g.All, s.pool.Elapsed(now)) != nil {
			return s.regionError(q, now)
		}
		return nil
	}
	if s.isShut(s.pool.Changes(), now) {
		return core.ErrAllBreakersOpen
	}
	return blocked(snap.All, s.pool.Elapsed(now))
}

// blocked is Blocked for proxies of any region at a moment (Pool.Elapsed).
func blocked(all []*upstream.Upstream, at time.Duration) error {
	err := core.ErrPoolEmpty
	for _, u := range all {
		switch {
		case u.Draining():
		case u.BreakerAdmits(at):
			return nil
		default:
			err = core.ErrAllBreakersOpen
		}
	}
	return err
}

// again chooses when no untried proxy is a candidate: an untried one whose breaker
// is half-open, even if the request is not idempotent; else the proxy that this
// request tried longest ago.
func (s *Selector) again(q *choice, snap *upstream.Snapshot) (upstream.Lease, error) {
	busy, barred := false, false
	for _, u := range snap.All {
		switch {
		case u.Draining() || q.barred(u) || q.tried(u) || !u.BreakerAdmits(q.elapsed):
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
			later = later || o.Proxy == t.Proxy
		}
		switch {
		case later || t.Proxy.Draining() || q.barred(t.Proxy) || !t.Proxy.BreakerAdmits(q.elapsed):
		case t.Barred:
			barred = true
		case t.Proxy.Full():
			busy = true
		default:
			if lease, ok := t.Proxy.Acquire(q.now); ok {
				return lease, nil
			}
		}
	}
	switch {
	case busy:
		return upstream.Lease{}, core.ErrAllBusy
	case barred:
		return upstream.Lease{}, ErrCredentialsRefused
	case errors.Is(blocked(snap.All, q.elapsed), core.ErrPoolEmpty):
		return upstream.Lease{}, core.ErrPoolEmpty
	}
	return upstream.Lease{}, core.ErrAllBreakersOpen
}

// regionError says that no proxy of the region that q insists on is admissible.
func (s *Selector) regionError(q *Query, now time.Time) error {
	e := &core.RegionError{}
	for _, u := range s.pool.NotClosed() {
		if u.RegionHash() != q.RegionHash {
			continue
		}
		v := u.Breaker().Snapshot()
		if v.State == core.HalfOpen {
			v.NextTest = now // its probe is under way
		}
		if e.Due.IsZero() || v.NextTest.Before(e.Due) {
			e.Due = v.NextTest
		}
	}
	return e
}

// best scores the candidates and acquires the best of those that can still be
// acquired.
func (s *Selector) best(q *choice, scorer core.Scorer) (upstream.Lease, error) {
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
			place := q.firstPlace()
			for i := range scores {
				scores[i] = -float64(place)
				place = q.nextPlace(place)
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
// count as equal: then the fewest in flight for its weight wins. Of those that are
// equal in this too, first attempts take the one whose turn it is in the rotation,
// as round_robin does if all candidates are equal; retries take turns of their own.
func (s *Selector) pick(q *choice, scores []float64, tolerance float64) int {
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
		switch l := q.candidates[i].Load(); {
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
	turn := q.turn
	switch {
	case q.Attempt > 0:
		turn = s.ties.Add(1) - 1
	case q.ordered:
		turn = 0
	}
	turn %= uint64(equals)
	for i := chosen + 1; i < len(scores) && turn > 0; i++ {
		if scores[i] >= floor && q.candidates[i].Load() == load {
			chosen = i
			turn--
		}
	}
	return chosen
}

// firstPlace is the first candidate's distance from the rotation's turn, nextPlace
// that of the candidate behind one whose distance is place. Distances go up by one
// and, past the last candidate, begin again at 0.
func (q *choice) firstPlace() int {
	n := len(q.candidates)
	if q.ordered || n == 0 {
		return 0
	}
	if turn := int(q.turn % uint64(n)); turn > 0 {
		return n - turn
	}
	return 0
}

func (q *choice) nextPlace(place int) int {
	if place++; place == len(q.candidates) {
		return 0
	}
	return place
}

// Len implements core.Candidates.
func (q *choice) Len() int { return len(q.candidates) }

// Fill implements core.Candidates.
func (q *choice) Fill(req *core.RankRequest, rows []core.Candidate) {
	*req = core.RankRequest{
		Count: float64(len(q.candidates)), Now: float64(q.now.UnixNano()) / 1e9, Attempt: float64(q.Attempt),
		Turn: float64(q.turn), Seed: float64(q.seed >> 11), HostHash: q.HostHash, RegionHash: q.RegionHash,
		PoolSize: float64(q.poolSize), Idempotent: flag(q.Idempotent), Connect: flag(q.Connect),
	}
	slowest, place := 0.0, q.firstPlace()
	rows = rows[:len(q.candidates)]
	for i, u := range q.candidates {
		c := &rows[i]
		u.Fill(c, q.elapsed, q.RegionHash)
		c.AffinityHash = core.Pair53(u.IDHash(), q.HostHash)
		c.Rotation = float64(place)
		place = q.nextPlace(place)
		slowest = max(slowest, c.LatencyMean)
	}
	normalize(rows, slowest)
}

// Normalize sets NormalizedLatency in rows that were not filled by a Query.
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
			c.NormalizedLatency = (c.LatencyMean + jitter) / (slowest + jitter)
		case c.Samples == 0:
			c.NormalizedLatency = 0.5 // as good as the middle, until something is known
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
