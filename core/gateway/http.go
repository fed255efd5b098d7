package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// httpFront serves HTTP/1.1 on a client connection, one request after another.
type httpFront struct {
	request
	hasLargeStack bool // growStack has been called
}

// cache keeps values that seldom change between the requests of a connection, so that they are not parsed again.
type cache struct {
	authority        proxyhttp.Authority // authority of the last target
	regionValue      string              // last X-Whirlpool-Region; region and regionStrict are parsed from it
	region           string
	regionStrict     bool
	acceptedLogin    string             // last accepted Proxy-Authorization
	acceptedSettings *settings          // the settings that were in force when the login was accepted
	account          *access.Account    // the user of acceptedLogin; nil without users
	options          session.Options    // the options of the user name in acceptedLogin
	override         string             // last override: X-Whirlpool-Retry, or the option retry of the user name
	basePolicy       *retry.Policy      // the policy over which the override was merged
	overrideMode     retry.OverrideMode // the override mode with which policy was merged
	policy           *retry.Policy      // the merged policy
}

func newHTTPFront(s *Server, c *connection) *httpFront {
	f := &httpFront{}
	f.initFront(s, c)
	return f
}

func (f *httpFront) initFront(s *Server, c *connection) {
	f.request.init(s, c)
	c.reader.OnPart = func() { c.readControl.beginHeadWait(s.Now().Add(f.settings.Head)) }
}

func (f *httpFront) serve() {
	stop := context.AfterFunc(f.conn.ctx, f.forward.Control.Interrupt.Cancel)
	f.trackerEntry = f.server.Tracker.Track()
	f.progress = f.trackerEntry
	defer func() {
		f.exchange.Abandon()
		f.endGrant()
		f.reserved.Release()
		stop()
		f.trackerEntry.Release()
	}()
	for f.serveNext() {
	}
}

// serveNext serves one request and reports whether the connection can serve another request.
func (f *httpFront) serveNext() bool {
	now := f.exchangeEnd
	if now.IsZero() {
		now = f.server.Now()
	}
	if !f.conn.readControl.beginRequestWait(now) {
		return false
	}
	f.conn.reader.Release() // an idle connection needs no buffer
	if err := f.conn.reader.ReadRequest(&f.head); err != nil {
		f.handleReadError(err)
		return false
	}
	if !f.conn.readControl.setPhase(phaseBusy) {
		return false
	}
	if !f.hasLargeStack {
		growStack()
		f.hasLargeStack = true
	}
	keepAlive := f.serveRequest()
	f.logRequest()
	f.endGrant()
	f.releaseMemory()
	f.conn.readControl.setPhase(phaseIdle)
	return keepAlive
}

// handleReadError sends an error response if the head is malformed or late.
func (f *httpFront) handleReadError(err error) {
	var bad *http1.ProtocolError
	switch {
	case errors.As(err, &bad):
		f.refuseHead(bad)
		f.logRequest()
	case errors.Is(err, os.ErrDeadlineExceeded) && f.conn.readControl.headBegun && !f.conn.draining():
		f.resetRequest()
		f.head, f.body = http1.Request{}, http1.Body{}
		f.respondError(&proxyhttp.ErrorResponse{
			Status: http.StatusRequestTimeout, Code: "request_timeout", Reason: "http_request_error", Close: true,
			Message: "the request's head did not come within timeouts.head",
		})
		f.logRequest()
	case err != io.EOF:
		f.server.Log.Debug("client connection ended", slog.Any("error", err))
	}
}

// refuseHead responds to a malformed head. The connection then ends, because the beginning of the next request is
// unknown.
func (f *httpFront) refuseHead(err *http1.ProtocolError) {
	f.resetRequest()
	code := "malformed_request"
	switch err.Status {
	case http.StatusRequestURITooLong:
		code = "request_uri_too_long"
	case http.StatusRequestHeaderFieldsTooLarge:
		code = "request_header_too_large"
	}
	f.head, f.body = http1.Request{}, http1.Body{}
	f.respondError(&proxyhttp.ErrorResponse{
		Status: err.Status, Code: code, Message: err.Detail, Reason: "http_request_error", Close: true,
	})
}

// respondNoPlace implements front.
func (f *httpFront) respondNoPlace() {
	f.resetRequest()
	f.conn.writer.setDeadline(f.server.Now().Add(time.Second))
	f.respondError(&proxyhttp.ErrorResponse{
		Status: http.StatusServiceUnavailable, Code: codeNoPlace, Reason: "connection_limit_reached",
		Message: *f.conn.refusalReason, RetryAfter: time.Second, Close: true,
	})
	f.logRequest()
}
