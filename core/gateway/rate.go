package gateway

import "time"

// bodyGrace is the default of Settings.BodyGrace.
const bodyGrace = 30 * time.Second

// bodyRate limits how slowly a request's body may arrive. It measures only the time for which the gateway waits for
// the client, not the time for which the gateway waits for a slow proxy. It adds up the waits for the client; a
// period ends when their sum reaches the duration grace. A body is too slow if, in one period, fewer than minRate bytes
// per second have arrived.
type bodyRate struct {
	minRate int64         // bytes per second; 0 for no limit
	grace   time.Duration // above 0

	bytes      int64         // bytes that have arrived in this period
	waitTime   time.Duration // sum of the finished waits in this period
	waitStart  time.Time     // start of the current wait; zero if the gateway does not wait
	rateLimits bool          // the last deadline that await has returned is the end of the period
}

// start begins a body.
func (b *bodyRate) start(rate int64, grace time.Duration) { *b = bodyRate{minRate: rate, grace: grace} }

// beginWait begins a wait for the client at the time now, and returns the deadline of the wait. The wait is not longer
// than the duration idle.
func (b *bodyRate) beginWait(now time.Time, idle time.Duration) time.Time {
	b.waitStart = now
	left := idle
	b.rateLimits = false
	if enough := float64(b.minRate) * b.grace.Seconds(); float64(b.bytes) < enough && b.grace-b.waitTime < idle {
		left, b.rateLimits = b.grace-b.waitTime, true
	}
	return now.Add(left)
}

// delay returns the time by which the body is later than at the minimum rate.
func (b *bodyRate) delay() time.Duration {
	if b.minRate == 0 {
		return 0
	}
	return max(0, b.waitTime-time.Duration(float64(b.bytes)/float64(b.minRate)*float64(time.Second)))
}

// endWait ends the wait, if there is one: n bytes have arrived.
func (b *bodyRate) endWait(now time.Time, n int64) {
	if !b.waitStart.IsZero() {
		b.waitTime += now.Sub(b.waitStart)
		b.waitStart = time.Time{}
	}
	b.bytes += n
	if b.waitTime >= b.grace { // bytes beyond the rate count for the next period
		rest := b.bytes - int64(float64(b.minRate)*b.waitTime.Seconds())
		b.bytes, b.waitTime = min(max(rest, 0), int64(float64(b.minRate)*b.grace.Seconds())), 0
	}
}
