// Package limit holds the limits of proxies: on the rate of attempts, on the attempts in flight, and on the bytes per
// day. A limit holds for a proxy, or for a pair: a proxy and a host that is reached through this proxy.
package limit

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// Limit has the limits of a proxy or of a pair. 0 stands for no limit.
type Limit struct {
	MaxInFlight int           // maximum number of attempts at the same time; an open tunnel counts as an attempt
	Rate        float64       // attempts per second; in a burst, up to Rate attempts may begin together
	MinInterval time.Duration // minimum time between the beginnings of two attempts
	BytesPerDay int64         // maximum number of bytes of both directions together; the day begins at 00:00 UTC
}

// The largest values of limits.
const (
	MaxRate     = 1e6
	MaxInterval = 24 * time.Hour
	MaxBytes    = 1 << 50 // 1 PiB
)

// Check calls bad for each invalid field, with its configuration key and a message about the error.
func (l Limit) Check(bad func(field, msg string)) {
	if l.MaxInFlight < 0 {
		bad("max_in_flight", fmt.Sprintf("max_in_flight is %d; it must be at least 0", l.MaxInFlight))
	}
	switch {
	case !(l.Rate >= 0 && l.Rate <= MaxRate):
		bad("rate", fmt.Sprintf("rate is %v; it must be 0 to 1000000 attempts a second", l.Rate))
	case l.Rate > 0 && l.Rate < minRate:
		bad("rate", fmt.Sprintf("rate is %v; it must be 0, or at least %v", l.Rate, minRate))
	}
	if l.MinInterval < 0 || l.MinInterval > MaxInterval {
		bad("min_interval", fmt.Sprintf("min_interval is %v; it must be 0s to 24h", l.MinInterval))
	}
	if l.BytesPerDay < 0 || l.BytesPerDay > MaxBytes {
		bad("bytes_per_day", fmt.Sprintf("bytes_per_day is %d; it must be 0 to 1 PiB", l.BytesPerDay))
	}
}

// minRate is the smallest rate: about one attempt a day.
const minRate = 0.00001

// WithDefaults returns l, with defaults in place of limits that are 0.
func (l Limit) WithDefaults(defaults Limit) Limit {
	if l.MaxInFlight == 0 {
		l.MaxInFlight = defaults.MaxInFlight
	}
	if l.Rate == 0 {
		l.Rate = defaults.Rate
	}
	if l.MinInterval == 0 {
		l.MinInterval = defaults.MinInterval
	}
	if l.BytesPerDay == 0 {
		l.BytesPerDay = defaults.BytesPerDay
	}
	return l
}

// Usage counts the attempts and bytes of a proxy, or of a pair of a proxy and a host, for its limits. It is safe for
// concurrent use.
type Usage struct {
	bytes *traffic.Meter

	mu           sync.Mutex // guards the fields below
	limit        Limit
	rate         *rate.Limiter // nil without a limit
	interval     *rate.Limiter // nil without a limit
	inFlight     int
	attemptCount int64
	shared       *sharedLimits // nil if the limits are not shared
	maxInFlight  int           // limit.MaxInFlight or, if it is shared, this node's share of it

	days          *share.DayClock
	day           int64 // in days since the Unix epoch (UTC)
	dayStartBytes int64 // the meter's number of bytes when the day began
}

// NewUsage returns the usage of a new proxy, or of a new pair of a proxy and a host. The meter counts its bytes. The
// clock days may be nil.
func NewUsage(l Limit, bytes *traffic.Meter, days *share.DayClock, now time.Time) *Usage {
	u := &Usage{bytes: bytes, days: days, day: days.Day(now), dayStartBytes: bytes.Bytes()}
	u.SetLimit(l, now)
	return u
}

// SetLimit replaces the limit. The counted usage does not change.
func (u *Usage) SetLimit(l Limit, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if l == u.limit {
		return
	}
	u.limit = l
	u.applyLimit(now)
}

// adjustLimiter returns l with a new rate and burst, or a new limiter if l is nil. It returns nil if the rate r is 0.
func adjustLimiter(l *rate.Limiter, r rate.Limit, burst int, now time.Time) *rate.Limiter {
	switch {
	case r == 0:
		return nil
	case l == nil:
		return rate.NewLimiter(r, burst)
	}
	l.SetLimitAt(now, r)
	l.SetBurstAt(now, burst)
	return l
}

// State states why a proxy or pair admits no attempt.
type State struct {
	// Until is the earliest time at which an attempt may be admitted again. It is zero if only MaxInFlight prevents the
	// attempt.
	Until      time.Time
	BytesSpent bool // the bytes of the day are spent
}

// combine returns the state of two limits together, with the later of the two times.
func (s State) combine(o State) State {
	if o.Until.After(s.Until) {
		s.Until = o.Until
	}
	s.BytesSpent = s.BytesSpent || o.BytesSpent
	return s
}

// Check reports whether an attempt is admitted. If it is not, the State has the reason. A nil Usage admits every
// attempt.
func (u *Usage) Check(now time.Time) (s State, ok bool) {
	if u == nil {
		return State{}, true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.check(now)
}

// check implements Check. The caller holds mu.
func (u *Usage) check(now time.Time) (s State, ok bool) {
	ok = true
	if u.limit.MaxInFlight > 0 && u.inFlight >= u.maxInFlight {
		ok = false
	}
	if tokens := missingTokens(u.rate, now); tokens > tolerance {
		ok = false
		s = s.combine(State{Until: u.admitTime(u.rate, tokens, Rate, now)})
	}
	if tokens := missingTokens(u.interval, now); tokens > tolerance {
		ok = false
		s = s.combine(State{Until: u.admitTime(u.interval, tokens, Interval, now)})
	}
	if l := u.limit.BytesPerDay; l > 0 {
		if used := u.bytesToday(now); used >= l || u.shared != nil && used >= u.allowance(Bytes, now) {
			ok = false
			s = s.combine(u.bytesState(used, now))
		}
	}
	return s, ok
}

// tolerance is the fraction of a token that may be missing, because rate.Limiter computes with floating point numbers.
const tolerance = 1e-6

// reserve counts an attempt as begun, if Check admits it. The caller must then call cancel or endAttempt of the result.
// If Check does not admit the attempt, reserve returns false.
func (u *Usage) reserve(now time.Time) (t usageReservation, ok bool) {
	if u == nil {
		return usageReservation{}, true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.check(now); !ok {
		return usageReservation{}, false
	}
	t.usage = u
	u.inFlight++
	u.attemptCount++
	if u.rate != nil {
		t.rate = u.rate.ReserveN(now, 1)
	}
	if u.interval != nil {
		t.interval = u.interval.ReserveN(now, 1)
	}
	return t, true
}

// usageReservation records the amounts that one attempt uses of the limits of one Usage. The zero value stands for an
// attempt without limits.
type usageReservation struct {
	usage          *Usage
	rate, interval *rate.Reservation
}

// cancel undoes a call of reserve. Its argument must be the time that was passed to reserve.
func (t *usageReservation) cancel(now time.Time) {
	if t.usage == nil {
		return
	}
	t.endAttempt()
	t.usage.decrementAttempts()
	if t.rate != nil {
		t.rate.CancelAt(now)
	}
	if t.interval != nil {
		t.interval.CancelAt(now)
	}
}

func (u *Usage) decrementAttempts() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attemptCount--
}

func (t *usageReservation) endAttempt() {
	if u := t.usage; u != nil {
		u.mu.Lock()
		u.inFlight--
		u.mu.Unlock()
	}
}

// BytesToday returns the number of bytes since 00:00 UTC.
func (u *Usage) BytesToday(now time.Time) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytesToday(now)
}

// The caller of bytesToday holds mu.
func (u *Usage) bytesToday(now time.Time) int64 {
	total := u.bytes.Bytes()
	if day := u.days.Day(now); day != u.day {
		u.day, u.dayStartBytes = day, total
	}
	return total - u.dayStartBytes
}

// ExcludeBytes subtracts n bytes from the usage of today: the caller has added them to the meter, but they were not
// transmitted today.
func (u *Usage) ExcludeBytes(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dayStartBytes += n
}

// restore adds the bytes that were transmitted on the day savedDay to the usage of today. If savedDay is not today,
// restore does nothing.
func (u *Usage) restore(savedDay, bytes int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if savedDay == u.days.Day(now) {
		u.bytesToday(now)
		u.dayStartBytes -= bytes
		u.restartInitialShare(now)
	}
}

// Reservation records the amounts that one attempt uses of two kinds of limits: the limits of its proxy, and the limits
// of its pair of a proxy and a host. The zero value stands for an attempt without limits.
type Reservation struct {
	proxy, pair usageReservation
}

// Reserve counts the beginning of an attempt if both its proxy and its pair of a proxy and a host admit the attempt. If
// one of them does not, Reserve returns false. Each Usage may be nil.
func Reserve(proxy, pair *Usage, now time.Time) (h Reservation, ok bool) {
	if h.proxy, ok = proxy.reserve(now); !ok {
		return Reservation{}, false
	}
	if h.pair, ok = pair.reserve(now); !ok {
		h.proxy.cancel(now)
		return Reservation{}, false
	}
	return h, true
}

// Cancel undoes a call of Reserve. Its argument must be the time that was passed to Reserve.
func (h *Reservation) Cancel(now time.Time) {
	h.proxy.cancel(now)
	h.pair.cancel(now)
	*h = Reservation{}
}

// EndAttempt ends the attempt: it is no longer in flight. A second call does nothing; h may be nil.
func (h *Reservation) EndAttempt() {
	if h == nil {
		return
	}
	h.proxy.endAttempt()
	h.pair.endAttempt()
	*h = Reservation{}
}

// Meter returns the meter of the attempt's pair of a proxy and a host. It returns nil if h is nil or was made without
// such a pair.
func (h *Reservation) Meter() *traffic.Meter {
	if h == nil || h.pair.usage == nil {
		return nil
	}
	return h.pair.usage.bytes
}

// Check reports whether a proxy and a pair of this proxy and a host both admit an attempt. If one of them does not, the
// State has the reason. Each Usage may be nil.
func Check(proxy, pair *Usage, now time.Time) (s State, ok bool) {
	s, ok = proxy.Check(now)
	if pairState, pairAdmits := pair.Check(now); !pairAdmits {
		s, ok = s.combine(pairState), false
	}
	return s, ok
}
