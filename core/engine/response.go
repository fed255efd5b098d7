package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// response converts a response of package transport to an http.Response.
func (r *roundTrip) response(q *http.Request, in *transport.Response) *http.Response {
	header := proxyhttp.HeaderOf(in.Fields)
	outcome := proxyhttp.OutcomeOf(r.request.ID, r.exchange.Result())
	outcome.Set(header)
	if in.Length >= 0 {
		header.Set("Content-Length", strconv.FormatInt(in.Length, 10))
	}
	body := &responseBody{roundTrip: r, response: in, trailer: http.Header{}}
	out := &http.Response{
		Status: strconv.Itoa(in.Status) + " " + string(in.Reason), StatusCode: in.Status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, ContentLength: in.Length, Request: q,
		Body: body, Trailer: body.trailer,
	}
	for name := range strings.SplitSeq(string(in.TrailerNames()), ", ") {
		if name != "" {
			body.trailer[http.CanonicalHeaderKey(name)] = nil
		}
	}
	if in.Body.Done() { // an empty body need not be closed by the caller
		body.end(io.EOF)
	}
	return out
}

// responseBody is the body of a response. The exchange is closed at the end of the body. Close may be called
// during a Read.
type responseBody struct {
	roundTrip *roundTrip
	response  *transport.Response
	trailer   http.Header // set at the end of the body

	mu  sync.Mutex // held while the body is read
	err error
}

func (b *responseBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.roundTrip
	if b.err != nil {
		return 0, b.err
	}
	b.response.SetReadDeadline(&r.forward.Control, r.engine.opts.Now().Add(r.bodyIdle))
	n, err := b.response.Body.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// Close closes the exchange. If only a small part of the body has not been read, Close first reads that part, so that
// the connection can be reused.
func (b *responseBody) Close() error {
	if !b.mu.TryLock() { // a Read is in progress: end it
		b.roundTrip.forward.Control.Interrupt.Cancel()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.err == nil {
		if b.response.Drain(&b.roundTrip.forward.Control) {
			b.end(io.EOF)
		} else {
			b.end(context.Canceled)
		}
	}
	b.err = http.ErrBodyReadAfterClose
	return nil
}

// EndAsSuccess closes the exchange, and the request counts as a success. If the body has not been read to its end,
// Close may count the request as cancelled instead.
func (r *Result) EndAsSuccess() {
	b, ok := r.Response.Body.(*responseBody)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.end(io.EOF)
	}
}

// end closes the exchange and sets b.err to err. If the request's context has ended before the end of the
// body, the method sets b.err to the cause of the context's end instead. The caller holds mu.
func (b *responseBody) end(err error) {
	r := b.roundTrip
	if b.err = err; err != io.EOF && r.ctx.Err() != nil {
		b.err = context.Cause(r.ctx)
	}
	bodyErr := err
	if err == io.EOF {
		bodyErr = nil
		for name, value := range http1.Trailers(b.response.Trailers()) {
			b.trailer.Add(string(name), string(value))
		}
	}
	status, now := b.response.Status, r.engine.opts.Now()
	relayed := r.forward.Close(bodyErr, now)
	relayed.ClientLeft = errors.Is(err, context.Canceled)
	r.relay.Close(status, relayed, now)
	r.finishResult()
}
