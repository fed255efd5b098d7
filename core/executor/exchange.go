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
	target    target           // values for the request's target
	region    string           // the wanted region; "" for none
	flight                     // the last attempt
	finding   evidence.Finding // of the last attempt, if it failed
	deferred  []deferred       // failed attempts that are charged only if another proxy serves the request
	bans      []ban            // rests and bans that this exchange has begun
	retry     retryState
	race      anyRace // race of the first attempt and its hedge; nil without one
	lostHedge bool    // the hedge has lost or failed, and no attempt has followed it

	open    open // kind of the ending that the caller has not closed yet
	relay   Relay
	tunnel  Tunnel
	refusal Refusal
	final   core.RequestEvent

	observation core.Observation // of the last attempt; kept here, so that Tuning.Observe allocates nothing
	timer       *time.Timer

	forPlace placeWaiter
	forRetry queue.Waiter[*retry.Budget]

	shortenLast func() time.Time // method value of flight.shorten; created once, so that an attempt allocates nothing
	eventsMu    sync.Mutex       // guards result.Events until the request is recorded
}

// target has the values that are computed from a request's target. An Exchange keeps them, because most requests of a
// client have the same target as the client's previous request.
type target struct {
	host     string // Request.Host
	hostHash float64
	name     string // of Request.Target
	port     uint16
}

// set computes the values of t for the request q.
func (t *target) set(q *Request) {
	if q.Host != t.host || t.hostHash == 0 {
		t.host, t.hostHash = q.Host, core.Hash53(q.Host)
	}
	if q.Target.Name != t.name {
		t.name, t.port = q.Target.Name, portOf(q.Target.Name)
	}
}

// flight is one attempt, from the choice of its proxy to its outcome.
type flight struct {
	attempt      Attempt
	proxy        *upstream.Upstream // nil before the first attempt
	lease        upstream.Lease
	facts        verdict.Facts
	event        core.AttemptEvent
	leastTimeout time.Duration // the minimum of this attempt's adaptive timeout
	cutShort     bool          // the attempt's deadline comes from its adaptive timeout
	limitUnknown bool          // unknownTimeout applies if the pool has not served a request
	silence      time.Duration // if an open tunnel was cut short: how long the target had sent no byte
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
func (ex *Exchange) Result() *Result { return &ex.result }

// reset prepares ex for the next request. It does not clear the fields that each request sets before it reads them.
// It sets the other fields one by one, because an assignment to the whole Exchange would copy an Exchange on the
// stack.
func (ex *Exchange) reset() {
	ex.Abandon()
	events := ex.result.Events[:0]
	ex.result = Result{}
	ex.result.Events = events
	ex.deadline = time.Time{}
	ex.query.Reset()
	ex.proxy, ex.finding = nil, evidence.Finding{}
	ex.retry, ex.lostHedge = retryState{}, false
	clear(ex.bans)
	ex.bans = ex.bans[:0]
	ex.relay.x, ex.tunnel.x, ex.refusal.x = ex, ex, ex
}

// Abandon releases an ending that has not been closed, for example after a panic. The attempt is
// not settled, and nothing is recorded.
func (ex *Exchange) Abandon() {
	ex.open = nothing
	if ex.race != nil {
		ex.race.abandon()
	}
	ex.lease.Release()
	ex.releaseDeferred()
}

// deferred is a failed attempt that is charged to its proxy only if another proxy serves the same request. An example
// is a refused tunnel: every proxy may refuse it.
type deferred struct {
	lease   upstream.Lease // does not count as in flight any more
	outcome core.Outcome
	waited  time.Duration // time without a response
	tunnel  bool          // charged when the target has sent a byte through another tunnel, not when that tunnel opens
}

// chargeDeferred charges the deferred attempts, because another proxy has served the request. The parameter opened is
// true if that proxy has opened a tunnel, and the target has not sent a byte through it yet. In this case, attempts
// whose tunnel was too slow, or had no TLS, stay deferred.
//
// The parameter took is the latency of the response through that proxy. An attempt that was cut short after less than
// this time is not charged: the target is slow, and the attempt's proxy may be as fast as the proxy that has served the
// request. The attempt's proxy gets a longer adaptive timeout from now on.
func (ex *Exchange) chargeDeferred(opened bool, took time.Duration) {
	kept := 0
	for i := range ex.deferred {
		d := &ex.deferred[i]
		if opened && d.tunnel {
			ex.deferred[kept] = *d
			kept++
			continue
		}
		switch {
		case d.lease.Proxy == ex.proxy:
		case d.outcome.Cause == verdict.CutShort && d.waited < took:
			d.lease.Proxy.AllowLatency(took)
		default:
			d.outcome.Verdict, d.outcome.Charge = core.Failure, core.ChargeProxyOrTarget
			d.lease.ServedByOther = true
			d.lease.Settle(&d.outcome)
		}
		d.lease.Release()
	}
	clear(ex.deferred[kept:])
	ex.deferred = ex.deferred[:kept]
}

// releaseDeferred releases the deferred attempts. An attempt that has not been charged counts as excluded
// (core.Excluded).
func (ex *Exchange) releaseDeferred() {
	if len(ex.deferred) == 0 {
		return
	}
	for i := range ex.deferred {
		d := &ex.deferred[i]
		if ex.result.Final != core.FinalSuccess && ex.result.Final != core.FinalCancelled {
			d.lease.SettleUnserved(&d.outcome)
		}
		d.lease.Release()
	}
	clear(ex.deferred)
	ex.deferred = ex.deferred[:0]
}
