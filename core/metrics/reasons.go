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
)

// Reasons returns the attempts of each minute by cause and status. The store has a series for each proxy, a series for
// each target, and a series of all attempts.
func (r *Recorder) Reasons() *minutes.Store { return r.reasons }

// recentAttempts is the maximum of Recent.Attempts.
const recentAttempts = 20

// Recent has the results of the latest attempts of a proxy.
type Recent struct {
	Attempts int // at most recentAttempts; cancelled and replayed attempts do not count
	Bad      int // of Attempts: failures, and responses with status 403 or 429
	Last     Bad // the latest bad attempt; zero if there is none
}

// Bad is an attempt that counts in Recent.Bad.
type Bad struct {
	Key  minutes.Key
	Host string // "" if it is not known
	At   time.Time
}

// Fails reports whether at least half of the attempts were bad.
func (r *Recent) Fails() bool { return fails(r.Bad, r.Attempts) }

func fails(bad, attempts int) bool { return bad > 0 && 2*bad >= attempts }

// Recent returns the results of the latest attempts of a proxy.
func (r *Recorder) Recent(id string) Recent {
	v, ok := r.proxies.Load(id)
	if !ok {
		return Recent{}
	}
	p := v.(*proxy)
	p.mu.Lock()
	defer p.mu.Unlock()
	return Recent{Attempts: p.recent.n, Bad: bits.OnesCount32(p.recent.bad), Last: p.recent.last}
}

// ForgetRecent forgets the latest attempts of a proxy that may have been repaired.
func (r *Recorder) ForgetRecent(id string) {
	if v, ok := r.proxies.Load(id); ok {
		p := v.(*proxy)
		p.mu.Lock()
		p.recent = recent{}
		p.mu.Unlock()
		r.failing.update(id, p)
	}
}

// Failing returns the latest attempts of the proxies for which Recent.Fails is true. It costs nothing for other
// proxies.
func (r *Recorder) Failing() map[string]Recent {
	list := map[string]Recent{}
	for _, id := range r.failing.ids() {
		if recent := r.Recent(id); recent.Fails() {
			list[id] = recent
		}
	}
	return list
}

// failing holds the ids of the proxies whose latest attempts fail. Some of these proxies may have been deleted.
type failing struct {
	mu  sync.Mutex
	set map[string]struct{} // guarded by mu
}

// update adds or removes a proxy.
func (f *failing) update(id string, p *proxy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.mu.Lock()
	bad := p.recent.fails()
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

func (f *failing) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, id)
}

func (f *failing) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.set))
}

// recent holds the results of the latest attempts of a proxy.
type recent struct {
	n    int    // at most recentAttempts
	bad  uint32 // a bit for each of the n attempts, the lowest for the latest; 1 for a bad attempt
	last Bad
}

func (r *recent) fails() bool { return fails(bits.OnesCount32(r.bad), r.n) }

func (r *recent) add(e *core.AttemptEvent) {
	if e.Outcome.Result == core.ResultCancelled || e.Outcome.Result == core.ResultReplay {
		return
	}
	r.n = min(r.n+1, recentAttempts)
	r.bad = r.bad << 1 & (1<<recentAttempts - 1)
	if e.Outcome.Result != core.ResultSuccess || refused(e.Outcome.Status) {
		r.bad |= 1
		r.last = Bad{minutes.KeyOf(e.Outcome.Cause, e.Outcome.Status), e.Host, e.Ended}
	}
}

// refused reports whether a response with this status is a refusal by the target.
func refused(status int) bool {
	return status == http.StatusForbidden || status == http.StatusTooManyRequests
}

// CountBytes counts the bytes of a proxy since the last call. The parameter total is the number of bytes since the
// proxy was added.
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

// Window has the requests of the latest minutes.
type Window struct {
	Requests  uint64
	Delivered uint64
	Refused   uint64 // delivered with status 403 or 429
	Attempts  uint64
	Retries   uint64
}

// Window returns the requests within the time d before now. It rounds d up to whole minutes.
func (r *Recorder) Window(d time.Duration) (w Window) {
	r.eachMinute(d, func(_ time.Time, m *minute) {
		w.Requests += m.requests.Load()
		w.Delivered += m.delivered.Load()
		w.Refused += m.targetRefused.Load()
		w.Attempts += m.attempts.Load()
		w.Retries += m.retries.Load()
	})
	return w
}
