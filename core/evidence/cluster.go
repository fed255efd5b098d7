package evidence

import "time"

// recentlyServed is the time after a target's last success during which reports of other gateways do not make the
// target suspect, and during which Succeeds returns true.
const recentlyServed = 10 * time.Second

// OwnSuspects returns the names of the targets that are suspect because of this gateway's own attempts, at most max.
func (l *Ledger) OwnSuspects(max int) (names []string) {
	if l.size.Load() == 0 {
		return nil
	}
	for i := range l.slots {
		if len(names) == max {
			break
		}
		if t := l.slots[i].Load(); t != nil && t.suspect.Load() && t.attempts.Load() >= suspectFailures {
			names = append(names, t.name)
		}
	}
	return names
}

// Succeeds reports whether an attempt has succeeded at the target within the last 10 s.
func (l *Ledger) Succeeds(t Target, now time.Duration) bool {
	return l.recent.hasSuccessThroughOther(t.Hash, ^uint64(0), now, recentlyServed)
}

// SucceedsAnywhere reports whether an attempt has succeeded at any target within the last 10 s.
func (l *Ledger) SucceedsAnywhere(now time.Duration) bool {
	return l.recent.hasAny(now, recentlyServed)
}

// RecordClusterSuspect makes a target suspect because other gateways suspect it, unless an attempt of this gateway has
// succeeded there within the last 10 s. A success at the target ends this state, as for any suspect target.
func (l *Ledger) RecordClusterSuspect(key Target, now time.Duration) {
	if l.Succeeds(key, now) {
		return
	}
	t := l.findOrAdd(key)
	t.lastFailure.Store(int64(now)) // so that Sweep keeps it
	if !t.suspect.Load() {
		t.retriesAdmitted.Store(int64(now))
		t.suspect.Store(true)
	}
}
