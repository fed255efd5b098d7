package transport

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Check sends the request of a health check through u on a new connection. Then it closes the connection.
func (t *Transport) Check(ctx context.Context, u *upstream.Upstream, form health.SendForm, q *health.Request,
	timeout time.Duration) health.Response {
	began := t.cfg.Now()
	c := &Control{Started: began, Deadline: began.Add(timeout), NewConnection: true, isCheck: true}
	c.Meters.AddMeter(u.Meter())
	stop := context.AfterFunc(ctx, c.Interrupt.Cancel)
	defer stop()
	request := &Request{
		Method: []byte(http.MethodGet), Target: []byte(q.Target), Path: []byte(q.Path), Authority: q.Authority,
		TLS: q.TLS, Length: -1,
		Fields: []http1.Field{
			{Name: []byte("Host"), Value: []byte(q.Host), Kind: http1.Host},
			{Name: []byte("User-Agent"), Value: []byte("Whirlpool-Health-Check")},
			{Name: []byte("Accept"), Value: []byte("*/*")},
		},
	}
	key := ""
	if form == health.Tunnel {
		key = q.Authority
	}
	var resp Response
	if verr := t.roundTrip(ctx, u, c, request, &resp, key); verr != nil {
		return health.Response{Facts: verdict.Facts{Err: verr, Timing: c.Timing}, Duration: t.cfg.Now().Sub(began)}
	}
	r := health.Response{Facts: verdict.Facts{Timing: c.Timing}, Header: http.Header{}}
	resp.AddFacts(&r.Facts)
	for _, f := range resp.Fields {
		r.Header.Add(string(f.Name), string(f.Value))
	}
	resp.SetReadDeadline(c, c.Deadline)
	var err error
	if r.Body, err = io.ReadAll(io.LimitReader(&resp.Body, health.MaxBody)); err != nil {
		r.Facts.Err = newError(stepWait, err)
	}
	r.Duration = t.cfg.Now().Sub(began)
	t.discardResponse(c, &resp)
	return r
}
