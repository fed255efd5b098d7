package engine

import (
	"context"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// Error is the error that the RoundTripper returns if a request has no response.
type Error struct {
	Final   core.Final
	Failure proxyhttp.ErrorResponse
}

func (e *Error) Error() string { return e.Final.String() + ": " + e.Failure.Message }

// Unwrap returns the error of the last attempt.
func (e *Error) Unwrap() error { return e.Failure.Err }

// Transport returns an http.RoundTripper that sends each request through the pool, with retries and breakers, until
// Shutdown. If no retry may follow a response that counts as a failure, the RoundTripper returns that response. If
// there is no response, the error is an *Error, a *RequestError, or the cause of the cancellation of the request's
// context.
//
// Up to gateway.replay_limit bytes of the request's body are read before the first attempt. A longer body is
// streamed, and its request is not repeated after a part of the body has been sent. The request fields
// X-Whirlpool-Retry, X-Whirlpool-Region, X-Whirlpool-Priority and X-Whirlpool-Session work as at the gateway's port,
// and the response has the X-Whirlpool-* fields that it would have there. Unlike http.Transport, the RoundTripper
// adds no header fields (no User-Agent, no Accept-Encoding), and does not decode bodies. The trailers of a streamed
// body are not sent.
//
// As with net/http, the caller must close the response's body. The proxy connection is in use until the body
// is closed, or has been read to its end.
func (e *Engine) Transport() http.RoundTripper { return roundTripper{e} }

type roundTripper struct{ engine *Engine }

func (rt roundTripper) RoundTrip(q *http.Request) (*http.Response, error) {
	call, err := rt.call(q)
	if err != nil {
		if q.Body != nil {
			q.Body.Close()
		}
		return nil, err
	}
	r, err := rt.engine.Do(q.Context(), call)
	if ended := context.Cause(q.Context()); ended != nil && (err != nil || r.Response == nil) {
		return nil, ended
	}
	if err != nil {
		return nil, err
	}
	if r.Response == nil {
		return nil, &Error{r.Final, *r.Failure}
	}
	return r.Response, nil
}

// CloseIdleConnections closes the idle connections to the proxies. http.Client calls it.
func (rt roundTripper) CloseIdleConnections() { rt.engine.transport.CloseAllIdle() }

func (rt roundTripper) call(q *http.Request) (call Call, err error) {
	call.Request = q
	call.Region, call.RegionStrict, err = proxyhttp.ParseRegion(q.Header.Get("X-Whirlpool-Region"))
	if err != nil {
		return call, &RequestError{err.Error()}
	}
	if call.Session, err = session.ParseField(q.Header.Get(session.Field)); err != nil {
		return call, &RequestError{err.Error()}
	}
	if h := q.Header.Get("X-Whirlpool-Priority"); h != "" {
		if call.Priority, err = core.ParsePriority(h); err != nil {
			return call, &RequestError{"X-Whirlpool-Priority: " + err.Error()}
		}
	}
	if h := q.Header.Get("X-Whirlpool-Retry"); h != "" {
		o, err := retry.ParseHeader(h)
		if err != nil {
			return call, err
		}
		if _, err := rt.engine.Merge(o); err != nil {
			return call, err
		}
		call.Override = &o
	}
	return call, context.Cause(q.Context())
}
