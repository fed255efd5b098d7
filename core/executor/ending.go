package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Ending is the result of Run. Exactly one of the fields Relay, Tunnel and Refusal is not nil. The caller must close
// this field's value; later calls of Close have no effect. If the caller does not close the ending, Exchange.Abandon or
// the exchange's next Run releases it.
type Ending[T any] struct {
	Response T // only with Relay or Tunnel; the caller owns it
	Relay    *Relay
	Tunnel   *Tunnel
	Refusal  *Refusal
}

// Relay is the ending with a response to relay to the client: a success, or the failure of the last
// attempt.
type Relay struct {
	ex            *Exchange
	settleOnClose bool // the attempt is a success so far, and has not been recorded
}

// ReportStreaming reports to Request.Progress that the response is being relayed. The caller calls it before it waits
// for the proxy or the client. A response that is relayed without a wait needs no call.
func (r *Relay) ReportStreaming() {
	if p := r.ex.request.Progress; p != nil {
		p.BeginStreaming()
	}
}

// HeadArrived returns the time at which the head of the response arrived. It must not be called after Close.
func (r *Relay) HeadArrived() time.Time { return r.ex.event.Ended }

// Close records the attempt and the request. The parameter status is the status that the client got; 0 if the client
// left before it got one.
func (r *Relay) Close(status int, relayed verdict.RelayEnd, at time.Time) {
	ex := r.ex
	if ex.openEnding != relayEnding {
		return
	}
	ex.openEnding = noEnding
	if r.settleOnClose {
		o := &ex.event.Outcome
		if !relayed.IsComplete() {
			relayed.Direct, relayed.Literal = ex.proxy.Direct(), ex.tuning.Targets == nil
			*o = verdict.EndRelay(*o, relayed)
		}
		ex.event.Ended = at
		ex.lease.Settle(o)
		ex.lease.Release()
		ex.recordServingAttempt()
		switch {
		case o.Result == core.ResultCancelled:
			ex.result.Final = core.FinalCancelled
		case o.Result == core.ResultFailure && relayed.ClientLeft: // the client left, so the request did not fail
			ex.result.Final = core.FinalCancelled
			ex.logFailed(o)
		case o.Result == core.ResultFailure:
			ex.result.Final = core.FinalNotRetryable // the client already has the response's head
			ex.logFailed(o)
		}
	}
	ex.recordEnd(status, relayed.ClientLeft, at)
}

// SwitchProtocols is called if the response is a 101 (Switching Protocols). The connection then becomes a tunnel. The
// method records the attempt and the request. The attempt counts as in flight until the tunnel is closed.
func (r *Relay) SwitchProtocols(at time.Time) *Tunnel {
	ex := r.ex
	ex.event.Ended = at
	ex.tunnel.status, ex.tunnel.unrecorded = ex.event.Outcome.Status, true
	ex.openEnding = tunnelEnding
	ex.tunnel.SettleSuccess()
	if p := ex.request.Progress; p != nil {
		p.BeginTunnel()
	}
	return &ex.tunnel
}

// Tunnel is an open tunnel. Its attempt is in flight until Close. The request is recorded at the target's first byte,
// or at the end of the tunnel. With direct://, or if breaker.blame is "literal", it is recorded when the tunnel is
// opened.
type Tunnel struct {
	ex         *Exchange
	status     int  // status recorded for the client
	unrecorded bool // the request and its last attempt are not recorded yet (Exchange.recordTunnel)
}

// SettleSuccess settles the attempt as a success, because the target has sent a byte. A later Close then only ends the
// attempt.
func (t *Tunnel) SettleSuccess() {
	if t.ex.openEnding == tunnelEnding {
		if t.ex.race != nil {
			t.ex.race.endTunnelRace(true)
		}
		now := t.ex.executor.now()
		t.ex.chargeDeferred(false, now.Sub(t.ex.event.Started))
		if s := t.ex.request.Session; s != nil && t.ex.request.WantsTunnel {
			s.Bind(now)
		}
		t.ex.lease.Settle(&t.ex.event.Outcome)
		t.ex.recordTunnel()
	}
}

// SettleHelloRefused is called in place of SettleSuccess if the target's reply to a ClientHello is a fatal alert, or is
// not TLS. The reply is relayed. The attempt then counts neither for nor against the proxy, because the reply may come
// from the target or from the proxy itself. If breaker.blame is "literal", SettleHelloRefused has the effect of
// SettleSuccess.
func (t *Tunnel) SettleHelloRefused() {
	switch ex := t.ex; {
	case ex.tuning.Targets == nil:
		t.SettleSuccess()
	case ex.openEnding == tunnelEnding:
		if ex.race != nil {
			ex.race.endTunnelRace(true)
		}
		ex.lease.Settle(&core.Outcome{Verdict: core.Excluded})
		ex.recordTunnel()
	}
}

// FollowRecords is called at the first byte of a tunnel whose client has sent a ClientHello. It reports whether the
// caller must follow the TLS records of the target. The caller needs the records to set TunnelEnd.InRecord.
func (t *Tunnel) FollowRecords() bool {
	if t.ex.openEnding != tunnelEnding || t.ex.tuning.Targets == nil || t.ex.proxy.Direct() {
		return false
	}
	t.ex.lease.FollowTunnel()
	return true
}

// Close ends the attempt. If SettleSuccess has not been called, Close also settles the attempt.
func (t *Tunnel) Close(end verdict.TunnelEnd, at time.Time) {
	ex := t.ex
	if ex.openEnding != tunnelEnding {
		return
	}
	if ex.race != nil {
		ex.race.endTunnelRace(false)
	}
	ex.openEnding = noEnding
	o := verdict.EndTunnel(ex.event.Outcome, end)
	end.Duration = at.Sub(ex.event.Ended)
	ex.lease.EndTunnel(&end, o.Cause, at)
	if o.Cause == verdict.TunnelDied {
		ex.lease.EndAt(at)
		ex.log(slog.LevelInfo, "tunnel died before its first byte", o.Err)
		if t.unrecorded {
			ex.event.Outcome, ex.event.Ended, ex.result.Final = o, at, core.FinalExhausted
		}
	}
	ex.recordTunnel()
	if p := ex.request.Progress; p != nil {
		p.End(ex.result.Final, t.status, at)
	}
	if o.Cause == verdict.TunnelCut {
		ex.log(slog.LevelInfo, "tunnel cut", o.Err)
	}
	ex.lease.Settle(&o)
	ex.lease.Release()
	ex.releaseDeferred()
}

// Refusal is the reason why an exchange ended without a response to relay. Package proxyhttp turns it into
// an error response.
type Refusal struct {
	ex          *Exchange
	Kind        RefusalKind
	Final       core.Final
	Attempts    int
	ProxyID     string        // of the last attempt; "" if there was none
	LastOutcome core.Outcome  // of the last attempt; zero if there was none
	RetryAfter  time.Duration // time until the client may repeat the request; 0 if unknown
	Target      string        // only with TargetSuspect
	Direct      bool          // the last attempt went to the target without a proxy
	Err         error         // only with NoProxy, CredentialsRefused, Cancelled and Denied
}

// RefusalKind is the kind of a Refusal.
type RefusalKind uint8

// The kinds.
const (
	NoProxy            RefusalKind = iota + 1 // no proxy is admissible
	CredentialsRefused                        // each remaining proxy has refused the configured credentials
	Cancelled                                 // the exchange's context was cancelled
	TimedOut                                  // the total timeout passed during an attempt
	NoTimeLeft                                // the next retry would begin after the total timeout
	AttemptFailed                             // the last attempt failed, and no retry may follow
	TargetSuspect                             // no retry, because the target is suspect
	BudgetSpent                               // no retry, because the retry budget is spent
	BodyNotKept                               // no retry, because a part of the body was sent and not kept
	NotRepeatable                             // no retry, because the request may have reached its target
	Denied                                    // the request may not go to its target
)

// Close records the request. The parameter status is the status that the client got; 0 if the client left before it got
// one.
func (r *Refusal) Close(status int, at time.Time) {
	if r.ex.openEnding != refusalEnding {
		return
	}
	r.ex.openEnding = noEnding
	r.ex.recordEnd(status, false, at)
}

func (ex *Exchange) endWithTunnel() *Tunnel {
	ex.event.Ended = ex.executor.now()
	ex.tunnel.status, ex.tunnel.unrecorded = ex.event.Outcome.Status, true
	ex.openEnding = tunnelEnding
	if ex.tuning.Targets == nil || ex.proxy.Direct() {
		ex.recordTunnel()
	}
	if p := ex.request.Progress; p != nil {
		p.BeginTunnel()
	}
	return &ex.tunnel
}

// recordTunnel records the request of a tunnel, and its last attempt, once.
func (ex *Exchange) recordTunnel() {
	if ex.tunnel.unrecorded {
		ex.tunnel.unrecorded = false
		ex.recordServingAttempt()
		ex.recordRequest(ex.tunnel.status, false, ex.event.Ended)
	}
}

func (ex *Exchange) recordServingAttempt() {
	ex.recordAttempt(&ex.attemptState, &ex.event.Outcome)
	ex.sendObservation(&ex.event.Outcome, ex.tuning)
}

func (ex *Exchange) recordEnd(status int, clientLeft bool, at time.Time) {
	ex.releaseDeferred()
	if r := &ex.retry; r.retriesAdmitted && ex.result.Final != core.FinalSuccess {
		ex.tuning.Targets.RecordRetriesFailed(ex.request.Target, r.retriesAdmittedAt, at.Sub(ex.tuning.Epoch))
	}
	ex.recordRequest(status, clientLeft, at)
	if p := ex.request.Progress; p != nil {
		p.End(ex.result.Final, status, at)
	}
}

func (ex *Exchange) recordRequest(status int, clientLeft bool, at time.Time) {
	if ex.race != nil {
		ex.race.join() // the race's attempts are recorded before the request
	}
	q, r := ex.request, &ex.result
	ex.requestEvent = core.RequestEvent{
		Request: q.ID, PolicyHash: q.Policy.Hash(), Policy: q.Policy, Attempts: r.Attempts, BackoffTime: r.BackoffTime,
		Started: ex.started, Ended: at, Status: status, Final: r.Final, Listener: q.Listener,
		LimitReached: ex.retry.limitReached, BudgetSpent: ex.retry.budgetSpent,
		Delivered: r.Final == core.FinalSuccess && !clientLeft, LostHedge: ex.lostHedge,
	}
	ex.executor.recorder.Request(&ex.requestEvent)
}
