package gateway

import "time"

// bodyGrace is the default of Settings.BodyGrace.
const bodyGrace = 30 * time.Second

// bodyRate limits how slowly a request's body may arrive. It adds up the times for which the gateway waits for the
// client; waits for a slow proxy do not count. When the sum reaches the grace time, a period ends. A body is too slow
// if fewer than minRate bytes per second have arrived in a period.
type bodyRate struct {
	minRate int64         // bytes per second; 0 for no limit
	grace   time.Duration // above 0

	bytes      int64         // bytes that have arrived in this period
	waitTime   time.Duration // sum of the finished waits in this period
	waitStart  time.Time     // start of the current wait; zero if the gateway does not wait
	rateLimits bool          // the last deadline that beginWait has returned is the end of the period
}

// start begins a body.
func (b *bodyRate) start(rate int64, grace time.Duration) { *b = bodyRate{minRate: rate, grace: grace} }

// beginWait begins a wait for the client at the current time, and returns the deadline of the wait. The parameter idle
// is the longest permitted wait.
func (b *bodyRate) beginWait(now time.Time, idle time.Duration) time.Time {
	b.waitStart = now
	left := idle
	b.rateLimits = false
	if enough := float64(b.minRate) * b.grace.Seconds(); float64(b.bytes) < enough && b.grace-b.waitTime < idle {
		left, b.rateLimits = b.grace-b.waitTime, true
	}
	return now.Add(left)
}

// The method delay compares the body with a body that arrives at the minimum rate. It returns the time by which the
// body is later.
func (b *bodyRate) delay() time.Duration {
	if b.minRate == 0 {
		return 0
	}
	return max(0, b.waitTime-time.Duration(float64(b.bytes)/float64(b.minRate)*float64(time.Second)))
}

// endWait ends the wait for the client, if there is one, and adds n bytes that have arrived.
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
