package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// answer wraps what came in an http.Response.
func (k *exchange) answer(q *http.Request, r *transport.Response) *http.Response {
	header := proxyhttp.HeaderOf(r.Fields)
	outcome := proxyhttp.Outcome{ID: k.x.ID, Attempts: k.x.Attempts, ProxyID: k.x.Proxy.ID(), Final: k.x.Final}
	outcome.Set(header)
	if r.Length >= 0 {
		header.Set("Content-Length", strconv.FormatInt(r.Length, 10))
	}
	body := &answerBody{exchange: k, response: r}
	out := &http.Response{
		Status: strconv.Itoa(r.Status) + " " + string(r.Reason), StatusCode: r.Status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, ContentLength: r.Length, Request: q,
		Body: body,
	}
	if r.Body.Done() { // there is none: nobody needs to close it
		body.end(io.EOF)
	}
	return out
}

// answerBody reads an answer's body and ends the exchange with it. Close may be
// called while somebody reads.
type answerBody struct {
	exchange *exchange
	response *transport.Response

	mu  sync.Mutex // held while somebody reads
	err error
}

func (b *answerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.exchange
	if b.err != nil {
		return 0, b.err
	}
	b.response.SetReadDeadline(&k.call.Control, k.engine.opts.Now().Add(k.idle))
	n, err := b.response.Body.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// Close ends the exchange. What is left of a short body is read, so that the
// connection can be kept.
func (b *answerBody) Close() error {
	if !b.mu.TryLock() { // somebody reads: no longer
		b.exchange.call.Control.Interrupt.Fire()
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.err == nil {
		if b.response.Drain(&b.exchange.call.Control) {
			b.end(io.EOF)
		} else {
			b.end(context.Canceled)
		}
	}
	b.err = http.ErrBodyReadAfterClose
	return nil
}

// Enough closes an answer of which the caller took all it has use for. The
// request is a success then, as if the answer had ended there, where Close
// means that the caller has left.
func (r *Result) Enough() {
	b, ok := r.Response.Body.(*answerBody)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.end(io.EOF)
	}
}

// end requires mu. The error is what ended the request's context, if it did.
func (b *answerBody) end(err error) {
	k := b.exchange
	if b.err = err; err != io.EOF && k.ctx.Err() != nil {
		b.err = context.Cause(k.ctx)
	}
	status, broke, now := b.response.Status, err, k.engine.opts.Now()
	if err == io.EOF {
		broke = nil
	}
	relayed := k.call.Close(broke, now)
	relayed.ClientLeft = errors.Is(err, context.Canceled)
	k.finish(executor.Ending{Status: status, Relayed: relayed, At: now})
}
