package evidence

import "time"

// CauseCount is how often a cause was counted, up to 255.
type CauseCount struct {
	Cause uint8
	Count int
}

// Why explains a proxy's evidence.
type Why struct {
	Since     time.Duration // when the excursion began, since the ledger's epoch; 0 without a failure
	Last      time.Duration // the last failure
	Failures  int           // since then
	Successes int           // since then
	Evidence  float64       // in nats
	Needed    float64       // the evidence that makes the proxy worse than the rest

	Outage int // failures since the pool's last success, if everything fails; else 0

	Own      int          // failures of the proxy's own kinds
	OwnCause []CauseCount // up to three causes
	OwnNoise float64      // the pool's share of such failures, 0 to 1

	Targets []TargetWhy // up to 16, the latest new one first
}

// TargetWhy is what a proxy and the rest of its pool had at one target since
// the excursion began.
type TargetWhy struct {
	Name                       string
	Failures, Attempts         int          // the proxy's
	Counted                    int          // failures that another proxy's success has followed
	Causes                     []CauseCount // up to three causes
	RestFailures, RestAttempts int          // since the proxy's first failure
	Noise                      float64      // share of failures that is usual there, 0 to 1
	Evidence                   float64      // in nats, before the limit for a ban
	Bans                       int          // excursions in a row that other targets have ended
}

// Why explains the evidence against the proxy as it is now. What made a breaker
// open is to be asked when it opens: results that come later change it.
func (b *Book) Why(l *Ledger) Why {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return Why{Needed: Needed}
	}
	pool, own := l.poolNoise()
	w := Why{
		Since: b.since, Last: b.last, Failures: int(b.failures), Successes: int(b.served.Load() - b.served0),
		Evidence: b.evidence(l, &b.latest).total, Needed: Needed,
		Own: int(b.own), OwnCause: b.ownCauses.list(), OwnNoise: own,
	}
	if b.outage {
		w.Outage = b.wave.all
	}
	for p := b.pairs.Load(); p != nil; p = p.next.Load() {
		if p.excursion != b.excursion {
			continue
		}
		value, _, noise := p.weigh(pool)
		served, failed := p.others()
		t := TargetWhy{
			Name: p.target.name, Failures: int(p.failed - p.failed0), Counted: int(p.counted), Causes: p.causes.list(),
			RestFailures: int(failed - p.restFailed0), Noise: noise, Evidence: value, Bans: int(p.bans),
		}
		t.Attempts = t.Failures + int(p.served.Load()-p.served0)
		t.RestAttempts = t.RestFailures + int(served-p.restServed0)
		w.Targets = append(w.Targets, t)
	}
	return w
}

func (c *causes) list() (counts []CauseCount) {
	for _, e := range c {
		if e.n > 0 {
			counts = append(counts, CauseCount{e.cause, int(e.n)})
		}
	}
	return counts
}

// TargetView is a target with a recent failure.
type TargetView struct {
	Name               string
	Attempts, Failures int // since its first failure in the ledger's memory; wraps at 2^32
	FailureRate        float64
	Proxies            int // different ones that failed among the last 32 attempts
	Suspect            bool
	LastFailure        time.Duration // since the ledger's epoch
	LastSuccess        time.Duration // 0 if none is remembered
}

// Targets returns the targets with a recent failure, in no order.
func (l *Ledger) Targets() []TargetView {
	var views []TargetView
	for i := range l.slots {
		if t := l.slots[i].Load(); t != nil {
			views = append(views, t.view())
		}
	}
	return views
}

func (t *target) view() TargetView {
	attempts := t.seq.Load()
	v := TargetView{
		Name: t.name, Attempts: int(attempts), Failures: int(min(t.failed.Load(), attempts)), Suspect: t.suspect.Load(),
		LastFailure: time.Duration(t.lastFailure.Load()), LastSuccess: max(0, time.Duration(t.lastServed.Load())),
	}
	if attempts > 0 {
		v.FailureRate = float64(v.Failures) / float64(attempts)
	}
	proxies := map[uint64]struct{}{}
	for i := range ringSize {
		if m := t.nth(i); m != 0 && m.failed() {
			proxies[m.proxy()] = struct{}{}
		}
	}
	v.Proxies = len(proxies)
	return v
}
