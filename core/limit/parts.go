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

// shared holds the parts of the limits of a Usage.
type shared struct {
	divisor int64
	parts   [NumKinds]parts.Part
}

// SetShare makes the limits shared ones, without a part of their own: parts.First with the given divisor. If divisor
// is 0, the limits are not shared. Limits that have a part keep it.
func (u *Usage) SetShare(divisor int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if divisor == 0 {
		u.shared = nil
	} else {
		if u.shared == nil {
			u.shared = &shared{}
		}
		u.shared.divisor = divisor
		if p := &u.shared.parts[Bytes]; !p.IsOf(dayOf(now)) {
			used := u.today(now)
			*p = parts.Begun(u.day, used)
		}
	}
	u.apply(now)
}

// amount returns a limit as the amount of a parts.Use; 0 without this limit.
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

// most returns what the gateway may use of a limit. The caller holds mu.
func (u *Usage) most(k Kind, now time.Time) int64 {
	amount := u.limit.amount(k)
	switch s := u.shared; {
	case s == nil || amount == 0:
		return amount
	case k == Bytes:
		return s.parts[k].MostToday(amount, s.divisor, dayOf(now))
	default:
		return s.parts[k].Most(amount, s.divisor)
	}
}

// apply puts the limits, or the parts of them, into effect. The caller holds mu.
func (u *Usage) apply(now time.Time) {
	l := u.limit
	u.maxInFlight = int(u.most(InFlight, now))
	if most := u.most(Rate, now); most < l.amount(Rate) {
		l.Rate = float64(most) / parts.RateUnit
	}
	every := rate.Limit(0)
	if l.MinInterval > 0 {
		every = rate.Every(l.MinInterval)
		if most := u.most(Interval, now); most < l.amount(Interval) {
			every = rate.Limit(most) / parts.RateUnit
		}
	}
	// The burst of the limiter is the number of attempts that may begin together: Rate, but at least 1.
	u.rate = adjust(u.rate, rate.Limit(l.Rate), max(int(l.Rate), 1), now)
	u.interval = adjust(u.interval, every, 1, now)
}

// PartUse returns the use of a shared limit.
func (u *Usage) PartUse(k Kind, now time.Time) parts.Use {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := parts.Use{Limit: u.limit.amount(k), Part: u.most(k, now), Count: u.began}
	switch k {
	case InFlight:
		out.Kind, out.Used = parts.InFlight, int64(u.inFlight)
	case Bytes:
		out.Kind, out.Used = parts.Daily, u.today(now)
		out.Count, out.Day = out.Used, u.day
		if u.shared != nil {
			out.Total, out.Base = u.shared.parts[k].Total(u.day)
		}
	case Rate:
		out.Kind, out.Empty = parts.Rate, missing(u.rate, now) > tolerance
	case Interval:
		out.Kind, out.Empty = parts.Rate, missing(u.interval, now) > tolerance
	}
	return out
}

// missing returns the part of a token that a limiter lacks for an attempt; at most 0 if it lacks nothing.
func missing(l *rate.Limiter, now time.Time) float64 {
	if l == nil {
		return 0
	}
	return 1 - l.TokensAt(now)
}

// SetPart sets the part of a shared limit, as parts.Limit.SetPart does. The part of a rate is at least the first part.
func (u *Usage) SetPart(k Kind, part, total int64, now time.Time) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.shared
	if s == nil {
		return part
	}
	used := int64(0)
	switch k {
	case Bytes:
		used = u.today(now)
	case InFlight:
		used = int64(u.inFlight)
	default:
		part = max(part, parts.First(u.limit.amount(k), s.divisor))
	}
	s.parts[k] = parts.Held(part, total, u.day, used)
	u.apply(now)
	return max(part, used)
}

// Release gives up the part of a shared limit, as parts.Limit.Release does.
func (u *Usage) Release(k Kind, part, total int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.shared
	if s == nil {
		return
	}
	s.parts[k] = parts.Part{}
	if k == Bytes {
		used := u.today(now)
		s.parts[k] = parts.Released(part, total, u.day, used)
	}
	u.apply(now)
}

// HasPart reports whether the shared limit has a part of its own.
func (u *Usage) HasPart(k Kind, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shared != nil && u.shared.parts[k].IsHeld(k == Bytes, dayOf(now))
}

// pollPart is the time after which an attempt is tried again that waits for a larger part of a shared limit.
const pollPart = 100 * time.Millisecond

// until returns the time at which the limiter l, which has the part of a shared rate, admits an attempt. It may be
// too early, because the part may grow. missing is the result of the function missing.
func (u *Usage) until(l *rate.Limiter, missing float64, k Kind, now time.Time) time.Time {
	wait := time.Duration(math.Ceil(missing / float64(l.Limit()) * 1e9))
	if u.shared != nil {
		soonest := time.Duration(missing * parts.RateUnit / float64(u.limit.amount(k)) * 1e9)
		wait = min(wait, max(soonest, pollPart))
	}
	return now.Add(wait)
}

// bytesState returns the State of a limit on bytes of which the gateway may use no more now.
func (u *Usage) bytesState(used int64, now time.Time) State {
	day := dayOf(now)
	if s := u.shared; s != nil && !s.parts[Bytes].Spent(u.limit.BytesPerDay, day, used) {
		return State{Until: now.Add(pollPart)}
	}
	return State{Until: dayBegin(day + 1), Spent: true}
}
