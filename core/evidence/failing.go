package evidence

import "time"

// TargetState states whether the latest attempts at a target have failed. The zero value stands for a target that does
// not fail.
type TargetState struct {
	target *target
	now    time.Duration
}

// TargetState returns the state of the target with the given hash.
func (l *Ledger) TargetState(hash uint64, now time.Duration) TargetState {
	if l.size.Load() == 0 {
		return TargetState{}
	}
	slots := l.slotsOf(hash)
	for i := range slots {
		if t := slots[i].Load(); t != nil && t.hash == hash && t.isFailing() {
			return TargetState{t, now}
		}
	}
	return TargetState{}
}

func (t *target) isFailing() bool {
	for i := range failingAttempts {
		if !t.nthLatest(i).failed() {
			return false
		}
	}
	return true
}

// Fails reports whether the latest failingAttempts attempts at the target failed.
func (s TargetState) Fails() bool { return s.target != nil }

// FailedThrough reports whether Fails returns true, and an attempt through the proxy failed at the target within the
// last 2 s.
func (s TargetState) FailedThrough(proxy uint64) bool {
	if s.target == nil {
		return false
	}
	for i := range ringSize {
		m := s.target.nthLatest(i)
		if !m.failed() || !m.notBefore(s.now-justFailed) {
			return false
		}
		if m.isThrough(proxy) {
			return true
		}
	}
	return false
}
