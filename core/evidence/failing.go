package evidence

import "time"

// Failing is the state of a target whose latest attempts have failed. The zero value stands for a target that does not
// fail.
type Failing struct {
	target *target
	now    time.Duration
}

// Failing returns the state of the target with the given hash. The target fails if its latest failingAttempts attempts
// failed.
func (l *Ledger) Failing(hash uint64, now time.Duration) Failing {
	if l.size.Load() == 0 {
		return Failing{}
	}
	slots := l.slotsOf(hash)
	for i := range slots {
		if t := slots[i].Load(); t != nil && t.hash == hash && t.isFailing() {
			return Failing{t, now}
		}
	}
	return Failing{}
}

func (t *target) isFailing() bool {
	for i := range failingAttempts {
		if !t.nthLatest(i).failed() {
			return false
		}
	}
	return true
}

// TargetFails reports whether the target fails.
func (f Failing) TargetFails() bool { return f.target != nil }

// FailedThrough reports whether the target fails, and an attempt through the proxy failed there within the last 2 s.
func (f Failing) FailedThrough(proxy uint64) bool {
	if f.target == nil {
		return false
	}
	for i := range ringSize {
		m := f.target.nthLatest(i)
		if !m.failed() || !m.notBefore(f.now-justFailed) {
			return false
		}
		if m.isThrough(proxy) {
			return true
		}
	}
	return false
}
