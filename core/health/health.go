// Package health makes health checks. From time to time it sends a request to a URL through each proxy, in
// addition to the traffic, and compares the response with the expected one.
//
//   - A new proxy is checked immediately. Many proxies are checked at the same time. A proxy whose check fails is
//     chosen last until it has served a request.
//   - A proxy whose breaker is half-open is checked if no request is the probe. The check is then the probe: if it
//     passes, the breaker closes; otherwise the breaker opens again.
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
	tick       = 100 * time.Millisecond
	firstWait  = time.Second // wait after the first failed check; each further failed check in a row doubles it
	localPause = time.Second // wait after a check that failed because this machine had no free descriptor or port
	idleChecks = 10          // a proxy that serves requests is checked once in this number of intervals
)

// Config has the dependencies of a Checker.
type Config struct {
	Pool *upstream.Pool
	// Send sends the request of a check through a proxy. It returns within the given time.
	Send     func(context.Context, *upstream.Upstream, Form, *Request, time.Duration) Response
	Now      func() time.Time
	Rand     func() uint64
	Log      *slog.Logger
	Parallel int // maximum number of simultaneous checks, at least 1
}

// Checker checks the proxies of one pool. It is safe for concurrent use.
type Checker struct {
	cfg    Config
	active atomic.Pointer[active]

	passed, failed atomic.Uint64

	mu      sync.Mutex
	using   *active            // settings with which the plans in queue were made
	last    *upstream.Snapshot // the latest snapshot of the pool; each of its proxies has a plan
	plans   map[*upstream.Upstream]*plan
	queue   queue
	running int
	passes  [2]pass // the latest passed checks of two different proxies, the later one first
}

// active holds the settings in use, and the request that is made from their URL.
type active struct {
	Settings
	request Request
	ctx     context.Context // cancelled when SetSettings replaces the settings
	end     context.CancelFunc
}

func newActive(s Settings) *active {
	a := &active{Settings: s}
	a.ctx, a.end = context.WithCancel(context.Background())
	if s.URL != "" {
		a.request, _ = ParseURL(s.URL)
	}
	return a
}

// plan is the next check of a proxy.
type plan struct {
	u       *upstream.Upstream
	at      time.Time
	index   int // index in the queue; -1 while the check runs, or after the proxy has left the pool
	checked time.Time
	failed  int // failed checks in a row
	mixed   int // checks in a row for which results.mixed returns true
}

// pass is a passed check.
type pass struct {
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
		c.active.Swap(newActive(s)).end()
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
		s, due := c.due()
		for _, p := range due {
			checks.Go(func() { c.run(ctx, s, p) })
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// due removes from the queue the plans whose time has come, and returns them.
func (c *Checker) due() (s *active, list []*plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s = c.active.Load()
	now := c.cfg.Now()
	if !c.follow(s, now) {
		return s, nil
	}
	for _, u := range c.cfg.Pool.NotClosed() {
		p := c.plans[u]
		if p != nil && p.index >= 0 && p.at.After(now) && now.Sub(p.checked) >= s.retryWait(p.failed) &&
			u.Breaker().State() == core.HalfOpen {
			p.at = now
			heap.Fix(&c.queue, p.index)
		}
	}
	for len(c.queue) > 0 && !c.queue[0].at.After(now) && c.running < c.cfg.Parallel {
		p := c.queue[0]
		if at := c.postpone(s, p, now); at.After(now) {
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

// follow adapts the plans to the settings and to the pool's proxies. It returns false if the checks are off.
// The caller holds mu.
func (c *Checker) follow(s *active, now time.Time) bool {
	if s != c.using {
		for u := range c.plans {
			u.SetLastCheck(nil)
		}
		c.using, c.last, c.queue, c.passes = s, nil, nil, [2]pass{}
		clear(c.plans) // the results of checks in progress are ignored
	}
	snap := c.cfg.Pool.Snapshot()
	if s.URL == "" || snap == c.last {
		return s.URL != ""
	}
	c.last = snap
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

// postpone returns the time of a check whose planned time has come. Usually this is now. It is a later time if the
// proxy's breaker is open or has a probe, or if the traffic shows that the proxy works. The caller holds mu.
func (c *Checker) postpone(s *active, p *plan, now time.Time) time.Time {
	switch b := p.u.Breaker(); b.State() {
	case core.Open:
		return b.Snapshot().NextTest
	case core.HalfOpen:
		if !b.Admissible() {
			return now.Add(tick)
		}
	default:
		served := p.u.ServedSince(c.cfg.Pool.Elapsed(now.Add(-s.Interval)))
		if served && p.failed == 0 && !p.checked.IsZero() && now.Sub(p.checked) < idleChecks*s.Interval {
			return now.Add(c.interval(s))
		}
	}
	return now
}

// interval returns the time until the next check of a proxy whose check has passed.
func (c *Checker) interval(s *active) time.Duration {
	random := float64(c.cfg.Rand()>>11) / (1 << 53)
	return max(time.Duration(float64(s.Interval)*(1+s.Jitter*(random-0.5))), time.Millisecond)
}

// retryWait returns the time until the next check of a proxy, after the given number of failed checks in a row.
func (a *active) retryWait(failed int) time.Duration {
	return min(firstWait<<min(failed, 20)/2, a.Interval)
}

// run makes one check, and plans the next check of the proxy.
func (c *Checker) run(ctx context.Context, s *active, p *plan) {
	local := false
	lease, ok := p.u.AcquireCheck(c.cfg.Now())
	if ok {
		local = c.check(ctx, s, p, &lease)
		lease.Release()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.using != s || c.plans[p.u] != p {
		return
	}
	now := c.cfg.Now()
	switch {
	case !ok:
		p.at = now.Add(tick)
	case local:
		p.at = now.Add(localPause)
	case p.failed > 0:
		p.checked, p.at = now, now.Add(s.retryWait(p.failed))
	case p.mixed == 1:
		p.checked, p.at = now, now.Add(s.retryWait(1))
	default:
		p.checked, p.at = now, now.Add(c.interval(s))
	}
	heap.Push(&c.queue, p)
}

// check checks the proxy of a plan and settles the lease. If the result local is true, it has not settled the lease,
// because the check shows nothing about the proxy: this machine had no free descriptor or port, the check was
// cancelled, the settings have changed, or the proxy has left the pool.
func (c *Checker) check(ctx context.Context, s *active, p *plan, lease *upstream.Lease) (local bool) {
	u := p.u
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	r := c.send(ctx, s, u)
	if r.local != nil || ctx.Err() == context.Canceled {
		return true
	}
	report := c.reportOf(s, u, &r)
	if before := u.LastCheck(); before != nil && !report.Exit.IsValid() {
		report.Exit = before.Exit
	}
	if !c.publish(s, p, &report) {
		return true
	}
	if p.mixed++; !r.mixed() {
		p.mixed = 0
	}
	r.learn(u, &report, c.othersPass(s, u), p.mixed, s.holds())
	lease.Target = s.request.target()
	lease.Settle(s.outcome(r.best(), lease.Probe(), c.cfg.Now()))
	return false
}

// Test makes a check of u now and returns its result. Unlike the checks of Run, it does not change the proxy's
// breaker, statistics, abilities or last check. The result ok is false if the settings have no URL. If err is not nil,
// the check failed because of a limit of this machine, and shows nothing about the proxy.
func (c *Checker) Test(ctx context.Context, u *upstream.Upstream) (report upstream.CheckReport, ok bool, err error) {
	s := c.active.Load()
	if s.URL == "" {
		return report, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	r := c.send(ctx, s, u)
	if r.local != nil {
		return report, true, r.local
	}
	return c.reportOf(s, u, &r), true, nil
}

// reportOf returns the report of a check of u. The report has the exit address in the response of this check.
func (c *Checker) reportOf(s *active, u *upstream.Upstream, r *results) (report upstream.CheckReport) {
	report.At = c.cfg.Pool.Elapsed(c.cfg.Now())
	best := r.best()
	if !best.passed {
		report.Fault, report.Intercepted = best.fault, r.intercepted(c.othersPass(s, u))
		return report
	}
	report.Passed, report.Latency, report.Exit = true, best.Took, ExitAddress(s.Exit, &best.Response)
	return report
}

// publish counts and logs the result of a check, and stores it as the last check of the proxy. It returns
// false if the settings have changed since the check began, or if the proxy has left the pool.
func (c *Checker) publish(s *active, p *plan, r *upstream.CheckReport) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.using != s || c.plans[p.u] != p {
		return false
	}
	c.log(p.u, r)
	p.u.SetLastCheck(r)
	if !r.Passed {
		p.failed++
		c.failed.Add(1)
		return true
	}
	p.failed = 0
	c.passed.Add(1)
	if c.passes[0].u != p.u {
		c.passes[1] = c.passes[0]
	}
	c.passes[0] = pass{p.u, c.cfg.Now()}
	return true
}

// outcome converts the result of a check to the outcome of an attempt.
func (a *active) outcome(r *result, probe bool, now time.Time) *core.Outcome {
	if r.passed {
		return &core.Outcome{Cause: verdict.Answered, Verdict: core.Success, Result: core.ResultSuccess,
			Latency: r.Took}
	}
	f := r.Facts
	f.Now, f.Idempotent, f.Replayable, f.Latency = now, true, true, r.Took
	o := verdict.Judge(&f)
	if probe && o.Verdict == core.Excluded { // a failed check must not close a breaker
		o.Verdict = core.Failure
	}
	return &o
}

// If a check shows that an ability is missing, this is recorded for the time that the method holds returns. This time
// is longer than the time until the next checks.
func (a *active) holds() time.Duration { return max((idleChecks+2)*a.Interval*2, 10*time.Minute) }

// othersPass reports whether a check through a proxy other than u has passed lately. Such a check shows that the
// URL's host works.
func (c *Checker) othersPass(s *active, u *upstream.Upstream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.passes {
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

// results are the results of a check in both forms.
type results struct {
	absolute, tunnel result
	kind             ability.Kind // kind of the tunnel
	tls              bool
	local            error // not nil if the check failed because of a limit of this machine
}

// send sends the request in both forms. If the URL is an https:// URL, or the proxy does not support the absolute
// form, it uses only a tunnel. If the absolute form fails because the proxy cannot be reached, or because of a limit
// of this machine, it does not try the tunnel.
func (c *Checker) send(ctx context.Context, s *active, u *upstream.Upstream) (r results) {
	r.kind, r.tls = ability.TunnelTo(s.request.Authority), s.request.TLS
	end := c.cfg.Now().Add(s.Timeout)
	send := func(form Form) result {
		left := end.Sub(c.cfg.Now())
		if form == Absolute {
			left /= 2 // a proxy that cannot forward may never respond
		}
		return s.judge(c.cfg.Send(ctx, u, form, &s.request, left))
	}
	scheme := u.Spec().Address.Scheme
	if !r.tls && (scheme == upstream.HTTP || scheme == upstream.HTTPS) {
		r.absolute = send(Absolute)
		if err := r.absolute.Facts.Err; err != nil && (verdict.IsConnectFailure(err.Cause) ||
			err.Cause == verdict.LocalLimit) {
			if err.Cause == verdict.LocalLimit {
				r.local = err
			}
			return r
		}
	}
	r.tunnel = send(Tunnel)
	if err := r.tunnel.Facts.Err; err != nil && err.Cause == verdict.LocalLimit && !r.absolute.passed {
		r.local = err
	}
	return r
}

// best returns the result that counts as the result of the check. If only one of the two forms has passed,
// its result counts. If both or none have passed, the result of the absolute form counts, or that of the tunnel if the
// absolute form was not sent.
func (r *results) best() *result {
	if r.absolute.passed || r.absolute.sent && !r.tunnel.passed {
		return &r.absolute
	}
	return &r.tunnel
}

// intercepted reports whether the proxy intercepts TLS: the certificate received through it is not valid,
// while checks through other proxies pass.
func (r *results) intercepted(othersPass bool) bool {
	err := r.tunnel.Facts.Err
	return r.tls && othersPass && err != nil && err.Cause == verdict.TargetCertificate
}

// refused reports whether the proxy has refused the tunnel with a status.
func (r *results) refused() bool {
	err := r.tunnel.Facts.Err
	return err != nil && (err.Cause == verdict.TunnelRefused || err.Cause == verdict.TunnelUnsupported)
}

// mixed reports whether one form has passed, and the other form has failed without a status that refuses the
// request. A single such check may be due to chance; two in a row show that the proxy lacks an ability.
func (r *results) mixed() bool {
	switch {
	case r.absolute.passed:
		err := r.tunnel.Facts.Err // nil if the tunnel is open
		return err != nil && !r.refused() && err.Cause != verdict.LocalLimit
	case r.tunnel.passed && r.absolute.sent:
		status := r.absolute.Facts.Status
		return r.absolute.Facts.Err != nil || status < 400 || status >= 500 && status != 501
	}
	return false
}

// learn records the abilities that the check shows. The parameter mixed is the number of checks in a row for which the
// method mixed returns true, and holds is the time for which a missing ability is recorded.
func (r *results) learn(u *upstream.Upstream, report *upstream.CheckReport, othersPass bool, mixed int,
	holds time.Duration) {
	scheme := u.Spec().Address.Scheme
	if scheme != upstream.HTTP && scheme != upstream.HTTPS {
		return
	}
	a, at := u.Abilities(), report.At
	cannot := func(kinds ...ability.Kind) {
		for _, k := range kinds {
			a.Learn(k, at, at+holds, ability.Check)
		}
	}
	if r.absolute.passed {
		a.Succeeded(ability.Forward, at, ability.Check)
	}
	if r.tunnel.passed {
		a.Succeeded(r.kind, at, ability.Check)
	}
	switch err := r.tunnel.Facts.Err; {
	case mixed == 1:
	case r.tunnel.passed && r.absolute.sent && !r.absolute.passed:
		cannot(ability.Forward)
	case report.Intercepted:
		cannot(r.kind, ability.TunnelTLS)
	case r.tunnel.passed, !r.tunnel.sent, !r.absolute.passed && !othersPass:
	case err != nil && err.Cause == verdict.TunnelUnsupported:
		cannot(ability.TunnelTLS, ability.TunnelOther)
	case r.refused(), mixed > 1:
		cannot(r.kind)
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
