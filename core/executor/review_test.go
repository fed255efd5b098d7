package executor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// judge is a judge that calls a function. It records the requests.
type judge struct {
	wants core.ExcerptSpec
	off   bool
	rule  func(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error)
	seen  []core.JudgeRequest
}

func (j *judge) ExcerptSpec() *core.ExcerptSpec {
	if j.off {
		return nil
	}
	return &j.wants
}

func (j *judge) Rule(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
	j.seen = append(j.seen, *r)
	return j.rule(r, e)
}

// judged is a tries whose responses have excerpts of their bodies.
type judged struct {
	tries
	asked int
}

func (j *judged) Excerpt(w *core.ExcerptSpec, e *core.Excerpt) {
	j.asked++
	e.Body, e.Whole, e.Length = append(e.Body[:0], "page"...), true, 4
}

// courtroom returns a bench with a judge.
func courtroom(t *testing.T, n int, j *judge) *bench {
	b := start(t, n, func(tuning *Tuning) { tuning.Judge = j })
	tuning := b.Tuning()
	tuning.Epoch, tuning.HostBans = b.pool.Epoch(), b.selector.(*selector.Selector).HostBans()
	b.SetTuning(tuning)
	return b
}

// judged runs a request with a judge. It returns the relayed status; 0 for a refusal.
func (b *bench) judged(t *testing.T, x *both, c *judged) int {
	end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, c)
	if end.Refusal != nil {
		end.Refusal.Close(503, time.Now())
		return 0
	}
	end.Relay.Close(200, verdict.RelayEnd{}, time.Now())
	return x.event.Outcome.Status
}

func byStatus(rulings map[float64]core.Ruling) func(*core.JudgeRequest, *core.Excerpt) (core.Ruling, error) {
	return func(r *core.JudgeRequest, _ *core.Excerpt) (core.Ruling, error) { return rulings[r.Status], nil }
}

func TestRulings(t *testing.T) {
	const fine, again, other, banned, target = core.RulingFine, core.RulingRetry, core.RulingOtherProxy,
		core.RulingBanned, core.RulingTargetFault
	for name, c := range map[string]struct {
		ruling   core.RulingKind // on the first response
		first    int             // status of the first response; the next one has 200
		change   func(*retry.Policy)
		unsafe   bool
		at       []time.Duration // times of the attempts
		ids      []string
		status   int // relayed status
		final    core.Final
		cause    core.Cause // cause of the first attempt
		attempts float64    // attempts left, as the judge gets it
	}{
		"fine": {ruling: fine, first: 404, at: []time.Duration{0}, ids: []string{"p0"}, status: 404,
			final: core.FinalSuccess, cause: verdict.Answered, attempts: 2},
		"fine, and the policy retries": {ruling: fine, first: 503, at: []time.Duration{0, time.Second},
			ids: []string{"p0", "p1"}, status: 200, final: core.FinalSuccess, cause: verdict.RetryStatus, attempts: 2},
		"retry": {ruling: again, first: 404, at: []time.Duration{0, time.Second}, ids: []string{"p0", "p1"},
			status: 200, final: core.FinalSuccess, cause: verdict.JudgeRetry, attempts: 2},
		"retry of what the policy retries": {ruling: again, first: 503, at: []time.Duration{0, time.Second},
			ids: []string{"p0", "p1"}, status: 200, final: core.FinalSuccess, cause: verdict.RetryStatus, attempts: 2},
		"another proxy": {ruling: other, first: 200, at: []time.Duration{0, 0}, ids: []string{"p0", "p1"},
			status: 200, final: core.FinalSuccess, cause: verdict.JudgeOtherProxy, attempts: 2},
		"banned": {ruling: banned, first: 403, at: []time.Duration{0, 0}, ids: []string{"p0", "p1"}, status: 200,
			final: core.FinalSuccess, cause: verdict.BannedHere, attempts: 2},
		"the target's fault": {ruling: target, first: 503, at: []time.Duration{0}, ids: []string{"p0"}, status: 503,
			final: core.FinalNotRetryable, cause: verdict.TargetFault, attempts: 2},
		"the last attempt": {ruling: banned, first: 403, change: func(p *retry.Policy) { p.MaxAttempts = 1 },
			at: []time.Duration{0}, ids: []string{"p0"}, status: 403, final: core.FinalExhausted,
			cause: verdict.BannedHere},
		"a request that may not be repeated": {ruling: other, first: 403, unsafe: true, at: []time.Duration{0},
			ids: []string{"p0"}, status: 403, final: core.FinalNotRetryable, cause: verdict.JudgeOtherProxy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &judge{}
				j.rule = func(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
					require.Equal(t, "page", string(e.Body))
					if len(j.seen) > 1 {
						return core.Ruling{}, nil
					}
					return core.Ruling{Kind: c.ruling, BanTime: time.Minute}, nil
				}
				b := courtroom(t, 3, j)
				x := exchange(t, c.change)
				x.Idempotent = !c.unsafe
				s := &judged{tries: tries{f: statuses(c.first, 200)}}
				require.Equal(t, c.status, b.judged(t, x, s))
				require.Equal(t, c.at, s.at)
				require.Equal(t, c.ids, s.ids)
				require.Equal(t, c.final, x.Result().Final)
				require.Equal(t, c.cause, b.rec.Attempts()[0].Outcome.Cause)
				require.Equal(t, c.attempts, j.seen[0].AttemptsLeft)
				require.Equal(t, float64(c.first), j.seen[0].Status)
				require.Equal(t, 1.0, j.seen[0].Whole)
				require.Equal(t, b.pool.Snapshot().Get("p0").IDHash(), j.seen[0].IDHash)
				b.idle(t)
			})
		})
	}
}

// If the judge fails, is off or does not rule on the status, the outcome does not change. The same is true
// for a failed attempt, a tunnel and a proxy's own error page.
func TestResponsesThatAreNotJudged(t *testing.T) {
	ban := core.Ruling{Kind: core.RulingBanned, BanTime: time.Minute}
	for name, c := range map[string]struct {
		judge *judge
		facts verdict.Facts
	}{
		"a judge that fails": {&judge{rule: func(*core.JudgeRequest, *core.Excerpt) (core.Ruling, error) {
			return ban, errors.New("trap")
		}}, verdict.Facts{Status: 403}},
		"a judge that is off": {&judge{off: true}, verdict.Facts{Status: 403}},
		"another status": {&judge{wants: core.ExcerptSpec{Statuses: []core.Range{{First: 500, Last: 599}}}},
			verdict.Facts{Status: 403}},
		"an upgrade": {&judge{}, verdict.Facts{Status: 101}},
		"a proxy's error page": {&judge{}, verdict.Facts{Status: 403, FromProxy: true,
			ErrorPage: verdict.ErrorPageForbids}},
		"a refused credential": {&judge{}, verdict.Facts{Status: 407, FromProxy: true, HasChallenge: true}},
		"no response": {&judge{}, verdict.Facts{Err: &verdict.Error{Cause: verdict.ConnectionClosed,
			Err: errors.New("closed")}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				facts := func(context.Context, *Attempt) verdict.Facts { return c.facts }
				with, without := courtroom(t, 3, c.judge), start(t, 3, nil)
				x, y := exchange(t, nil), exchange(t, nil)
				s := &judged{tries: tries{f: facts}}
				end := with.judged(t, x, s)
				require.Equal(t, without.judged(t, y, &judged{tries: tries{f: facts}}), end)
				require.Equal(t, *y.Result(), *x.Result())
				require.Zero(t, with.selector.(*selector.Selector).HostBans().Count(0))
				if name != "a judge that fails" {
					require.Zero(t, s.asked, "nothing of the response is read")
				}
			})
		})
	}
}

// A pair is banned for 30 s. When another proxy has served the same request, the ban lasts as long as the ruling
// states. If all pairs of a host are banned, requests for this host are refused, and requests for other hosts are
// served as before.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &judge{rule: byStatus(map[float64]core.Ruling{403: {Kind: core.RulingBanned, BanTime: 10 * time.Minute}})}
		b := courtroom(t, 3, j)
		serve := func(host string, bans ...string) (status int, x *both, ids []string) {
			x = exchange(t, nil)
			x.Host = host
			s := &judged{tries: tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
				for _, id := range bans {
					if a.Upstream.ID() == id {
						return verdict.Facts{Status: 403}
					}
				}
				return verdict.Facts{Status: 200}
			}}}
			status = b.judged(t, x, s)
			return status, x, s.ids
		}
		status, _, ids := serve("a.test", "p0")
		require.Equal(t, 200, status)
		require.Equal(t, []string{"p0", "p1"}, ids)
		for range 6 {
			_, _, ids = serve("a.test", "p0")
			require.Len(t, ids, 1)
			require.NotContains(t, ids, "p0", "it rests")
		}
		served := map[string]bool{}
		for range 3 {
			_, _, ids = serve("b.test")
			served[ids[0]] = true
		}
		require.Len(t, served, 3, "another host is served by all")

		time.Sleep(time.Minute) // longer than an unconfirmed ban
		status, x, _ := serve("a.test", "p0", "p1", "p2")
		require.Equal(t, 403, status, "the last response is relayed, as no proxy is left")
		require.Equal(t, core.FinalAllBannedHere, x.Result().Final)
		status, x, ids = serve("a.test")
		require.Zero(t, status)
		require.Empty(t, ids)
		require.Equal(t, core.FinalAllBannedHere, x.Result().Final)
		require.Equal(t, 30*time.Second, x.refusal.RetryAfter)
		status, _, _ = serve("b.test")
		require.Equal(t, 200, status)

		time.Sleep(30 * time.Second)
		_, _, ids = serve("a.test")
		require.NotContains(t, ids, "p0", "its rest was confirmed")
		time.Sleep(9 * time.Minute)
		require.Zero(t, b.selector.(*selector.Selector).HostBans().Count(time.Since(b.pool.Epoch())))
	})
}

// For all rulings: if a request had an attempt, it ends with the response of a target. It makes at most the
// attempts that its policy permits.
func TestAnyRulings(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "proxies")
		synctest.Test(outer, func(outer *testing.T) {
			j := &judge{rule: func(*core.JudgeRequest, *core.Excerpt) (core.Ruling, error) {
				return core.Ruling{Kind: rapid.SampledFrom([]core.RulingKind{0, 1, 2, 3, 4}).Draw(t, "ruling"),
					BanTime: time.Duration(rapid.IntRange(1, 100).Draw(t, "rest")) * time.Second}, nil
			}}
			b := courtroom(outer, n, j)
			for range rapid.IntRange(1, 8).Draw(t, "requests") {
				x := exchange(outer, func(p *retry.Policy) { p.MaxAttempts = rapid.IntRange(1, 5).Draw(t, "attempts") })
				s := &judged{tries: tries{f: statuses(rapid.SampledFrom([]int{200, 403, 404}).Draw(t, "status"))}}
				status := b.judged(outer, x, s)
				require.LessOrEqual(t, len(s.ids), x.Policy.MaxAttempts)
				require.Equal(t, len(s.ids) == 0, status == 0)
				if status == 0 {
					require.Equal(t, core.FinalAllBannedHere, x.Result().Final)
					require.Positive(t, x.refusal.RetryAfter)
				}
				b.idle(t)
				time.Sleep(time.Duration(rapid.IntRange(0, 40).Draw(t, "pause")) * time.Second)
			}
		})
	})
}
