// Package health makes health checks. From time to time it sends a request to a URL through each proxy, in
// addition to the traffic, and compares the response with the expected one.
//
//   - A new proxy is checked immediately. Many proxies are checked at the same time. A proxy whose check fails is
//     chosen last until it has served a request.
//   - A half-open breaker needs a probe. If no request is the probe, the proxy is checked. The check is then the
//     probe: if it passes, the breaker closes; otherwise the breaker opens again.
//   - Any other proxy is checked if it has not served a request for one interval, and otherwise every ten intervals.
//     After a failed check, the next check follows sooner than after one interval.
//
// For the proxy's breaker, a check is an attempt like any other: the evidence of the pool compares the proxy
// with the other proxies at the URL's host (package evidence). A check does not change the statistics that
// scorers use.
//
// The request is sent in absolute form and, on another connection, through a tunnel. A check passes if at least one
// of the two responses is as expected. If only one of them is as expected, the proxy lacks an ability (package
// ability).
package health

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// The times of checks.
const (
	tick           = 100 * time.Millisecond
	firstWait      = time.Second // wait after the first failed check; each further failed check in a row doubles it
	localErrorWait = time.Second // wait after a check that failed because this machine had no free descriptor or port
	idleChecks     = 10          // a proxy that serves requests is checked once in this number of intervals
)

// Config has the dependencies of a Checker.
type Config struct {
	Pool *upstream.Pool
	// Send sends the request of a check through a proxy. It returns within the given time.
	Send     func(context.Context, *upstream.Upstream, SendForm, *Request, time.Duration) Response
	Now      func() time.Time
	Rand     func() uint64
	Log      *slog.Logger
	Parallel int // maximum number of simultaneous checks, at least 1
}

// Checker checks the proxies of one pool. It is safe for concurrent use.
type Checker struct {
	cfg    Config
	active atomic.Pointer[activeSettings]

	passed, failed atomic.Uint64

	mu           sync.Mutex         // guards the fields below
	planSettings *activeSettings    // settings with which the plans in queue were made
	snapshot     *upstream.Snapshot // the latest snapshot of the pool; each of its proxies has a plan
	plans        map[*upstream.Upstream]*plan
	queue        queue
	running      int
	lastPassed   [2]passedCheck // the latest passed checks of two different proxies, the later one first
}

// activeSettings holds the settings in use, and the request that is made from their URL.
type activeSettings struct {
	Settings
	request Request
	ctx     context.Context // cancelled when SetSettings replaces the settings
	cancel  context.CancelFunc
}

func newActive(s Settings) *activeSettings {
	a := &activeSettings{Settings: s}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if s.URL != "" {
		a.request, _ = ParseURL(s.URL)
	}
	return a
}

// plan is the next check of a proxy.
type plan struct {
	u            *upstream.Upstream
	at           time.Time
	index        int // index in the queue; -1 while the check runs, or after the proxy has left the pool
	lastCheck    time.Time
	failedChecks int // failed checks in a row
	mixedChecks  int // checks in a row for which results.isMixed returns true
}

// passedCheck is a passed check.
type passedCheck struct {
	u  *upstream.Upstream
	at time.Time
}

// New returns a checker without settings: it makes no checks until SetSettings is called.
func New(cfg Config) *Checker {
	c := &Checker{cfg: cfg, plans: map[*upstream.Upstream]*plan{}}
	c.active.Store(newActive(Settings{}))
	return c
}

// SetSettings replaces the settings. The new settings must be valid (Settings.Check). If they differ from the old
// ones, all proxies are checked again.
func (c *Checker) SetSettings(s Settings) {
	if c.active.Load().Settings != s {
		c.active.Swap(newActive(s)).cancel()
	}
}

// Counts returns the number of passed checks and of failed checks.
func (c *Checker) Counts() (passed, failed uint64) { return c.passed.Load(), c.failed.Load() }

// Run checks proxies until ctx ends, and returns when the checks in progress have ended.
func (c *Checker) Run(ctx context.Context) {
	var checks sync.WaitGroup
	defer checks.Wait()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		s, due := c.takeDue()
		for _, p := range due {
			checks.Go(func() { c.runCheck(ctx, s, p) })
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// takeDue returns the plans of the checks that are due, and removes these plans from the queue.
func (c *Checker) takeDue() (s *activeSettings, list []*plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s = c.active.Load()
	now := c.cfg.Now()
	if !c.updatePlans(s, now) {
		return s, nil
	}
	for _, u := range c.cfg.Pool.NotClosed() {
		p := c.plans[u]
		if p != nil && p.index >= 0 && p.at.After(now) && now.Sub(p.lastCheck) >= s.retryWait(p.failedChecks) &&
			u.Breaker().State() == core.HalfOpen {
			p.at = now
			heap.Fix(&c.queue, p.index)
		}
	}
	for len(c.queue) > 0 && !c.queue[0].at.After(now) && c.running < c.cfg.Parallel {
		p := c.queue[0]
		if at := c.postponedTime(s, p, now); at.After(now) {
			p.at = at
			heap.Fix(&c.queue, 0)
			continue
		}
		heap.Pop(&c.queue)
		list = append(list, p)
		c.running++
	}
	return s, list
}

// updatePlans adapts the plans to the settings and to the pool. It returns false if the checks are off. The caller
// holds mu.
func (c *Checker) updatePlans(s *activeSettings, now time.Time) bool {
	if s != c.planSettings {
		for u := range c.plans {
			u.SetLastCheck(nil)
		}
		c.planSettings, c.snapshot, c.queue, c.lastPassed = s, nil, nil, [2]passedCheck{}
		clear(c.plans) // the results of checks in progress are ignored
	}
	snap := c.cfg.Pool.Snapshot()
	if s.URL == "" || snap == c.snapshot {
		return s.URL != ""
	}
	c.snapshot = snap
	for u, p := range c.plans {
		if snap.Get(u.ID()) != u {
			delete(c.plans, u)
			if p.index >= 0 {
				heap.Remove(&c.queue, p.index)
			}
		}
	}
	for _, u := range snap.All {
		if c.plans[u] == nil {
			c.plans[u] = &plan{u: u, at: now}
			heap.Push(&c.queue, c.plans[u])
		}
	}
	return true
}

// postponedTime is called when the planned time of a check has come. It returns the current time if the check can begin
// now. Otherwise it returns a later time, because the proxy's breaker is open, a probe is already in flight, or the
// traffic shows that the proxy works. The caller holds mu.
func (c *Checker) postponedTime(s *activeSettings, p *plan, now time.Time) time.Time {
	switch b := p.u.Breaker(); b.State() {
	case core.Open:
		return b.Snapshot().NextTest
	case core.HalfOpen:
		if !b.Admissible() {
			return now.Add(tick)
		}
	default:
		served := p.u.ServedSince(c.cfg.Pool.Elapsed(now.Add(-s.Interval)))
		if served && p.failedChecks == 0 && !p.lastCheck.IsZero() && now.Sub(p.lastCheck) < idleChecks*s.Interval {
			return now.Add(c.interval(s))
		}
	}
	return now
}

// interval returns the time until the next check of a proxy whose check has passed.
func (c *Checker) interval(s *activeSettings) time.Duration {
	random := float64(c.cfg.Rand()>>11) / (1 << 53)
	return max(time.Duration(float64(s.Interval)*(1+s.Jitter*(random-0.5))), time.Millisecond)
}

// retryWait returns the time until the next check after a number of failed checks in a row.
func (a *activeSettings) retryWait(failed int) time.Duration {
	return min(firstWait<<min(failed, 20)/2, a.Interval)
}

// runCheck makes one check, and plans the next one.
func (c *Checker) runCheck(ctx context.Context, s *activeSettings, p *plan) {
	local := false
	lease, ok := p.u.AcquireCheck(c.cfg.Now())
	if ok {
		local = c.check(ctx, s, p, &lease)
		lease.Release()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.planSettings != s || c.plans[p.u] != p {
		return
	}
	now := c.cfg.Now()
	switch {
	case !ok:
		p.at = now.Add(tick)
	case local:
		p.at = now.Add(localErrorWait)
	case p.failedChecks > 0:
		p.lastCheck, p.at = now, now.Add(s.retryWait(p.failedChecks))
	case p.mixedChecks == 1:
		p.lastCheck, p.at = now, now.Add(s.retryWait(1))
	default:
		p.lastCheck, p.at = now, now.Add(c.interval(s))
	}
	heap.Push(&c.queue, p)
}

// check checks the proxy of a plan and settles the lease. It returns true, and does not settle the lease, if the check
// shows nothing about the proxy: this machine had no free descriptor or port, the check was cancelled, the settings
// have changed, or the proxy has left the pool.
func (c *Checker) check(ctx context.Context, s *activeSettings, p *plan, lease *upstream.Lease) (noResult bool) {
	u := p.u
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	r := c.send(ctx, s, u)
	if r.localErr != nil || ctx.Err() == context.Canceled {
		return true
	}
	report := c.reportOf(s, u, &r)
	if before := u.LastCheck(); before != nil && !report.Exit.IsValid() {
		report.Exit = before.Exit
	}
	if !c.storeReport(s, p, &report) {
		return true
	}
	if p.mixedChecks++; !r.isMixed() {
		p.mixedChecks = 0
	}
	r.recordAbilities(u, &report, c.hasOtherPassedLately(s, u), p.mixedChecks, s.missingTime())
	lease.Target = s.request.target()
	lease.Settle(s.outcome(r.decisive(), lease.Probe(), c.cfg.Now()))
	return false
}

// Test checks the proxy u immediately. Unlike the checks of Run, it does not change the proxy's breaker, statistics,
// abilities or last check. If the settings have no URL, it makes no check and returns false. An error means that a
// limit of this machine prevented the check.
func (c *Checker) Test(ctx context.Context, u *upstream.Upstream) (report upstream.CheckReport, ok bool, err error) {
	s := c.active.Load()
	if s.URL == "" {
		return report, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	r := c.send(ctx, s, u)
	if r.localErr != nil {
		return report, true, r.localErr
	}
	return c.reportOf(s, u, &r), true, nil
}

// reportOf returns the report of a check, with the exit address in its response.
func (c *Checker) reportOf(s *activeSettings, u *upstream.Upstream, r *results) (report upstream.CheckReport) {
	report.At = c.cfg.Pool.Elapsed(c.cfg.Now())
	best := r.decisive()
	if !best.passed {
		report.Fault, report.Intercepted = best.failure, r.isIntercepted(c.hasOtherPassedLately(s, u))
		return report
	}
	report.Passed, report.Latency, report.Exit = true, best.Duration, ExitAddress(s.Exit, &best.Response)
	return report
}

// storeReport counts and logs the result of a check, and stores it as the proxy's last check. It returns false if the
// settings have changed since the check began, or the proxy has left the pool.
func (c *Checker) storeReport(s *activeSettings, p *plan, r *upstream.CheckReport) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.planSettings != s || c.plans[p.u] != p {
		return false
	}
	c.log(p.u, r)
	p.u.SetLastCheck(r)
	if !r.Passed {
		p.failedChecks++
		c.failed.Add(1)
		return true
	}
	p.failedChecks = 0
	c.passed.Add(1)
	if c.lastPassed[0].u != p.u {
		c.lastPassed[1] = c.lastPassed[0]
	}
	c.lastPassed[0] = passedCheck{p.u, c.cfg.Now()}
	return true
}

// outcome converts the result of a check to the outcome of an attempt.
func (a *activeSettings) outcome(r *result, probe bool, now time.Time) *core.Outcome {
	if r.passed {
		return &core.Outcome{Cause: verdict.Answered, Verdict: core.Success, Result: core.ResultSuccess,
			Latency: r.Duration}
	}
	f := r.Facts
	f.Now, f.Idempotent, f.Replayable, f.Latency = now, true, true, r.Duration
	o := verdict.Judge(&f)
	if probe && o.Verdict == core.Excluded { // a failed check must not close a breaker
		o.Verdict = core.Failure
	}
	return &o
}

// missingTime returns the time for which a proxy counts as lacking an ability after a check has shown this. It is
// longer than the time until the next checks.
func (a *activeSettings) missingTime() time.Duration {
	return max((idleChecks+2)*a.Interval*2, 10*time.Minute)
}

// hasOtherPassedLately reports whether a check through a proxy other than u has passed lately. If so, the URL's host
// works.
func (c *Checker) hasOtherPassedLately(s *activeSettings, u *upstream.Upstream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.lastPassed {
		if p.u != nil && p.u != u && c.cfg.Now().Sub(p.at) <= idleChecks*s.Interval {
			return true
		}
	}
	return false
}

// log logs a result if it differs from the previous result of the proxy. A first result is logged if the check has
// failed.
func (c *Checker) log(u *upstream.Upstream, r *upstream.CheckReport) {
	before := u.LastCheck()
	switch {
	case before == nil && r.Passed, before != nil && before.Passed == r.Passed:
	case r.Passed:
		c.cfg.Log.Info("health check passed", slog.String("proxy_id", u.ID()))
	default:
		c.cfg.Log.Info("health check failed", slog.String("proxy_id", u.ID()), slog.String("error", r.Fault))
	}
}

// results holds the results of one check: one result for the request in absolute form, and one for the request through
// a tunnel.
type results struct {
	absolute, tunnel result
	kind             ability.Kind // kind of the tunnel
	tls              bool
	localErr         error // not nil if the check failed because of a limit of this machine
}

// send sends the request in both forms. If the URL is an https:// URL, or the proxy does not support the absolute form,
// it sends the request only through a tunnel. It does not try the tunnel if the proxy cannot be reached, or if a limit
// of this machine prevented the request in absolute form.
func (c *Checker) send(ctx context.Context, s *activeSettings, u *upstream.Upstream) (r results) {
	r.kind, r.tls = ability.TunnelTo(s.request.Authority), s.request.TLS
	end := c.cfg.Now().Add(s.Timeout)
	send := func(form SendForm) result {
		left := end.Sub(c.cfg.Now())
		if form == Absolute {
			left /= 2 // a proxy that cannot forward may never respond
		}
		return s.compare(c.cfg.Send(ctx, u, form, &s.request, left))
	}
	scheme := u.Spec().Address.Scheme
	if !r.tls && (scheme == upstream.HTTP || scheme == upstream.HTTPS) {
		r.absolute = send(Absolute)
		if err := r.absolute.Facts.Err; err != nil && (verdict.IsConnectFailure(err.Cause) ||
			err.Cause == verdict.LocalLimit) {
			if err.Cause == verdict.LocalLimit {
				r.localErr = err
			}
			return r
		}
	}
	r.tunnel = send(Tunnel)
	if err := r.tunnel.Facts.Err; err != nil && err.Cause == verdict.LocalLimit && !r.absolute.passed {
		r.localErr = err
	}
	return r
}

// decisive returns the result that decides about the check. If only one form has passed, this is its result. Otherwise
// it is the result of the absolute form or, if only the tunnel was used, of the tunnel.
func (r *results) decisive() *result {
	if r.absolute.passed || r.absolute.sent && !r.tunnel.passed {
		return &r.absolute
	}
	return &r.tunnel
}

// isIntercepted reports whether the proxy intercepts TLS: the certificate is not valid, while checks through other
// proxies pass.
func (r *results) isIntercepted(othersPass bool) bool {
	err := r.tunnel.Facts.Err
	return r.tls && othersPass && err != nil && err.Cause == verdict.TargetCertificate
}

// isTunnelRefused reports whether the proxy has refused the tunnel with a status.
func (r *results) isTunnelRefused() bool {
	err := r.tunnel.Facts.Err
	return err != nil && (err.Cause == verdict.TunnelRefused || err.Cause == verdict.TunnelUnsupported)
}

// isMixed reports whether one form has passed and the other has failed. A status with which the proxy refuses the form
// does not count as such a failure. A single mixed check may be due to chance; two in a row show that the proxy lacks
// an ability.
func (r *results) isMixed() bool {
	switch {
	case r.absolute.passed:
		err := r.tunnel.Facts.Err // nil if the tunnel is open
		return err != nil && !r.isTunnelRefused() && err.Cause != verdict.LocalLimit
	case r.tunnel.passed && r.absolute.sent:
		status := r.absolute.Facts.Status
		return r.absolute.Facts.Err != nil || status < 400 || status >= 500 && status != 501
	}
	return false
}

// recordAbilities records the abilities that the check shows. mixedChecks is the number of mixed checks in a row.
func (r *results) recordAbilities(u *upstream.Upstream, report *upstream.CheckReport, othersPass bool, mixedChecks int,
	missingTime time.Duration) {
	scheme := u.Spec().Address.Scheme
	if scheme != upstream.HTTP && scheme != upstream.HTTPS {
		return
	}
	a, at := u.Abilities(), report.At
	recordMissing := func(kinds ...ability.Kind) {
		for _, k := range kinds {
			a.RecordMissing(k, at, at+missingTime, ability.Check)
		}
	}
	if r.absolute.passed {
		a.RecordSuccess(ability.Forward, at, ability.Check)
	}
	if r.tunnel.passed {
		a.RecordSuccess(r.kind, at, ability.Check)
	}
	switch err := r.tunnel.Facts.Err; {
	case mixedChecks == 1:
	case r.tunnel.passed && r.absolute.sent && !r.absolute.passed:
		recordMissing(ability.Forward)
	case report.Intercepted:
		recordMissing(r.kind, ability.TunnelTLS)
	case r.tunnel.passed, !r.tunnel.sent, !r.absolute.passed && !othersPass:
	case err != nil && err.Cause == verdict.TunnelUnsupported:
		recordMissing(ability.TunnelTLS, ability.TunnelOther)
	case r.isTunnelRefused(), mixedChecks > 1:
		recordMissing(r.kind)
	}
}

// queue is a heap of plans, ordered by time.
type queue []*plan

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	p := x.(*plan)
	p.index = len(*q)
	*q = append(*q, p)
}
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	last.index = -1
	*q = old[:len(old)-1]
	return last
}
