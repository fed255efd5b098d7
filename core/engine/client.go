package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// Call is a request that the engine makes itself, for a Go program or the
// REST API.
type Call struct {
	Request *http.Request
	Policy  *retry.Policy // valid; nil for the global one
	Region  string        // wanted, "" for none
	// RegionStrict is for Region alone: without an admissible proxy of it there is
	// no answer (core.FinalNoProxyInRegion).
	RegionStrict bool
}

// Result is what became of a Call.
type Result struct {
	ID       core.RequestID
	Final    core.Final
	Response *http.Response           // nil if no answer came; else its body is to be closed
	Failure  *proxyhttp.ErrorResponse // why none came
	Attempts []core.AttemptEvent      // those finished so far; the one being relayed joins them when its body ends
}

// RequestError is a request that cannot be made at all.
type RequestError struct{ Msg string }

func (e *RequestError) Error() string { return e.Msg }

// Override merges the value of an X-Whirlpool-Retry header over the global
// policy. The error is a *retry.FieldError.
func (e *Engine) Override(header string) (*retry.Policy, error) {
	o, err := retry.ParseHeader(header)
	if err != nil {
		return nil, err
	}
	return e.Merge(o)
}

// Merge is the global policy with an override's changes.
func (e *Engine) Merge(o retry.Override) (*retry.Policy, error) {
	p := e.policies.Current().Merge(o)
	if err := p.Validate(e.HasBackoff); err != nil {
		return nil, err
	}
	return &p, nil
}

// roundTrip is one Call under way.
type roundTrip struct {
	engine   *Engine
	ctx      context.Context
	request  executor.Request
	exchange executor.Exchange
	relay    *executor.Relay // of the response, once there is one
	forward  proxyhttp.Forward
	rest     http1.Body
	entry    *metrics.Entry
	atEnd    []func() // called by release, the last one first

	closeBody func()
	idle      time.Duration
	result    *Result
}

// Do makes a request through the pool and closes its body. The error is a
// *RequestError; other failures are in the Result.
func (e *Engine) Do(ctx context.Context, call Call) (*Result, error) {
	cfg := e.Config()
	r := &roundTrip{engine: e, idle: cfg.BodyIdle, closeBody: func() {}}
	r.forward.Transport, r.forward.Now = e.transport, e.opts.Now
	if body := call.Request.Body; body != nil {
		r.closeBody = sync.OnceFunc(func() { body.Close() })
	}
	if !e.enter() {
		r.closeBody()
		stopped := proxyhttp.StoppedResponse(executor.ErrShutdown)
		return &Result{Final: core.FinalCancelled, Failure: &stopped}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r.ctx = ctx
	unlink := context.AfterFunc(e.life, func() { cancel(executor.ErrShutdown) })
	r.deferEnd(e.calls.Done, r.closeBody, func() { cancel(nil) }, func() { unlink() })
	ended := false
	defer func() {
		if !ended { // the request is invalid, or something panicked
			r.release()
		}
	}()
	unread := context.AfterFunc(ctx, r.closeBody) // ends a wait for the body
	err := r.prepare(call, cfg)
	unread()
	if err != nil {
		return nil, err
	}
	r.result = &Result{ID: r.request.ID}
	stop := context.AfterFunc(ctx, r.forward.Control.Interrupt.Fire)
	r.entry = e.tracker.Track()
	r.entry.Begin(r.request.ID, r.request.Method, r.request.Host, e.opts.Now())
	r.request.Progress = r.entry
	r.deferEnd(r.entry.Release, r.exchange.Abandon, func() { stop() })
	ending := executor.Run(ctx, e.executor, &r.exchange, &r.request, &r.forward)
	ended = true
	if refusal := ending.Refusal; refusal != nil {
		failure := proxyhttp.RefusalResponse(refusal)
		refusal.Close(failure.Status, e.opts.Now())
		if err := r.rest.Err(); r.forward.Request.Rest != nil && err != nil && err != io.EOF {
			failure.Message, failure.Err = "the request's body ended early: "+err.Error(), err
		}
		r.result.Failure = &failure
		r.finish()
		return r.result, nil
	}
	r.relay, r.result.Final = ending.Relay, r.exchange.Result().Final
	r.result.Response = r.response(call.Request, ending.Response)
	return r.result, nil
}

// finish puts the result of the exchange, which is closed, into the Result.
func (r *roundTrip) finish() {
	ended := r.exchange.Result()
	r.result.Final, r.result.Attempts = ended.Final, ended.Events
	r.release()
}

// deferEnd adds to what release calls.
func (r *roundTrip) deferEnd(f ...func()) { r.atEnd = append(r.atEnd, f...) }

func (r *roundTrip) release() {
	for _, f := range slices.Backward(r.atEnd) {
		f()
	}
	r.atEnd = nil
}

// prepare turns a request into what the transport sends.
func (r *roundTrip) prepare(call Call, cfg *Config) error {
	q := call.Request
	u := q.URL
	switch {
	case call.RegionStrict && call.Region == "":
		return &RequestError{"RegionStrict is set without a Region"}
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return &RequestError{"the URL must be an absolute http:// or https:// one"}
	case u.User != nil && q.Header.Get("Authorization") == "": // which http.Client makes of it
		return &RequestError{"the URL has user information; send it as Authorization"}
	case q.Method == http.MethodConnect:
		return &RequestError{"CONNECT is for the gateway's port"}
	case q.Method != "" && !httpguts.ValidHeaderFieldName(q.Method):
		return &RequestError{"the method is not a token (RFC 9110 section 9.1)"}
	}
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil {
		return &RequestError{"the URL's host is not a name: " + err.Error()}
	}
	path := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}).RequestURI()
	path = strings.ReplaceAll(path, " ", "%20") // a query may come with spaces
	if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return &RequestError{"the URL's query has a control character"}
	}
	target := proxyhttp.Target{
		TLS: u.Scheme == "https", Absolute: []byte(u.Scheme + "://" + host + path), Path: []byte(path), Host: []byte(host),
	}
	var authority proxyhttp.Authority
	if err := authority.Set(target.Host, target.Port()); err != nil {
		return &RequestError{"the URL: " + err.Error()}
	}
	r.request.ID = r.engine.NewID()
	r.request.Global = r.engine.policies.Current()
	r.request.Policy = call.Policy
	if r.request.Policy == nil {
		r.request.Policy = r.request.Global
	}
	r.request.Method = q.Method
	if r.request.Method == "" {
		r.request.Method = http.MethodGet
	}
	r.request.Host, r.request.Target = authority.Host, authority.Target
	r.request.Listener = core.ListenAPI
	r.request.RegionStrict = call.RegionStrict
	r.request.Region, r.request.Idempotent, r.request.Replayable, r.request.KeepEvents = call.Region, retry.Idempotent(r.request.Method), true, true
	r.forward.Request = transport.Request{
		Method: []byte(r.request.Method), Target: target.Absolute, Path: target.Path,
		Authority: authority.HostPort, TLS: target.TLS, Idempotent: r.request.Idempotent,
	}
	r.forward.Control.BodyIdle = cfg.BodyIdle
	if err := r.fields(q); err != nil {
		return err
	}
	return r.body(q, cfg.Gateway.ReplayLimit)
}

func (r *roundTrip) fields(q *http.Request) error {
	host := q.Host
	if host == "" {
		host = q.URL.Host
	}
	host, err := httpguts.PunycodeHostPort(host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return &RequestError{"the Host is not one"}
	}
	for name := range q.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return &RequestError{fmt.Sprintf("%q is not a header's name", name)}
		}
	}
	all := slices.DeleteFunc(proxyhttp.FieldsOf(q.Header), func(f http1.Field) bool {
		return f.Kind == http1.Host || f.Kind == http1.Expect // which net/http takes from elsewhere
	})
	fields := proxyhttp.AppendRequestFields(nil, all, []byte(host))
	for i := range fields {
		if f := &fields[i]; !httpguts.ValidHeaderFieldValue(string(f.Value)) {
			return &RequestError{fmt.Sprintf("the value of the header %s has a control character", f.Name)}
		}
	}
	r.forward.Request.Fields = fields
	return nil
}

// expectsBody reports whether a request of that method says that it has no body.
func expectsBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// body reads the request's body as far as it is kept for replay; a longer one
// streams from there on.
func (r *roundTrip) body(q *http.Request, limit int64) error {
	if q.Body == nil || q.Body == http.NoBody {
		if !expectsBody(r.request.Method) {
			r.forward.Request.Length = -1 // nothing is said of a length (RFC 9110 section 8.6)
		}
		return nil
	}
	prefix, err := io.ReadAll(io.LimitReader(q.Body, limit+1))
	if err != nil {
		return &RequestError{"the body cannot be read: " + err.Error()}
	}
	r.forward.Request.Prefix = prefix
	read := int64(len(prefix))
	if said := q.ContentLength; said > 0 && (read > said || read < said && read <= limit) {
		return &RequestError{errLength.Error()}
	}
	if read <= limit {
		r.closeBody()
		r.forward.Request.Framing, r.forward.Request.Length = http1.Length, read
		return nil
	}
	r.request.Replayable = false
	r.forward.Request.Framing = http1.Chunked
	rest := io.Reader(q.Body)
	if q.ContentLength > 0 {
		r.forward.Request.Framing, r.forward.Request.Length = http1.Length, q.ContentLength
		rest = &exactly{rest, q.ContentLength - read}
	}
	r.rest.Start(http1.NewReader(rest), http1.UntilClose, 0)
	r.forward.Request.Rest, r.forward.Request.BeforeRead, r.forward.Request.StopRead = &r.rest, func() {}, r.closeBody
	return nil
}

var errLength = errors.New("the body is not as long as its Content-Length says")

// exactly fails unless r has n more bytes: what is sent has to be as long as it
// was said to be.
type exactly struct {
	r io.Reader
	n int64
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.n -= int64(n); e.n < 0 || e.n > 0 && err == io.EOF {
		return 0, errLength
	}
	return n, err
}
