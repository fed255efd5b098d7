package engine

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// prepare validates a call. It sets the request for package executor (r.request) and the request for package
// transport (r.forward.Request).
func (r *roundTrip) prepare(call Call, cfg *Config) error {
	q := call.Request
	switch {
	case call.RegionStrict && call.Region == "":
		return &RequestError{"RegionStrict is set without a Region"}
	case call.Session.ID != "" && call.Session.Check() != nil:
		return &RequestError{"Session: " + call.Session.Check().Error()}
	case call.Priority > core.PriorityLow:
		return &RequestError{"Priority must be PriorityHigh, PriorityNormal or PriorityLow"}
	case q.Method == http.MethodConnect:
		return &RequestError{"CONNECT is for the gateway's port"}
	case q.Method != "" && !httpguts.ValidHeaderFieldName(q.Method):
		return &RequestError{"the method is not a token (RFC 9110 section 9.1)"}
	}
	target, err := targetOf(q)
	if err != nil {
		return err
	}
	var authority proxyhttp.Authority
	if err := authority.Set(target.Host, target.Port()); err != nil {
		return &RequestError{"the URL: " + err.Error()}
	}
	in := &r.request
	*in = executor.Request{
		ID: r.engine.NewID(), GlobalPolicy: r.engine.policies.Current(), Method: q.Method,
		Host: authority.Host, Target: authority.Target, Region: call.Region, RegionStrict: call.RegionStrict,
		Priority: call.Priority,
		Listener: core.ListenAPI, TLS: target.TLS, Replayable: true, KeepEvents: true,
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	in.Path = target.Path
	r.engine.executor.Route(in)
	if call.Session.ID != "" && !in.Route.IsDirect() {
		key := session.KeyOf(apiUser, call.Session.ID, in.Route.SessionScope(call.Region))
		r.session = r.engine.sessions.Begin(key, call.Session, r.engine.opts.Now())
		in.Session = &r.session
	}
	if in.Policy, err = r.policy(&call); err != nil {
		return err
	}
	in.Idempotent, in.Safe = retry.IsIdempotent(in.Method), retry.IsSafe(in.Method)
	r.forward.Request = transport.Request{
		Method: []byte(in.Method), Target: target.Absolute, Path: target.Path,
		Authority: authority.HostPort, TLS: target.TLS, Idempotent: in.Idempotent,
	}
	r.forward.Control.BodyIdle = cfg.BodyIdle
	if err := r.fields(q); err != nil {
		return err
	}
	r.beginTrace()
	return r.body(q, cfg.Gateway.ReplayLimit)
}

// policy returns the retry policy of the call.
func (r *roundTrip) policy(call *Call) (*retry.Policy, error) {
	if call.Policy != nil {
		return call.Policy, nil
	}
	base := r.request.Route.Policy(r.request.GlobalPolicy)
	if call.Override == nil {
		return base, nil
	}
	p, err := base.Overridden(*call.Override, retry.OverrideAny, r.engine.HasBackoff)
	if err != nil {
		return nil, &RequestError{err.Error()}
	}
	return &p, nil
}

// apiUser takes the place of the user's name in the key of a session (session.KeyOf) of a Call, which has no user. No
// user has this name.
const apiUser = "\x00api"

// targetOf returns the target of a request's URL.
func targetOf(q *http.Request) (t proxyhttp.Target, err error) {
	u := q.URL
	switch {
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return t, &RequestError{"the URL must be an absolute http:// or https:// URL"}
	case u.User != nil && q.Header.Get("Authorization") == "": // http.Client sends user information as Authorization
		return t, &RequestError{"the URL has user information; send it as Authorization"}
	}
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil {
		return t, &RequestError{"the URL's host is not a name: " + err.Error()}
	}
	path := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}).RequestURI()
	path = strings.ReplaceAll(path, " ", "%20") // net/url does not escape spaces in a query
	if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return t, &RequestError{"the URL's query has a control character"}
	}
	return proxyhttp.Target{
		TLS: u.Scheme == "https", Absolute: []byte(u.Scheme + "://" + host + path), Path: []byte(path),
		Host: []byte(host),
	}, nil
}

// fields sets the header fields that are sent to the target.
func (r *roundTrip) fields(q *http.Request) error {
	host := q.Host
	if host == "" {
		host = q.URL.Host
	}
	host, err := httpguts.PunycodeHostPort(host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return &RequestError{"the Host is not a valid host name or address"}
	}
	for name := range q.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return &RequestError{fmt.Sprintf("%q is not a header's name", name)}
		}
	}
	all := slices.DeleteFunc(proxyhttp.FieldsOf(q.Header), func(f http1.Field) bool {
		return f.Kind == http1.Host || f.Kind == http1.Expect // net/http stores the Host field in Request.Host
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

// definesBody reports whether the method defines a meaning for a body. If so, a request without a body has a
// Content-Length of 0 (RFC 9110 section 8.6).
func definesBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// body keeps the request's body for repeats if it has at most limit bytes. A longer body is streamed.
func (r *roundTrip) body(q *http.Request, limit int64) error {
	if q.Body == nil || q.Body == http.NoBody {
		if !definesBody(r.request.Method) {
			r.forward.Request.Length = -1 // no Content-Length
		}
		return nil
	}
	out := &r.forward.Request
	prefix, err := io.ReadAll(io.LimitReader(q.Body, limit+1))
	if err != nil {
		return &RequestError{"the body cannot be read: " + err.Error()}
	}
	out.Prefix = [][]byte{prefix}
	read := int64(len(prefix))
	if length := q.ContentLength; length > 0 && (read > length || read < length && read <= limit) {
		return &RequestError{errLength.Error()}
	}
	if read <= limit {
		r.closeBody()
		out.Framing, out.Length = http1.Length, read
		if out.Trailers = http1.AppendTrailers(nil, q.Trailer); out.Trailers != nil {
			out.Framing = http1.Chunked
		}
		return nil
	}
	r.request.Replayable = false
	out.Framing = http1.Chunked
	rest := io.Reader(q.Body)
	if q.ContentLength > 0 {
		out.Framing, out.Length = http1.Length, q.ContentLength
		rest = &exactReader{rest, q.ContentLength - read}
	}
	r.bodyRemainder.Start(http1.NewReader(rest), http1.UntilClose, 0)
	out.Remainder, out.BeforeRead, out.StopRead = &r.bodyRemainder, func() {}, r.closeBody
	return nil
}

var errLength = errors.New("the body does not have the length of its Content-Length")

// exactReader reads n bytes from r. Read returns an error if r has fewer or more bytes.
type exactReader struct {
	r io.Reader
	n int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if e.n -= int64(n); e.n < 0 || e.n > 0 && err == io.EOF {
		return 0, errLength
	}
	return n, err
}
