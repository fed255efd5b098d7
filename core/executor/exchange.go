package executor

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Exchange is one client request with all its attempts. The caller fills the
// first part, [Do] the second. An Exchange is reused from request to request
// (Reset) so that a request costs no allocation. It belongs to one goroutine.
type Exchange struct {
	// What the caller knows of the request.
	ID         core.RequestID
	Policy     *retry.Policy // the one this request runs under
	Global     *retry.Policy // the one breakers count by
	Method     string        // for the log
	Host       string        // target host without port, lower case; for scorers and the log
	Target     evidence.Target
	Region     string // wanted region, "" for none
	Strict     bool   // no other region than Region is used
	Idempotent bool   // may be repeated without opting in
	Connect    bool
	Listener   core.Listener
	Replayable bool      // the request body, if any, can be sent again
	Progress   Progress  // told of each step; may be nil
	Watch      func()    // called before the first wait: start watching the client; may be nil
	Collect    bool      // keep every attempt in Events
	Started    time.Time // when the request came; zero for when Do begins
	Ready      time.Time // when its body had been read as far as it is kept for replay: its timeouts count from here; zero for Started

	// What became of it.
	Deadline time.Time          // zero without a total timeout
	Attempts int                // tries made, replays not counted
	Proxy    *upstream.Upstream // of the last attempt; nil before one was chosen
	Final    core.Final
	Refusal  Refusal // why there is no answer to relay
	Waited   time.Duration
	Events   []core.AttemptEvent // only with Collect

	query    selector.Query
	attempt  Attempt
	event    core.AttemptEvent // of the attempt running, or of the answer being relayed
	request  core.RequestEvent
	held     upstream.Lease
	found    evidence.Finding // of the last attempt, if it failed
	deferred []deferred       // attempts charged once another proxy serves the request
	cut      bool             // the attempt's deadline is by what its proxy usually takes
	asUsual  bool             // the target is suspect, and this request is tried as usual nevertheless
	suspect  bool             // the request was not tried again, as its target is suspect
	pending  bool             // event is a success whose body is still to come
	delay    time.Duration    // waited before the current attempt
	because  string           // why the current attempt is a retry
	limit    bool             // attempts were spent
	budget   bool             // the retry budget was spent
	timer    *time.Timer
}

// deferred is a failed attempt that is charged to its proxy if another one serves the
// same request: a refused tunnel, which may be the proxy's rule for that target or a
// proxy that is none.
type deferred struct {
	held    upstream.Lease // its place in flight is free already
	outcome core.Outcome
}

// chargeDeferred charges them, now that another proxy has served the request.
func (x *Exchange) chargeDeferred() {
	for i := range x.deferred {
		d := &x.deferred[i]
		if d.held.Proxy != x.Proxy {
			d.outcome.Verdict, d.outcome.Charge = core.Failure, core.ChargeProxyOrTarget
			d.held.Elsewhere = true
			d.held.Settle(&d.outcome)
		}
	}
	x.releaseDeferred()
}

// releaseDeferred lets go of them; those not charged say nothing of their proxy.
func (x *Exchange) releaseDeferred() {
	for i := range x.deferred {
		x.deferred[i].held.Release()
	}
	clear(x.deferred)
	x.deferred = x.deferred[:0]
}

// Progress receives the steps of one request, for the tracker.
type Progress interface {
	Attempt(number int, proxyID string)
	Waiting(until time.Time, retry int)
	Finished(o *core.AttemptEvent)
}

// Reset readies x for the next request; buffers and the timer are kept.
func (x *Exchange) Reset() {
	query, events, timer, deferred := x.query, x.Events[:0], x.timer, x.deferred[:0]
	query.Reset()
	*x = Exchange{query: query, Events: events, timer: timer, deferred: deferred}
}

// OwnTimeout reports whether the total timeout is tighter than the global
// policy's, so that running into it says nothing about a proxy.
func (x *Exchange) OwnTimeout() bool {
	own, global := x.Policy.Timeout, x.Global.Timeout
	return own != nil && (global == nil || *own < *global)
}
