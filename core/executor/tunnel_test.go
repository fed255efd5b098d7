package executor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

var errDied = errors.New("died")

// opened is an open tunnel with its exchange.
type opened struct {
	*testing.T
	*bench
	x *both
	k *tries
	*Tunnel
}

// tunnels runs a CONNECT through the first of two proxies, and calls f with the tunnel.
func tunnels(t *testing.T, change func(*Tuning), policy func(*retry.Policy), f func(opened)) {
	t.Helper()
	tunnelsOf(t, 2, nil, change, policy, f)
}

// tunnelsOf is tunnels with n proxies, in a session if use is not nil.
func tunnelsOf(t *testing.T, n int, use func() *session.Handle, change func(*Tuning), policy func(*retry.Policy),
	f func(opened)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var epoch time.Time
		b := start(t, n, func(tuning *Tuning) {
			tuning.Targets, epoch = evidence.NewLedger(evidence.Config{}), time.Now()
			tuning.Epoch, tuning.Adaptive = epoch, true
			if change != nil {
				change(tuning)
			}
		})
		x, k := exchange(t, policy), &tries{f: statuses(200)}
		x.Request.WantsTunnel, x.Target = true, upstream.Target("a.test:443")
		if use != nil {
			x.Session = use()
		}
		time.Sleep(time.Second)
		end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, k)
		require.NotNil(t, end.Tunnel)
		f(opened{t, b, x, k, end.Tunnel})
		x.Abandon()
		for _, u := range b.pool.Snapshot().All {
			require.Zero(t, u.InFlight())
		}
	})
}

// sessionOf returns the handle of a request in a session that has the given proxy.
func sessionOf(proxy string, strict bool) *session.Handle {
	table, key := session.NewTable(1), session.KeyOf("", "a", "")
	request := session.Request{ID: "a", TTL: time.Hour, Strict: strict}
	first := table.Begin(key, request, time.Now())
	first.RecordAttempt(0, proxy, false)
	first.Bind(time.Now())
	use := table.Begin(key, request, time.Now())
	return &use
}

func failures(b *bench) (n []int) {
	for _, u := range b.pool.Snapshot().All {
		n = append(n, u.Breaker().Snapshot().FailureCount)
	}
	return n
}

func TestADeadTunnelIsRetried(t *testing.T) {
	tunnels(t, nil, nil, func(o opened) {
		t, b, k, tunnel := o.T, o.bench, o.k, o.Tunnel
		require.True(t, tunnel.CanRetry())
		require.Empty(t, b.rec.Requests(), "not yet")
		end := RetryTunnel(t.Context(), tunnel, errDied, 0, k)
		require.NotNil(t, end.Tunnel)
		require.Equal(t, []string{"p0", "p1"}, k.ids)
		require.Equal(t, []int{1, 0}, failures(b))
		end.Tunnel.SettleSuccess()
		end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
		require.Len(t, b.rec.Requests(), 1)
		require.Equal(t, 2, b.rec.Requests()[0].Attempts)
		attempts := b.rec.Attempts()
		require.Len(t, attempts, 2)
		require.Equal(t, verdict.TunnelDied, attempts[0].Outcome.Cause)
		require.Equal(t, core.ResultSuccess, attempts[1].Outcome.Result)
	})
}

// The only proxy of a pool gets the retry after the backoff of the policy, and so does the proxy of a strict session. A
// silent tunnel is not cut short in these cases.
func TestATunnelIsRetriedThroughTheSameProxy(t *testing.T) {
	strict := func() *session.Handle { return sessionOf("p0", true) }
	for name, c := range map[string]struct {
		proxies int
		use     func() *session.Handle
	}{"one proxy": {1, nil}, "a strict session": {2, strict}} {
		t.Run(name, func(t *testing.T) {
			tunnelsOf(t, c.proxies, c.use, nil, nil, func(o opened) {
				t, b, k, tunnel := o.T, o.bench, o.k, o.Tunnel
				require.True(t, tunnel.CanRetry())
				require.Zero(t, tunnel.FirstByteTimeout())
				end := RetryTunnel(t.Context(), tunnel, errDied, 0, k)
				require.NotNil(t, end.Tunnel)
				require.Equal(t, []string{"p0", "p0"}, k.ids)
				require.Equal(t, []time.Duration{0, time.Second}, k.at)
				end.Tunnel.SettleSuccess()
				end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
				require.Equal(t, core.FinalSuccess, b.rec.Requests()[0].Final)
			})
		})
	}
}

// If a tunnel fails long after it was opened, the time of the failure is recorded, also if the attempt is charged
// later. The latency is the time until the tunnel was open.
func TestATunnelFailsWhenItEnds(t *testing.T) {
	for name, silence := range map[string]time.Duration{"died": 0, "silent": time.Second} {
		t.Run(name, func(t *testing.T) {
			tunnels(t, nil, nil, func(o opened) {
				t, b, k, tunnel := o.T, o.bench, o.k, o.Tunnel
				b.pool.SetLiteral(false)
				time.Sleep(5 * time.Minute)
				end := RetryTunnel(t.Context(), tunnel, errDied, silence, k)
				end.Tunnel.SettleSuccess()
				end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
				require.Zero(t, b.rec.Attempts()[0].Outcome.Latency)
				u := b.pool.Snapshot().Get("p0")
				require.Equal(t, 5*time.Minute+time.Second, u.EvidenceReport().Since)
			})
		})
	}
}

// A silent tunnel is charged to its proxy only if another proxy forwards a byte of the target. This is also
// true for the last attempt.
func TestASilentTunnelIsChargedLater(t *testing.T) {
	for _, served := range []bool{true, false} {
		tunnels(t, nil, func(p *retry.Policy) { p.MaxAttempts = 2 }, func(o opened) {
			t, b, k, tunnel := o.T, o.bench, o.k, o.Tunnel
			end := RetryTunnel(t.Context(), tunnel, errDied, time.Second, k)
			require.NotNil(t, end.Tunnel)
			require.False(t, end.Tunnel.CanRetry())
			require.Equal(t, []int{0, 0}, failures(b))
			if served {
				end.Tunnel.SettleSuccess()
				require.Equal(t, []int{1, 0}, failures(b))
			}
			end.Tunnel.Close(verdict.TunnelEnd{StoppedByGateway: !served}, time.Now())
			require.Equal(t, served, failures(b)[0] == 1)
			require.Len(t, b.rec.Requests(), 1)
		})
	}
}

func TestATunnelWithoutAnotherProxyFails(t *testing.T) {
	tunnels(t, nil, nil, func(o opened) {
		t, b, k, tunnel := o.T, o.bench, o.k, o.Tunnel
		k.f = func(_ context.Context, a *Attempt) verdict.Facts {
			refused := &verdict.Error{Cause: verdict.ProxyUnreachable, Reason: "connection_refused", Err: errDied}
			return verdict.Facts{Err: refused}
		}
		end := RetryTunnel(t.Context(), tunnel, errDied, 0, k)
		require.NotNil(t, end.Refusal)
		require.Empty(t, b.rec.Requests())
		end.Refusal.Close(200, time.Now())
		require.Len(t, b.rec.Requests(), 1)
		require.Equal(t, core.FinalExhausted, b.rec.Requests()[0].Final)
		require.Len(t, b.rec.Attempts(), b.rec.Requests()[0].Attempts)
	})
}

// If the retry budget may refuse a retry, or no retry is possible, the target's response has no time limit.
func TestSilence(t *testing.T) {
	budget := func(t *Tuning) { t.Budget = retry.NewBudget(retry.BudgetConfig{Ratio: 1}, time.Now()) }
	for name, c := range map[string]struct {
		tuning func(*Tuning)
		policy func(*retry.Policy)
		retry  bool
		limit  time.Duration
	}{
		"nothing known":     {nil, nil, true, 3 * time.Second},
		"a short attempt":   {func(t *Tuning) { t.AttemptTimeout = time.Second }, nil, true, time.Second},
		"not adaptive":      {func(t *Tuning) { t.Adaptive = false }, nil, true, 0},
		"a retry budget":    {budget, nil, true, 0},
		"counted by number": {func(t *Tuning) { t.Targets = nil }, nil, false, 0},
		"one attempt":       {nil, func(p *retry.Policy) { p.MaxAttempts = 1 }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tunnels(t, c.tuning, c.policy, func(o opened) {
				t, tunnel := o.T, o.Tunnel
				require.Equal(t, c.retry, tunnel.CanRetry())
				require.Equal(t, c.limit, tunnel.FirstByteTimeout())
			})
		})
	}
	timeout := 5.0
	tunnels(t, nil, func(p *retry.Policy) { p.Timeout = &timeout }, func(o opened) {
		t, tunnel := o.T, o.Tunnel
		require.True(t, tunnel.CanRetry())
		time.Sleep(5 * time.Second)
		require.False(t, tunnel.CanRetry(), "the total timeout has passed")
	})
}

// If a tunnel fails and no attempt is left, the request is a failure and not a success.
func TestADeadTunnelOfTheLastAttempt(t *testing.T) {
	one := func(p *retry.Policy) { p.MaxAttempts = 1 }
	tunnels(t, nil, one, func(o opened) {
		t, b, tunnel := o.T, o.bench, o.Tunnel
		require.Empty(t, b.rec.Requests())
		tunnel.Close(verdict.TunnelEnd{BytesUp: 1, Err: errDied}, time.Now())
		require.Len(t, b.rec.Requests(), 1)
		require.Equal(t, core.FinalExhausted, b.rec.Requests()[0].Final)
		require.Equal(t, core.ResultFailure, b.rec.Attempts()[0].Outcome.Result)
		require.Equal(t, []int{1, 0}, failures(b))
	})
}

// A slow target is not cut short again and again: each time, its proxy gets more time.
func TestASilentTunnelGivesItsProxyMoreTime(t *testing.T) {
	tunnels(t, nil, nil, func(o opened) {
		t, b := o.T, o.bench
		o.Tunnel.SettleSuccess()
		o.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
		x, k := exchange(t, nil), &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
			time.Sleep(10 * time.Millisecond)
			return verdict.Facts{Status: 200}
		}}
		b.run(t.Context(), x, k) // now the pool has a latency
		b.pool.Sweep()
		b.pool.Sweep()
		x, k.ids = exchange(t, nil), nil
		x.Request.WantsTunnel, x.Target = true, upstream.Target("a.test:443")
		tunnel := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, k).Tunnel
		slow := b.pool.Snapshot().Get(k.ids[0])
		before := slow.Tail()
		time.Sleep(500 * time.Millisecond)
		RetryTunnel(t.Context(), tunnel, errDied, time.Second, k)
		require.Greater(t, slow.Tail(), max(before, 500*time.Millisecond))
		x.Abandon()
	})
}
