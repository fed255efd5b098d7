package executor

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// leastSilence is how long a tunnel may let the client's first bytes wait, at least. The
// latencies known of a proxy are those of opening tunnels; the target's first bytes take longer.
const leastSilence = 500 * time.Millisecond

// Silence returns how long the target may leave the client's first bytes without a response
// before RetryTunnel should be called; 0 is no limit. ok is false if no retry may follow: no
// attempt is left, there is no other proxy, or breakers count literally.
func (t *Tunnel) Silence() (limit time.Duration, ok bool) {
	x := t.x
	if x.open != openTunnel || x.tuning.Targets == nil || x.result.Attempts >= x.request.Policy.MaxAttempts ||
		x.proxy.Direct() || !x.proxy.HasPeers() {
		return 0, false
	}
	if x.tuning.Adaptive {
		limit = x.tuning.AttemptTimeout
		if tail := x.proxy.Tail(); tail > 0 {
			limit = min(limit, max(tailFactor*tail, leastSilence))
		}
	}
	return limit, true
}

// RetryTunnel ends the tunnel as a failed attempt and continues its exchange with another
// proxy. Nothing has come from the target, and what the client has sent is a TLS ClientHello
// or nothing, so that it may be sent again. died is why; silent says that the tunnel still
// stands, but let the client's bytes wait for too long. BeforeWait is not called any more.
func RetryTunnel[T any](ctx context.Context, t *Tunnel, died error, silent bool, s Sender[T]) Ending[T] {
	x := t.x
	if x.open != openTunnel {
		return refused[T](x)
	}
	x.open, t.unrecorded = nothing, false
	x.request.BeforeWait = nil
	o := verdict.RetryTunnel(x.event.Outcome, died, silent)
	x.settle(&o)
	if n := len(x.deferred); silent && n > 0 {
		x.deferred[n-1].tunnel = true
	}
	if ctx.Err() != nil {
		x.stopped(context.Cause(ctx))
		return refused[T](x)
	}
	if wait, then := x.next(ctx, &o); then != thenRetry || !x.wait(ctx, wait) {
		return refused[T](x)
	}
	return attempts(ctx, x, s)
}
