package upstream

import "time"

// Tail is how long nearly all answers through the proxy take to their head, between
// the 99th percentile and the largest of late. Where nothing is known of the proxy it
// is the largest of the pool's; 0 if nothing is known of any.
func (u *Upstream) Tail() time.Duration {
	tail := load(&u.window.tail)
	if tail == 0 {
		tail = load(&u.pool.tail)
	}
	return time.Duration(tail * 1e9)
}

// Stretch says that an attempt was given up after d without an answer. Tail is at least
// that from now on, so that a proxy which has become slower gets more time: once, until
// it has answered. One that hangs does not get more and more.
func (u *Upstream) Stretch(d time.Duration) {
	w := &u.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := d.Seconds(); s > load(&w.tail) && !w.stretched {
		store(&w.tail, s)
		w.stretched = true
	}
}

// HasPeers reports whether there are other proxies in the pool.
func (u *Upstream) HasPeers() bool { return len(u.pool.Snapshot().All) > 1 }
