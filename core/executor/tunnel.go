package executor

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// leastSilence is the minimum time that the target gets for its answer to a ClientHello. The
// proxy's known latencies are those of opening a tunnel; the target's first bytes take longer.
const leastSilence = 500 * time.Millisecond

// CanRetry reports whether RetryTunnel may find another proxy: an attempt and time are left,
// there is another proxy, and breakers do not count literally.
func (t *Tunnel) CanRetry() bool {
	x := t.x
	return x.open == openTunnel && x.tuning.Targets != nil && x.result.Attempts < x.request.Policy.MaxAttempts &&
		!x.proxy.Direct() && x.proxy.HasPeers() &&
		(x.deadline.IsZero() || x.executor.now().Before(x.deadline))
}

// Silence returns the time that the caller should wait for the target's answer before it calls
// RetryTunnel; 0 means no limit. It returns 0 with a retry budget, which may refuse the retry.
func (t *Tunnel) Silence() time.Duration {
	tuning := t.x.tuning
	if !tuning.Adaptive || tuning.Budget != nil || !t.CanRetry() {
		return 0
	}
	if tail := t.x.proxy.Tail(); tail > 0 {
		return min(max(tailFactor*tail, leastSilence), tuning.AttemptTimeout)
	}
	return tuning.AttemptTimeout
}

// unusedAfter is the time after which a tunnel counts as unused if the target has nothing to
// answer yet: the client has sent nothing, or a part of a ClientHello. Browsers keep such
// tunnels in reserve, and targets close them. A proxy that opens tunnels and drops them does so
// at once.
const unusedAfter = time.Second

// UnusedAfter returns the time from which a tunnel counts as unused, as long as the target has
// nothing to answer: unusedAfter from its opening or, where breakers count literally, the
// attempt timeout.
func (t *Tunnel) UnusedAfter() time.Time {
	if t.x.tuning.Targets == nil {
		return t.x.event.Started.Add(t.x.tuning.AttemptTimeout)
	}
	return t.x.event.Ended.Add(unusedAfter)
}

// RetryTunnel ends the tunnel as a failed attempt and continues its exchange with another proxy.
// The target has sent nothing, and the client has sent a ClientHello, a part of one, or nothing,
// which may be sent again. died is the error of the tunnel. silent is set if the tunnel is still
// open, but the target has not answered the ClientHello in time. Request.BeforeWait is not called
// any more.
func RetryTunnel[T any](ctx context.Context, t *Tunnel, died error, silent bool, s Sender[T]) Ending[T] {
	x := t.x
	if x.open != openTunnel {
		return refused[T](x)
	}
	x.open, t.unrecorded = nothing, false
	x.request.BeforeWait = nil
	x.event.Ended = x.executor.now()
	o := verdict.RetryTunnel(x.event.Outcome, died, silent)
	o.Latency = x.event.Ended.Sub(x.event.Started) // so that the proxy of a slow target gets more time
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
