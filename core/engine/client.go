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

// exchange is one Call under way.
type exchange struct {
	engine *Engine
	ctx    context.Context
	x      executor.Exchange
	call   proxyhttp.Forward
	rest   http1.Body
	entry  *metrics.Entry
	ends   []func()

	closeBody func()
	idle      time.Duration
	finished  bool
	result    *Result
}

// Do makes a request through the pool and closes its body. The error is a
// *RequestError; what goes wrong on the way is in the Result.
func (e *Engine) Do(ctx context.Context, call Call) (*Result, error) {
	cfg := e.Config()
	k := &exchange{engine: e, idle: cfg.BodyIdle, closeBody: func() {}}
	k.call.Transport, k.call.Now = e.transport, e.opts.Now
	if body := call.Request.Body; body != nil {
		k.closeBody = sync.OnceFunc(func() { body.Close() })
	}
	if !e.enter() {
		k.closeBody()
		stopped := proxyhttp.StoppedResponse(executor.ErrShutdown)
		return &Result{Final: core.FinalCancelled, Failure: &stopped}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	k.ctx = ctx
	outlived := context.AfterFunc(e.life, func() { cancel(executor.ErrShutdown) })
	k.atEnd(e.calls.Done, k.closeBody, func() { cancel(nil) }, func() { outlived() })
	tried := false
	defer func() {
		if !tried { // it cannot be made, or something panicked
			k.release()
		}
	}()
	unread := context.AfterFunc(ctx, k.closeBody) // ends a wait for the body
	err := k.prepare(call, cfg)
	unread()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, k.call.Control.Interrupt.Fire)
	k.entry = e.tracker.Track()
	k.entry.Begin(k.x.ID, k.x.Method, k.x.Host, e.opts.Now())
	k.x.Progress = k.entry
	k.atEnd(k.entry.Release, func() { e.executor.Abandon(&k.x) }, func() { stop() })
	k.result = &Result{ID: k.x.ID}
	response, ok := executor.Do(ctx, e.executor, &k.x, &k.call)
	tried = true
	k.result.Final = k.x.Final
	if !ok {
		failure := proxyhttp.RefusalResponse(&k.x.Refusal)
		k.finish(executor.Ending{Status: failure.Status})
		if err := k.rest.Err(); k.call.Request.Rest != nil && err != nil && err != io.EOF {
			failure.Message, failure.Err = "the request's body ended early: "+err.Error(), err
		}
		k.result.Failure = &failure
		return k.result, nil
	}
	k.entry.Streaming()
	k.result.Response = k.answer(call.Request, response)
	return k.result, nil
}

// atEnd adds to what release does, in reverse order.
func (k *exchange) atEnd(f ...func()) { k.ends = append(k.ends, f...) }

func (k *exchange) release() {
	for _, f := range slices.Backward(k.ends) {
		f()
	}
	k.ends = nil
}

// prepare turns a request into what the transport sends.
func (k *exchange) prepare(call Call, cfg *Config) error {
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
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &RequestError{"the URL's query has a control character"}
	}
	target := proxyhttp.Target{
		TLS: u.Scheme == "https", Absolute: []byte(u.Scheme + "://" + host + path), Path: []byte(path), Host: []byte(host),
	}
	var authority proxyhttp.Authority
	if err := authority.Set(target.Host, target.Port()); err != nil {
		return &RequestError{"the URL: " + err.Error()}
	}
	k.x.ID = k.engine.NewID()
	k.x.Global = k.engine.policies.Current()
	k.x.Policy = call.Policy
	if k.x.Policy == nil {
		k.x.Policy = k.x.Global
	}
	k.x.Method = q.Method
	if k.x.Method == "" {
		k.x.Method = http.MethodGet
	}
	k.x.Host, k.x.Target = authority.Host, authority.Target
	k.x.Listener = core.ListenAPI
	k.x.Strict = call.RegionStrict
	k.x.Region, k.x.Idempotent, k.x.Replayable, k.x.Collect = call.Region, retry.Idempotent(k.x.Method), true, true
	k.call.Request = transport.Request{
		Method: []byte(k.x.Method), Target: target.Absolute, Path: target.Path,
		Authority: authority.HostPort, TLS: target.TLS, Idempotent: k.x.Idempotent,
	}
	k.call.Control.BodyIdle = cfg.BodyIdle
	if err := k.fields(q); err != nil {
		return err
	}
	return k.body(q, cfg.Gateway.ReplayLimit)
}

func (k *exchange) fields(q *http.Request) error {
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
	k.call.Request.Fields = fields
	return nil
}

// expectsBody reports whether a request of that method says that it has no body.
func expectsBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// body reads the request's body as far as it is kept for replay; a longer one
// streams from there on.
func (k *exchange) body(q *http.Request, limit int64) error {
	if q.Body == nil || q.Body == http.NoBody {
		if !expectsBody(k.x.Method) {
			k.call.Request.Length = -1 // nothing is said of a length (RFC 9110 section 8.6)
		}
		return nil
	}
	prefix, err := io.ReadAll(io.LimitReader(q.Body, limit+1))
	if err != nil {
		return &RequestError{"the body cannot be read: " + err.Error()}
	}
	k.call.Request.Prefix = prefix
	read := int64(len(prefix))
	if said := q.ContentLength; said > 0 && (read > said || read < said && read <= limit) {
		return &RequestError{errLength.Error()}
	}
	if read <= limit {
		k.closeBody()
		k.call.Request.Framing, k.call.Request.Length = http1.Length, read
		return nil
	}
	k.x.Replayable = false
	k.call.Request.Framing = http1.Chunked
	rest := io.Reader(q.Body)
	if q.ContentLength > 0 {
		k.call.Request.Framing, k.call.Request.Length = http1.Length, q.ContentLength
		rest = &exactly{rest, q.ContentLength - read}
	}
	k.rest.Start(http1.NewReader(rest), http1.UntilClose, 0)
	k.call.Request.Rest, k.call.Request.BeforeRead, k.call.Request.StopRead = &k.rest, func() {}, k.closeBody
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

func (k *exchange) finish(end executor.Ending) {
	if k.finished {
		return
	}
	k.finished = true
	end.At = k.engine.opts.Now()
	k.engine.executor.Finish(&k.x, end)
	k.entry.End(k.x.Final, end.Status, end.At)
	k.result.Final, k.result.Attempts = k.x.Final, k.x.Events
	k.release()
}
