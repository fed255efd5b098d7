package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// httpFront serves HTTP/1.1 on a client connection, one request after another.
type httpFront struct {
	request
	entry TrackerEntry
}

// cache keeps what rarely changes from one request of a connection to the next, so that
// a request costs no allocation.
type cache struct {
	authority   proxyhttp.Authority // of the last target
	regionValue string              // last X-Whirlpool-Region, and its parts
	region      string
	strict      bool
	accepted    string    // last Proxy-Authorization that was accepted,
	acceptedBy  *settings // and the settings it was accepted under
	override    string    // last X-Whirlpool-Retry,
	global      *retry.Policy
	policy      *retry.Policy // and that merged over global
}

func newHTTPFront(s *Server, c *connection) front {
	f := &httpFront{}
	f.request.init(s, c)
	return f
}

func (f *httpFront) serve() {
	stop := context.AfterFunc(f.conn.ctx, f.forward.Control.Interrupt.Fire)
	f.entry = f.server.Tracker.Track()
	defer func() {
		f.exchange.Abandon()
		stop()
		f.entry.Release()
	}()
	for f.next() {
	}
}

// next serves one request and reports whether another may follow.
func (f *httpFront) next() bool {
	now := f.ended
	if now.IsZero() {
		now = f.server.Now()
	}
	if !f.conn.read.awaitRequest(now) {
		return false
	}
	f.conn.reader.Release() // an idle connection needs no buffer
	if err := f.conn.reader.ReadRequest(&f.head); err != nil {
		f.unreadable(err)
		return false
	}
	f.conn.read.enter(busy)
	keep := f.handle(f.entry)
	f.shrink()
	f.conn.read.enter(idle)
	return keep
}

// unreadable responds to a head that could not be read, if a response makes sense.
func (f *httpFront) unreadable(err error) {
	var bad *http1.ProtocolError
	switch {
	case errors.As(err, &bad):
		f.refuseHead(bad)
	case err != io.EOF:
		f.server.Log.Debug("client connection ended", slog.Any("error", err))
	}
}

// refuseHead refuses a head that breaks the rules, and ends the connection: where the
// next message would begin is unknown.
func (f *httpFront) refuseHead(err *http1.ProtocolError) {
	f.begin()
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

// refuse implements front.
func (f *httpFront) refuse() {
	f.begin()
	f.conn.out.limit(f.server.Now().Add(time.Second))
	f.respondError(&proxyhttp.ErrorResponse{
		Status: http.StatusServiceUnavailable, Code: "too_many_connections", Reason: "connection_limit_reached",
		Message:    "the gateway holds gateway.max_connections clients already, or is shutting down",
		RetryAfter: time.Second, Close: true,
	})
}
