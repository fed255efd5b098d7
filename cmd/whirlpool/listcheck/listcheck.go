// Package listcheck checks whether the proxies of a list can be reached, and whether a request through each
// of them gets the expected response.
package listcheck

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Options configure how a list is checked.
type Options struct {
	Request  *health.Request // nil to check only whether proxies can be reached
	Expect   health.Expectation
	Detect   bool          // check a proxy that fails under other schemes, too
	Parallel int           // maximum number of proxies checked at the same time, > 0
	Timeout  time.Duration // maximum time for one request, > 0
	Exit     string        // where a response has the exit address, in the form of health.Settings.Exit; "" for none
	// Country, if not nil, returns the country of an exit address; "" if it is unknown.
	Country func(netip.Addr) string
	// Done, if not nil, is called after the check of each proxy. Two calls never run at the same time.
	Done func(Result)
}

// Result is the result of the check of one proxy.
type Result struct {
	Index   int           // index of the proxy in the parameter specs of Check
	Spec    upstream.Spec // if Options.Detect is set, its scheme may differ from the scheme in specs
	Good    bool
	Mute    bool          // the proxy accepts connections, but has not sent an HTTP response to the requests
	Get     bool          // a request in absolute form got the expected response
	Connect bool          // a request through a tunnel got the expected response
	Latency time.Duration // latency of the faster one of these two requests; without Options.Request, time to connect
	Exit    netip.Addr    // the exit address (see locate); invalid if it is unknown
	Country string        // country of Exit; "" if it is unknown
	Fault   string        // the reason why the proxy is not good; "" if Good is set
}

// Check checks the proxies of specs, and returns the results in the order of specs. If ctx ends, the results contain
// only the proxies whose check has ended before.
func Check(ctx context.Context, specs []upstream.Spec, t *transport.Transport, o Options) []Result {
	results := make([]*Result, len(specs))
	places := make(chan struct{}, o.Parallel)
	var doneMu sync.Mutex // held during a call of o.Done
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
			r.Index = i
			doneMu.Lock()
			defer doneMu.Unlock()
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

// schemes are the schemes that Check tries, in this order, if Options.Detect is set.
var schemes = []string{upstream.HTTP, upstream.SOCKS5, upstream.SOCKS4}

// checkOne checks one proxy, under several schemes if Options.Detect is set. If the proxy fails under all of them,
// checkOne returns the result under the scheme of spec.
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

// checkAs checks a proxy once, under the scheme of spec.
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
		o.locate(&r)
		return r
	}
	r.Mute = true
	r.Get = o.passes(ctx, t, u, health.Absolute, &r)
	r.Connect = o.passes(ctx, t, u, health.Tunnel, &r)
	if r.Good = r.Get || r.Connect; r.Good {
		r.Fault = ""
		o.locate(&r)
	}
	return r
}

// The method locate sets the country of a proxy that has passed the check: the country of its exit address. If
// Options.Exit is "", the exit address is the address of the proxy. If the proxy has no region, the country becomes its
// region. Without Options.Country, the method does nothing.
func (o *Options) locate(r *Result) {
	if o.Country == nil {
		return
	}
	if address, err := netip.ParseAddrPort(r.Spec.Address.Host); o.Exit == "" && err == nil {
		r.Exit = address.Addr()
	}
	if r.Exit.IsValid() {
		r.Country = o.Country(r.Exit)
	}
	if r.Spec.Region == "" {
		r.Spec.Region = r.Country
	}
}

// The method passes reports whether the request in the given form gets the expected response through u. If so, it
// stores the latency and the exit address of the proxy in r. Otherwise it stores the fault in r.
func (o *Options) passes(ctx context.Context, t *transport.Transport, u *upstream.Upstream, form health.SendForm,
	r *Result) bool {
	got := t.Check(ctx, u, form, o.Request, o.Timeout)
	if hasStatus(&got.Facts) {
		r.Mute = false
	}
	if got.Facts.Err != nil {
		r.Fault = got.Facts.Err.Error()
		return false
	}
	if difference := o.Expect.Difference(&got); difference != "" {
		r.Fault = difference
		return false
	}
	if exit := health.ExitAddress(o.Exit, &got); exit.IsValid() {
		r.Exit = exit
	}
	if r.Latency == 0 || got.Duration < r.Latency {
		r.Latency = got.Duration
	}
	return true
}

// statusReason matches the reason of an error whose cause is a response with a status, such as http_403 of a refused
// CONNECT.
var statusReason = regexp.MustCompile(`^http_\d+$`)

// hasStatus reports whether a request got a response with a status, even if it has failed, for example because the body
// ended too early.
func hasStatus(f *verdict.Facts) bool {
	return f.Status != 0 || f.Err != nil && statusReason.MatchString(f.Err.Reason)
}
