package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// plan is a series of requests, with the course of each of their attempts. An executor and a model both run
// it, and describe the results in the same form.
type plan struct {
	Proxies, Threshold int
	Full               int // number of the proxy that is at its max_in_flight
	Ratio, Min         float64
	GlobalTimeout      int // tenths of a second; 0 for none
	Requests           []planned
}

type planned struct {
	Gap                             int // tenths of a second since the previous request
	Idempotent, Replayable, Connect bool
	OptIn                           bool
	Codes                           []int
	MaxAttempts, Timeout            int // tenths of a second; 0 for none
	Failover                        int // tenths of a second; -1 for none
	Broken                          bool
	Leave                           int // time after which the client leaves, tenths of a second; 0 for never
	End                             int // end of a response: 1 if it ends early, 2 if the client leaves
	Steps                           []step
}

// step is an attempt.
type step struct {
	Kind  int
	Took  int // ms
	After int // Retry-After, s
	Act   int // what happens during the attempt: 1 removes a proxy, 2 resets a breaker
	Which int
}

// The kinds of steps.
const (
	kindOK = iota
	kind503
	kind500
	kind429
	kind407
	kind403
	kindRefused
	kindNoTunnel // the proxy responds with 503 to the CONNECT for an https:// target
	kindReset
	kindStale
	kindHang
	kinds
)

var kindStatus = [kinds]int{kindOK: 200, kind503: 503, kind500: 500, kind429: 429, kind407: 407, kind403: 403}

const (
	planWindow  = 20 * time.Second
	planTimeout = 5 * time.Second // open time of a breaker
	planAttempt = 2 * time.Second
	planBase    = 0.5
	planCap     = 2.0
	tenth       = 100 * time.Millisecond
)

// took returns a time that is never a whole number of milliseconds. So no two events of a plan happen at the
// same time.
func (s step) took() time.Duration {
	return time.Duration(s.Took)*time.Millisecond + 111*time.Microsecond
}

func (p planned) leave() time.Duration {
	if p.Leave == 0 {
		return time.Hour
	}
	return time.Duration(p.Leave)*tenth + 500*time.Microsecond
}

func drawPlan(t *rapid.T) plan {
	n := func(label string, from, to int) int { return rapid.IntRange(from, to).Draw(t, label) }
	seldom := func(label string, to int) int { return max(n(label, -3*to, to), 0) }
	p := plan{Proxies: n("proxies", 1, 4), Threshold: n("threshold", 1, 4), GlobalTimeout: seldom("global timeout", 60)}
	p.Full = n("full", 0, 2*p.Proxies) - 1
	if rapid.Bool().Draw(t, "budget") {
		p.Ratio, p.Min = 0.25, float64(n("min", 0, 1))/10
	}
	for range n("requests", 1, 6) {
		q := planned{
			Gap: n("gap", 0, 80), Idempotent: n("idempotent", 0, 3) > 0, Replayable: n("replayable", 0, 5) > 0,
			Connect: n("connect", 0, 3) == 0,
			OptIn:   n("opt in", 0, 2) == 0, MaxAttempts: n("max", 1, 6), Timeout: seldom("timeout", 50),
			Failover: max(n("failover", -8, 4), -1),
			Broken:   n("broken", 0, 4) == 0, Leave: seldom("leave", 40), End: seldom("end", 2),
			Codes: rapid.SliceOfNDistinct(rapid.SampledFrom([]int{503, 500, 429}), 0, 3, rapid.ID).Draw(t, "codes"),
		}
		for range 2 * q.MaxAttempts {
			q.Steps = append(q.Steps, step{n("kind", 0, kinds-1), n("took", 0, 900), seldom("after", 3),
				seldom("act", 2),
				n("which", 0, p.Proxies-1)})
		}
		p.Requests = append(p.Requests, q)
	}
	return p
}

// score ranks the proxies without ties: for first attempts (retries is 0), and in the opposite order for
// retries (1).
func score(number, retries int) float64 { return float64((1 - 2*retries) * (number * 7 % 11)) }

// told returns a description of the end of a request.
func told(at time.Duration, final core.Final, relayed bool, kind RefusalKind, attempts int, waited time.Duration,
	delivered, limit, budget bool) string {
	end := "relayed"
	if !relayed {
		end = "refused for reason " + strconv.Itoa(int(kind))
	}
	return fmt.Sprintf("%v %v: %s after %d attempts, %v waited, delivered %v, limit %v, budget %v", at, final, end,
		attempts, waited, delivered, limit, budget)
}

func toldTry(at time.Duration, id string, number int, deadline time.Duration, fresh bool) string {
	return fmt.Sprintf("%v try %d of %s until %v, fresh %v", at, number, id, deadline, fresh)
}

func toldAttempt(at time.Duration, id string, number int, r core.Result, v core.Verdict, delay time.Duration) string {
	return fmt.Sprintf("%v attempt %d of %s: %v, verdict %v, after %v", at, number, id, r, v, delay)
}

// ranked is the scorer of plans.
type ranked struct {
	hashes  map[float64]int
	retries int
}

func (r ranked) Score(c core.Candidates, scores []float64) error {
	rows := make([]core.Candidate, c.Len())
	var q core.RankRequest
	c.Fill(&q, rows)
	for i := range rows {
		scores[i] = score(r.hashes[rows[i].IDHash], r.retries)
	}
	return nil
}

// linear is the backoff of plans.
type linear struct{}

func (linear) Delay(r *core.BackoffRequest) (float64, error) { return r.BaseDelay * r.Retry, nil }

// play runs the plan with an executor.
func play(t *testing.T, p plan) (trace []string) {
	begun := time.Now()
	since := func(at time.Time) time.Duration { return at.Sub(begun) }
	say := func(line string) { trace = append(trace, line) }
	pool := upstream.NewPool(upstream.PoolConfig{Literal: true,
		Breaker: breaker.Config{FailureThreshold: p.Threshold, WindowDuration: planWindow,
			TimeoutDuration: planTimeout},
		Now: time.Now,
	})
	var specs []upstream.Spec
	hashes := map[float64]int{}
	for i := range p.Proxies {
		id := fmt.Sprint("p", i)
		hashes[core.Hash53(id)] = i
		specs = append(specs, upstream.Spec{ID: id, Extras: &upstream.Extras{MaxInFlight: 1},
			Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}})
	}
	require.NoError(t, pool.Apply(specs))
	all := pool.Snapshot().All
	if p.Full >= 0 && p.Full < p.Proxies {
		held, ok := all[p.Full].Acquire(time.Now())
		require.True(t, ok)
		defer held.Release()
	}
	tuning := Tuning{FirstScorer: ranked{hashes, 0}, RetryScorer: ranked{hashes, 1}, AttemptTimeout: planAttempt,
		Budget: retry.NewBudget(retry.BudgetConfig{Ratio: p.Ratio, MinPerSecond: p.Min}, begun)}
	e := start(t, 0, nil).Executor
	e.selector = selector.New(pool, func() uint64 { return 0 }, 256)
	x := &both{} // the exchange is reused, as on a client connection
	for _, q := range p.Requests {
		rec := &coretest.Recorder{}
		e.recorder = rec
		time.Sleep(time.Duration(q.Gap) * tenth)
		tuning.Backoff = func(string) core.Backoff { return linear{} }
		if q.Broken {
			tuning.Backoff = func(string) core.Backoff { return broken{} }
		}
		e.SetTuning(tuning)
		ctx, cancel := context.WithCancelCause(t.Context())
		leaves := time.AfterFunc(q.leave(), func() { cancel(ErrClientLeft) })
		x.Request = exchange(t, func(own *retry.Policy) {
			own.MaxAttempts, own.BaseDelay, own.MaxBackoffDelay, own.RetryStatusCodes, own.RetryNonIdempotent =
				q.MaxAttempts, planBase, planCap, q.Codes, q.OptIn
			if own.Timeout = tenths(p.GlobalTimeout); q.Timeout > 0 {
				own.Timeout = tenths(q.Timeout)
			}
			if q.Failover >= 0 {
				d := float64(q.Failover) / 10
				own.FailoverDelay = &d
			}
		}).Request
		x.GlobalPolicy.Timeout = tenths(p.GlobalTimeout)
		x.Idempotent, x.Replayable, x.Request.WantsTunnel = q.Idempotent, q.Replayable, q.Connect
		steps := q.Steps
		c := &tries{f: func(ctx context.Context, a *Attempt) verdict.Facts {
			say(toldTry(since(time.Now()), a.Upstream.ID(), a.Number, since(a.Deadline), a.NewConnection))
			s := steps[0]
			steps = steps[1:]
			switch s.Act {
			case 1:
				if pool.Snapshot().Get(all[s.Which].ID()) != nil {
					require.NoError(t, pool.Remove(all[s.Which].ID(), false))
				}
			case 2:
				all[s.Which].Breaker().Reset()
			}
			if s.Kind == kindHang || time.Until(a.Deadline) < s.took() {
				return hang(ctx, a)
			}
			select {
			case <-time.After(s.took()):
			case <-ctx.Done():
				return verdict.Facts{Err: &verdict.Error{Cause: verdict.ConnectionClosed, Err: ctx.Err()}}
			}
			return s.facts()
		}}
		end := Run(ctx, e, &x.Exchange, &x.Request, c)
		switch {
		case end.Refusal != nil:
			end.Refusal.Close(502, time.Now())
		case end.Tunnel != nil:
			var early error
			if q.End == 1 {
				early = io.ErrUnexpectedEOF
			}
			end.Tunnel.Close(verdict.TunnelEnd{Err: early}, time.Now())
		default:
			var relayed verdict.RelayEnd
			if x.Result().Final == core.FinalSuccess {
				relayed.ClientLeft = q.End == 2
				if q.End == 1 {
					relayed.BodyErr = io.ErrUnexpectedEOF
				}
			}
			end.Relay.Close(200, relayed, time.Now())
		}
		leaves.Stop()
		cancel(nil)
		for _, a := range rec.Attempts() {
			say(toldAttempt(since(a.Ended), a.ProxyID, a.Attempt, a.Outcome.Result, a.Outcome.Verdict, a.Delay))
		}
		require.Len(t, rec.Requests(), 1)
		r := rec.Requests()[0]
		require.Equal(t, r.Attempts, x.Result().Attempts)
		say(told(since(r.Ended), r.Final, end.Refusal == nil, x.refusal.Kind, r.Attempts, r.BackoffTime, r.Delivered,
			r.LimitReached, r.BudgetSpent))
		for i, u := range all {
			v := u.Breaker().Snapshot()
			say(describe(i, v.State, v.FailureCount, int(u.Stats().Samples), u.Breaker().Generation() > 0))
			if i != p.Full {
				require.Zero(t, u.InFlight(), "what was taken is given back")
			}
		}
	}
	return trace
}

func tenths(n int) *float64 {
	if n == 0 {
		return nil
	}
	s := float64(n) / 10
	return &s
}

func (s step) facts() verdict.Facts {
	fault := func(f verdict.Error) verdict.Facts {
		f.Err = errors.New("broken")
		return verdict.Facts{Err: &f}
	}
	switch s.Kind {
	case kindRefused:
		return fault(verdict.Error{Cause: verdict.ProxyUnreachable})
	case kindNoTunnel:
		return fault(verdict.Error{Cause: verdict.TunnelFailed})
	case kindReset:
		return fault(verdict.Error{Cause: verdict.ConnectionClosed})
	case kindStale:
		return fault(verdict.Error{Cause: verdict.StaleConnection})
	}
	a := verdict.Facts{Status: kindStatus[s.Kind], FromProxy: true, HasChallenge: true}
	if s.After > 0 {
		a.RetryAfter = strconv.Itoa(s.After)
	}
	return a
}

// model runs one request after the other, in the order of the specification. For each decision it computes
// everything again.
type model struct {
	plan
	now      time.Duration
	parties  []*party
	balance  []entry
	trace    []string
	attempts []string // descriptions, which are added to the trace when the request has ended
}

type entry struct {
	at     time.Duration
	amount float64
}

// party is a proxy and its breaker.
type party struct {
	number     int
	gone, full bool
	state      core.State
	generation int
	slot       int // generation whose probe has an unknown result; -1 if there is none
	failures   []time.Duration
	due        time.Duration
	samples    int
	tried      int // number of the last attempt of this request through the proxy, from 1; 0 if there was none
	barred     bool
}

func (p *party) id() string { return fmt.Sprint("p", p.number) }

// describe returns a line of the trace. A proxy whose breaker has been open may have fewer samples than the model
// counts, but at least four: the successes that end its trial (upstream.trial).
func describe(proxy int, state core.State, failures, samples int, wasOpen bool) string {
	if wasOpen {
		samples = min(samples, 4)
	}
	return fmt.Sprintf("p%d is %v with %d failures, %d samples", proxy, state, failures, samples)
}

func (m *model) admits(p *party) bool {
	if p.state == core.Open && m.now >= p.due {
		p.state = core.HalfOpen
		p.generation++
	}
	return p.state == core.Closed || p.state == core.HalfOpen && p.slot != p.generation
}

func (m *model) live(p *party) int {
	p.failures = slices.DeleteFunc(p.failures, func(at time.Duration) bool { return m.now-at > planWindow })
	return len(p.failures)
}

func (m *model) open(p *party) {
	p.state, p.due = core.Open, m.now+planTimeout
	p.generation++
}

func (m *model) shut(p *party) {
	p.state, p.failures = core.Closed, nil
	p.generation++
}

func (m *model) report(p *party, generation int, v core.Verdict) {
	p.slot = -1
	if v != core.Excluded {
		p.samples++
	}
	if generation != p.generation {
		return
	}
	if v == core.Failure {
		p.failures = append(p.failures, m.now)
	}
	switch {
	case p.state == core.Closed && v == core.Failure && m.live(p) >= m.Threshold:
		m.open(p)
	case p.state == core.HalfOpen && v == core.Failure:
		m.open(p)
	case p.state == core.HalfOpen && v == core.Success:
		m.shut(p)
	case p.state == core.HalfOpen:
		p.generation++
	}
}

// candidates returns the proxies that a scorer may choose from: untried and admissible ones. Half-open ones
// are included only if the request may be repeated.
func (m *model) candidates(probes bool) (list []*party) {
	for _, p := range m.parties {
		if !p.gone && !p.full && p.tried == 0 && m.admits(p) && (probes || p.state == core.Closed) {
			list = append(list, p)
		}
	}
	return list
}

var (
	poolEmpty = refusal{NoProxy, core.FinalPoolEmpty}
	allOpen   = refusal{NoProxy, core.FinalAllBreakersOpen}
	allBusy   = refusal{NoProxy, core.FinalAllBusy}
	noneLeft  = refusal{CredentialsRefused, core.FinalExhausted}
)

// refusal is the reason why there is no candidate.
type refusal struct {
	kind  RefusalKind
	final core.Final
}

func (m *model) choose(probes bool, attempt int) (*party, refusal) {
	if list := m.candidates(probes); len(list) > 0 {
		return slices.MaxFunc(list, func(a, b *party) int {
			return int(score(a.number, min(attempt, 1)) - score(b.number, min(attempt, 1)))
		}), refusal{}
	}
	// First come the half-open proxies that were left out because the request should not be a probe, and then the proxy
	// that was tried longest ago.
	left := slices.DeleteFunc(slices.Clone(m.parties), func(p *party) bool { return p.gone || !m.admits(p) })
	slices.SortStableFunc(left, func(a, b *party) int { return a.tried - b.tried })
	busy, barred := false, false
	for _, p := range left {
		switch {
		case p.barred:
			barred = true
		case p.full:
			busy = true
		default:
			return p, refusal{}
		}
	}
	switch {
	case busy:
		return nil, allBusy
	case barred:
		return nil, noneLeft
	case !slices.ContainsFunc(m.parties, func(p *party) bool { return !p.gone }):
		return nil, poolEmpty
	}
	return nil, allOpen
}

// outcome is a row of the table of verdicts.
type outcome struct {
	result  core.Result
	verdict core.Verdict
	again   core.RetryKind
	status  int
	unsent  bool
}

func (m *model) classify(q planned, kind int) outcome {
	status := kindStatus[kind]
	listed := slices.Contains(q.Codes, status)
	failed := outcome{core.ResultFailure, core.Failure, core.RetryAfterBackoff, status, false}
	switch {
	case kind == kind407:
		return outcome{core.ResultFailure, core.Failure, core.RetryElsewhere, 407, true}
	case kind == kindRefused, kind == kindNoTunnel:
		failed.status = 0
		failed.unsent = true
		return failed
	case kind == kindReset:
		return failed
	case kind == kindOK:
		return outcome{core.ResultSuccess, core.Success, core.NoRetry, 200, false}
	case q.Connect && status >= 500:
		failed.unsent = true
		return failed
	case q.Connect:
		return outcome{core.ResultFailure, core.Excluded, core.RetryAfterBackoff, status, true}
	case kind == kind503 && listed:
		return failed
	case kind == kind503: // the status is in the global policy, but not in the request's
		failed.again = core.NoRetry
		return failed
	case listed:
		return outcome{core.ResultFailure, core.Excluded, core.RetryAfterBackoff, status, false}
	}
	return outcome{core.ResultSuccess, core.Success, core.NoRetry, status, false}
}

// request runs one request of the plan.
func (m *model) request(q planned) {
	m.now += time.Duration(q.Gap) * tenth
	begun := m.now
	if m.Ratio > 0 {
		m.balance = append(m.balance, entry{m.now, m.Ratio})
	}
	for _, p := range m.parties {
		p.tried, p.barred = 0, false
	}
	timeout := m.GlobalTimeout
	if q.Timeout > 0 {
		timeout = q.Timeout
	}
	deadline, leave := begun, begun+q.leave()
	if timeout > 0 {
		deadline += seconds(*tenths(timeout))
	}
	own := q.Timeout > 0 && (m.GlobalTimeout == 0 || q.Timeout < m.GlobalTimeout)
	probes, steps := q.Idempotent || q.OptIn, q.Steps
	attempts, waited, delay, step := 0, time.Duration(0), time.Duration(0), 0

	limit, budget := false, false
	end := func(final core.Final, relayed bool, kind RefusalKind, delivered bool) {
		m.trace = append(m.trace, m.attempts...)
		m.attempts = nil
		m.trace = append(m.trace, told(m.now, final, relayed, kind, attempts, waited, delivered, limit, budget))
	}
	for {
		p, none := m.choose(probes, attempts)
		if p == nil {
			end(none.final, false, none.kind, false)
			return
		}
		attempts++
		generation := p.generation
		record := func(o outcome) {
			m.attempts = append(m.attempts, toldAttempt(m.now, p.id(), attempts-1, o.result, o.verdict, delay))
		}
		var o outcome
		after := 0
		for fresh := false; ; fresh = true {
			until := m.now + planAttempt
			if timeout > 0 {
				until = min(until, deadline)
			}
			m.trace = append(m.trace, toldTry(m.now, p.id(), attempts-1, until, fresh))
			s := steps[step]
			step++
			switch other := m.parties[s.Which]; s.Act {
			case 1:
				other.gone = true
			case 2:
				m.admits(other)
				m.shut(other)
			}
			over := m.now + s.took()
			if s.Kind == kindHang || over > until {
				over, s.Kind = until, kindHang
			}
			kind := s.Kind
			after = s.After
			m.now = min(over, leave)
			switch {
			case m.now == leave:
				o = outcome{result: core.ResultCancelled, verdict: core.Excluded, again: core.NoRetry}
			case kind == kindHang && timeout > 0 && m.now >= deadline:
				o = outcome{result: core.ResultTimeout, verdict: core.Failure, again: core.NoRetry}
				if own {
					o.verdict = core.Excluded
				}
			case kind == kindHang:
				o = outcome{result: core.ResultTimeout, verdict: core.Failure, again: core.RetryAfterBackoff}
			case kind == kindStale && !fresh && q.Idempotent && q.Replayable:
				record(outcome{result: core.ResultReplay, verdict: core.Excluded})
				continue
			case kind == kindStale:
				o = m.classify(q, kindReset)
				if !fresh {
					o.verdict = core.Excluded
				}
			default:
				o = m.classify(q, kind)
			}
			break
		}
		if o.again == core.NoRetry && o.result == core.ResultSuccess {
			delivered := true
			final := core.FinalSuccess
			switch {
			case q.End == 1 && q.Connect: // the tunnel fails early; its attempt has been counted
				record(o)
				m.report(p, generation, core.Failure)
			case q.End == 1:
				o.result, o.verdict, delivered, final = core.ResultFailure, core.Failure, false, core.FinalNotRetryable
			case q.End == 2 && !q.Connect:
				o.result, o.verdict, delivered, final = core.ResultCancelled, core.Excluded, false, core.FinalCancelled
			}
			if !(q.End == 1 && q.Connect) {
				record(o)
				m.report(p, generation, o.verdict)
			}
			end(final, true, 0, delivered)
			return
		}
		p.tried, p.barred = step, o.again == core.RetryElsewhere
		m.report(p, generation, o.verdict)
		record(o)

		relay := o.status != 0 && o.status != 407
		notKept := !q.Replayable && (!o.unsent || o.status != 0)
		blocked := !slices.ContainsFunc(m.parties, func(p *party) bool { return !p.gone && m.admits(p) })
		switch {
		case o.result == core.ResultCancelled:
			end(core.FinalCancelled, false, Cancelled, false)
			return
		case o.result == core.ResultTimeout && o.again == core.NoRetry:
			end(core.FinalTimeout, false, TimedOut, false)
			return
		case o.again == core.NoRetry:
			end(core.FinalNotRetryable, relay, AttemptFailed, false)
			return
		case attempts == q.MaxAttempts:
			limit = true
			end(core.FinalExhausted, relay, AttemptFailed, false)
			return
		case notKept:
			end(core.FinalNotRetryable, relay, BodyNotKept, false)
			return
		case !q.Idempotent && !q.OptIn && !o.unsent:
			end(core.FinalNotRetryable, relay, NotRepeatable, false)
			return
		case blocked && slices.ContainsFunc(m.parties, func(p *party) bool { return !p.gone }):
			end(core.FinalAllBreakersOpen, false, allOpen.kind, false)
			return
		case blocked:
			end(core.FinalPoolEmpty, false, poolEmpty.kind, false)
			return
		}
		wait := planBase * float64(attempts)
		if q.Broken {
			wait = planBase
		}
		asked := after > 0 && (o.status == 429 || o.status == 503)
		if asked {
			wait = max(wait, float64(after))
		}
		wait = min(wait, planCap)
		switch {
		case o.again == core.RetryElsewhere:
			wait = 0
		case q.Failover >= 0 && len(m.candidates(probes)) > 0:
			wait = float64(q.Failover) / 10
		case !asked && (o.status == 0 || q.Connect) && len(m.candidates(probes)) > 0:
			wait = 0 // because no byte of the target arrived
		}
		delay = seconds(wait)
		if timeout > 0 && m.now+delay >= deadline {
			end(core.FinalTimeout, relay, NoTimeLeft, false)
			return
		}
		if !m.afford() {
			budget = true
			end(core.FinalExhausted, relay, BudgetSpent, false)
			return
		}
		waited += delay
		if m.now+delay > leave {
			m.now = leave
			end(core.FinalCancelled, false, Cancelled, false)
			return
		}
		m.now += delay
	}
}

// afford takes a retry from the budget: it counts the deposits and withdrawals of the last ten whole seconds.
func (m *model) afford() bool {
	if m.Ratio == 0 {
		return true
	}
	have := m.Min * 10
	for _, e := range m.balance {
		if m.now/time.Second-e.at/time.Second < 10 {
			have += e.amount
		}
	}
	if have < 1 {
		return false
	}
	m.balance = append(m.balance, entry{m.now, -1})
	return true
}

func (p plan) expected() []string {
	m := &model{plan: p}
	for i := range p.Proxies {
		m.parties = append(m.parties, &party{number: i, full: i == p.Full, slot: -1})
	}
	for _, q := range p.Requests {
		m.request(q)
		for i, party := range m.parties {
			m.admits(party)
			m.trace = append(m.trace, describe(i, party.state, m.live(party), party.samples, party.generation > 0))
		}
	}
	return m.trace
}

// Requests are sent through the specified proxies at the specified times. They are counted once, and charged
// as specified.
func TestAgainstAModel(outer *testing.T) {
	for range 20 { // a plan takes 0.2 ms
		rapid.Check(outer, func(t *rapid.T) {
			p := drawPlan(t)
			var got []string
			synctest.Test(outer, func(inner *testing.T) { got = play(inner, p) })
			require.Equal(t, p.expected(), got)
		})
	}
}
