package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Ending is how Run ended. Exactly one of Relay, Tunnel and Refusal is not nil. The
// caller closes it, and only its first Close counts. What is never closed is given
// back by Exchange.Abandon or the exchange's next Run.
type Ending[T any] struct {
	Response T // with Relay and Tunnel; the caller owns it
	Relay    *Relay
	Tunnel   *Tunnel
	Refusal  *Refusal
}

// Relay is a response to pass on to the client: a success, or the last failure.
type Relay struct {
	x      *Exchange
	served bool // the response is a success so far; it has not been recorded
}

// Close records the attempt and the request. status is the one the client got, 0 if
// it had left before. relayed holds how the response was passed on.
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
			x.result.Final = core.FinalNotRetryable // although the client has a head that says otherwise
			x.logFailed(o)
		}
	}
	x.finish(status, relayed.ClientLeft, at)
}

// Tunnel is a tunnel that stands. Its attempt holds the proxy until Close. The request is
// recorded with the target's first byte or when the tunnel has ended; at once without a proxy, or
// if breakers count literally.
type Tunnel struct {
	x          *Exchange
	status     int  // the one recorded for the client: the attempt's
	unrecorded bool // see Exchange.recordTunnel
}

// Proven settles the attempt as a success: bytes came from the target. Close then only
// ends it.
func (t *Tunnel) Proven() {
	if t.x.open == openTunnel {
		t.x.chargeDeferred(false)
		t.x.lease.Settle(&t.x.event.Outcome)
		t.x.recordTunnel()
	}
}

// Close settles the attempt by how the tunnel ended, unless Proven has, and ends it.
func (t *Tunnel) Close(end verdict.TunnelEnd, at time.Time) {
	x := t.x
	if x.open != openTunnel {
		return
	}
	x.open = nothing
	o := verdict.EndTunnel(x.event.Outcome, end)
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

// Refusal is why an exchange ended without a response to relay. Package proxyhttp words
// it for the client.
type Refusal struct {
	x          *Exchange
	Kind       RefusalKind
	Final      core.Final
	Attempts   int
	ProxyID    string        // of the last attempt; "" if there was none
	Last       core.Outcome  // of the last attempt; zero if there was none
	RetryAfter time.Duration // until it makes sense to try again; 0 when unknown
	Target     string        // with TargetSuspect
	Err        error         // with NoProxy, NoneAccepts and Stopped
}

// RefusalKind is the kind of a Refusal.
type RefusalKind uint8

// The kinds.
const (
	NoProxy       RefusalKind = iota + 1 // no proxy is admissible
	NoneAccepts                          // each proxy that is left has refused the pool's credentials
	Stopped                              // the exchange's context was cancelled
	TimedOut                             // the total timeout passed during an attempt
	NoTimeLeft                           // the next retry would begin after the total timeout
	AttemptFailed                        // the last attempt failed, and no retry may follow
	TargetSuspect                        // no retry follows, as the target is suspect
	BudgetSpent                          // no retry follows, as the retry budget is spent
	BodyNotKept                          // no retry follows: a part of the body was sent, and is not kept
	NotRepeatable                        // no retry follows, as the request may have reached its target
)

// Close records the request. status is the one the client got, 0 if it had left
// before.
func (r *Refusal) Close(status int, at time.Time) {
	if r.x.open != openRefusal {
		return
	}
	r.x.open = nothing
	r.x.finish(status, false, at)
}

// stand makes x's last attempt the tunnel that Run returns, and records the request.
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

// recordTunnel records the attempt that opened a tunnel and the request, once: when the target
// has sent its first byte or the tunnel has ended. A tunnel without a proxy, or where breakers
// count literally, is recorded when it is open.
func (x *Exchange) recordTunnel() {
	if x.tunnel.unrecorded {
		x.tunnel.unrecorded = false
		x.recordServed()
		x.record(x.tunnel.status, false, x.event.Ended)
	}
}

// recordServed records the attempt that served the request.
func (x *Exchange) recordServed() {
	x.recordAttempt(&x.event.Outcome)
	if t := x.tuning; t.Observe != nil && x.event.Outcome.Verdict != core.Excluded {
		x.observe(&x.event.Outcome, t)
	}
}

// finish records the request, which is over.
func (x *Exchange) finish(status int, clientLeft bool, at time.Time) {
	x.releaseDeferred()
	x.record(status, clientLeft, at)
	if p := x.request.Progress; p != nil {
		p.End(x.result.Final, status, at)
	}
}

// record records the request.
func (x *Exchange) record(status int, clientLeft bool, at time.Time) {
	q, r := x.request, &x.result
	x.final = core.RequestEvent{
		Request: q.ID, PolicyHash: q.Policy.Hash(), Policy: q.Policy, Attempts: r.Attempts, Waited: r.Waited,
		Started: x.started, Ended: at, Status: status, Final: r.Final, Listener: q.Listener,
		LimitReached: x.retry.limitReached, BudgetSpent: x.retry.budgetSpent,
		Delivered: r.Final == core.FinalSuccess && !clientLeft,
	}
	x.executor.recorder.Request(&x.final)
}
