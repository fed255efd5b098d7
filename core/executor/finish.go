package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Ending is how the caller's part of an exchange went.
type Ending struct {
	Status  int             // given to the client; 0 when it was gone before that
	Relayed verdict.Relayed // how the answer was passed on
	At      time.Time       // zero for now
}

// Finish records the attempt whose answer was relayed and the request, once.
// A tunnel stays counted as in flight, and its permit open, until EndTunnel.
func (e *Executor) Finish(x *Exchange, end Ending) {
	now := end.At
	if now.IsZero() {
		now = e.now()
	}
	if x.pending {
		x.pending = false
		end.Relayed.Direct = x.Proxy.Direct()
		x.event.Outcome = verdict.EndRelay(x.event.Outcome, end.Relayed)
		o := &x.event.Outcome
		x.event.Ended = now
		if !x.Connect {
			x.held.Settle(o)
			x.held.Release()
		}
		e.record(x, o)
		if t := e.tuning.Load(); t.Observe != nil && o.Verdict != core.Excluded {
			e.observe(x, o, t)
		}
		switch {
		case o.Result == core.ResultCancelled:
			x.Final = core.FinalCancelled
		case o.Result == core.ResultFailure && x.Final == core.FinalSuccess:
			x.Final = core.FinalNotRetryable // whatever the head said that is under way
			e.failed(x, o)
		}
	}
	x.releaseDeferred()
	x.request = core.RequestEvent{
		Request: x.ID, PolicyHash: x.Policy.Hash(), Policy: x.Policy, Attempts: x.Attempts, Waited: x.Waited, Started: x.Started, Ended: now,
		Status: end.Status, Final: x.Final, Listener: x.Listener, LimitReached: x.limit, BudgetSpent: x.budget,
		Delivered: x.Final == core.FinalSuccess && !end.Relayed.ClientLeft,
	}
	e.recorder.Request(&x.request)
}

// TunnelProven settles a tunnel's permit as a success: bytes came back.
func (e *Executor) TunnelProven(x *Exchange) {
	x.held.Settle(&x.event.Outcome)
}

// EndTunnel settles a tunnel by how it ended, and releases it.
func (e *Executor) EndTunnel(x *Exchange, end verdict.TunnelEnd) {
	o := verdict.EndTunnel(x.event.Outcome, end)
	if o.Cause == verdict.TunnelDied && x.held.Proxy != nil {
		e.say(x, slog.LevelInfo, "tunnel died before its first byte", o.Err)
	}
	x.held.Settle(&o)
	x.held.Release()
}

// Abandon gives back what an exchange still holds if it has ended without Finish,
// after a panic for example. The breaker hears nothing about the proxy.
func (e *Executor) Abandon(x *Exchange) {
	x.held.Release()
	x.releaseDeferred()
}
