package evidence

import "time"

// CauseCount is the number of failures with one cause. A Count of 255 stands for 255 or more.
type CauseCount struct {
	Cause uint8 // Attempt.Cause
	Count int
}

// Report lists the evidence against a proxy in its current episode.
type Report struct {
	Since       time.Duration // beginning of the episode, from the ledger's epoch; 0 without a failure
	LastFailure time.Duration // latest failure, from the ledger's epoch
	Failures    int           // of the episode
	Successes   int           // of the episode
	Evidence    float64       // in nats
	Needed      float64       // constant NeededEvidence, in nats

	OutageFailures int // failures since the pool's last success if everything fails; otherwise 0

	OwnFailures int          // own failures
	OwnCauses   []CauseCount // up to three causes of own failures
	OwnNoise    float64      // share of own failures in the pool, 0 to 1

	Targets []TargetReport // at most 16, the newest record first
}

// TargetReport compares a proxy with the other proxies at one target, since the episode's first
// failure there.
type TargetReport struct {
	Name                         string       // host:port
	Failures, Attempts           int          // of the proxy
	Confirmed                    int          // confirmed failures
	Causes                       []CauseCount // up to three causes
	OtherFailures, OtherAttempts int          // of the other proxies
	Noise                        float64      // usual share of failures at the target, 0 to 1
	Evidence                     float64      // in nats, before the limit for a ban
	BannedEpisodes               int          // episodes in a row that ended although the target had confirmed failures
}

// Report returns the current evidence against the proxy. Later attempts change it, so the caller must read it
// when the breaker opens.
func (b *Book) Report(l *Ledger) Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return Report{Needed: NeededEvidence}
	}
	noise, ownNoise := l.poolNoise()
	w := Report{
		Since: b.episodeStart, LastFailure: b.lastFailure.Ended, Failures: int(b.failures),
		Successes: int(b.successes.Load() - b.successesBefore),
		Evidence:  b.evidence(l, &b.lastFailure).total, Needed: NeededEvidence,
		OwnFailures: int(b.ownFailures), OwnCauses: b.ownCauses.list(), OwnNoise: ownNoise,
	}
	if b.inOutage {
		w.OutageFailures = b.poolStreak.failures
	}
	for r := range b.currentRecords {
		w.Targets = append(w.Targets, r.targetReport(noise))
	}
	return w
}

func (r *record) targetReport(poolNoise float64) TargetReport {
	e := r.evidence(poolNoise)
	successes, failures := r.countOthers()
	w := TargetReport{
		Name: r.target.name, Failures: int(r.failures - r.atEpisodeStart.failures), Confirmed: int(r.confirmed),
		Causes: r.causes.list(), OtherFailures: int(failures - r.atEpisodeStart.otherFailures),
		Noise: e.noise, Evidence: e.total, BannedEpisodes: int(r.bannedEpisodes),
	}
	w.Attempts = w.Failures + int(r.episodeSuccesses())
	w.OtherAttempts = w.OtherFailures + int(successes-r.atEpisodeStart.otherSuccesses)
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
	Name               string  // host:port
	Attempts, Failures int     // since the target was added to the ledger; they wrap around at 2^32
	FailureRate        float64 // Failures / Attempts
	Proxies            int     // proxies that failed in the latest 32 attempts
	Suspect            bool
	LastFailure        time.Duration // from the ledger's epoch
	LastSuccess        time.Duration // from the ledger's epoch; 0 if there was none since the target was added
}

// Targets returns the targets with a recent failure, in any order.
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
	attempts := t.attempts.Load()
	v := TargetView{
		Name: t.name, Attempts: int(attempts), Failures: int(min(t.failures.Load(), attempts)),
		Suspect:     t.suspect.Load(),
		LastFailure: time.Duration(t.lastFailure.Load()), LastSuccess: max(0, time.Duration(t.lastSuccess.Load())),
	}
	if attempts > 0 {
		v.FailureRate = float64(v.Failures) / float64(attempts)
	}
	proxies := map[uint64]struct{}{}
	for i := range ringSize {
		if m := t.nthLatest(i); m != 0 && m.failed() {
			proxies[m.proxy()] = struct{}{}
		}
	}
	v.Proxies = len(proxies)
	return v
}
