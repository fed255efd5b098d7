//go:build !race

package executor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// failing is a Sender whose first attempts fail with the field facts, and whose next attempt succeeds.
type failing struct {
	facts verdict.Facts
	left  int
}

func (f *failing) Send(ctx context.Context, a *Attempt, facts *verdict.Facts) (response int) {
	response, *facts = f.attempt(ctx, a)
	return response
}

func (f *failing) attempt(_ context.Context, _ *Attempt) (int, verdict.Facts) {
	if f.left--; f.left >= 0 {
		return 0, f.facts
	}
	return 0, verdict.Facts{Status: 200}
}

func (*failing) Discard(int) {}

// even is a scorer that gives all candidates the same score.
type even struct{}

func (even) Score(core.Candidates, []float64) error { return nil }

// A request allocates nothing. A retry allocates at most twice, including its log record. The failures of
// this test do not count for breakers, so all breakers stay closed.
func TestAllocOfARetry(t *testing.T) {
	for name, facts := range map[string]verdict.Facts{
		"an answer": {Status: 429},
		"no connection": {Err: &verdict.Error{Cause: verdict.LocalLimit, Reason: "proxy_internal_error",
			Err: errors.New("too many open files")}},
	} {
		t.Run(name, func(t *testing.T) {
			observed := 0
			b := start(t, 8, func(t *Tuning) {
				t.FirstScorer, t.RetryScorer = even{}, even{}
				t.Observe = func(o *core.Observation) { observed += int(o.Success) }
			})
			b.recorder = nowhere{}
			b.log = slog.New(slog.NewTextHandler(io.Discard, nil))
			zero := 0.0
			shape := exchange(t, func(p *retry.Policy) { p.FailoverDelay, p.RetryStatusCodes = &zero, []int{429} })
			x, c := &both{}, &failing{facts: facts}
			request := func(failures int) float64 {
				return testing.AllocsPerRun(500, func() {
					x.Policy, x.GlobalPolicy, x.Method, x.Host, x.Idempotent, x.Replayable =
						shape.Policy, shape.GlobalPolicy, "GET", "a.test", true, true
					c.left = failures
					Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[int](c)).Relay.Close(200,
						verdict.RelayEnd{}, b.now())
					if x.Result().Final != core.FinalSuccess || x.Result().Attempts != failures+1 {
						t.Fatal(x.Result().Final, x.Result().Attempts)
					}
				})
			}
			require.Zero(t, request(0))
			require.LessOrEqual(t, request(2)/2, 2.0)
			require.NotZero(t, observed)
		})
	}
}

// A request that is refused because every breaker is open allocates once, for its id in the log.
func TestAllocOfARefusal(t *testing.T) {
	b := start(t, 3, nil)
	b.recorder = nowhere{}
	b.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	shape, x, c := exchange(t, nil), &both{}, &failing{}
	refused := func() {
		x.Policy, x.GlobalPolicy, x.Method, x.Host, x.Idempotent, x.Replayable =
			shape.Policy, shape.GlobalPolicy, "GET", "a.test", true, true
		Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[int](c)).Refusal.Close(503, b.now())
	}
	for _, u := range b.pool.Snapshot().All {
		for range 5 {
			lease, ok := u.Acquire(b.now())
			require.True(t, ok)
			lease.Settle(&core.Outcome{Verdict: core.Failure})
			lease.Release()
		}
	}
	require.LessOrEqual(t, testing.AllocsPerRun(500, refused), 1.0)
	require.Equal(t, core.FinalAllBreakersOpen, x.Result().Final)
}

func TestAllocOfARequestThatMayBeHedged(t *testing.T) {
	for _, hedge := range []retry.Hedge{{After: 60}, {P95: true}} {
		b := start(t, 8, func(t *Tuning) { t.FirstScorer, t.Hedging = even{}, &retry.Hedging{} })
		b.recorder = nowhere{}
		x, c := &both{}, quick{}
		shape := exchange(t, func(p *retry.Policy) { p.Hedge = hedge })
		x.Request = shape.Request
		x.Safe = true
		require.Zero(t, testing.AllocsPerRun(500, func() {
			Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[int](c)).Relay.Close(200, verdict.RelayEnd{},
				b.now())
		}))
		require.NotNil(t, x.race)
	}
}

// quick is a Hedger whose response arrives immediately.
type quick struct{}

func (quick) Send(_ context.Context, _ *Attempt, facts *verdict.Facts) int {
	*facts = verdict.Facts{Status: 200}
	return 0
}
func (quick) Discard(int)                         {}
func (quick) Stop()                               {}
func (quick) Adopt(_ HedgeSender[int], r int) int { return r }
func (quick) Hedge() HedgeSender[int]             { return quick{} }
