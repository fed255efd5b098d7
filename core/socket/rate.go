package socket

import "time"

// RateGrace is the usual time after which a minimum rate applies: Grace of a [Stall], and grace of a [ReadRate].
const RateGrace = 30 * time.Second

// ReadRate limits how slowly the peer of a connection may send a body. It adds up the times for which the reader waits
// for the peer; other times, such as waits for a slow proxy, do not count. When the sum reaches the grace time, a
// period ends. A body is too slow if fewer than minRate bytes per second have arrived in a period. The counterpart for
// writes is [Stall].
type ReadRate struct {
	minRate int64         // bytes per second; 0 for no limit
	grace   time.Duration // above 0

	bytes      int64         // bytes that have arrived in this period
	waitTime   time.Duration // sum of the finished waits in this period
	waitStart  time.Time     // start of the current wait; zero if the reader does not wait
	rateLimits bool          // the last deadline that BeginWait has returned is the end of the period
}

// Start begins a body that must have at least minRate bytes per second; 0 stands for no limit.
func (r *ReadRate) Start(minRate int64, grace time.Duration) {
	*r = ReadRate{minRate: minRate, grace: grace}
}

// BeginWait begins a wait for the peer at the current time, and returns the deadline of the wait. The parameter idle
// is the longest permitted wait.
func (r *ReadRate) BeginWait(now time.Time, idle time.Duration) time.Time {
	r.waitStart = now
	left := idle
	r.rateLimits = false
	if enough := float64(r.minRate) * r.grace.Seconds(); float64(r.bytes) < enough && r.grace-r.waitTime < idle {
		left, r.rateLimits = r.grace-r.waitTime, true
	}
	return now.Add(left)
}

// Delay returns the time by which the body is late, compared with a body that arrives at the minimum rate.
func (r *ReadRate) Delay() time.Duration {
	if r.minRate == 0 {
		return 0
	}
	return max(0, r.waitTime-time.Duration(float64(r.bytes)/float64(r.minRate)*float64(time.Second)))
}

// EndWait ends the wait for the peer, if there is one, and adds n bytes that have arrived.
func (r *ReadRate) EndWait(now time.Time, n int64) {
	if !r.waitStart.IsZero() {
		r.waitTime += now.Sub(r.waitStart)
		r.waitStart = time.Time{}
	}
	r.bytes += n
	if r.waitTime >= r.grace { // bytes beyond the rate count for the next period
		rest := r.bytes - int64(float64(r.minRate)*r.waitTime.Seconds())
		r.bytes, r.waitTime = min(max(rest, 0), int64(float64(r.minRate)*r.grace.Seconds())), 0
	}
}

// TooSlow must be called when a deadline of BeginWait has passed. It returns true if the body was too slow, and false
// if the peer has sent nothing for the longest permitted wait.
func (r *ReadRate) TooSlow() bool { return r.rateLimits }
