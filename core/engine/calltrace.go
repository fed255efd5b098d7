package engine

import (
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
)

// beginTrace begins the trace of a call if the Tracer is on. As at the gateway's port, a traceparent field decides
// whether the trace is exported. The target gets a new traceparent field, with the span of the request as the parent.
func (r *roundTrip) beginTrace() {
	opts := &r.engine.opts
	if opts.Tracer == nil || opts.OnTracedCall == nil {
		return
	}
	ratio, on := opts.Tracer.Ratio()
	if !on {
		return
	}
	var parent []byte
	q := &r.forward.Request
	q.Fields = slices.DeleteFunc(q.Fields, func(f http1.Field) bool {
		if !http1.EqualFold(f.Name, trace.Field) {
			return false
		}
		parent = f.Value
		return true
	})
	r.traceRecord = &accesslog.Record{
		ID: r.request.ID, Listener: r.request.Listener, Method: r.request.Method, Target: q.Authority, Executed: true,
		Started: opts.Now(), Rules: r.request.Route.Labels(), Trace: trace.ContextOf(parent, r.request.ID, ratio),
	}
	q.Fields = append(q.Fields, http1.Field{Name: []byte(trace.Field),
		Value: r.traceRecord.Trace.Header(trace.RequestSpan(r.request.ID))})
}

// endTrace reports a traced call to Options.OnTracedCall. The caller has completed r.result.
func (r *roundTrip) endTrace() {
	if r.traceRecord == nil {
		return
	}
	t, result := r.traceRecord, r.result
	t.Final, t.Attempts, t.Ended = result.Final, result.Attempts, r.engine.opts.Now()
	switch {
	case result.Response != nil:
		t.Status = result.Response.StatusCode
	case result.Failure != nil:
		t.Status = result.Failure.Status
	}
	r.engine.opts.OnTracedCall(t)
}
