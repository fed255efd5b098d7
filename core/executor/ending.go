package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Ending is the result of Run. Exactly one of Relay, Tunnel and Refusal is not nil. The caller must
// close it; later calls of Close have no effect. If it is not closed, Exchange.Abandon or the
// exchange's next Run releases it.
type Ending[T any] struct {
	Response T // with Relay and Tunnel; the caller owns it
	Relay    *Relay
	Tunnel   *Tunnel
	Refusal  *Refusal
}

// Relay is the ending with a response to relay to the client: a success, or the failure of the last
// attempt.
type Relay struct {
	x      *Exchange
	served bool // the attempt is a success so far, and has not been recorded
}

// Close records the attempt and the request. status is the status sent to the client, or 0 if the client
// left before that. relayed describes how the response was relayed. at is the current time.
func (r *Relay) Close(status int, relayed verdict.Relayed, at time.Time) {
	x := r.x
	if x.open != openRelay {
		return
	}
	x.open = nothing
	if r.served {
		relayed.Direct = x.proxy.Direct()
		x.event.Outcome = verdict.EndRelay(x.event.Outcome, relayed)
		o := &x.event.Outcome
		x.event.Ended = at
		x.lease.Settle(o)
		x.lease.Release()
		x.recordServed()
		switch {
		case o.Result == core.ResultCancelled:
			x.result.Final = core.FinalCancelled
		case o.Result == core.ResultFailure:
			x.result.Final = core.FinalNotRetryable // the client has already received another X-Whirlpool-Outcome
			x.logFailed(o)
		}
	}
	x.finish(status, relayed.ClientLeft, at)
}

// Switched is called if the response is a 101 (Switching Protocols), so that the connection becomes a tunnel.
// It records the attempt and the request. The attempt counts as in flight until the tunnel is closed.
func (r *Relay) Switched(at time.Time) *Tunnel {
	x := r.x
	x.event.Ended = at
	x.tunnel.status, x.tunnel.unrecorded = x.event.Outcome.Status, true
	x.open = openTunnel
	x.tunnel.Proven()
	if p := x.request.Progress; p != nil {
		p.Tunnel()
	}
	return &x.tunnel
}

// Tunnel is an open tunnel. Its attempt is in flight until Close. The request is recorded at the target's
// first byte, or at the end of the tunnel. If the attempt used no proxy (direct://), or if breaker.blame
// is "literal", it is recorded at once.
type Tunnel struct {
	x          *Exchange
	status     int  // status recorded for the client
	unrecorded bool // see Exchange.recordTunnel
}

// Proven settles the attempt as a success, because the target has sent a byte. Close then only ends
// the attempt.
func (t *Tunnel) Proven() {
	if t.x.open == openTunnel {
		if t.x.race != nil {
			t.x.race.endHedge(true)
		}
		now := t.x.executor.now()
		t.x.chargeDeferred(false, now.Sub(t.x.event.Started))
		if s := t.x.request.Session; s != nil && t.x.request.Tunnel {
			s.Bind(now)
		}
		t.x.lease.Settle(&t.x.event.Outcome)
		t.x.recordTunnel()
	}
}

// Close ends the attempt. If Proven has not been called, it also settles the attempt: end describes how the
// tunnel ended.
func (t *Tunnel) Close(end verdict.TunnelEnd, at time.Time) {
	x := t.x
	if x.open != openTunnel {
		return
	}
	if x.race != nil {
		x.race.endHedge(false)
	}
	x.open = nothing
	o := verdict.EndTunnel(x.event.Outcome, end)
	end.Lasted = at.Sub(x.event.Ended)
	x.proxy.EndTunnel(&end)
	if o.Cause == verdict.TunnelDied {
		x.log(slog.LevelInfo, "tunnel died before its first byte", o.Err)
		if t.unrecorded {
			x.event.Outcome, x.event.Ended, x.result.Final = o, at, core.FinalExhausted
		}
	}
	x.recordTunnel()
	if p := x.request.Progress; p != nil {
		p.End(x.result.Final, t.status, at)
	}
	x.lease.Settle(&o)
	x.lease.Release()
	x.releaseDeferred()
}

// Refusal is the reason why an exchange ended without a response to relay. Package proxyhttp turns it into
// an error response.
type Refusal struct {
	x          *Exchange
	Kind       RefusalKind
	Final      core.Final
	Attempts   int
	ProxyID    string        // of the last attempt; "" if there was none
	Last       core.Outcome  // of the last attempt; zero if there was none
	RetryAfter time.Duration // time until the client may repeat the request; 0 if unknown
	Target     string        // only with TargetSuspect
	Direct     bool          // the last attempt went to the target without a proxy
	Err        error         // only with NoProxy, NoneAccepts, Stopped and Denied
}

// RefusalKind is the kind of a Refusal.
type RefusalKind uint8

// The kinds.
const (
	NoProxy       RefusalKind = iota + 1 // no proxy is admissible
	NoneAccepts                          // each remaining proxy has refused its credentials
	Stopped                              // the exchange's context was cancelled
	TimedOut                             // the total timeout passed during an attempt
	NoTimeLeft                           // the next retry would begin after the total timeout
	AttemptFailed                        // the last attempt failed, and no retry may follow
	TargetSuspect                        // no retry, because the target is suspect
	BudgetSpent                          // no retry, because the retry budget is spent
	BodyNotKept                          // no retry, because a part of the body was sent and not kept
	NotRepeatable                        // no retry, because the request may have reached its target
	Denied                               // the request may not go to its target
)

// Close records the request. status is the status sent to the client, or 0 if the client left before
// that. at is the current time.
func (r *Refusal) Close(status int, at time.Time) {
	if r.x.open != openRefusal {
		return
	}
	r.x.open = nothing
	r.x.finish(status, false, at)
}

// stand makes the tunnel of the last attempt the ending that Run returns. It records the request if that
// must happen at once (see Tunnel).
func (x *Exchange) stand() *Tunnel {
	x.event.Ended = x.executor.now()
	x.tunnel.status, x.tunnel.unrecorded = x.event.Outcome.Status, true
	x.open = openTunnel
	if x.tuning.Targets == nil || x.proxy.Direct() {
		x.recordTunnel()
	}
	if p := x.request.Progress; p != nil {
		p.Tunnel()
	}
	return &x.tunnel
}

// recordTunnel records the attempt that opened a tunnel, and the request. It is called at the target's first
// byte or at the end of the tunnel. For a tunnel without a proxy (direct://), or if breaker.blame is
// "literal", it is called when the tunnel is open. Later calls have no effect.
func (x *Exchange) recordTunnel() {
	if x.tunnel.unrecorded {
		x.tunnel.unrecorded = false
		x.recordServed()
		x.record(x.tunnel.status, false, x.event.Ended)
	}
}

// recordServed records the attempt that served the request.
func (x *Exchange) recordServed() {
	x.recordAttempt(&x.flight, &x.event.Outcome)
	if t := x.tuning; t.Observe != nil && x.event.Outcome.Verdict != core.Excluded {
		x.observe(&x.event.Outcome, t)
	}
}

// finish records the request and ends it.
func (x *Exchange) finish(status int, clientLeft bool, at time.Time) {
	x.releaseDeferred()
	x.record(status, clientLeft, at)
	if p := x.request.Progress; p != nil {
		p.End(x.result.Final, status, at)
	}
}

// record records the request.
func (x *Exchange) record(status int, clientLeft bool, at time.Time) {
	if x.race != nil {
		x.race.join() // waits until all attempts of the race have been recorded
	}
	q, r := x.request, &x.result
	x.final = core.RequestEvent{
		Request: q.ID, PolicyHash: q.Policy.Hash(), Policy: q.Policy, Attempts: r.Attempts, Waited: r.Waited,
		Started: x.started, Ended: at, Status: status, Final: r.Final, Listener: q.Listener,
		LimitReached: x.retry.limitReached, BudgetSpent: x.retry.budgetSpent,
		Delivered: r.Final == core.FinalSuccess && !clientLeft, LostHedge: x.lostHedge,
	}
	x.executor.recorder.Request(&x.final)
}
