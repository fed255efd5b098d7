package access

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// Kind is a kind of user limit. The nodes of a cluster can share limits of these kinds.
type Kind uint8

// The kinds of limits.
const (
	InFlight Kind = iota
	Requests
	Bytes
	NumKinds
)

// sharedLimits holds this gateway's shares of a user's limits. It is immutable.
type sharedLimits struct {
	initialShares share.InitialShares
	byKind        [NumKinds]share.Share
}

// limitOf returns the configured value of a limit; 0 for no limit.
func (l *Limits) limitOf(k Kind) int64 {
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
	limit, s := a.limitOf(k), a.Usage.shared.Load()
	switch {
	case s == nil || limit == 0:
		return limit
	case k == InFlight:
		return s.byKind[k].Allowance(limit, s.initialShares.Nodes)
	}
	return s.byKind[k].AllowanceToday(limit, s.initialShares.Divisor(), a.Usage.day.Load())
}

// isSpent reports whether all nodes together have used up a daily limit.
func (a *Account) isSpent(k Kind) bool {
	limit, used, s := a.limitOf(k), a.Usage.currentUse(k), a.Usage.shared.Load()
	if s == nil {
		return used >= limit
	}
	return s.byKind[k].IsSpent(limit, a.Usage.day.Load(), used)
}

// hasSpentShareAlone reports whether the gateway cannot reach the store of the cluster, and the user has used up this
// gateway's share of BytesPerDay.
func (a *Account) hasSpentShareAlone() bool {
	s := a.Usage.shared.Load()
	return s != nil && s.initialShares.Alone &&
		a.Usage.bytes.Load() >= s.byKind[Bytes].AllowanceAlone(a.BytesPerDay, s.initialShares, a.Usage.day.Load())
}

// setInitialShares turns the limits of the user into shared limits. If the gateway already has shares of these limits,
// it keeps them.
func (u *Usage) setInitialShares(initialShares share.InitialShares, now time.Time) {
	u.startDay(now)
	u.updateShared(func(s *sharedLimits) {
		s.initialShares = initialShares
		day := u.day.Load()
		for _, k := range []Kind{Requests, Bytes} {
			if !s.byKind[k].IsFor(day) {
				s.byKind[k] = share.NewInitial(day, u.currentUse(k))
			}
		}
	})
}

// updateShared copies this gateway's shares of the user's limits, calls f, which changes the copy, and stores the copy.
func (u *Usage) updateShared(f func(*sharedLimits)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := sharedLimits{}
	if s := u.shared.Load(); s != nil {
		next = *s
	}
	f(&next)
	u.shared.Store(&next)
}

// SetInitialShares turns the limits of all users into shared limits. While the gateway has no share of a limit, it may
// use an initial share. The initial share of MaxInFlight is the limit divided by the number of nodes. The initial share
// of any other limit is a fraction of this (InitialShares.Fraction). The gateway denies requests beyond the initial
// share. Later sets of users (NewUsers) get the same initial shares.
func (u *Users) SetInitialShares(initialShares share.InitialShares, now time.Time) {
	u.initialShares.Store(&initialShares)
	for _, a := range u.all {
		a.Usage.setInitialShares(initialShares, now)
	}
}

// SetStoreTime makes the days of all users follow the clock of a cluster's store (share.DayClock.Set). It also holds
// for later sets of users (NewUsers).
func (u *Users) SetStoreTime(local, store time.Time) { u.days.Set(local, store) }

// UntilNextDay returns the time until the next day of the limits begins (UTC).
func (u *Users) UntilNextDay(now time.Time) time.Duration { return u.days.UntilNextDay(now) }

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
	if u.isActive.Load() || u.shared.Load() == nil || !u.isActive.CompareAndSwap(false, true) {
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
		used.isActive.Store(false) // must come before the read of the use
		if a := u.ByName(used.name); a != nil {
			f(a)
		}
	}
}

// ShareUse returns the state of a shared limit in this gateway: its share of the limit, and the amount that the user
// has used.
func (a *Account) ShareUse(k Kind, now time.Time) share.Use {
	a.Usage.startDay(now)
	used := a.Usage.currentUse(k)
	out := share.Use{Kind: share.InFlight, InitialIsEqualShare: true, Limit: a.limitOf(k), Used: used,
		Share: a.allowance(k), Count: a.Usage.requests.Load()}
	if k != InFlight {
		out.Kind, out.InitialIsEqualShare, out.Count, out.Day = share.Daily, false, used, a.Usage.day.Load()
		if s := a.Usage.shared.Load(); s != nil {
			out.Total, out.UsedAtTotal = s.byKind[k].Total(out.Day)
		}
	}
	return out
}

// SetShare sets this gateway's share of a shared limit, as share.Limit.SetShare does.
func (a *Account) SetShare(k Kind, size, total, usedAtTotal int64) int64 {
	u := a.Usage
	u.updateShared(func(s *sharedLimits) { s.byKind[k] = share.NewShare(size, total, u.day.Load(), usedAtTotal) })
	return max(size, u.currentUse(k)) // BeginRequest counts a use before it reads the share, so all uses are counted
}

// ReleaseShare gives up this gateway's share of a shared limit, as share.Limit.ReleaseShare does.
func (a *Account) ReleaseShare(k Kind, size, total, usedAtTotal int64) {
	u := a.Usage
	u.updateShared(func(s *sharedLimits) {
		s.byKind[k] = share.Share{}
		if k != InFlight {
			s.byKind[k] = share.NewReleased(size, total, u.day.Load(), usedAtTotal)
		}
	})
}

// HasShare reports whether this gateway has a share of a shared limit.
func (a *Account) HasShare(k Kind) bool {
	s := a.Usage.shared.Load()
	return s != nil && s.byKind[k].IsHeld(k != InFlight, a.Usage.day.Load())
}
