package executor

import (
	"context"
	"errors"
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
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// tunnelScript describes a tunnel: it opens after some time or is refused. Later it gets the target's first byte, or
// fails.
type tunnelScript struct {
	opens, later  time.Duration
	refused, dies bool
	closed        int
}

// scriptedTunnels is a Sender that opens tunnels. hello is set in the Sender of a hedge, which also waits for the
// target's first byte.
type scriptedTunnels struct {
	hello bool
	*tunnelScripts
}

type tunnelScripts struct {
	mu      sync.Mutex
	next    []*tunnelScript
	opened  []*tunnelScript
	stopped chan struct{} // receives when the hedge has won
}

func (s scriptedTunnels) Send(ctx context.Context, a *Attempt, f *verdict.Facts) (response *tunnelScript) {
	response, *f = s.attempt(ctx, a)
	return response
}

func (s scriptedTunnels) attempt(ctx context.Context, a *Attempt) (*tunnelScript, verdict.Facts) {
	s.mu.Lock()
	next := s.next[0]
	s.next = s.next[1:]
	s.mu.Unlock()
	wait := func(d time.Duration) error {
		select {
		case <-time.After(min(d, time.Until(a.Deadline))):
			if !time.Now().Before(a.Deadline) {
				return context.DeadlineExceeded
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	fault := func(cause core.Cause, err error) (*tunnelScript, verdict.Facts) {
		return nil, verdict.Facts{Err: &verdict.Error{Cause: cause, Err: err}}
	}
	if err := wait(next.opens); err != nil {
		return fault(verdict.TunnelTimeout, err)
	}
	if next.refused {
		return fault(verdict.TunnelFailed, errors.New("refused"))
	}
	facts := verdict.Facts{Status: 200}
	if s.hello {
		facts.Latency = next.opens
		if err := wait(next.later); err != nil {
			return fault(verdict.NoAnswerInTime, err)
		}
		if next.dies {
			return fault(verdict.TunnelDied, io.EOF)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = append(s.opened, next)
	return next, facts
}

func (s scriptedTunnels) Discard(t *tunnelScript) {
	if t != nil {
		t.closed++
	}
}

func (s scriptedTunnels) Hedge() HedgeSender[*tunnelScript] {
	return scriptedTunnels{true, s.tunnelScripts}
}

func (s scriptedTunnels) Stop() {
	if !s.hello {
		close(s.stopped)
	}
}

func (s scriptedTunnels) Adopt(_ HedgeSender[*tunnelScript], t *tunnelScript) *tunnelScript { return t }

// served reports no target as suspect.
type served struct{}

func (served) IsSuspect(evidence.Target) bool                                        { return false }
func (served) JustSucceededThroughOther(evidence.Target, uint64, time.Duration) bool { return false }
func (served) AdmitRetries(evidence.Target, bool, time.Duration) bool                { return false }
func (served) RecordRetriesFailed(evidence.Target, time.Duration, time.Duration)     {}

// serve treats a tunnel as the gateway does if the client sends a ClientHello at once. It returns the tunnel
// that got the target's first byte, or nil.
func (s scriptedTunnels) serve(ctx context.Context, x *both, end Ending[*tunnelScript]) (by *tunnelScript) {
	t, now := end.Tunnel, end.Response
	HedgeTunnel[*tunnelScript](ctx, t, s)
	for {
		select {
		case <-s.stopped:
			next, ok := TakeHedge[*tunnelScript](t)
			if !ok {
				panic("a hedge that stops its tunnel has won")
			}
			now.closed++
			t.SettleSuccess()
			return next
		case <-ctx.Done():
			now.closed++
			t.Close(verdict.TunnelEnd{StoppedByGateway: true}, time.Now())
			return nil
		case <-time.After(now.later):
		}
		if !now.dies {
			t.SettleSuccess()
			return now
		}
		now.closed++
		end := RetryTunnel(ctx, t, io.EOF, 0, Sender[*tunnelScript](s))
		if end.Refusal != nil {
			end.Refusal.Close(200, time.Now())
			return nil
		}
		t, now = end.Tunnel, end.Response
		if x.event.Hedge { // it has got the first byte already
			t.SettleSuccess()
			return now
		}
	}
}

func TestALateByteDoesNotChangeTheWinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := hedging(t, 2, func(tuning *Tuning) { tuning.Targets = served{} })
		x := hedgedRequest(t, nil)
		x.Request.WantsTunnel = true
		first, hedge := &tunnelScript{}, &tunnelScript{later: ms}
		w := scriptedTunnels{false, &tunnelScripts{next: []*tunnelScript{first, hedge}, stopped: make(chan struct{})}}
		end := Run(t.Context(), b.Executor, &x.Exchange, &x.Request, Sender[*tunnelScript](w))
		HedgeTunnel[*tunnelScript](t.Context(), end.Tunnel, w)
		<-w.stopped
		end.Tunnel.SettleSuccess()
		require.Equal(t, 1, hedge.closed)
		require.Zero(t, first.closed)
		events := b.rec.Attempts()
		require.Len(t, events, 2)
		require.Equal(t, verdict.HedgeLost, events[0].Outcome.Cause)
		require.Equal(t, core.ResultSuccess, events[1].Outcome.Result)
		require.Equal(t, 1, b.rec.Requests()[0].ServedBy())
		end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
		b.idle(t)
	})
}

// For all tunnels: each tunnel is closed once. The first tunnel with a byte of the target wins when this byte arrives.
// A tunnel that lost is not charged. The request and each attempt are recorded once.
func TestHedgesOfAnyTunnels(outer *testing.T) {
	won, lost := 0, 0
	plan := func(rt *rapid.T) {
		n := func(label string, from, to int) int { return rapid.IntRange(from, to).Draw(rt, label) }
		var list []*tunnelScript
		for range 8 {
			kind := n("kind", 0, 5)
			list = append(list, &tunnelScript{
				opens: time.Duration(n("opens", 0, 90)) * ms, later: time.Duration(n("later", 1, 500)) * ms,
				refused: kind == 0, dies: kind == 1 || kind == 2,
			})
		}
		proxies, attempts, leave := n("proxies", 2, 4), n("attempts", 1, 4), max(n("leave", -10, 10), 0)
		var wrong findings
		synctest.Test(outer, func(t *testing.T) {
			b := hedging(t, proxies, func(tuning *Tuning) { tuning.Targets = served{} })
			for _, u := range b.pool.Snapshot().All {
				u.Breaker().Configure(&breaker.Config{FailureThreshold: 1000, WindowDuration: time.Hour,
					TimeoutDuration: s})
			}
			x := hedgedRequest(t, func(p *retry.Policy) { p.MaxAttempts = attempts })
			x.Request.WantsTunnel = true
			ctx, cancel := context.WithCancelCause(t.Context())
			if leave > 0 {
				time.AfterFunc(time.Duration(leave)*70*ms+ms/2, func() { cancel(ErrClientLeft) })
			}
			w := scriptedTunnels{false, &tunnelScripts{next: list, stopped: make(chan struct{})}}
			var by *tunnelScript
			end := Run(ctx, b.Executor, &x.Exchange, &x.Request, Sender[*tunnelScript](w))
			if end.Tunnel != nil {
				if by = w.serve(ctx, x, end); by != nil {
					by.closed++
					x.tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, time.Now())
				}
			} else if end.Refusal != nil {
				end.Refusal.Close(502, time.Now())
			} else {
				end.Relay.Close(502, verdict.RelayEnd{}, time.Now())
			}
			cancel(nil)
			synctest.Wait()
			for _, t := range w.opened {
				assert.Equal(&wrong, 1, t.closed, t)
			}
			b.idle(&wrong)
			assert.Len(&wrong, b.rec.Requests(), 1)
			r := b.rec.Requests()[0]
			assert.Equal(&wrong, by != nil, r.Delivered && by != nil)
			assert.LessOrEqual(&wrong, r.Attempts, attempts)
			assert.Len(&wrong, b.rec.Attempts(), r.Attempts)
			failures, succeeded := map[string]int{}, 0
			for _, e := range b.rec.Attempts() {
				switch {
				case e.Outcome.Cause == verdict.HedgeLost:
					assert.Equal(&wrong, core.Excluded, e.Outcome.Verdict)
					if e.Hedge {
						lost++
					} else {
						won++
					}
				case e.Outcome.Verdict == core.Failure:
					failures[e.ProxyID]++
				case e.Outcome.Result == core.ResultSuccess && by != nil:
					succeeded++
					assert.Equal(&wrong, r.ServedBy(), e.Attempt+1)
				}
			}
			if by != nil {
				assert.Equal(&wrong, 1, succeeded)
			}
			for _, u := range b.pool.Snapshot().All {
				assert.Equal(&wrong, failures[u.ID()], u.Breaker().Snapshot().FailureCount, "no loser is charged")
			}
		})
		require.Empty(rt, wrong)
	}
	for range 10 { // in one of 20 series no hedge wins, or none loses
		if rapid.Check(outer, plan); won > 0 && lost > 0 {
			return
		}
	}
	require.NotZero(outer, won, "of the plans")
	require.NotZero(outer, lost)
}
