package metrics

import (
	"maps"
	"math/bits"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Reasons returns the store that counts the attempts of each minute by cause and status. The store has a series for
// each proxy, a series for each target, and a series of all attempts.
func (r *Recorder) Reasons() *minutes.Store { return r.reasons }

// maxRecentAttempts is the maximum of RecentAttempts.Attempts.
const maxRecentAttempts = 20

// RecentAttempts has the results of the latest attempts of a proxy.
type RecentAttempts struct {
	Attempts    int        // at most maxRecentAttempts; cancelled and replayed attempts do not count
	BadAttempts int        // of Attempts: failures, and responses with status 403 or 429
	LastBad     BadAttempt // the latest bad attempt; zero if there is none
}

// BadAttempt is an attempt that counts in RecentAttempts.BadAttempts.
type BadAttempt struct {
	Key  minutes.Key
	Host string // "" if it is not known
	At   time.Time
}

// IsFailing reports whether at least half of the attempts were bad.
func (r *RecentAttempts) IsFailing() bool { return isFailing(r.BadAttempts, r.Attempts) }

func isFailing(bad, attempts int) bool { return bad > 0 && 2*bad >= attempts }

// RecentAttempts returns the results of the latest attempts of a proxy.
func (r *Recorder) RecentAttempts(id string) RecentAttempts {
	v, ok := r.proxies.Load(id)
	if !ok {
		return RecentAttempts{}
	}
	p := v.(*proxy)
	p.mu.Lock()
	defer p.mu.Unlock()
	return RecentAttempts{Attempts: p.recent.n, BadAttempts: bits.OnesCount32(p.recent.bad), LastBad: p.recent.lastBad}
}

// ForgetRecentAttempts forgets the latest attempts of a proxy. It is for a proxy that may have been repaired.
func (r *Recorder) ForgetRecentAttempts(id string) {
	if v, ok := r.proxies.Load(id); ok {
		p := v.(*proxy)
		p.mu.Lock()
		p.recent = recentResults{}
		p.mu.Unlock()
		r.failingProxies.update(id, p)
	}
}

// FailingProxies returns the latest attempts of the proxies for which RecentAttempts.IsFailing is true. It does not
// read the attempts of any other proxy.
func (r *Recorder) FailingProxies() map[string]RecentAttempts {
	list := map[string]RecentAttempts{}
	for _, id := range r.failingProxies.ids() {
		if recent := r.RecentAttempts(id); recent.IsFailing() {
			list[id] = recent
		}
	}
	return list
}

// failingProxies holds the ids of the proxies whose latest attempts fail. Some of these proxies may have been deleted.
type failingProxies struct {
	mu  sync.Mutex
	set map[string]struct{} // guarded by mu
}

// update adds or removes a proxy.
func (f *failingProxies) update(id string, p *proxy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.mu.Lock()
	bad := p.recent.isFailing()
	p.mu.Unlock()
	if !bad {
		delete(f.set, id)
		return
	}
	if f.set == nil {
		f.set = map[string]struct{}{}
	}
	f.set[id] = struct{}{}
}

func (f *failingProxies) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, id)
}

func (f *failingProxies) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.set))
}

// recentResults holds the results of the latest attempts of a proxy.
type recentResults struct {
	n       int    // at most maxRecentAttempts
	bad     uint32 // a bit for each of the n attempts, the lowest for the latest; 1 for a bad attempt
	lastBad BadAttempt
}

func (r *recentResults) isFailing() bool { return isFailing(bits.OnesCount32(r.bad), r.n) }

func (r *recentResults) add(e *core.AttemptEvent) {
	if e.Outcome.Result == core.ResultCancelled || e.Outcome.Result == core.ResultReplay {
		return
	}
	r.n = min(r.n+1, maxRecentAttempts)
	r.bad = r.bad << 1 & (1<<maxRecentAttempts - 1)
	if e.Outcome.Result != core.ResultSuccess || isTargetRefusal(e.Outcome.Status) {
		r.bad |= 1
		r.lastBad = BadAttempt{minutes.KeyOf(e.Outcome.Cause, e.Outcome.Status), e.Host, e.Ended}
	}
}

// restoredWindow is the time before a restart whose attempts decide which proxies count as failing after the restart.
const restoredWindow = 5 * time.Minute

// restoreRecentAttempts sets the latest attempts of each proxy from the restored counters of the last minutes. For a
// proxy with a time in recovered, only the minutes after the minute of this time count.
func (r *Recorder) restoreRecentAttempts(recovered map[string]time.Time) {
	since := r.now().Add(-restoredWindow)
	hosts := r.reasons.OnlyHosts(since)
	r.proxies.Range(func(key, v any) bool {
		id, p := key.(string), v.(*proxy)
		begin := since
		if at, ok := recovered[id]; ok && !at.Before(begin) {
			begin = at.Add(time.Minute)
		}
		recent := restoredResults(r.reasons.ProxyCounts(id, begin))
		if recent.bad != 0 {
			recent.lastBad.Host, recent.lastBad.At = hosts[recent.lastBad.Key], r.now()
		}
		p.mu.Lock()
		p.recent = recent
		p.mu.Unlock()
		r.failingProxies.update(id, p)
		return true
	})
}

// restoredResults returns the results of attempts of which only the counts are known. The bad attempts become the
// latest ones; lastBad has the most frequent key of these.
func restoredResults(counts []minutes.Count) (recent recentResults) {
	var good, bad, most uint64
	for _, c := range counts {
		switch cause := c.Key.Cause(); verdict.AtTarget(cause) {
		case core.Success:
			if !c.Key.IsRefusal() {
				good += c.N
				continue
			}
		case core.Excluded:
			if !verdict.IsProxyFault(cause) {
				continue
			}
		}
		if bad += c.N; c.N > most {
			most, recent.lastBad.Key = c.N, c.Key
		}
	}
	if bad == 0 {
		return recent
	}
	n := min(good+bad, maxRecentAttempts)
	recent.n = int(n)
	recent.bad = 1<<max(1, bad*n/(good+bad)) - 1
	return recent
}

// isTargetRefusal reports whether a response with this status is a refusal by the target.
func isTargetRefusal(status int) bool {
	return status == http.StatusForbidden || status == http.StatusTooManyRequests
}

// CountBytes counts the bytes of a proxy since the last call. The caller passes the bytes since the proxy was added.
func (r *Recorder) CountBytes(id string, total int64) {
	if total == 0 {
		return
	}
	p := r.proxyCounters(id)
	p.mu.Lock()
	n := total - p.bytes
	if n < 0 { // another proxy has the id now
		n = total
	}
	p.bytes = total
	p.mu.Unlock()
	if n > 0 {
		r.reasons.CountBytes(id, uint64(n))
	}
}

// CountTargetBytes adds the n bytes of a request to the series of the target's host. The request ended at the given
// time.
func (r *Recorder) CountTargetBytes(host string, n int64, at time.Time) {
	r.reasons.CountTargetBytes(host, uint64(n), at)
}

// WindowCounts has the requests of the latest minutes.
type WindowCounts struct {
	Requests  uint64
	Delivered uint64
	Refused   uint64 // delivered with status 403 or 429
	Attempts  uint64
	Retries   uint64
}

// CountsWithin returns the requests within the time d before now. It rounds d up to whole minutes.
func (r *Recorder) CountsWithin(d time.Duration) (w WindowCounts) {
	r.eachMinute(d, func(_ time.Time, m *minute) {
		// The counters are read in the reverse order of Request, so that a part never exceeds the whole.
		w.Refused += m.targetRefused.Load()
		w.Delivered += m.delivered.Load()
		w.Requests += m.requests.Load()
		w.Attempts += m.attempts.Load()
		w.Retries += m.retries.Load()
	})
	return w
}
