// Package listcheck checks whether the proxies of a list can be reached, and whether a request through each
// of them gets the expected response.
package listcheck

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Options configure how a list is checked.
type Options struct {
	Request  *health.Request // nil to check only whether proxies can be reached
	Expect   health.Expect
	Detect   bool          // if a proxy fails, try other schemes, too
	Parallel int           // maximum number of proxies checked at the same time, > 0
	Timeout  time.Duration // for one request, > 0
	// Done, if not nil, is called after each proxy. Calls do not overlap.
	Done func(Result)
}

// Result is the result of the check of one proxy.
type Result struct {
	Spec    upstream.Spec // if Detect is set, the scheme may differ from that in the list
	Good    bool
	Get     bool          // a request in absolute form got the expected response
	Connect bool          // a request through a tunnel got the expected response
	Latency time.Duration // latency of the faster of these requests; without a Request, of the connection
	Fault   string        // why the proxy is not good; "" if it is
}

// Check checks the proxies of specs, and returns the results in the same order. If ctx ends, there are no
// results for the proxies that were not checked.
func Check(ctx context.Context, specs []upstream.Spec, t *transport.Transport, o Options) []Result {
	results := make([]*Result, len(specs))
	places := make(chan struct{}, o.Parallel)
	var done sync.Mutex
	var wg sync.WaitGroup
	for i, spec := range specs {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			r := checkOne(ctx, spec, t, &o)
			if ctx.Err() != nil {
				return
			}
			done.Lock()
			defer done.Unlock()
			results[i] = &r
			if o.Done != nil {
				o.Done(r)
			}
		})
	}
	wg.Wait()
	var all []Result
	for _, r := range results {
		if r != nil {
			all = append(all, *r)
		}
	}
	return all
}

// schemes are the schemes that Detect tries, in order.
var schemes = []string{upstream.HTTP, upstream.SOCKS5, upstream.SOCKS4}

// checkOne checks one proxy. If it fails under all schemes, the result is that of its own scheme.
func checkOne(ctx context.Context, spec upstream.Spec, t *transport.Transport, o *Options) Result {
	first := checkAs(ctx, spec, t, o)
	if first.Good || !o.Detect || !slices.Contains(schemes, spec.Address.Scheme) {
		return first
	}
	for _, scheme := range schemes {
		if scheme == spec.Address.Scheme {
			continue
		}
		other := spec
		other.Address.Scheme = scheme
		if r := checkAs(ctx, other, t, o); r.Good {
			return r
		}
	}
	return first
}

// checkAs checks a proxy under the scheme of spec.
func checkAs(ctx context.Context, spec upstream.Spec, t *transport.Transport, o *Options) Result {
	r := Result{Spec: spec}
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	if err := pool.Apply([]upstream.Spec{spec}); err != nil {
		r.Fault = err.Error()
		return r
	}
	u := pool.Snapshot().All[0]
	defer t.CloseIdle(u)
	began := time.Now()
	if verr := t.Reach(ctx, u); verr != nil {
		r.Fault = verr.Error()
		return r
	}
	if o.Request == nil {
		r.Good, r.Latency = true, time.Since(began)
		return r
	}
	r.Get = o.passes(ctx, t, u, health.Absolute, &r)
	r.Connect = o.passes(ctx, t, u, health.Tunnel, &r)
	if r.Good = r.Get || r.Connect; r.Good {
		r.Fault = ""
	}
	return r
}

// passes reports whether the request in the given form gets the expected response. It stores the latency or
// the fault in the result.
func (o *Options) passes(ctx context.Context, t *transport.Transport, u *upstream.Upstream, form health.Form,
	r *Result) bool {
	got := t.Check(ctx, u, form, o.Request, o.Timeout)
	switch {
	case got.Facts.Err != nil:
		r.Fault = got.Facts.Err.Error()
		return false
	case o.Expect.Fault(&got) != "":
		r.Fault = o.Expect.Fault(&got)
		return false
	}
	if r.Latency == 0 || got.Took < r.Latency {
		r.Latency = got.Took
	}
	return true
}
