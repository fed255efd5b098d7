package gateway

import (
	"slices"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/trace"
)

// Tracer decides which requests are traced.
type Tracer interface {
	// Ratio returns the share (0 to 1) of requests that are traced if their clients have sent no trace. The second
	// result is false if no request at all is traced, not even one whose client has sent a trace.
	Ratio() (ratio float64, on bool)
}

// newTrace returns the trace context of a request with the given header fields. If no requests are traced, it returns
// the zero value.
func (s *Server) newTrace(fields []http1.Field, id core.RequestID) trace.Context {
	if s.Tracer == nil {
		return trace.Context{}
	}
	ratio, on := s.Tracer.Ratio()
	if !on {
		return trace.Context{}
	}
	return trace.ContextOf(traceField(fields), id, ratio)
}

// traceField returns the value of the field traceparent. It returns nil if there is no such field, or more than one.
func traceField(fields []http1.Field) (value []byte) {
	for i := range fields {
		if http1.EqualFold(fields[i].Name, trace.Field) {
			if value != nil {
				return nil
			}
			value = fields[i].Value
		}
	}
	return value
}

var traceName = []byte(trace.Field)

// passTrace makes the request's span the parent of the target's spans: it replaces the field traceparent. It does not
// change the field if the request has no trace context.
func (r *request) passTrace() {
	if r.log.trace == (trace.Context{}) {
		return
	}
	r.fields = slices.DeleteFunc(r.fields, func(f http1.Field) bool { return http1.EqualFold(f.Name, trace.Field) })
	r.fields = append(r.fields, http1.Field{Name: traceName, Value: r.log.trace.Header(trace.RequestSpan(r.input.ID))})
}
