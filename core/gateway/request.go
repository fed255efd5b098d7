package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// request is one HTTP request of a client, from the end of its head to the last byte of its response. A connection uses
// the same value for all its requests, one after another.
type request struct {
	server       *Server
	conn         *connection
	outerConnect *outerConnect // the CONNECT whose connection is intercepted; nil for a request outside of interception
	cache        cache

	settings      *settings // in force when the request began
	head          http1.Request
	target        proxyhttp.Target // the target of a request in absolute form; zero for a CONNECT
	body          http1.Body
	countedUser   *access.Account // the user to whom grantRequest has granted the request; nil for none
	sentContinue  bool            // 100 Continue has been sent
	exchangeEnd   time.Time       // when the exchange was closed; zero if the request had no exchange
	bodyWaitStart time.Time       // when the last wait for the response's body began

	// connectReplied is set if the client got the response to its CONNECT early, because the tunnel may be intercepted.
	connectReplied bool

	sessionRequest session.Request // the session that the request asks for
	sessionUse     session.Handle  // the use of the session; valid if input.Session is set

	input    executor.Request
	exchange executor.Exchange
	outcome  proxyhttp.Outcome       // the request's outcome so far
	forward  proxyhttp.RequestSender // for a request in absolute form
	connect  proxyhttp.TunnelSender  // for a CONNECT

	responseBuf  pooledBuffer       // the response that is being written
	keptBody     keptBody           // the body, kept for repeats
	reserved     budget.Reservation // the part of the server's replay memory that the kept body uses
	fields       []http1.Field      // the fields that are sent to the proxy
	bodyRate     socket.ReadRate    // limits how slowly the request's body may arrive
	headCopy     []byte             // copy of the head; see copyHead
	loopTokens   []byte             // the loop tokens that other gateways have added to the request
	log          logEntry           // the log entry of the request in flight
	trackerEntry TrackerEntry       // of the connection
	progress     executor.Progress  // trackerEntry in this type, because a conversion at each request would take longer
	record       *accesslog.Record  // the record of the last request that was logged; nil for none
	callbacks    callbacks
}

// callbacks has methods as function values. They are created once per connection, because their creation allocates.
type callbacks struct {
	beginBodyWait, stopBodyReads, startWatch, leavePoller func()
	endBodyWait                                           func(n int64)
	sendContinue                                          func() bool
	relayInterim                                          func(*http1.Response)
}

// maxIdleFields is the number of header fields that an idle connection keeps memory for.
const maxIdleFields = 64

func (r *request) init(s *Server, c *connection) {
	r.server, r.conn, r.settings = s, c, s.settings.Load()
	c.writer.configure(r.settings)
	r.responseBuf.pool, r.keptBody.pool, r.reserved = s.writeBuffers, s.piecePool, s.replay.Reservation()
	r.callbacks = callbacks{
		beginBodyWait: r.beginBodyWait, endBodyWait: r.endBodyWait, stopBodyReads: c.readControl.stopBodyReads,
		startWatch: c.clientWatch.start, leavePoller: c.clientWatch.leavePoller, sendContinue: r.sendContinue,
		relayInterim: r.relayInterim,
	}
	r.forward.Transport, r.forward.Now = s.Transport, s.Now
	r.forward.Control.OnSlow, r.forward.Control.OnLongWait = r.callbacks.startWatch, r.callbacks.leavePoller
	r.connect.Transport, r.connect.Control = s.Transport, &r.forward.Control
}

func (r *request) resetRequest() {
	r.input = executor.Request{}
	r.outcome = proxyhttp.Outcome{}
	r.target = proxyhttp.Target{}
	r.input.ID = r.server.NewID()
	if r.outerConnect != nil {
		r.input.Listener = core.ListenIntercept
	}
	r.outcome.ID = r.input.ID
	r.sentContinue, r.connectReplied, r.exchangeEnd = false, false, time.Time{}
	r.log = logEntry{}
	r.conn.writer.bytesSent = 0
}

// releaseMemory releases the memory that an idle connection does not need.
func (r *request) releaseMemory() {
	r.responseBuf.put()
	r.keptBody.free()
	r.body = http1.Body{} // it may hold trailers
	r.forward.Response.Body = http1.Body{}
	r.reserved.Release()
	if cap(r.headCopy) > smallChunk {
		r.headCopy = nil
	}
	for _, fields := range []*[]http1.Field{&r.fields, &r.head.Fields, &r.forward.Response.Fields} {
		if cap(*fields) > maxIdleFields {
			*fields = nil
		}
	}
}

// serveRequest serves the request whose head has been read, and reports whether the connection can serve another
// request.
func (r *request) serveRequest() (keepAlive bool) {
	if set := r.server.settings.Load(); set != r.settings {
		r.settings = set
		r.conn.writer.configure(set)
	}
	r.resetRequest()
	r.body.Start(r.conn.reader, r.head.Framing, r.head.Length)
	r.body.KeepTrailers(r.head.Fields)
	in := &r.input
	in.Method = methodString(r.head.Method)
	if in.WantsTunnel = in.Method == http.MethodConnect; in.WantsTunnel {
		in.Listener = core.ListenConnect
	}
	in.Idempotent, in.Safe = in.WantsTunnel || retry.IsIdempotent(in.Method), in.WantsTunnel || retry.IsSafe(in.Method)
	in.BeforeWait, in.Progress = r.callbacks.startWatch, r.progress
	in.KeepEvents = r.server.logsRequests()
	r.log.trace = r.server.newTrace(r.head.Fields, in.ID)
	if r.head.Has(http1.RequestID) {
		r.log.clientID = readClientID(r.head.Fields)
	}

	if bad := r.checkRequest(); bad != nil {
		return r.respondError(bad)
	}
	if r.decrementMaxForwards() {
		return r.respondLastHop()
	}
	in.Host, in.Target = r.cache.authority.Host, r.cache.authority.Target
	in.User, in.Path = r.log.user, r.target.Path
	r.server.Executor.Route(in)
	if bad := r.readWhirlpoolFields(); bad != nil {
		return r.respondError(bad)
	}
	if in.WantsTunnel && r.settings.interception != nil && r.interceptTunnel() {
		return false
	}
	if bad := r.grantRequest(); bad != nil {
		return r.respondError(bad)
	}
	in.Started = r.server.Now()
	r.joinSession(in.Started)
	r.trackerEntry.Begin(in.ID, in.Method, in.Host, in.Started)
	if r.log.clientID != "" {
		r.trackerEntry.SetClientID(r.log.clientID)
	}
	if in.WantsTunnel {
		return r.serveConnect()
	}
	return r.serveForward()
}

// checkRequest parses the target, logs the user in, and looks for a loop.
func (r *request) checkRequest() (bad *proxyhttp.ErrorResponse) {
	if bad = r.parseTarget(); bad != nil {
		return bad
	}
	if bad = r.authorize(); bad != nil {
		return bad
	}
	if a := r.cache.account; a != nil {
		r.log.user = a.Name
	}
	return r.checkLoop()
}

// parseTarget parses the request's target into r.target, and stores its authority in r.cache.
func (r *request) parseTarget() (bad *proxyhttp.ErrorResponse) {
	var err error
	if r.outerConnect != nil {
		r.target, bad = r.interceptedTarget()
		return bad
	}
	if r.input.WantsTunnel {
		if r.head.Framing != http1.NoBody {
			bad = badRequestResponse("malformed_request", "a CONNECT with a body")
			bad.Close = true
			return bad
		}
		err = r.cache.authority.Set(r.head.Target, "")
	} else if r.target, err = r.cache.authority.SetURL(r.head.Method, r.head.Target); err == nil {
		r.head.Target = r.target.Absolute
	}
	if err != nil {
		bad = badRequestResponse("bad_target", err.Error())
	}
	if bad == nil {
		r.log.target = r.cache.authority.HostPort
	}
	return bad
}

// readWhirlpoolFields reads the request's X-Whirlpool-* fields: retry policy, region, priority and session. Each field
// takes precedence over the option with the same purpose in the user name.
func (r *request) readWhirlpoolFields() (bad *proxyhttp.ErrorResponse) {
	in := &r.input
	in.GlobalPolicy = r.server.Policies.Current()
	if !r.head.Has(http1.Whirlpool) && r.outerConnect == nil && r.cache.account == nil { // as most requests
		in.Policy, in.Priority = in.Route.Policy(in.GlobalPolicy), core.PriorityNormal
		r.sessionRequest = session.Request{}
		return nil
	}
	var err error
	switch in.Policy, err = r.wantedPolicy(in.Route.Policy(in.GlobalPolicy)); {
	case err == errOverride:
		return forbiddenResponse("override_not_allowed", err.Error())
	case err != nil:
		return badRequestResponse("invalid_retry_policy", err.Error())
	}
	if in.Region, in.RegionStrict, err = r.wantedRegion(); err != nil {
		return badRequestResponse("invalid_region", err.Error())
	}
	if in.Region == "" {
		in.Region, in.RegionStrict = r.cache.options.Region, r.cache.options.RegionStrict
	}
	in.PreferredTag = r.cache.options.CityTag
	if in.Priority, err = r.wantedPriority(); err != nil {
		return badRequestResponse("invalid_priority", err.Error())
	}
	if r.sessionRequest, err = r.wantedSession(); err != nil {
		return badRequestResponse("invalid_session", err.Error())
	}
	return nil
}

// errOverride is the error of a request with an override that gateway.override does not allow.
var errOverride = errors.New("X-Whirlpool-Retry, or retry in the user name, is not allowed (gateway.override)")

func forbiddenResponse(code, message string) *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusForbidden, Code: code, Message: message, Reason: "http_request_denied",
	}
}

func badRequestResponse(code, message string) *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusBadRequest, Code: code, Message: message, Reason: "http_request_error",
	}
}

// wantedPolicy returns the base policy, merged with the request's override, if there is one. The override is in
// X-Whirlpool-Retry or, without this field, in the option "retry" of the user name.
func (r *request) wantedPolicy(base *retry.Policy) (*retry.Policy, error) {
	override, found, err := r.whirlpoolField("x-whirlpool-retry")
	switch attempts := r.cache.options.MaxAttempts; {
	case err != nil:
		return nil, err
	case !found && attempts > 0:
		override = []byte(attemptsOverride(attempts))
	case !found:
		return base, nil
	case len(override) == 0:
		return nil, fmt.Errorf("X-Whirlpool-Retry is empty")
	}
	c, mode := &r.cache, r.overrideMode()
	if mode == retry.OverrideNone {
		return nil, errOverride
	}
	if c.policy == nil || c.basePolicy != base || c.overrideMode != mode || c.override != string(override) {
		o, err := retry.ParseHeader(string(override))
		if err != nil {
			return nil, err
		}
		p, err := base.Overridden(o, mode, r.settings.Strategies)
		if err != nil {
			return nil, err
		}
		c.basePolicy, c.overrideMode, c.override, c.policy = base, mode, string(override), &p
	}
	return c.policy, nil
}

// wantedRegion returns the region that the request asks for. It also reports whether no other region may be used.
func (r *request) wantedRegion() (region string, strict bool, err error) {
	c := &r.cache
	value, _, err := r.whirlpoolField("x-whirlpool-region")
	if err == nil && string(value) != c.regionValue {
		if region, strict, err = proxyhttp.ParseRegion(string(value)); err == nil {
			c.regionValue, c.region, c.regionStrict = string(value), region, strict
		}
	}
	return c.region, c.regionStrict, err
}

// wantedPriority returns the priority that the request asks for, but at most the user's highest permitted priority.
func (r *request) wantedPriority() (core.Priority, error) {
	limit := core.AnyPriority
	if r.cache.account != nil {
		limit = r.cache.account.Priority
	}
	value, found, err := r.whirlpoolField("x-whirlpool-priority")
	if err != nil || !found {
		return core.PriorityNormal.AtMost(limit), err
	}
	p, err := core.ParsePriority(string(value))
	if err != nil {
		return p, fmt.Errorf("X-Whirlpool-Priority: %w", err)
	}
	return p.AtMost(limit), nil
}

// whirlpoolField returns the value of an X-Whirlpool-* field, whose name is given in lower case. The field may appear
// only once. An intercepted request without the field uses the field of its CONNECT.
func (r *request) whirlpoolField(name string) (value []byte, found bool, err error) {
	value, found, err = findField(r.head.Fields, name)
	if !found && err == nil && r.outerConnect != nil {
		return findField(r.outerConnect.fields, name)
	}
	return value, found, err
}

// findField returns the value of an X-Whirlpool-* field of a head.
func findField(fields []http1.Field, name string) (value []byte, found bool, err error) {
	for i := range fields {
		f := &fields[i]
		if f.Kind != http1.Whirlpool || !http1.EqualFold(f.Name, name) {
			continue
		}
		if found {
			return nil, false, fmt.Errorf("%s appears twice", http.CanonicalHeaderKey(name))
		}
		value, found = f.Value, true
	}
	return value, found, nil
}

// methodString converts a request's method to a string. It allocates only for unusual methods.
func methodString(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "CONNECT":
		return "CONNECT"
	}
	return string(b)
}
