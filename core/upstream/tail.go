package upstream

import "time"

// Tail returns the time within which nearly all responses through the proxy begin. The result is between the 99th
// percentile and the largest of the last few hundred latencies. For a proxy without a success, the result is the
// largest Tail in the pool, or 0 if no proxy of the pool has a success.
func (u *Upstream) Tail() time.Duration {
	tail := load(&u.window.tail)
	if tail == 0 {
		tail = load(&u.pool.tail)
	}
	return time.Duration(tail * 1e9)
}

// Stretch records that an attempt was cut short after d without a response. It raises Tail to d, so that a proxy that
// has become slower gets more time. Stretch raises Tail only once between two successes, so that a proxy that hangs
// does not get more and more time.
func (u *Upstream) Stretch(d time.Duration) {
	w := &u.window
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	if s := d.Seconds(); s > load(&w.tail) && !w.stretched {
		store(&w.tail, s)
		w.stretched = true
	}
}

// AllowLatency raises Tail to d, because a target has responded through another proxy after d. After this, attempts
// at targets as slow as that target are not cut short.
func (u *Upstream) AllowLatency(d time.Duration) {
	w := &u.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := d.Seconds(); s > load(&w.tail) {
		store(&w.tail, s)
	}
}

// HasPeers reports whether the pool has proxies other than u.
func (u *Upstream) HasPeers() bool { return len(u.pool.Snapshot().All) > 1 }
