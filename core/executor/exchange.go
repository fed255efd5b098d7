package executor

import (
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Exchange is the state of one request. It is used for one request after another, so that a request allocates nothing.
// It is not safe for concurrent use.
type Exchange struct {
	executor *Executor
	tuning   *Tuning
	request  *Request
	result   Result

	started  time.Time
	bodyEnd  time.Time
	deadline time.Time // of the whole request; zero without a total timeout
	// maxAttempts is the policy's max_attempts, or the larger number of a rule that was applied to a response.
	maxAttempts int

	query            selector.Query
	target           targetValues      // values for the request's target
	region           string            // the wanted region; "" for none
	attemptState                       // the last attempt
	finding          evidence.Finding  // of the last attempt, if it failed
	deferredAttempts []deferredAttempt // failed attempts that are charged only if another proxy serves the request
	unconfirmedBans  []unconfirmedBan  // bans that this exchange has begun
	retry            retryState
	race             anyRace // race of the first attempt and its hedge; nil without one
	lostHedge        bool    // the hedge has lost or failed, and no attempt has followed it

	openEnding   endingKind // kind of the ending that the caller has not closed yet
	relay        Relay
	tunnel       Tunnel
	refusal      Refusal
	requestEvent core.RequestEvent

	observation core.Observation // of the last attempt; kept here, so that Tuning.Observe allocates nothing
	timer       *time.Timer

	placeWait placeWaiter
	retryWait queue.Waiter[*retry.Budget]

	// updateDeadlineFunc is attemptState.updateDeadline as a function value. It is created once, because its
	// creation allocates.
	updateDeadlineFunc func() time.Time
	eventsMu           sync.Mutex // guards result.Events until the request is recorded
}

// targetValues caches the values that are computed from a request's target: most clients stay at one target.
type targetValues struct {
	host     string // Request.Host
	hostHash float64
	hostPort string // of Request.Target
	port     uint16
}

func (t *targetValues) set(q *Request) {
	if q.Host != t.host || t.hostHash == 0 {
		t.host, t.hostHash = q.Host, core.Hash53(q.Host)
	}
	if q.Target.Name != t.hostPort {
		t.hostPort, t.port = q.Target.Name, portOf(q.Target.Name)
	}
}

// attemptState is one attempt, from the choice of its proxy to its outcome.
type attemptState struct {
	attempt               Attempt
	proxy                 *upstream.Upstream // nil before the first attempt
	lease                 upstream.Lease
	facts                 verdict.Facts
	event                 core.AttemptEvent
	minTimeout            time.Duration // the minimum of this attempt's adaptive timeout
	cutShort              bool          // the attempt's deadline comes from its adaptive timeout
	newPoolTimeoutApplies bool          // newPoolTimeout applies if the pool has not served a request
	silentTime            time.Duration // time without a byte of the target if an open tunnel was cut short, else 0
}

// retryState is the part of an exchange's state that concerns retries.
type retryState struct {
	delay  time.Duration // wait before the last attempt
	reason string        // reason of the retry, for the log

	retriesAdmitted   bool          // the target is suspect, but this request is retried
	retriesAdmittedAt time.Duration // when retriesAdmitted was set
	targetSuspect     bool          // no retry, because the target is suspect
	limitReached      bool          // no retry, because max_attempts was reached
	budgetSpent       bool          // no retry, because the retry budget was spent
}

// endingKind is the kind of an ending that the caller has not closed yet.
type endingKind uint8

const (
	noEnding endingKind = iota
	relayEnding
	tunnelEnding
	refusalEnding
)

// Result returns the exchange's result. It is valid until the next Run.
func (ex *Exchange) Result() *Result { return &ex.result }

// reset clears the fields that the next request does not set. It sets them one by one, because an assignment to the
// whole Exchange would copy it on the stack.
func (ex *Exchange) reset() {
	ex.Abandon()
	events := ex.result.Events[:0]
	ex.result = Result{}
	ex.result.Events = events
	ex.deadline = time.Time{}
	ex.query.Reset()
	ex.proxy, ex.finding = nil, evidence.Finding{}
	ex.retry, ex.lostHedge = retryState{}, false
	clear(ex.unconfirmedBans)
	ex.unconfirmedBans = ex.unconfirmedBans[:0]
	ex.relay.ex, ex.tunnel.ex, ex.refusal.ex = ex, ex, ex
}

// Abandon releases an ending that has not been closed, for example after a panic. Nothing is settled or recorded.
func (ex *Exchange) Abandon() {
	ex.openEnding = noEnding
	if ex.race != nil {
		ex.race.abandon()
	}
	ex.lease.Release()
	ex.releaseDeferred()
}

// deferredAttempt is a failed attempt that the proxy or the target may have caused. It is charged to the proxy only if
// another proxy serves the same request. An example is a refused tunnel, because every proxy may refuse it.
type deferredAttempt struct {
	lease           upstream.Lease // does not count as in flight any more
	outcome         core.Outcome
	silentTime      time.Duration // time without a response
	poolWasSilent   bool          // the attempt was cut short, and no proxy has served any request meanwhile
	awaitsFirstByte bool          // charged when the target's first byte arrives through another tunnel
}

// recordQuestioned records the result of a retry that was made because the response of d was questioned
// (isQuestionable). The parameter status is the status of the response through the other proxy; 0 if there is no such
// response.
func (d *deferredAttempt) recordQuestioned(status int) {
	d.lease.Proxy.Abilities().RecordQuestioned(d.outcome.Status, status)
}

// chargeDeferred charges the deferred attempts to their proxies, because another proxy has served the request with the
// given latency. If tunnelOpened is set, the other proxy has only opened a tunnel so far. Attempts that await the
// target's first byte then stay deferred.
func (ex *Exchange) chargeDeferred(tunnelOpened bool, latency time.Duration) {
	kept := 0
	for i := range ex.deferredAttempts {
		d := &ex.deferredAttempts[i]
		if tunnelOpened && d.awaitsFirstByte {
			ex.deferredAttempts[kept] = *d
			kept++
			continue
		}
		switch {
		case d.lease.Proxy == ex.proxy:
			if d.outcome.Cause == verdict.ProxyErrorPage {
				d.recordQuestioned(0)
			}
		case d.outcome.Cause == verdict.ProxyErrorPage && ex.event.Outcome.HasErrorStatus():
			d.recordQuestioned(ex.event.Outcome.Status)
		case d.outcome.Cause == verdict.CutShort && d.silentTime < latency: // its proxy may be as fast as the other one
			d.lease.Proxy.AllowLatency(latency)
		case d.poolWasSilent && d.lease.InStall(&d.outcome): // the whole pool has stalled for a moment
		default:
			if d.outcome.Cause == verdict.ProxyErrorPage {
				d.recordQuestioned(ex.event.Outcome.Status)
			}
			d.outcome.Verdict, d.outcome.Charge = core.Failure, core.ChargeProxyOrTarget
			d.lease.ServedByOther = true
			d.lease.Settle(&d.outcome)
		}
		d.lease.Release()
	}
	clear(ex.deferredAttempts[kept:])
	ex.deferredAttempts = ex.deferredAttempts[:kept]
}

// suggestsTarget reports whether the deferred attempt d suggests that the target fails. It is called if no proxy has
// served the request. An attempt that was cut short suggests this only if the request's last attempt was not cut short,
// and has failed through another proxy.
func (ex *Exchange) suggestsTarget(d *deferredAttempt) bool {
	return d.outcome.Cause != verdict.CutShort ||
		ex.event.Outcome.Charge == core.ChargeProxyOrTarget && d.lease.Proxy != ex.proxy
}

// releaseDeferred releases the deferred attempts that have not been charged.
func (ex *Exchange) releaseDeferred() {
	if len(ex.deferredAttempts) == 0 {
		return
	}
	for i := range ex.deferredAttempts {
		d := &ex.deferredAttempts[i]
		if ex.result.Final != core.FinalSuccess && ex.result.Final != core.FinalCancelled && ex.suggestsTarget(d) {
			d.lease.SettleUnserved(&d.outcome)
			if d.outcome.Cause == verdict.ProxyErrorPage {
				d.recordQuestioned(0)
				if d.lease.Proxy != ex.proxy {
					d.lease.Proxy.Abilities().RecordLostResponse()
				}
			}
		}
		d.lease.Release()
	}
	clear(ex.deferredAttempts)
	ex.deferredAttempts = ex.deferredAttempts[:0]
}
