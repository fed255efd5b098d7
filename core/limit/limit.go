// Package limit holds the limits of proxies: on the rate of attempts, on the attempts in flight, and on the bytes per
// day. A limit holds for a proxy, or for a pair: a proxy and a host that is reached through this proxy.
package limit

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

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

// Check returns the configuration key of the first invalid field, and a message about the error. Both are "" if all
// fields are valid.
func (l Limit) Check() (field, msg string) {
	switch {
	case l.MaxInFlight < 0:
		return "max_in_flight", fmt.Sprintf("max_in_flight is %d; it must be at least 0", l.MaxInFlight)
	case !(l.Rate >= 0 && l.Rate <= MaxRate):
		return "rate", fmt.Sprintf("rate is %v; it must be 0 to 1000000 attempts a second", l.Rate)
	case l.Rate > 0 && l.Rate < minRate:
		return "rate", fmt.Sprintf("rate is %v; it must be 0, or at least %v", l.Rate, minRate)
	case l.MinInterval < 0 || l.MinInterval > MaxInterval:
		return "min_interval", fmt.Sprintf("min_interval is %v; it must be 0s to 24h", l.MinInterval)
	case l.BytesPerDay < 0 || l.BytesPerDay > MaxBytes:
		return "bytes_per_day", fmt.Sprintf("bytes_per_day is %d; it must be 0 to 1 PiB", l.BytesPerDay)
	}
	return "", ""
}

// minRate is the smallest rate: about one attempt a day.
const minRate = 0.00001

// Or returns the limits of l. Each limit that is 0 in l is taken from the parameter other.
func (l Limit) Or(other Limit) Limit {
	if l.MaxInFlight == 0 {
		l.MaxInFlight = other.MaxInFlight
	}
	if l.Rate == 0 {
		l.Rate = other.Rate
	}
	if l.MinInterval == 0 {
		l.MinInterval = other.MinInterval
	}
	if l.BytesPerDay == 0 {
		l.BytesPerDay = other.BytesPerDay
	}
	return l
}

// Usage counts what the attempts of a proxy or pair use of its limits. It is safe for concurrent use.
type Usage struct {
	bytes *traffic.Meter

	mu       sync.Mutex
	limit    Limit
	rate     *rate.Limiter // nil without a limit
	interval *rate.Limiter // nil without a limit
	inFlight int
	began    int64   // attempts so far
	shared   *shared // nil if the limits are not shared
	// maxInFlight is limit.MaxInFlight, or the part of it.
	maxInFlight int

	day   int64 // the day of start, in days since the Unix epoch (UTC)
	start int64 // the meter's number of bytes when that day began
}

// NewUsage returns the usage of a new proxy or pair. The meter bytes counts the bytes of this proxy or pair.
func NewUsage(l Limit, bytes *traffic.Meter, now time.Time) *Usage {
	u := &Usage{bytes: bytes, day: dayOf(now), start: bytes.Bytes()}
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
	u.apply(now)
}

// adjust sets the rate r and the burst of the limiter l, and returns l. If l is nil, it returns a new limiter. If r
// is 0, it returns nil.
func adjust(l *rate.Limiter, r rate.Limit, burst int, now time.Time) *rate.Limiter {
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

// State is the reason why a proxy or pair admits no attempt.
type State struct {
	// Until is the earliest time at which an attempt may be admitted again. It is zero if only the end of an attempt
	// in flight is awaited.
	Until time.Time
	Spent bool // the bytes of the day are spent
}

// The result combines the states of two limits. Its field Until has the later of the two times.
func (s State) later(o State) State {
	if o.Until.After(s.Until) {
		s.Until = o.Until
	}
	s.Spent = s.Spent || o.Spent
	return s
}

// Check reports whether an attempt is admitted at the time now. If ok is false, the result s is the reason. A nil
// Usage admits every attempt.
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
	if missing := missing(u.rate, now); missing > tolerance {
		ok = false
		s = s.later(State{Until: u.until(u.rate, missing, Rate, now)})
	}
	if missing := missing(u.interval, now); missing > tolerance {
		ok = false
		s = s.later(State{Until: u.until(u.interval, missing, Interval, now)})
	}
	if l := u.limit.BytesPerDay; l > 0 {
		if used := u.today(now); used >= l || u.shared != nil && used >= u.most(Bytes, now) {
			ok = false
			s = s.later(u.bytesState(used, now))
		}
	}
	return s, ok
}

// tolerance is the part of a token of a rate.Limiter that may be missing for an attempt. It is needed because
// rate.Limiter computes with floating point numbers.
const tolerance = 1e-6

// take counts the beginning of an attempt if Check admits the attempt. The caller must call the method
// cancel or the method leave of the result t.
func (u *Usage) take(now time.Time) (t taken, ok bool) {
	if u == nil {
		return taken{}, true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.check(now); !ok {
		return taken{}, false
	}
	t.usage = u
	u.inFlight++
	u.began++
	if u.rate != nil {
		t.rate = u.rate.ReserveN(now, 1)
	}
	if u.interval != nil {
		t.interval = u.interval.ReserveN(now, 1)
	}
	return t, true
}

// A value of the type taken records what one attempt uses of one Usage: one attempt in flight, and a reservation of
// each limiter. The zero value stands for an attempt that uses nothing.
type taken struct {
	usage          *Usage
	rate, interval *rate.Reservation
}

// cancel undoes a call of take. The parameter now must be that of the call.
func (t *taken) cancel(now time.Time) {
	if t.usage == nil {
		return
	}
	t.leave()
	t.usage.uncount()
	if t.rate != nil {
		t.rate.CancelAt(now)
	}
	if t.interval != nil {
		t.interval.CancelAt(now)
	}
}

// uncount undoes the count of an attempt.
func (u *Usage) uncount() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.began--
}

// leave ends the attempt: it is no longer in flight.
func (t *taken) leave() {
	if u := t.usage; u != nil {
		u.mu.Lock()
		u.inFlight--
		u.mu.Unlock()
	}
}

// Today returns the number of bytes since 00:00 UTC of the day of now.
func (u *Usage) Today(now time.Time) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.today(now)
}

// today implements Today. The caller holds mu.
func (u *Usage) today(now time.Time) int64 {
	total := u.bytes.Bytes()
	if day := dayOf(now); day != u.day {
		u.day, u.start = day, total
	}
	return total - u.start
}

// Skip excludes n bytes of the meter from the usage of today. The caller has added these bytes to the meter, but they
// were not transmitted today.
func (u *Usage) Skip(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.start += n
}

// restore adds bytes to the usage of today. It does nothing if day is not today.
func (u *Usage) restore(day, bytes int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if day == dayOf(now) {
		u.today(now)
		u.start -= bytes
	}
}

const secondsPerDay = 24 * 60 * 60

func dayOf(t time.Time) int64 { return t.Unix() / secondsPerDay }

func dayBegin(day int64) time.Time { return time.Unix(day*secondsPerDay, 0) }

// A Share records what one attempt uses of the limits of its proxy and of its pair. The zero value stands for an
// attempt that uses nothing.
type Share struct {
	proxy, pair taken
}

// Take counts the beginning of an attempt at a proxy and at a pair if both admit the attempt. The parameters proxy and
// pair may be nil.
func Take(proxy, pair *Usage, now time.Time) (h Share, ok bool) {
	if h.proxy, ok = proxy.take(now); !ok {
		return Share{}, false
	}
	if h.pair, ok = pair.take(now); !ok {
		h.proxy.cancel(now)
		return Share{}, false
	}
	return h, true
}

// Cancel undoes a call of Take. The parameter now must be that of the call.
func (h *Share) Cancel(now time.Time) {
	h.proxy.cancel(now)
	h.pair.cancel(now)
	*h = Share{}
}

// Leave ends the attempt. A second call, or a call with a nil h, does nothing.
func (h *Share) Leave() {
	if h == nil {
		return
	}
	h.proxy.leave()
	h.pair.leave()
	*h = Share{}
}

// Meter returns the meter of the pair. It returns nil if there is no pair, or if h is nil.
func (h *Share) Meter() *traffic.Meter {
	if h == nil || h.pair.usage == nil {
		return nil
	}
	return h.pair.usage.bytes
}

// Check reports whether a proxy and a pair both admit an attempt at the time now. If ok is false, the result s is the
// reason. The parameters proxy and pair may be nil.
func Check(proxy, pair *Usage, now time.Time) (s State, ok bool) {
	s, ok = proxy.Check(now)
	if of, admits := pair.Check(now); !admits {
		s, ok = s.later(of), false
	}
	return s, ok
}
