package evidence

import "time"

// Failing describes a target whose latest attempts have failed, and the proxies of these attempts. The zero value
// describes a target that does not fail.
type Failing struct {
	target *target
	now    time.Duration
}

// Failing returns the state of the target with the given hash. The parameter now is the current time. A target fails if
// its latest attempts (failingAttempts) have all failed. Two targets with the same hash may be confused.
func (l *Ledger) Failing(hash uint64, now time.Duration) Failing {
	if l.size.Load() == 0 {
		return Failing{}
	}
	set := l.set(hash)
	for i := range set {
		if t := set[i].Load(); t != nil && t.hash == hash && t.fails() {
			return Failing{t, now}
		}
	}
	return Failing{}
}

func (t *target) fails() bool {
	for i := range failingAttempts {
		if !t.nth(i).failed() {
			return false
		}
	}
	return true
}

// Any reports whether the target fails.
func (f Failing) Any() bool { return f.target != nil }

// Through reports whether an attempt through the proxy has failed since the target's last success, within the last 2 s.
func (f Failing) Through(proxy uint64) bool {
	if f.target == nil {
		return false
	}
	for i := range ringSize {
		m := f.target.nth(i)
		if !m.failed() || !m.since(f.now-justFailed) {
			return false
		}
		if m.of(proxy) {
			return true
		}
	}
	return false
}
