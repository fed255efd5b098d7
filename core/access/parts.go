package access

import (
	"iter"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

// Kind is one of the limits of a user that nodes of a cluster can share.
type Kind uint8

// The kinds of limits.
const (
	InFlight Kind = iota
	Requests
	Bytes
	NumKinds
)

// shared holds the parts of a user's limits. It is immutable.
type shared struct {
	share parts.Share
	parts [NumKinds]parts.Part
}

// limit returns the configured limit; 0 for no limit.
func (l *Limits) limit(k Kind) int64 {
	switch k {
	case InFlight:
		return int64(l.MaxInFlight)
	case Requests:
		return l.RequestsPerDay
	}
	return l.BytesPerDay
}

// used returns the present use of a limit.
func (u *Usage) usedOf(k Kind) int64 {
	switch k {
	case InFlight:
		return u.inFlight.Load()
	case Requests:
		return u.requests.Load()
	}
	return u.bytes.Load()
}

// most returns what the user may use of a limit through this gateway.
func (a *Account) most(k Kind) int64 {
	limit, s := a.limit(k), a.Usage.shared.Load()
	switch {
	case s == nil || limit == 0:
		return limit
	case k == InFlight:
		return s.parts[k].Most(limit, s.share.Nodes)
	}
	return s.parts[k].MostToday(limit, s.share.Divisor(), a.Usage.day.Load())
}

// spent reports whether all nodes together have used up a limit of the day.
func (a *Account) spent(k Kind) bool {
	limit, used, s := a.limit(k), a.Usage.usedOf(k), a.Usage.shared.Load()
	if s == nil {
		return used >= limit
	}
	return s.parts[k].Spent(limit, a.Usage.day.Load(), used)
}

// setShare makes the limits of the user shared ones. Limits that have a part keep it.
func (u *Usage) setShare(share parts.Share, now time.Time) {
	u.begin(now)
	u.change(func(s *shared) {
		s.share = share
		day := u.day.Load()
		for _, k := range []Kind{Requests, Bytes} {
			if !s.parts[k].IsOf(day) {
				s.parts[k] = parts.Begun(day, u.usedOf(k))
			}
		}
	})
}

// change replaces the parts with a copy that f has changed.
func (u *Usage) change(f func(*shared)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := shared{}
	if s := u.shared.Load(); s != nil {
		next = *s
	}
	f(&next)
	u.shared.Store(&next)
}

// SetShare makes the limits of all users shared ones. Without a part, the gateway uses an equal share of MaxInFlight,
// because it refuses further requests, and the share of the other limits. Users of a later set (NewUsers) have shared
// limits as well.
func (u *Users) SetShare(share parts.Share, now time.Time) {
	u.share.Store(&share)
	for _, a := range u.all {
		a.Usage.setShare(share, now)
	}
}

// All returns the accounts.
func (u *Users) All() iter.Seq[*Account] {
	return func(yield func(*Account) bool) {
		for _, a := range u.all {
			if !yield(a) {
				return
			}
		}
	}
}

// PartUse returns the use of a shared limit.
func (a *Account) PartUse(k Kind, now time.Time) parts.Use {
	a.Usage.begin(now)
	used := a.Usage.usedOf(k)
	out := parts.Use{Kind: parts.InFlight, Whole: true, Limit: a.limit(k), Used: used, Part: a.most(k),
		Count: a.Usage.requests.Load()}
	if k != InFlight {
		out.Kind, out.Whole, out.Count, out.Day = parts.Daily, false, used, a.Usage.day.Load()
		if s := a.Usage.shared.Load(); s != nil {
			out.Total, out.Base = s.parts[k].Total(out.Day)
		}
	}
	return out
}

// SetPart sets the part of a shared limit, as parts.Limit.SetPart does.
func (a *Account) SetPart(k Kind, part, total int64) int64 {
	u := a.Usage
	u.change(func(s *shared) { s.parts[k] = parts.Held(part, total, u.day.Load(), u.usedOf(k)) })
	return max(part, u.usedOf(k)) // Begin counts a use before it reads the part, so this has all granted uses
}

// Release gives up the part of a shared limit, as parts.Limit.Release does.
func (a *Account) Release(k Kind, part, total int64) {
	u := a.Usage
	u.change(func(s *shared) {
		s.parts[k] = parts.Part{}
		if k != InFlight {
			s.parts[k] = parts.Released(part, total, u.day.Load(), u.usedOf(k))
		}
	})
}

// HasPart reports whether a shared limit has a part of its own.
func (a *Account) HasPart(k Kind) bool {
	s := a.Usage.shared.Load()
	return s != nil && s.parts[k].IsHeld(k != InFlight, a.Usage.day.Load())
}
