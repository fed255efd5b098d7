package selector

import (
	"errors"
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// ErrBarred reports that the request must not use any admissible proxy again: each one is barred (TriedProxy.Barred).
var ErrBarred = errors.New("every admissible proxy is barred for this request")

// allOpenRecord records that all breakers are open, until the pool changes or a breaker becomes half-open.
type allOpenRecord struct {
	changes uint64 // Pool.Changes when this was recorded
	until   time.Time
}

// NextTestTime returns the earliest time at which a proxy whose breaker is not closed may become admissible:
// Pool.NextTestTime or, if earlier, Pool.NextCheck. It returns false if all breakers are closed.
func (s *Selector) NextTestTime() (time.Time, bool) {
	test, ok := s.pool.NextTestTime()
	if check, planned := s.pool.NextCheck(); ok && planned && check.Before(test) {
		return check, true
	}
	return test, ok
}

func (s *Selector) isAllOpen(changes uint64, now time.Time) bool {
	found := s.allOpen.Load()
	return found != nil && found.changes == changes && now.Before(found.until)
}

// CheckSelect returns the error that Select would return if no proxy can be chosen for q now. If the proxies are only
// busy, it returns nil.
func (s *Selector) CheckSelect(q *Query, now time.Time) error {
	if q.Direct {
		return nil
	}
	snap, excluded, at := s.pool.Snapshot(), s.exclusionsFor(q), s.pool.Elapsed(now)
	if q.isSessionBound() {
		return s.checkSession(q, snap, excluded, now)
	}
	if q.isRestricted() {
		err := q.selectError(snap.All, excluded, at)
		if err == core.ErrPoolEmpty || err == core.ErrAllBreakersOpen {
			err = s.restrictedError(q, now)
		}
		return err
	}
	if s.isAllOpen(s.pool.Changes(), now) {
		return core.ErrAllBreakersOpen
	}
	return q.selectError(snap.All, excluded, at)
}

// selectError returns the error of CheckSelect if none of the given proxies may be chosen for q, and otherwise nil.
// The parameter at is the current time (Pool.Elapsed).
func (q *Query) selectError(all []*upstream.Upstream, excluded exclusions, at time.Duration) error {
	err, soonest, anyHostBan := core.ErrPoolEmpty, time.Duration(math.MaxInt64), false
	for _, u := range all {
		if u.Draining() || q.isExcluded(u) {
			continue
		}
		until, found := excluded.excludedUntil(u, at)
		switch {
		case !u.BreakerAdmits(at):
			err = core.ErrAllBreakersOpen
		case !found:
			return nil
		default:
			soonest = min(soonest, until)
			_, banned := excluded.proxyBans.EndOf(u.Hash(), at)
			anyHostBan = anyHostBan || !banned
		}
	}
	// If all bans are for all hosts and there is also an open breaker, the error is core.ErrAllBreakersOpen: the
	// breaker usually admits a probe before a ban ends.
	if soonest < math.MaxInt64 && (anyHostBan || err != core.ErrAllBreakersOpen) {
		return &core.BannedError{TimeLeft: soonest - at, AllBanned: !anyHostBan}
	}
	return err
}

// restrictedError returns the error of a restricted request (isRestricted) for which no permitted proxy is admissible.
func (s *Selector) restrictedError(q *Query, now time.Time) error {
	var due time.Time
	for _, u := range s.pool.NotClosed() {
		if q.isExcluded(u) {
			continue
		}
		v := u.Breaker().Snapshot()
		if v.State == core.HalfOpen {
			v.NextTest = now // the probe in flight may end at any time
		}
		if due.IsZero() || v.NextTest.Before(due) {
			due = v.NextTest
		}
	}
	if q.tagStrict() {
		return &core.TagError{Due: due}
	}
	return &core.RegionError{Due: due}
}
