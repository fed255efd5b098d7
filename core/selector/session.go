package selector

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Session is the session of a request. The requests of a session use the same proxy while that proxy is
// admissible.
type Session interface {
	// StartProxy returns the id of the session's proxy; "" if it has none yet.
	StartProxy() string
	// IsStrict reports whether the session has a proxy and must use no other proxy.
	IsStrict() bool
	// Score returns the score of the proxy with the given Upstream.Hash and weight. A session without a proxy gets
	// the admissible proxy with the highest score.
	Score(proxy uint64, weight float64) float64
}

// isSessionBound reports whether the request must use the proxy of its session.
func (q *Query) isSessionBound() bool { return q.Session != nil && q.Session.IsStrict() }

// chooseForSession acquires the session's proxy if it is admissible, otherwise the proxy with the highest score. If the
// session's proxy is full or at a limit, the request waits for the proxy. A session that is not strict does not wait
// for the limit bytes_per_day.
func (s *Selector) chooseForSession(c *choice, snap *upstream.Snapshot) error {
	strict := c.Session.IsStrict()
	if u := snap.Get(c.Session.StartProxy()); u != nil && (strict || c.keepsSession(u)) {
		switch {
		case strict && c.isBarred(u):
			return ErrBarred
		case !c.sessionAdmits(u):
		case u.Full():
			return core.ErrAllBusy
		default:
			if state, admits := c.checkLimit(u); !admits && (strict || !state.BytesSpent) {
				limited := earliestLimit{}
				limited.add(state)
				return limited.limitedError(c.now, false)
			}
			if c.acquire(u) {
				return nil
			}
		}
	}
	if strict {
		return s.sessionError(c.Query, snap, c.exclusions(), c.now)
	}
	if u := c.highestScored(snap); u != nil && c.acquire(u) {
		return nil
	}
	return s.chooseLastResort(c, snap)
}

// sessionAdmits reports whether the request may use u, the session's proxy. It does not check max_in_flight and the
// limits of u.
func (c *choice) sessionAdmits(u *upstream.Upstream) bool {
	return !u.Draining() && u.BreakerAdmits(c.elapsed) && !c.isBanned(u) && !c.isExcluded(u)
}

// keepsSession reports whether a session that is not strict keeps its proxy u for this attempt.
func (c *choice) keepsSession(u *upstream.Upstream) bool {
	return !c.hasTried(u) && (c.Idempotent || u.Breaker().State() == core.Closed) && c.hasAbility(u)
}

func (q *Query) isBarred(u *upstream.Upstream) bool {
	for i := range q.Tried {
		if q.Tried[i].Proxy == u && q.Tried[i].Barred {
			return true
		}
	}
	return false
}

// highestScored returns the best admissible proxy for a session; nil if no proxy is admissible. A proxy's rank depends
// on its tag, region, state and tier. Of the proxies with the highest rank, the best is the one with the highest
// Session.Score. The whole pool is read, not a sample, so that all requests of a session find the same proxy.
func (c *choice) highestScored(snap *upstream.Snapshot) (best *upstream.Upstream) {
	bestRank, bestScore := -1.0, 0.0
	for _, u := range snap.All {
		if !c.isAdmissible(u) {
			continue
		}
		rank := 0.0
		if c.Tag != 0 && u.HasTag(c.Tag) {
			rank += 8
		}
		if c.RegionMode != RegionScored && c.matchesRegion(u) {
			rank += 4
		}
		if u.ClosedAndNotFull() {
			rank += 2
		}
		rank -= float64(u.Tier()) / (upstream.MaxTier + 1)
		if u.Preferred(c.elapsed) {
			rank += 0.5 / (upstream.MaxTier + 1)
		}
		if rank < bestRank {
			continue
		}
		if score := c.Session.Score(u.Hash(), u.Weight()); rank > bestRank || score > bestScore {
			best, bestRank, bestScore = u, rank, score
		}
	}
	return best
}

// checkSession returns the result of CheckSelect for a request that must use the session's proxy.
func (s *Selector) checkSession(q *Query, snap *upstream.Snapshot, excluded exclusions, now time.Time) error {
	at, u := s.pool.Elapsed(now), snap.Get(q.Session.StartProxy())
	if u != nil && !u.Draining() && u.BreakerAdmits(at) && !q.isExcluded(u) {
		if _, banned := excluded.excludedUntil(u, at); !banned {
			return nil
		}
	}
	return s.sessionError(q, snap, excluded, now)
}

// sessionError returns the error of a request whose strict session has a proxy that is not admissible.
func (s *Selector) sessionError(q *Query, snap *upstream.Snapshot, excluded exclusions, now time.Time) error {
	e, u := &core.SessionError{}, snap.Get(q.Session.StartProxy())
	if u == nil || u.Draining() || q.isExcluded(u) {
		return e
	}
	at := s.pool.Elapsed(now)
	if until, banned := excluded.excludedUntil(u, at); banned {
		e.Due = now.Add(until - at)
	}
	switch v := u.Breaker().Snapshot(); {
	case v.State == core.HalfOpen && e.Due.IsZero():
		e.Due = now // the probe in flight may end at any time
	case v.State == core.Open && v.NextTest.After(e.Due):
		e.Due = v.NextTest
	}
	return e
}
