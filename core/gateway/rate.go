package gateway

import "time"

// bodyGrace is the time of waiting for a client after which the rate of its body counts.
const bodyGrace = 30 * time.Second

// bodyRate limits how slowly a request's body may arrive. It measures only the time of waiting for the client: while
// the gateway waits for a slow proxy, the clock stands still. A body is too slow if fewer than rate bytes per second
// have arrived in a period of grace. After each such period the next one begins.
type bodyRate struct {
	rate  int64         // bytes per second; 0 for no limit
	grace time.Duration // above 0

	bytes   int64         // in this period
	waited  time.Duration // in this period
	since   time.Time     // start of the current wait; zero while there is none
	limited bool          // the last deadline came from the rate
}

// start begins a body.
func (b *bodyRate) start(rate int64, grace time.Duration) { *b = bodyRate{rate: rate, grace: grace} }

// await begins a wait for the client, and returns its deadline: at most idle from now.
func (b *bodyRate) await(now time.Time, idle time.Duration) time.Time {
	b.since = now
	left := idle
	b.limited = false
	if enough := float64(b.rate) * b.grace.Seconds(); float64(b.bytes) < enough && b.grace-b.waited < idle {
		left, b.limited = b.grace-b.waited, true
	}
	return now.Add(left)
}

// arrived ends the wait, if there is one; n bytes have arrived.
func (b *bodyRate) arrived(now time.Time, n int64) {
	if !b.since.IsZero() {
		b.waited += now.Sub(b.since)
		b.since = time.Time{}
	}
	b.bytes += n
	if b.waited >= b.grace {
		b.bytes, b.waited = 0, 0
	}
}
