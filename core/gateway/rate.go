package gateway

import "time"

// bodyGrace is the default of Settings.BodyGrace.
const bodyGrace = 30 * time.Second

// bodyRate limits how slowly a request's body may arrive. It measures only the time for which the gateway waits for
// the client, not the time for which the gateway waits for a slow proxy. It adds up the waits for the client; a
// period ends when their sum reaches the duration grace. A body is too slow if, in one period, fewer than rate bytes
// per second have arrived.
type bodyRate struct {
	rate  int64         // bytes per second; 0 for no limit
	grace time.Duration // above 0

	bytes   int64         // bytes that have arrived in this period
	waited  time.Duration // sum of the finished waits in this period
	since   time.Time     // start of the current wait; zero if the gateway does not wait
	limited bool          // the last deadline that await has returned is the end of the period
}

// start begins a body.
func (b *bodyRate) start(rate int64, grace time.Duration) { *b = bodyRate{rate: rate, grace: grace} }

// await begins a wait for the client at the time now, and returns the deadline of the wait. The wait is not longer than
// the duration idle.
func (b *bodyRate) await(now time.Time, idle time.Duration) time.Time {
	b.since = now
	left := idle
	b.limited = false
	if enough := float64(b.rate) * b.grace.Seconds(); float64(b.bytes) < enough && b.grace-b.waited < idle {
		left, b.limited = b.grace-b.waited, true
	}
	return now.Add(left)
}

// behind returns the time by which the body is later than at the minimum rate.
func (b *bodyRate) behind() time.Duration {
	if b.rate == 0 {
		return 0
	}
	return max(0, b.waited-time.Duration(float64(b.bytes)/float64(b.rate)*float64(time.Second)))
}

// arrived ends the wait, if there is one: n bytes have arrived.
func (b *bodyRate) arrived(now time.Time, n int64) {
	if !b.since.IsZero() {
		b.waited += now.Sub(b.since)
		b.since = time.Time{}
	}
	b.bytes += n
	if b.waited >= b.grace { // bytes beyond the rate count for the next period
		rest := b.bytes - int64(float64(b.rate)*b.waited.Seconds())
		b.bytes, b.waited = min(max(rest, 0), int64(float64(b.rate)*b.grace.Seconds())), 0
	}
}
