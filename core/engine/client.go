package engine

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// Call is a request that a Go program or POST /request sends through the pool.
type Call struct {
	Request *http.Request
	Policy  *retry.Policy // must be valid; nil for the policy of a routing rule or, without one, the global policy
	// Override changes the policy of the call; nil for no changes. It has no effect if Policy is set.
	Override *retry.Override
	Region   string // the wanted region; "" for none
	// RegionStrict forbids proxies of other regions. If no proxy of the region is admissible, the
	// request is refused (core.FinalNoProxyInRegion).
	RegionStrict bool
	// Session is the session of the request; its ID is "" for none. A call and a client of the gateway never share a
	// session, even if they use the same ID.
	Session  session.Request
	Priority core.Priority // priority in a queue; AnyPriority stands for PriorityNormal
	// OnBegin is called with the id of the request before the first attempt, if the call is valid; nil for no call.
	OnBegin func(core.RequestID)
}

// Result is the result of a Call.
type Result struct {
	ID       core.RequestID
	Final    core.Final
	Response *http.Response           // nil if there is no response; otherwise the caller must close its body
	Failure  *proxyhttp.ErrorResponse // the reason why there is no Response; nil if there is a Response
	Attempts []core.AttemptEvent      // finished attempts; the attempt of Response is added when its body ends
}

// RequestError is the error of an invalid request.
type RequestError struct{ Msg string }

func (e *RequestError) Error() string { return e.Msg }

// Merge returns the global policy with the changes of an override.
func (e *Engine) Merge(o retry.Override) (*retry.Policy, error) {
	p, err := e.policies.Current().Overridden(o, retry.OverrideAny, e.HasBackoff)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// roundTrip is the state of a Call in progress.
type roundTrip struct {
	engine        *Engine
	ctx           context.Context
	request       executor.Request
	session       session.Handle // request.Session points to it
	exchange      executor.Exchange
	relay         *executor.Relay // relays the response; nil while there is none
	forward       proxyhttp.RequestSender
	bodyRemainder http1.Body
	entry         *metrics.Entry
	deferred      []func() // functions that the method release will call, in reverse order

	closeBody   func()
	bodyIdle    time.Duration
	result      *Result
	traceRecord *accesslog.Record // nil if the call is not traced
}

// Do sends a request through the pool. It blocks until the head of the response has arrived or the request has
// failed. It closes the request's body. If the request is invalid, the error is a *RequestError. All other failures
// are in the Result.
func (e *Engine) Do(ctx context.Context, call Call) (*Result, error) {
	cfg := e.Config()
	r := &roundTrip{engine: e, bodyIdle: cfg.BodyIdle, closeBody: func() {}}
	r.forward.Transport, r.forward.Now = e.transport, e.opts.Now
	if body := call.Request.Body; body != nil {
		r.closeBody = sync.OnceFunc(func() { body.Close() })
	}
	if !e.beginCall() {
		r.closeBody()
		stopped := proxyhttp.StoppedResponse(executor.ErrShutdown)
		return &Result{Final: core.FinalCancelled, Failure: &stopped}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r.ctx = ctx
	unlink := context.AfterFunc(e.background, func() { cancel(executor.ErrShutdown) })
	r.deferRelease(e.calls.Done, r.closeBody, func() { cancel(nil) }, func() { unlink() })
	hasEnding := false
	defer func() {
		if !hasEnding { // if the request is invalid, or after a panic
			r.release()
		}
	}()
	unread := context.AfterFunc(ctx, r.closeBody) // ends a wait for the request's body
	err := r.prepare(call, cfg)
	unread()
	if err != nil {
		return nil, err
	}
	r.result = &Result{ID: r.request.ID}
	stop := context.AfterFunc(ctx, r.forward.Control.Interrupt.Cancel)
	r.entry = e.tracker.Track()
	r.entry.Begin(r.request.ID, r.request.Method, r.request.Host, e.opts.Now())
	r.deferRelease(r.entry.Release, r.exchange.Abandon, func() { stop() })
	if call.OnBegin != nil {
		call.OnBegin(r.request.ID)
	}
	r.request.Progress = r.entry
	ending := executor.Run(ctx, e.executor, &r.exchange, &r.request, &r.forward)
	hasEnding = true
	if refusal := ending.Refusal; refusal != nil {
		failure := proxyhttp.RefusalResponse(refusal)
		refusal.Close(failure.Status, e.opts.Now())
		if err := r.bodyRemainder.Err(); r.forward.Request.Remainder != nil && err != nil && err != io.EOF {
			failure.Message, failure.Err = "the request's body ended early: "+err.Error(), err
		}
		r.result.Failure = &failure
		r.finishResult()
		return r.result, nil
	}
	r.relay, r.result.Final = ending.Relay, r.exchange.Result().Final
	r.relay.ReportStreaming()
	r.result.Response = r.response(call.Request, ending.Response)
	return r.result, nil
}

// finishResult copies the result of the closed exchange into the Result.
func (r *roundTrip) finishResult() {
	ended := r.exchange.Result()
	r.result.Final, r.result.Attempts = ended.Final, ended.Events
	r.endTrace()
	r.release()
}

func (r *roundTrip) deferRelease(f ...func()) { r.deferred = append(r.deferred, f...) }

func (r *roundTrip) release() {
	for _, f := range slices.Backward(r.deferred) {
		f()
	}
	r.deferred = nil
}
