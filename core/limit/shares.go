package limit

import (
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/whirlpool-proxy/whirlpool/core/share"
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

// sharedLimits holds this node's shares of the limits of a Usage.
type sharedLimits struct {
	divisor int64
	byKind  [NumKinds]share.Share
}

// SetDivisor makes the limits shared limits: they hold for all nodes of a cluster together, and each node has a share.
// If this node has no share of a limit yet, it gets the initial share, which share.Initial computes with the divisor.
// If divisor is 0, the limits are not shared.
func (u *Usage) SetDivisor(divisor int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if divisor == 0 {
		u.shared = nil
	} else {
		if u.shared == nil {
			u.shared = &sharedLimits{}
		}
		u.shared.divisor = divisor
		if p := &u.shared.byKind[Bytes]; !p.IsFor(u.days.Day(now)) {
			used := u.bytesToday(now)
			*p = share.NewInitial(u.day, used)
		}
	}
	u.applyLimit(now)
}

// restartInitialShare computes this node's initial share of the limit BytesPerDay again, because the number of used
// bytes has changed. It does nothing if the limits are not shared, or if the node has requested a share of this limit
// today. The caller holds mu.
func (u *Usage) restartInitialShare(now time.Time) {
	if u.shared == nil {
		return
	}
	used := u.bytesToday(now)
	if p := &u.shared.byKind[Bytes]; !p.HasSizeFor(u.day) {
		*p = share.NewInitial(u.day, used)
	}
}

// amount returns the limit of kind k in the unit of share.Use.Limit, or 0 if there is no limit of this kind.
func (l *Limit) amount(k Kind) int64 {
	switch k {
	case InFlight:
		return int64(l.MaxInFlight)
	case Rate:
		return int64(math.Round(l.Rate * share.RateUnit))
	case Interval:
		if l.MinInterval == 0 {
			return 0
		}
		return max(int64(share.RateUnit*float64(time.Second)/float64(l.MinInterval)), 1)
	}
	return l.BytesPerDay
}

// allowance returns how much of a limit this node may use. The caller holds mu.
func (u *Usage) allowance(k Kind, now time.Time) int64 {
	amount := u.limit.amount(k)
	switch s := u.shared; {
	case s == nil || amount == 0:
		return amount
	case k == Bytes:
		return s.byKind[k].AllowanceToday(amount, s.divisor, u.days.Day(now))
	default:
		return s.byKind[k].Allowance(amount, s.divisor)
	}
}

// applyLimit adapts maxInFlight and the limiters to the limit and the shares. The caller holds mu.
func (u *Usage) applyLimit(now time.Time) {
	l := u.limit
	u.maxInFlight = int(u.allowance(InFlight, now))
	if allowed := u.allowance(Rate, now); allowed < l.amount(Rate) {
		l.Rate = float64(allowed) / share.RateUnit
	}
	intervalRate := rate.Limit(0)
	if l.MinInterval > 0 {
		intervalRate = rate.Every(l.MinInterval)
		if allowed := u.allowance(Interval, now); allowed < l.amount(Interval) {
			intervalRate = rate.Limit(allowed) / share.RateUnit
		}
	}
	// The burst of the limiter is the number of attempts that may begin together: Rate, but at least 1.
	u.rate = adjustLimiter(u.rate, rate.Limit(l.Rate), max(int(l.Rate), 1), now)
	u.interval = adjustLimiter(u.interval, intervalRate, 1, now)
}

// ShareUse returns this node's use of a shared limit.
func (u *Usage) ShareUse(k Kind, now time.Time) share.Use {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := share.Use{Limit: u.limit.amount(k), Share: u.allowance(k, now), Count: u.attemptCount}
	switch k {
	case InFlight:
		out.Kind, out.Used = share.InFlight, int64(u.inFlight)
	case Bytes:
		out.Kind, out.Used = share.Daily, u.bytesToday(now)
		out.Count, out.Day = out.Used, u.day
		if u.shared != nil {
			out.Total, out.UsedAtTotal = u.shared.byKind[k].Total(u.day)
		}
	case Rate:
		out.Kind, out.HasNoToken = share.Rate, missingTokens(u.rate, now) > tolerance
	case Interval:
		out.Kind, out.HasNoToken = share.Rate, missingTokens(u.interval, now) > tolerance
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

// SetShare sets this node's share of a shared limit, as share.Limit.SetShare does. The share of a limit on a rate or an
// interval becomes at least as large as the initial share.
func (u *Usage) SetShare(k Kind, size, total, usedAtTotal int64, now time.Time) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.shared
	if s == nil {
		return size
	}
	used := int64(0)
	switch k {
	case Bytes:
		used = u.bytesToday(now)
	case InFlight:
		used = int64(u.inFlight)
	default:
		size = max(size, share.Initial(u.limit.amount(k), s.divisor))
	}
	s.byKind[k] = share.NewShare(size, total, u.day, usedAtTotal)
	u.applyLimit(now)
	return max(size, used)
}

// ReleaseShare gives up this node's share of a shared limit, as share.Limit.ReleaseShare does.
func (u *Usage) ReleaseShare(k Kind, size, total, usedAtTotal int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.shared
	if s == nil {
		return
	}
	s.byKind[k] = share.Share{}
	if k == Bytes {
		u.bytesToday(now) // sets day
		s.byKind[k] = share.NewReleased(size, total, u.day, usedAtTotal)
	}
	u.applyLimit(now)
}

// HasShare reports whether this node holds a share of the shared limit other than the initial share.
func (u *Usage) HasShare(k Kind, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shared != nil && u.shared.byKind[k].IsHeld(k == Bytes, u.days.Day(now))
}

// sharePollInterval is the interval at which waiting attempts check whether the share of a shared limit has grown.
const sharePollInterval = 100 * time.Millisecond

// admitTime returns the time at which a limiter that lacks the given tokens admits an attempt. If its rate is a share
// of a shared limit, the result may be too early, because the share may grow.
func (u *Usage) admitTime(l *rate.Limiter, tokens float64, k Kind, now time.Time) time.Time {
	wait := time.Duration(math.Ceil(tokens / float64(l.Limit()) * 1e9))
	if u.shared != nil {
		soonest := time.Duration(tokens * share.RateUnit / float64(u.limit.amount(k)) * 1e9)
		wait = min(wait, max(soonest, sharePollInterval))
	}
	return now.Add(wait)
}

// bytesState returns the State of a limit on bytes whose allowance is used up.
func (u *Usage) bytesState(used int64, now time.Time) State {
	if s := u.shared; s != nil && !s.byKind[Bytes].IsSpent(u.limit.BytesPerDay, u.days.Day(now), used) {
		return State{Until: now.Add(sharePollInterval)}
	}
	return State{Until: now.Add(u.days.UntilNextDay(now)), BytesSpent: true}
}
