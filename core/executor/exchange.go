package executor

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Exchange is the state of one request. It is reused from request to request, so that
// a request costs no allocation; the zero value is ready. It belongs to one goroutine.
type Exchange struct {
	executor *Executor
	tuning   *Tuning
	request  *Request
	result   Result

	started  time.Time
	ready    time.Time
	deadline time.Time // of the whole request; zero without a total timeout

	query    selector.Query
	attempt  Attempt
	proxy    *upstream.Upstream // of the last attempt; nil before the first
	lease    upstream.Lease
	event    core.AttemptEvent // of the last attempt
	finding  evidence.Finding  // of the last attempt, if it failed
	cutShort bool              // the attempt's deadline is its adaptive timeout
	deferred []deferred        // attempts that are charged once another proxy serves the request
	retry    retryState

	open    open // what Run returned and has not been closed
	relay   Relay
	tunnel  Tunnel
	refusal Refusal
	final   core.RequestEvent
	timer   *time.Timer

	newDeadline func() time.Time // shorten
}

// retryState is the state of an exchange's retries.
type retryState struct {
	delay  time.Duration // waited before the last attempt
	reason string        // why the last attempt is a retry

	triedAsUsual  bool // the target is suspect, and this request is retried all the same
	targetSuspect bool // no retry followed, as the target is suspect
	limitReached  bool // no retry followed, as max_attempts was reached
	budgetSpent   bool // no retry followed, as the retry budget was spent
}

// open is the kind of ending that has to be closed.
type open uint8

const (
	nothing open = iota
	openRelay
	openTunnel
	openRefusal
)

// Result returns the exchange's result. It is valid until the next Run.
func (x *Exchange) Result() *Result { return &x.result }

// reset readies x for the next request. It does not clear the fields that every request
// sets before it reads them, and does not assign a new Exchange, because that would put a copy
// on the stack.
func (x *Exchange) reset() {
	x.Abandon()
	x.result = Result{Events: x.result.Events[:0]}
	x.deadline = time.Time{}
	x.query.Reset()
	x.proxy, x.finding = nil, evidence.Finding{}
	x.retry = retryState{}
	x.relay.x, x.tunnel.x, x.refusal.x = x, x, x
}

// Abandon gives back what an exchange holds if its ending has not been closed, after a
// panic for example. The breaker gets no result, and nothing is recorded.
func (x *Exchange) Abandon() {
	x.open = nothing
	x.lease.Release()
	x.releaseDeferred()
}

// deferred is a failed attempt that is charged to its proxy if another proxy serves the
// same request: a refused tunnel, for example, which may be the rule of every proxy.
type deferred struct {
	lease   upstream.Lease // its place in flight has been given back
	outcome core.Outcome
	tunnel  bool // of a tunnel that was too slow: another one has to pass on bytes of the target
}

// chargeDeferred charges the deferred attempts: another proxy has served the request. If
// it has only opened a tunnel, attempts whose tunnel was too slow stay deferred.
func (x *Exchange) chargeDeferred(opened bool) {
	kept := 0
	for i := range x.deferred {
		d := &x.deferred[i]
		if opened && d.tunnel {
			x.deferred[kept] = *d
			kept++
			continue
		}
		if d.lease.Proxy != x.proxy {
			d.outcome.Verdict, d.outcome.Charge = core.Failure, core.ChargeProxyOrTarget
			d.lease.ServedByOther = true
			d.lease.Settle(&d.outcome)
		}
		d.lease.Release()
	}
	clear(x.deferred[kept:])
	x.deferred = x.deferred[:kept]
}

// releaseDeferred releases the deferred attempts. Those not charged count neither for
// nor against their proxies.
func (x *Exchange) releaseDeferred() {
	for i := range x.deferred {
		x.deferred[i].lease.Release()
	}
	clear(x.deferred)
	x.deferred = x.deferred[:0]
}
