package access

import (
	"iter"
	"sync/atomic"
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

// sharedParts holds this gateway's parts of a user's limits. It is immutable.
type sharedParts struct {
	share  parts.Share
	byKind [NumKinds]parts.Part
}

// The method limit returns the configured value of a limit; 0 for no limit.
func (l *Limits) limit(k Kind) int64 {
	switch k {
	case InFlight:
		return int64(l.MaxInFlight)
	case Requests:
		return l.RequestsPerDay
	}
	return l.BytesPerDay
}

func (u *Usage) currentUse(k Kind) int64 {
	switch k {
	case InFlight:
		return u.inFlight.Load()
	case Requests:
		return u.requests.Load()
	}
	return u.bytes.Load()
}

// allowance returns how much of a limit the user may use through this node.
func (a *Account) allowance(k Kind) int64 {
	limit, s := a.limit(k), a.Usage.parts.Load()
	switch {
	case s == nil || limit == 0:
		return limit
	case k == InFlight:
		return s.byKind[k].Most(limit, s.share.Nodes)
	}
	return s.byKind[k].MostToday(limit, s.share.Divisor(), a.Usage.day.Load())
}

// isSpent reports whether all nodes together have used up a daily limit.
func (a *Account) isSpent(k Kind) bool {
	limit, used, s := a.limit(k), a.Usage.currentUse(k), a.Usage.parts.Load()
	if s == nil {
		return used >= limit
	}
	return s.byKind[k].Spent(limit, a.Usage.day.Load(), used)
}

// spentAlone reports whether the gateway cannot reach the store of the cluster, and the user has used up this gateway's
// share of BytesPerDay.
func (a *Account) spentAlone() bool {
	s := a.Usage.parts.Load()
	return s != nil && s.share.Alone &&
		a.Usage.bytes.Load() >= s.byKind[Bytes].MostAlone(a.BytesPerDay, s.share, a.Usage.day.Load())
}

// setShare makes the limits of the user shared limits. The gateway keeps the parts of these limits that it already has.
func (u *Usage) setShare(share parts.Share, now time.Time) {
	u.startDay(now)
	u.updateParts(func(s *sharedParts) {
		s.share = share
		day := u.day.Load()
		for _, k := range []Kind{Requests, Bytes} {
			if !s.byKind[k].IsBegun(day) {
				s.byKind[k] = parts.Begun(day, u.currentUse(k))
			}
		}
	})
}

// updateParts copies this gateway's parts of the user's limits, calls f, which changes the copy, and stores the copy.
func (u *Usage) updateParts(f func(*sharedParts)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := sharedParts{}
	if s := u.parts.Load(); s != nil {
		next = *s
	}
	f(&next)
	u.parts.Store(&next)
}

// SetShare makes the limits of all users shared limits. The parameter share determines how much of a limit the gateway
// may use while it has no part of the limit. Of MaxInFlight this is a whole equal share (without share.Fraction),
// because the gateway refuses the requests beyond it. The users of a later set (NewUsers) have shared limits as well.
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

// activeUsers is a list of the users who have been active since the last call of EachActive. Users are added without a
// lock.
type activeUsers struct{ first atomic.Pointer[Usage] }

// markActive adds the user to the list of active users, if the limits are shared. The caller must have counted the
// user's request or bytes before.
func (u *Usage) markActive() {
	if u.isActive.Load() || u.parts.Load() == nil || !u.isActive.CompareAndSwap(false, true) {
		return
	}
	for {
		first := u.active.first.Load()
		u.nextActive = first
		if u.active.first.CompareAndSwap(first, u) {
			return
		}
	}
}

// EachActive calls f for each user who has sent a request or moved bytes since the last call of EachActive. If the
// limits are not shared, it calls f for no user.
func (u *Users) EachActive(f func(*Account)) {
	for next := u.active.first.Swap(nil); next != nil; {
		used := next
		next = used.nextActive
		used.isActive.Store(false) // before the use is read
		if a := u.ByName(used.name); a != nil {
			f(a)
		}
	}
}

// PartUse returns the state of a shared limit in this gateway: its part of the limit, and what the user has used.
func (a *Account) PartUse(k Kind, now time.Time) parts.Use {
	a.Usage.startDay(now)
	used := a.Usage.currentUse(k)
	out := parts.Use{Kind: parts.InFlight, Whole: true, Limit: a.limit(k), Used: used, Part: a.allowance(k),
		Count: a.Usage.requests.Load()}
	if k != InFlight {
		out.Kind, out.Whole, out.Count, out.Day = parts.Daily, false, used, a.Usage.day.Load()
		if s := a.Usage.parts.Load(); s != nil {
			out.Total, out.Base = s.byKind[k].Total(out.Day)
		}
	}
	return out
}

// SetPart sets this gateway's part of a shared limit, as parts.Limit.SetPart does.
func (a *Account) SetPart(k Kind, part, total, base int64) int64 {
	u := a.Usage
	u.updateParts(func(s *sharedParts) { s.byKind[k] = parts.Held(part, total, u.day.Load(), base) })
	return max(part, u.currentUse(k)) // BeginRequest counts a use before it reads the part, so all are counted here
}

// Release gives up this gateway's part of a shared limit, as parts.Limit.Release does.
func (a *Account) Release(k Kind, part, total, base int64) {
	u := a.Usage
	u.updateParts(func(s *sharedParts) {
		s.byKind[k] = parts.Part{}
		if k != InFlight {
			s.byKind[k] = parts.Released(part, total, u.day.Load(), base)
		}
	})
}

// HasPart reports whether this gateway has a part of a shared limit.
func (a *Account) HasPart(k Kind) bool {
	s := a.Usage.parts.Load()
	return s != nil && s.byKind[k].IsHeld(k != InFlight, a.Usage.day.Load())
}
