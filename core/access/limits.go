package access

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Limits restrict what a user may do. The zero value restricts nothing.
type Limits struct {
	Priority       core.Priority // the highest priority that a request may have; AnyPriority for no limit
	Override       retry.OverrideMode
	Allow          []string // rules of package egress; if there are any, a target must match one of them
	Deny           []string // a target must match no rule of Deny
	Regions        []string // names of regions; the user gets only proxies of these regions; empty for all proxies
	MaxInFlight    int      // maximum number of requests and tunnels at the same time; 0 for no limit
	RequestsPerDay int64    // maximum number of requests per day, which begins at 00:00 UTC; 0 for no limit
	BytesPerDay    int64    // maximum number of bytes of requests and responses per day; 0 for no limit
}

// Denial is the reason why a user's request is not carried out.
type Denial uint8

// The kinds of denials.
const (
	Granted            Denial = iota
	TargetDenied              // a rule of Deny matches the target
	TargetNotAllowed          // there are rules in Allow, and none of them matches the target
	TooManyInFlight           // MaxInFlight is reached
	RequestsSpent             // RequestsPerDay is used up
	BytesSpent                // BytesPerDay is used up
	RequestsShareSpent        // this node's share of RequestsPerDay is used up, but other nodes may have some left
	BytesShareSpent           // as RequestsShareSpent, for BytesPerDay
	InFlightShareSpent        // this node's share of MaxInFlight is reached
)

// Usage counts the requests and bytes of a user. It is safe for concurrent use.
type Usage struct {
	Meter traffic.Meter // bytes, attempts and costs of the user at proxies, with those that RestoreCosts has added

	inFlight, requests, bytes atomic.Int64
	day                       atomic.Int64 // day of the fields requests and bytes, since the Unix epoch
	days                      *share.DayClock
	mu                        sync.Mutex // held while a day begins, and while shared changes

	shared atomic.Pointer[sharedLimits] // nil if the limits are not shared with other nodes

	name       string
	active     *activeUsers
	isActive   atomic.Bool
	nextActive *Usage // the next user in the list active, while isActive is set
}

// AddBytes adds n bytes of the user. They count for the day on which the user's last request began.
func (u *Usage) AddBytes(n int64) {
	u.bytes.Add(n)
	u.markActive()
}

// startDay sets requests and bytes to 0 if a new day (UTC) has begun.
func (u *Usage) startDay(now time.Time) {
	day := u.days.Day(now)
	if u.day.Load() == day {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.day.Load() != day {
		u.requests.Store(0)
		u.bytes.Store(0)
		u.day.Store(day)
	}
}

// UntilNextDay returns the time until the next day begins (UTC).
func (u *Usage) UntilNextDay(now time.Time) time.Duration { return u.days.UntilNextDay(now) }

// BeginRequest grants or denies a request to a target. A granted request is in flight until EndRequest is called. If
// the denial is TargetDenied, BeginRequest also returns the matching rule of Deny.
func (a *Account) BeginRequest(host string, port uint16, now time.Time) (denial Denial, rule string) {
	if rule, denied := a.deny.Match(host, port); denied {
		return TargetDenied, rule
	}
	if !a.allow.Empty() {
		if _, allowed := a.allow.Match(host, port); !allowed {
			return TargetNotAllowed, ""
		}
	}
	denial = a.countRequest(now)
	a.Usage.markActive()
	return denial, ""
}

// countRequest counts a request, unless a limit denies it.
func (a *Account) countRequest(now time.Time) Denial {
	u := a.Usage
	u.startDay(now)
	if a.BytesPerDay > 0 && u.bytes.Load() >= a.allowance(Bytes) {
		return a.limitDenial(Bytes, BytesSpent, BytesShareSpent)
	}
	if n := u.inFlight.Add(1); a.MaxInFlight > 0 && n > a.allowance(InFlight) {
		u.inFlight.Add(-1)
		if n <= int64(a.MaxInFlight) {
			return InFlightShareSpent
		}
		return TooManyInFlight
	}
	// If the limit is already reached, the request is denied before it is added to u.requests.
	limited := a.RequestsPerDay > 0
	if limited && u.requests.Load() >= a.allowance(Requests) {
		u.inFlight.Add(-1)
		return a.limitDenial(Requests, RequestsSpent, RequestsShareSpent)
	}
	if n := u.requests.Add(1); limited && n > a.allowance(Requests) {
		u.requests.Add(-1)
		u.inFlight.Add(-1)
		return a.limitDenial(Requests, RequestsSpent, RequestsShareSpent)
	}
	return Granted
}

// limitDenial returns the reason of a denial at a limit: spentByAll if all nodes together have used up the limit, and
// shareSpent if only this node's share of the limit is used up.
func (a *Account) limitDenial(k Kind, spentByAll, shareSpent Denial) Denial {
	if a.isSpent(k) {
		return spentByAll
	}
	return shareSpent
}

// EndRequest ends a request that BeginRequest has granted.
func (a *Account) EndRequest() { a.Usage.inFlight.Add(-1) }

// BytesSpent reports whether the user has used up BytesPerDay. While the store of the cluster cannot be reached, it
// also returns true if this gateway's share of BytesPerDay is used up.
func (a *Account) BytesSpent() bool {
	return a.BytesPerDay > 0 && (a.isSpent(Bytes) || a.hasSpentShareAlone())
}

// Regions returns the regions of the proxies that the user may use; nil for all.
func (a *Account) Regions() *core.Regions { return a.regions }

// DailyUsage is a user's usage of one day (UTC).
type DailyUsage struct {
	Name string
	Limits
	InFlight, Requests, Bytes int64
}

// UsageToday returns the usage of all users since 00:00 UTC, in the order of the configuration.
func (u *Users) UsageToday(now time.Time) []DailyUsage {
	out := make([]DailyUsage, 0, len(u.all))
	for _, a := range u.all {
		a.Usage.startDay(now)
		out = append(out, DailyUsage{
			Name: a.Name, Limits: a.Limits, InFlight: a.Usage.inFlight.Load(), Requests: a.Usage.requests.Load(),
			Bytes: a.Usage.bytes.Load(),
		})
	}
	return out
}

// CheckRules returns the first error in rules for Allow or Deny, an *egress.RuleError.
func CheckRules(rules []string) error {
	_, err := egress.ParseList(rules)
	return err
}
