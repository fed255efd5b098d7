package limit

import (
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

// Kind is one of the limits in a Limit.
type Kind uint8

// The limits that nodes of a cluster can share.
const (
	InFlight Kind = iota
	Rate
	Interval
	Bytes
	NumKinds
)

// sharedParts holds this node's parts of the limits of a Usage.
type sharedParts struct {
	divisor int64
	byKind  [NumKinds]parts.Part
}

// SetShare makes the limits shared limits. If this node has no part of a limit, it gets the first part, which
// parts.First computes with the divisor. Parts that the node has already do not change. If divisor is 0, the limits are
// not shared.
func (u *Usage) SetShare(divisor int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if divisor == 0 {
		u.parts = nil
	} else {
		if u.parts == nil {
			u.parts = &sharedParts{}
		}
		u.parts.divisor = divisor
		if p := &u.parts.byKind[Bytes]; !p.IsBegun(dayOf(now)) {
			used := u.bytesToday(now)
			*p = parts.Begun(u.day, used)
		}
	}
	u.applyLimit(now)
}

// beginPart begins this node's first part of the limit BytesPerDay again, because the number of used bytes has changed.
// It does nothing if the limits are not shared, or if the node has drawn a part of this limit today. The caller holds
// mu.
func (u *Usage) beginPart(now time.Time) {
	if u.parts == nil {
		return
	}
	used := u.bytesToday(now)
	if p := &u.parts.byKind[Bytes]; !p.IsOf(u.day) {
		*p = parts.Begun(u.day, used)
	}
}

// amount returns the limit of kind k in the unit of parts.Use.Limit, or 0 if there is no limit of this kind.
func (l *Limit) amount(k Kind) int64 {
	switch k {
	case InFlight:
		return int64(l.MaxInFlight)
	case Rate:
		return int64(math.Round(l.Rate * parts.RateUnit))
	case Interval:
		if l.MinInterval == 0 {
			return 0
		}
		return max(int64(parts.RateUnit*float64(time.Second)/float64(l.MinInterval)), 1)
	}
	return l.BytesPerDay
}

// allowance returns how much of a limit this node may use. The caller holds mu.
func (u *Usage) allowance(k Kind, now time.Time) int64 {
	amount := u.limit.amount(k)
	switch s := u.parts; {
	case s == nil || amount == 0:
		return amount
	case k == Bytes:
		return s.byKind[k].MostToday(amount, s.divisor, dayOf(now))
	default:
		return s.byKind[k].Most(amount, s.divisor)
	}
}

// applyLimit adapts maxInFlight and the limiters to the limit and the parts. The caller holds mu.
func (u *Usage) applyLimit(now time.Time) {
	l := u.limit
	u.maxInFlight = int(u.allowance(InFlight, now))
	if allowed := u.allowance(Rate, now); allowed < l.amount(Rate) {
		l.Rate = float64(allowed) / parts.RateUnit
	}
	intervalRate := rate.Limit(0)
	if l.MinInterval > 0 {
		intervalRate = rate.Every(l.MinInterval)
		if allowed := u.allowance(Interval, now); allowed < l.amount(Interval) {
			intervalRate = rate.Limit(allowed) / parts.RateUnit
		}
	}
	// The burst of the limiter is the number of attempts that may begin together: Rate, but at least 1.
	u.rate = adjustLimiter(u.rate, rate.Limit(l.Rate), max(int(l.Rate), 1), now)
	u.interval = adjustLimiter(u.interval, intervalRate, 1, now)
}

// PartUse returns this node's use of a shared limit.
func (u *Usage) PartUse(k Kind, now time.Time) parts.Use {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := parts.Use{Limit: u.limit.amount(k), Part: u.allowance(k, now), Count: u.attemptCount}
	switch k {
	case InFlight:
		out.Kind, out.Used = parts.InFlight, int64(u.inFlight)
	case Bytes:
		out.Kind, out.Used = parts.Daily, u.bytesToday(now)
		out.Count, out.Day = out.Used, u.day
		if u.parts != nil {
			out.Total, out.Base = u.parts.byKind[k].Total(u.day)
		}
	case Rate:
		out.Kind, out.Empty = parts.Rate, missingTokens(u.rate, now) > tolerance
	case Interval:
		out.Kind, out.Empty = parts.Rate, missingTokens(u.interval, now) > tolerance
	}
	return out
}

// missingTokens returns how many tokens the limiter lacks for an attempt. It is at most 0 if the limiter lacks none.
func missingTokens(l *rate.Limiter, now time.Time) float64 {
	if l == nil {
		return 0
	}
	return 1 - l.TokensAt(now)
}

// SetPart sets this node's part of a shared limit, as parts.Limit.SetPart does. The part of a limit on a rate or an
// interval becomes at least as large as the first part.
func (u *Usage) SetPart(k Kind, part, total, base int64, now time.Time) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.parts
	if s == nil {
		return part
	}
	used := int64(0)
	switch k {
	case Bytes:
		used = u.bytesToday(now)
	case InFlight:
		used = int64(u.inFlight)
	default:
		part = max(part, parts.First(u.limit.amount(k), s.divisor))
	}
	s.byKind[k] = parts.Held(part, total, u.day, base)
	u.applyLimit(now)
	return max(part, used)
}

// Release gives up this node's part of a shared limit, as parts.Limit.Release does.
func (u *Usage) Release(k Kind, part, total, base int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.parts
	if s == nil {
		return
	}
	s.byKind[k] = parts.Part{}
	if k == Bytes {
		u.bytesToday(now) // sets day
		s.byKind[k] = parts.Released(part, total, u.day, base)
	}
	u.applyLimit(now)
}

// HasPart reports whether this node holds a part of the shared limit other than the first part.
func (u *Usage) HasPart(k Kind, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.parts != nil && u.parts.byKind[k].IsHeld(k == Bytes, dayOf(now))
}

// partPollInterval is the interval at which waiting attempts check whether the part of a shared limit has grown.
const partPollInterval = 100 * time.Millisecond

// admitTime returns the time at which a limiter that lacks the given tokens admits an attempt. If its rate is a part of
// a shared limit, the result may be too early, because the part may grow.
func (u *Usage) admitTime(l *rate.Limiter, tokens float64, k Kind, now time.Time) time.Time {
	wait := time.Duration(math.Ceil(tokens / float64(l.Limit()) * 1e9))
	if u.parts != nil {
		soonest := time.Duration(tokens * parts.RateUnit / float64(u.limit.amount(k)) * 1e9)
		wait = min(wait, max(soonest, partPollInterval))
	}
	return now.Add(wait)
}

// bytesState returns the State of a limit on bytes whose allowance is used up.
func (u *Usage) bytesState(used int64, now time.Time) State {
	day := dayOf(now)
	if s := u.parts; s != nil && !s.byKind[Bytes].Spent(u.limit.BytesPerDay, day, used) {
		return State{Until: now.Add(partPollInterval)}
	}
	return State{Until: dayBegin(day + 1), BytesSpent: true}
}
