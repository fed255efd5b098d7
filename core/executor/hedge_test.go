package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// course describes an attempt: after some time it gets a response with a status, or an error.
type course struct {
	takes  time.Duration
	status int // 0 with an error
	cause  core.Cause
}

// answer is a response.
type answer struct {
	by     string // id of the proxy
	closed int    // number of times that the response was discarded, or returned by Run
}

// courses is a Hedger that gives each attempt the course that next returns, and records the responses.
type courses struct {
	next    func(a *Attempt) course
	streams bool // the body is streamed, so that there are no hedges
	shared  *shared

	mu      sync.Mutex
	stop    chan struct{} // closed by Stop
	stopped bool
}

// shared is the data that a courses and its hedges share.
type shared struct {
	mu      sync.Mutex
	answers []*answer
	hedges  int
	overlap int // the largest number of attempts in flight at the same time
	now     int
}

func newCourses(next func(a *Attempt) course) *courses {
	return &courses{next: next, stop: make(chan struct{}), shared: &shared{}}
}

// courseByProxy returns the course for each proxy. A proxy without a course responds at once.
func courseByProxy(m map[string]course) func(*Attempt) course {
	return func(a *Attempt) course {
		if c, ok := m[a.Upstream.ID()]; ok {
			return c
		}
		return course{status: 200}
	}
}

func (c *courses) Send(ctx context.Context, a *Attempt, f *verdict.Facts) (response *answer) {
	response, *f = c.attempt(ctx, a)
	return response
}

func (c *courses) attempt(ctx context.Context, a *Attempt) (*answer, verdict.Facts) {
	s := c.shared
	s.mu.Lock()
	s.now++
	s.overlap = max(s.overlap, s.now)
	k := c.next(a)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	fault := func(cause core.Cause, text string) (*answer, verdict.Facts) {
		return nil, verdict.Facts{Err: &verdict.Error{Cause: cause, Err: errors.New(text)}}
	}
	deadline := time.NewTimer(time.Until(a.Deadline))
	defer deadline.Stop()
	select {
	case <-time.After(k.takes):
	case <-deadline.C:
		return fault(verdict.NoAnswerInTime, "timeout")
	case <-ctx.Done():
		if k.cause == verdict.ProxyUnreachable { // the connection was still being opened
			return fault(k.cause, "cancelled")
		}
		return fault(verdict.NoAnswerInTime, "cancelled")
	case <-stop:
		return fault(verdict.NoAnswerInTime, "stopped")
	}
	if k.status == 0 {
		return fault(k.cause, "broken")
	}
	r := &answer{by: a.Upstream.ID()}
	s.mu.Lock()
	s.answers = append(s.answers, r)
	s.mu.Unlock()
	return r, verdict.Facts{Status: k.status}
}

func (c *courses) Discard(r *answer) {
	if r != nil {
		r.closed++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		c.stopped, c.stop = false, make(chan struct{})
	}
}

func (c *courses) Hedge() HedgeSender[*answer] {
	if c.streams {
		return nil
	}
	c.shared.mu.Lock()
	defer c.shared.mu.Unlock()
	c.shared.hedges++
	return &courses{next: c.next, stop: make(chan struct{}), shared: c.shared}
}

func (c *courses) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		close(c.stop)
	}
}

func (c *courses) Adopt(_ HedgeSender[*answer], r *answer) *answer { return r }

// ended is a request that has ended.
type ended struct {
	by    string // id of the proxy whose response the client got; "" for none
	took  time.Duration
	event core.RequestEvent
}

// run runs a request and closes its ending.
func (c *courses) run(ctx context.Context, b *bench, x *both) ended {
	begun := time.Now()
	end := Run(ctx, b.Executor, &x.Exchange, &x.Request, Sender[*answer](c))
	e := ended{took: time.Since(begun)}
	if end.Response != nil {
		end.Response.closed++
		e.by = end.Response.by
	}
	switch {
	case end.Refusal != nil:
		end.Refusal.Close(502, time.Now())
	case end.Relay != nil:
		end.Relay.Close(200, verdict.RelayEnd{}, time.Now())
	default:
		end.Tunnel.SettleSuccess()
		end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
	}
	requests := b.rec.Requests()
	e.event = requests[len(requests)-1]
	return e
}

// hedging returns a bench with n proxies and a full hedge budget.
func hedging(t *testing.T, n int, change func(*Tuning)) *bench {
	b := start(t, n, func(tuning *Tuning) {
		tuning.Hedging = &retry.Hedging{}
		if change != nil {
			change(tuning)
		}
	})
	full := retry.DefaultPolicy()
	full.Hedge, full.HedgeBudget = retry.Hedge{After: 1}, 1
	for range 10 {
		b.Tuning().Hedging.Begin(&full, retry.HedgeResponse)
	}
	return b
}

// hedgedRequest returns a request that is hedged after 100 ms.
func hedgedRequest(t require.TestingT, change func(*retry.Policy)) *both {
	x := exchange(t, func(p *retry.Policy) {
		p.Hedge = retry.Hedge{After: 0.1}
		if change != nil {
			change(p)
		}
	})
	x.Safe = true
	return x
}

const after, s, ms = 100 * time.Millisecond, time.Second, time.Millisecond

// The first good response wins, whichever attempt it belongs to, and is relayed at once. The other
// attempt is ended, closed and excluded. The first attempt goes through p0, the hedge through p1.
func TestHedge(t *testing.T) {
	type events []string // proxy, result, verdict
	ok := func(d time.Duration) course { return course{takes: d, status: 200} }
	for name, c := range map[string]struct {
		p0, p1  course
		change  func(*both)
		tuning  func(*Tuning)
		streams bool
		by      string
		took    time.Duration
		events  events
	}{
		"the hedge wins": {p0: ok(5 * s), p1: ok(20 * ms), by: "p1", took: 120 * ms,
			events: events{"p0 cancelled hedge_lost", "p1 success answered hedge"}},
		"the first attempt wins": {p0: ok(120 * ms), p1: ok(5 * s), by: "p0", took: 120 * ms,
			events: events{"p1 cancelled hedge_lost hedge", "p0 success answered"}},
		"no hedge begins before its time": {p0: ok(99 * ms), by: "p0", took: 99 * ms,
			events: events{"p0 success answered"}},
		"the hedge fails first": {p0: ok(500 * ms), p1: course{takes: 10 * ms, status: 503}, by: "p0", took: 500 * ms,
			events: events{"p1 failure retry_status hedge", "p0 success answered"}},
		"the first attempt fails while the hedge is in flight": {p0: course{takes: 200 * ms, status: 503},
			p1: ok(200 * ms), by: "p1", took: 300 * ms,
			events: events{"p0 failure retry_status", "p1 success answered hedge"}},
		"both fail": {p0: course{takes: 200 * ms, cause: verdict.ConnectionClosed},
			p1: course{takes: 300 * ms, cause: verdict.ConnectionClosed}, by: "p2", took: 400 * ms,
			events: events{"p0 failure connection_closed", "p1 failure connection_closed hedge",
				"p2 success answered"}},
		"both fail, the hedge first": {p0: course{takes: 400 * ms, cause: verdict.ConnectionClosed},
			p1: course{takes: 100 * ms, cause: verdict.ConnectionClosed}, by: "p2", took: 400 * ms,
			events: events{"p1 failure connection_closed hedge", "p0 failure connection_closed",
				"p2 success answered"}},
		"the hedge uses an attempt": {change: func(x *both) { x.Policy.MaxAttempts = 2 },
			p0: course{takes: 200 * ms, status: 503}, p1: course{takes: 200 * ms, status: 504}, by: "p1",
			took:   300 * ms,
			events: events{"p0 failure retry_status", "p1 failure retry_status hedge"}},
		"no attempt is left": {change: func(x *both) { x.Policy.MaxAttempts = 1 }, p0: ok(5 * s), by: "p0", took: 5 * s,
			events: events{"p0 success answered"}},
		"off": {change: func(x *both) { x.Policy.Hedge = retry.Hedge{} }, p0: ok(5 * s), by: "p0", took: 5 * s,
			events: events{"p0 success answered"}},
		"the method is not safe": {change: func(x *both) { x.Safe = false }, p0: ok(5 * s), by: "p0", took: 5 * s,
			events: events{"p0 success answered"}},
		"the body is not kept": {change: func(x *both) { x.Replayable = false }, p0: ok(5 * s), by: "p0", took: 5 * s,
			events: events{"p0 success answered"}},
		"the body is streamed": {streams: true, p0: ok(5 * s), by: "p0", took: 5 * s,
			events: events{"p0 success answered"}},
		"the budget is spent": {tuning: func(t *Tuning) {
			for t.Hedging.TryTakeHedge() {
			}
		}, p0: ok(5 * s), by: "p0", took: 5 * s, events: events{"p0 success answered"}},
		"the retry budget is spent": {tuning: func(t *Tuning) {
			t.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 0.1}, time.Now())
		}, p0: ok(5 * s), by: "p0", took: 5 * s, events: events{"p0 success answered"}},
		"the target is suspect": {tuning: func(t *Tuning) { t.Targets = suspects{} }, p0: ok(5 * s), by: "p0",
			took:   5 * s,
			events: events{"p0 success answered"}},
		"a tunnel": {change: func(x *both) { x.Request.WantsTunnel = true }, p0: ok(5 * s), p1: ok(20 * ms), by: "p1",
			took: 120 * ms, events: events{"p0 cancelled hedge_lost", "p1 success tunnel_open hedge"}},
		"the hedge does not reach its proxy before it has lost": {p0: ok(110 * ms),
			p1: course{takes: 9 * s, cause: verdict.ProxyUnreachable}, by: "p0", took: 110 * ms,
			events: events{"p0 success answered"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := hedging(t, 4, nil)
				if c.tuning != nil {
					tuning := b.Tuning()
					c.tuning(&tuning)
					b.SetTuning(tuning)
				}
				x := hedgedRequest(t, nil)
				x.Progress, x.KeepEvents = tracked{}, true
				if c.change != nil {
					c.change(x)
				}
				k := newCourses(courseByProxy(map[string]course{"p0": c.p0, "p1": c.p1}))
				k.streams = c.streams
				end := k.run(t.Context(), b, x)
				assert.Equal(t, c.by, end.by)
				assert.Equal(t, c.took, end.took)
				var got events
				for _, e := range b.rec.Attempts() {
					line := fmt.Sprintf("%s %v %s", e.ProxyID, e.Outcome.Result, verdict.CauseName(e.Outcome.Cause))
					if e.Hedge {
						line += " hedge"
						assert.Equal(t, 1, e.Attempt)
						assert.Equal(t, after, e.Started.Sub(end.event.Started))
					}
					if e.Outcome.Cause == verdict.HedgeLost {
						assert.Equal(t, core.Excluded, e.Outcome.Verdict)
					}
					got = append(got, line)
				}
				assert.ElementsMatch(t, c.events, got)
				assert.Len(t, x.Result().Events, len(got))
				assert.Equal(t, len(got), end.event.Attempts)
				k.closedOnce(t)
				b.idle(t)
			})
		})
	}
}

// A hedge does not use the proxy of the first attempt, whatever the scores. If there is no other proxy,
// there is no hedge.
func TestTheProxyOfAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, func(tuning *Tuning) {
			first := ranked{hashes: map[float64]int{core.Hash53("p0"): 1, core.Hash53("p1"): 0}}
			tuning.FirstScorer, tuning.RetryScorer = first, first
		})
		k := newCourses(courseByProxy(map[string]course{"p0": {takes: s, status: 200}}))
		require.Equal(t, "p1", k.run(t.Context(), b, hedgedRequest(t, nil)).by)
		specs := []upstream.Spec{}
		for _, u := range b.pool.Snapshot().All {
			spec := *u.Spec()
			if u.ID() == "p1" {
				spec.Extras = &upstream.Extras{MaxInFlight: 1}
			}
			specs = append(specs, spec)
		}
		require.NoError(t, b.pool.Apply(specs))
		held, ok := b.pool.Snapshot().All[1].Acquire(time.Now())
		require.True(t, ok)
		end := k.run(t.Context(), b, hedgedRequest(t, nil))
		require.Equal(t, "p0", end.by)
		require.Equal(t, 1, end.event.Attempts)
		held.Release()
		b.idle(t)
	})
}

// A hedge that the retry budget refuses takes nothing from the hedge budget.
func TestARefusedHedgeCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, func(t *Tuning) { t.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 0.1}, time.Now()) })
		k := newCourses(courseByProxy(map[string]course{"p0": {takes: s, status: 200}}))
		require.Equal(t, "p0", k.run(t.Context(), b, hedgedRequest(t, nil)).by)
		left := 0
		for b.Tuning().Hedging.TryTakeHedge() {
			left++
		}
		require.Equal(t, 10, left)
	})
}

func TestAFailedHedgeHoldsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, nil)
		time.AfterFunc(300*ms, func() {
			assert.EqualValues(t, 1, b.pool.Snapshot().All[0].InFlight())
			assert.Zero(t, b.pool.Snapshot().All[1].InFlight())
		})
		k := newCourses(courseByProxy(map[string]course{"p0": {takes: s, status: 200},
			"p1": {takes: 50 * ms, cause: verdict.ConnectionClosed}}))
		require.Equal(t, "p0", k.run(t.Context(), b, hedgedRequest(t, nil)).by)
		require.Len(t, b.rec.Attempts(), 2)
		b.idle(t)
	})
}

// closedOnce requires that each response has been closed once.
func (c *courses) closedOnce(t require.TestingT) {
	for _, r := range c.shared.answers {
		require.Equal(t, 1, r.closed, r.by)
	}
}

// suspects reports all targets as suspect.
type suspects struct{}

func (suspects) IsSuspect(evidence.Target) bool                                        { return true }
func (suspects) JustSucceededThroughOther(evidence.Target, uint64, time.Duration) bool { return false }
func (suspects) AdmitRetries(evidence.Target, bool, time.Duration) bool                { return false }
func (suspects) RecordRetriesFailed(evidence.Target, time.Duration, time.Duration)     {}

// tracked is a Progress that does nothing.
type tracked struct{}

func (tracked) BeginAttempt(int, string)                {}
func (tracked) BeginQueueWait(core.Priority, time.Time) {}
func (tracked) EndQueueWait(time.Time)                  {}
func (tracked) BeginBackoff(time.Time, int)             {}
func (tracked) EndAttempt(*core.AttemptEvent)           {}
func (tracked) BeginStreaming()                         {}
func (tracked) SetRules(core.RuleLabels)                {}
func (tracked) BeginTunnel()                            {}
func (tracked) End(core.Final, int, time.Time)          {}

func TestHedgeAfterTheP95(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, nil)
		x := hedgedRequest(t, func(p *retry.Policy) { p.Hedge = retry.Hedge{P95: true} })
		n := 0
		k := newCourses(func(*Attempt) course {
			n++
			return course{takes: time.Duration(n) * ms, status: 200}
		})
		for range 20 { // latencies of 1 to 20 ms
			k.run(t.Context(), b, x)
		}
		require.Zero(t, k.shared.hedges, "too few latencies were known")
		k = newCourses(courseByProxy(map[string]course{"p0": {takes: s, status: 200}}))
		require.Equal(t, 19*ms, k.run(t.Context(), b, x).took)
		require.Equal(t, 1, k.shared.hedges)
	})
}

func TestAClientLeavesDuringAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(150*ms, func() { cancel(ErrClientLeft) })
		k := newCourses(func(*Attempt) course { return course{takes: time.Hour, status: 200} })
		end := k.run(ctx, b, hedgedRequest(t, nil))
		require.Equal(t, 150*ms, end.took)
		require.Equal(t, core.FinalCancelled, end.event.Final)
		require.Equal(t, 2, end.event.Attempts)
		require.Len(t, b.rec.Attempts(), 2)
		for _, e := range b.rec.Attempts() {
			require.Equal(t, core.ResultCancelled, e.Outcome.Result)
		}
		b.idle(t)
	})
}

func TestAPanicDuringAHedge(t *testing.T) {
	for name, hedge := range map[string]course{
		"in flight": {takes: time.Hour, status: 200},
		"won":       {takes: 10 * ms, status: 200},
		"failed":    {takes: 10 * ms, cause: verdict.ConnectionClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := hedging(t, 2, nil)
				k := &panics{courses: newCourses(courseByProxy(map[string]course{"p1": hedge}))}
				x := hedgedRequest(t, nil)
				require.Panics(t, func() { Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[*answer](k)) })
				x.Abandon()
				k.closedOnce(t)
				b.idle(t)
			})
		})
	}
}

// panics is a courses whose first attempt panics after 0.2 s.
type panics struct{ *courses }

func (p *panics) Send(ctx context.Context, a *Attempt, f *verdict.Facts) (response *answer) {
	response, *f = p.attempt(ctx, a)
	return response
}

func (p *panics) attempt(_ context.Context, _ *Attempt) (*answer, verdict.Facts) {
	time.Sleep(200 * ms)
	panic("out of order")
}

// For all requests: each response is closed once. The number of hedges is within the hedge budget and max_attempts. A
// delivered request has exactly one successful attempt. The attempt that lost is never charged.
func TestHedgesOfAnyRequests(outer *testing.T) {
	rapid.Check(outer, func(rt *rapid.T) {
		n := func(label string, from, to int) int { return rapid.IntRange(from, to).Draw(rt, label) }
		proxies, requests := n("proxies", 1, 4), n("requests", 1, 30)
		budget := float64(n("budget", 0, 20)) / 20
		p95 := rapid.Bool().Draw(rt, "p95")
		type planned struct {
			max, leave   int
			safe, tunnel bool
			streams      bool
			steps        []course
		}
		var plan []planned
		for range requests {
			q := planned{max: n("max", 1, 4), safe: n("safe", 0, 3) > 0, tunnel: n("tunnel", 0, 3) == 0,
				streams: n("streams", 0, 5) == 0, leave: max(n("leave", -20, 40), 0)}
			for range 2 * q.max {
				c := course{takes: time.Duration(n("takes", 0, 400)) * ms}
				switch n("kind", 0, 8) {
				case 0:
					c.status = 503
				case 1:
					c.cause = verdict.ConnectionClosed
				case 2:
					c.cause = verdict.StaleConnection
				case 3:
					c.takes, c.status = time.Hour, 200
				case 4:
					c.cause = verdict.ProxyUnreachable
				default:
					c.status = 200
				}
				q.steps = append(q.steps, c)
			}
			plan = append(plan, q)
		}
		var wrong findings // because a rapid.T cannot fail inside a bubble
		synctest.Test(outer, func(t *testing.T) {
			b := start(t, proxies, func(tuning *Tuning) {
				tuning.Hedging, tuning.AttemptTimeout = &retry.Hedging{}, 2*s
			})
			for _, u := range b.pool.Snapshot().All { // with breakers that count all failures and never open
				u.Breaker().Configure(&breaker.Config{FailureThreshold: 1000, WindowDuration: time.Hour,
					TimeoutDuration: s})
			}
			hedges, hedgeable, first := 0, 0, &both{}
			failures := map[string]int{}
			for _, q := range plan {
				shape := hedgedRequest(t, func(p *retry.Policy) {
					p.MaxAttempts, p.HedgeBudget = q.max, budget
					p.Hedge.P95 = p95
				})
				first.Request = shape.Request
				first.Safe, first.Request.WantsTunnel = q.safe, q.tunnel
				if q.safe && q.max > 1 {
					hedgeable++
				}
				k := newCourses(nil)
				steps := q.steps
				k.streams = q.streams
				k.next = func(*Attempt) course {
					c := steps[0]
					if len(steps) > 1 {
						steps = steps[1:]
					}
					return c
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				if q.leave > 0 {
					time.AfterFunc(time.Duration(q.leave)*50*ms, func() { cancel(ErrClientLeft) })
				}
				before := len(b.rec.Attempts())
				end := k.run(ctx, b, first)
				cancel(io.EOF)
				k.closedOnce(&wrong)
				b.idle(&wrong)
				assert.LessOrEqual(&wrong, k.shared.overlap, 2)
				counted, succeeded := 0, 0
				for _, e := range b.rec.Attempts()[before:] {
					if e.Outcome.Result != core.ResultReplay {
						counted++
					}
					if e.Hedge && e.Outcome.Result != core.ResultReplay {
						hedges++
						assert.True(&wrong, q.safe && !q.streams)
					}
					if e.Outcome.Result == core.ResultSuccess {
						succeeded++
						assert.Equal(&wrong, end.event.ServedBy(), e.Attempt+1)
						assert.Equal(&wrong, e.Ended, end.event.Started.Add(end.took), "relayed at once")
					}
					if e.Outcome.Cause == verdict.HedgeLost {
						assert.Equal(&wrong, core.Excluded, e.Outcome.Verdict)
						assert.Equal(&wrong, core.ChargeNobody, e.Outcome.Charge)
					}
					if e.Outcome.Verdict == core.Failure {
						failures[e.ProxyID]++
					}
				}
				assert.LessOrEqual(&wrong, end.event.Attempts, q.max)
				assert.Equal(&wrong, counted, end.event.Attempts)
				if end.event.Delivered {
					assert.Equal(&wrong, 1, succeeded)
				}
				assert.LessOrEqual(&wrong, float64(hedges), budget*float64(hedgeable)+1e-9)
			}
			for _, u := range b.pool.Snapshot().All {
				assert.Equal(&wrong, failures[u.ID()], u.Breaker().Snapshot().FailureCount, "no loser is charged")
			}
		})
		require.Empty(rt, wrong)
	})
}

// findings is a require.TestingT that keeps the errors.
type findings []string

func (f *findings) Errorf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }
func (*findings) FailNow()                            {}
