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

// Exchange is the state of one request. An Exchange can be used for one request after another, so
// that a request allocates nothing. The zero value is ready for use. It is not safe for concurrent
// use.
type Exchange struct {
	executor *Executor
	tuning   *Tuning
	request  *Request
	result   Result

	started  time.Time
	ready    time.Time
	deadline time.Time // of the whole request; zero without a total timeout

	query     selector.Query
	flight                     // the last attempt
	finding   evidence.Finding // of the last attempt, if it failed
	deferred  []deferred       // failed attempts that are charged only if another proxy serves the request
	bans      []ban            // rulings on attempts of this exchange
	retry     retryState
	race      anyRace // race of the first attempt and its hedge; nil without one
	lostHedge bool    // the hedge has lost or failed, and no attempt has followed it

	open    open // kind of the ending that the caller has not closed yet
	relay   Relay
	tunnel  Tunnel
	refusal Refusal
	final   core.RequestEvent
	timer   *time.Timer

	forPlace placeWaiter
	forRetry queue.Waiter[*retry.Budget]

	shortenLast func() time.Time // method value of flight.shorten; created once, so that an attempt allocates nothing
	eventsMu    sync.Mutex       // guards result.Events until the request is recorded
}

// flight is one attempt, from the choice of its proxy to its outcome.
type flight struct {
	attempt      Attempt
	proxy        *upstream.Upstream // nil before the first attempt
	lease        upstream.Lease
	event        core.AttemptEvent
	leastTimeout time.Duration // the minimum of this attempt's adaptive timeout
	cutShort     bool          // the attempt's deadline comes from its adaptive timeout
}

// retryState is the part of an exchange's state that concerns retries.
type retryState struct {
	delay  time.Duration // wait before the last attempt
	reason string        // reason of the retry, for the log

	triedAsUsual  bool // the target is suspect, but this request is retried
	targetSuspect bool // no retry, because the target is suspect
	limitReached  bool // no retry, because max_attempts was reached
	budgetSpent   bool // no retry, because the retry budget was spent
}

// open is the kind of an ending that the caller has not closed yet.
type open uint8

const (
	nothing open = iota
	openRelay
	openTunnel
	openRefusal
)

// Result returns the exchange's result. It is valid until the next Run.
func (x *Exchange) Result() *Result { return &x.result }

// reset prepares x for the next request. It does not clear the fields that each request sets before it reads
// them. It sets the others one by one, because an assignment to the whole Exchange would copy an Exchange on
// the stack.
func (x *Exchange) reset() {
	x.Abandon()
	x.result = Result{Events: x.result.Events[:0]}
	x.deadline = time.Time{}
	x.query.Reset()
	x.proxy, x.finding = nil, evidence.Finding{}
	x.retry, x.lostHedge = retryState{}, false
	clear(x.bans)
	x.bans = x.bans[:0]
	x.relay.x, x.tunnel.x, x.refusal.x = x, x, x
}

// Abandon releases an ending that has not been closed, for example after a panic. The attempt is
// not settled, and nothing is recorded.
func (x *Exchange) Abandon() {
	x.open = nothing
	if x.race != nil {
		x.race.abandon()
	}
	x.lease.Release()
	x.releaseDeferred()
}

// deferred is a failed attempt that is charged to its proxy only if another proxy serves the same
// request. An example is a refused tunnel, which may be refused by every proxy.
type deferred struct {
	lease   upstream.Lease // does not count as in flight any more
	outcome core.Outcome
	tunnel  bool // the tunnel was too slow; it is charged when the target has sent a byte through another tunnel
}

// chargeDeferred charges the deferred attempts, because another proxy has served the request. opened is set
// if that proxy has opened a tunnel and the target has not sent a byte through it yet. In this case,
// attempts whose tunnel was too slow stay deferred.
//
// took is the latency of the other proxy's response. An attempt that was cut short after less time than that is not
// charged: the target is slow, and the proxy may be as fast as the other one. It gets more time from now on.
func (x *Exchange) chargeDeferred(opened bool, took time.Duration) {
	kept := 0
	for i := range x.deferred {
		d := &x.deferred[i]
		if opened && d.tunnel {
			x.deferred[kept] = *d
			kept++
			continue
		}
		switch {
		case d.lease.Proxy == x.proxy:
		case verdict.CutTooEarly(&d.outcome, took):
			d.lease.Proxy.AllowLatency(took)
		default:
			d.outcome.Verdict, d.outcome.Charge = core.Failure, core.ChargeProxyOrTarget
			d.lease.ServedByOther = true
			d.lease.Settle(&d.outcome)
		}
		d.lease.Release()
	}
	clear(x.deferred[kept:])
	x.deferred = x.deferred[:kept]
}

// releaseDeferred releases the deferred attempts. Those that have not been charged count as
// excluded.
func (x *Exchange) releaseDeferred() {
	for i := range x.deferred {
		x.deferred[i].lease.Release()
	}
	clear(x.deferred)
	x.deferred = x.deferred[:0]
}
