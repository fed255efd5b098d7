package engine

import (
	"context"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The kinds of tests of proxies.
const (
	HealthCheck    = "health_check" // the request of a health check is sent
	ConnectionTest = "connection"   // a connection is opened and closed
)

// Test tests a proxy now: by a health check or, without Config.Health.URL, by a connection to the proxy. It changes
// neither the breaker nor the statistics of the proxy. It also returns the kind of the test; "" if the proxy cannot be
// tested. (A direct:// proxy can be tested only by a health check.) An error means that this machine had no free file
// descriptor, port or memory. The test then shows nothing about the proxy.
func (e *Engine) Test(ctx context.Context, u *upstream.Upstream) (r upstream.CheckReport, kind string, err error) {
	r, ok, err := e.health.Test(ctx, u)
	switch {
	case ok:
		return r, HealthCheck, err
	case u.Direct():
		return r, "", nil
	}
	began := e.opts.Now()
	verr := e.transport.Reach(ctx, u)
	now := e.opts.Now()
	r.At = e.pool.Elapsed(now)
	switch {
	case verr == nil:
		r.Passed, r.Latency = true, now.Sub(began)
	case verr.IsLocal():
		return upstream.CheckReport{}, ConnectionTest, verr
	default:
		r.Fault = verr.Error()
	}
	return r, ConnectionTest, nil
}
