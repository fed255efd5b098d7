package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Ending is how the caller's part of an exchange went.
type Ending struct {
	Status     int       // given to the client; 0 when it was gone before that
	Truncated  error     // the answer's body broke off upstream
	ClientGone bool      // the client left before it had the whole answer
	At         time.Time // zero for now
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
		o := &x.event.Outcome
		switch {
		case end.Truncated != nil:
			o.Result, o.Verdict, o.Reason, o.Err = core.ResultFailure, core.Failure, "http_response_incomplete", end.Truncated
		case end.ClientGone:
			o.Result, o.Verdict, o.Reason = core.ResultCancelled, core.Excluded, ""
		}
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
		case end.Truncated != nil && x.Final == core.FinalSuccess:
			x.Final = core.FinalNotRetryable // whatever the head said that is under way
			e.failed(x, o)
		}
	}
	x.settleDoubt()
	x.request = core.RequestEvent{
		Request: x.ID, PolicyHash: x.Policy.Hash(), Policy: x.Policy, Attempts: x.Attempts, Waited: x.Waited, Started: x.Started, Ended: now,
		Status: end.Status, Final: x.Final, Listener: x.Listener, LimitReached: x.limit, BudgetSpent: x.budget,
		Delivered: x.Final == core.FinalSuccess && !end.ClientGone,
	}
	e.recorder.Request(&x.request)
}

// TunnelProven settles a tunnel's permit as a success: bytes came back.
func (e *Executor) TunnelProven(x *Exchange) {
	x.held.Settle(&x.event.Outcome)
}

// EndTunnel releases a tunnel. early is why it died before a byte came back, which
// counts against its proxy; nil if it did not.
func (e *Executor) EndTunnel(x *Exchange, early error) {
	o := x.event.Outcome
	if early != nil && x.held.U != nil {
		o.Result, o.Verdict, o.Reason, o.Err = core.ResultFailure, core.Failure, "connection_terminated", early
		e.say(x, slog.LevelInfo, "tunnel died before its first byte", early)
	}
	x.held.Settle(&o)
	x.held.Release()
}

// Abandon gives back what an exchange still holds if it has ended without Finish,
// after a panic for example. The breaker hears nothing about the proxy.
func (e *Executor) Abandon(x *Exchange) {
	x.held.Release()
	x.doubt.held.Release()
}
