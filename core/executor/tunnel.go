package executor

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// MinFirstByteTimeout is the minimum time that a target gets to respond to a ClientHello. A minimum is necessary,
// because the recorded latencies of a proxy are times to open a tunnel, and the target's first bytes take longer.
const MinFirstByteTimeout = 500 * time.Millisecond

// CanRetry reports whether RetryTunnel may open another tunnel: max_attempts and the total timeout permit another
// attempt, the tunnel goes through a proxy, and breaker.blame is not "literal". The retry may use the same proxy
// again: the proxy of a strict session, or the only proxy of the pool.
func (t *Tunnel) CanRetry() bool {
	ex := t.ex
	return ex.openEnding == tunnelEnding && ex.tuning.Targets != nil &&
		ex.result.Attempts < ex.maxAttempts &&
		!ex.proxy.Direct() && (ex.deadline.IsZero() || ex.executor.now().Before(ex.deadline))
}

// CanChangeProxy reports whether RetryTunnel may open another tunnel through another proxy. It is false if there is a
// retry budget, because the budget may refuse the retry.
func (t *Tunnel) CanChangeProxy() bool {
	return t.CanRetry() && t.ex.tuning.Budget == nil && t.ex.canChangeProxy(t.ex.proxy)
}

// HasUntriedProxy reports whether RetryTunnel may open another tunnel through a proxy that the request has not tried.
func (t *Tunnel) HasUntriedProxy() bool {
	if !t.CanChangeProxy() {
		return false
	}
	q := t.ex.queryAfterAttempt()
	return t.ex.executor.selector.HasUntried(&q, t.ex.executor.now())
}

// FirstByteTimeout returns the time that the caller should wait for the target's first byte before it calls
// RetryTunnel; 0 means no limit. It returns 0 if the retry could not use another proxy, because the target would take
// as long again through the same proxy. It also returns 0 if there is a retry budget, because the budget may refuse the
// retry.
func (t *Tunnel) FirstByteTimeout() time.Duration {
	tuning := t.ex.tuning
	if !tuning.Adaptive || !t.CanChangeProxy() {
		return 0
	}
	limit := tuning.AttemptTimeout
	if tail := t.ex.proxy.Tail(); tail > 0 {
		limit = max(upstream.TailFactor*tail, MinFirstByteTimeout)
	} else if t.ex.event.Attempt == 0 && !t.ex.proxy.PoolHasServed() {
		limit = newPoolTimeout
	}
	return min(limit, tuning.AttemptTimeout)
}

// unusedTunnelAge is the age from which an open tunnel counts as unused. A tunnel counts as unused only if the target
// has nothing to respond to: the client has sent nothing, or only a part of a ClientHello. Browsers open such tunnels
// in reserve, and targets close them after a while. If a tunnel ends before this age, the failure is charged to the
// proxy.
const unusedTunnelAge = time.Second

// UnusedAfter returns the time from which the tunnel counts as unused, as long as the target has nothing to respond to.
// It is unusedTunnelAge after the tunnel was opened. If breaker.blame is "literal", it is the time at which the attempt
// timeout would have ended the attempt.
func (t *Tunnel) UnusedAfter() time.Time {
	if t.ex.tuning.Targets == nil {
		return t.ex.event.Started.Add(t.ex.tuning.AttemptTimeout)
	}
	return t.ex.event.Ended.Add(unusedTunnelAge)
}

// RetryTunnel ends the tunnel as a failed attempt and continues its exchange with the next attempt. The target must
// have sent nothing, and the client at most a ClientHello. If silentTime is 0, the tunnel has ended with the error
// tunnelErr. Otherwise the tunnel is still open, and the target has sent nothing for silentTime. RetryTunnel removes
// Request.BeforeWait.
func RetryTunnel[T any](
	ctx context.Context, t *Tunnel, tunnelErr error, silentTime time.Duration, s Sender[T],
) Ending[T] {
	ex := t.ex
	if ex.openEnding != tunnelEnding {
		return endWithRefusal[T](ex)
	}
	ex.openEnding, t.unrecorded = noEnding, false
	ex.request.BeforeWait = nil
	ex.event.Ended = ex.executor.now()
	ex.lease.EndAt(ex.event.Ended)
	o := verdict.RetryTunnel(ex.event.Outcome, tunnelErr, silentTime > 0)
	ex.silentTime = silentTime
	r, raced := ex.race.(*race[T])
	raced = raced && r.stopTimer()
	ex.settleFailure(&o)
	if n := len(ex.deferredAttempts); n > 0 && silentTime > 0 {
		ex.deferredAttempts[n-1].awaitsFirstByte = true
	}
	if raced && r.phase != raceFailed {
		response := r.replaceWithHedge()
		r.mu.Unlock()
		if o = ex.event.Outcome; o.Result == core.ResultSuccess {
			ex.acceptResponse()
			return Ending[T]{Response: response, Tunnel: ex.endWithTunnel()}
		}
		s.Discard(response)
		if o.Cause == verdict.TunnelDied {
			o = verdict.RetryTunnel(o, o.Err, false)
		}
		ex.settleFailure(&o)
	} else if raced {
		r.endLostHedge()
		r.mu.Unlock()
	}
	if ctx.Err() != nil {
		ex.refuseCancelled(context.Cause(ctx))
		return endWithRefusal[T](ex)
	}
	if wait, step := ex.decideStep(ctx, &o); step != stepRetry || !ex.waitBackoff(ctx, wait) {
		return endWithRefusal[T](ex)
	}
	return runAttempts(ctx, ex, s)
}

// HedgeTunnel is called when the client has sent a ClientHello. If the policy has hedges and the target does not
// respond in time, it opens a second tunnel in another goroutine, with the Sender that first.Hedge returns. The tunnel
// that first receives a byte from the target wins. If the second tunnel wins, first.Stop is called, and the caller must
// then call TakeHedge.
func HedgeTunnel[T any](ctx context.Context, t *Tunnel, first Hedger[T]) {
	ex := t.ex
	if ex.canHedge() && t.CanRetry() {
		hedgeDelay := ex.tuning.Hedging.Delay(ex.request.Policy, retry.HedgeFirstByte)
		armRace(ctx, ex, first, retry.HedgeFirstByte, ex.executor.now(), hedgeDelay).awaitsFirstByte = true
	}
}

// TakeHedge ends the attempt of t, which has lost to its hedge. It makes t the tunnel of the hedge and returns the
// hedge's response. The second result is false if no hedge has won.
func TakeHedge[T any](t *Tunnel) (response T, ok bool) {
	ex := t.ex
	r, raced := ex.race.(*race[T])
	if !raced || ex.openEnding != tunnelEnding || !r.hedgeWon() {
		return response, false
	}
	r.stopTimer()
	defer r.mu.Unlock()
	t.unrecorded = false
	ex.event.Ended = ex.executor.now()
	r.addFirstByteLatency()
	lost := verdict.LoseRace(ex.event.Outcome)
	lost.Latency = ex.event.Ended.Sub(ex.event.Started)
	ex.settleFailure(&lost)
	response = r.adoptHedge()
	ex.acceptResponse()
	ex.endWithTunnel()
	return response, true
}

func (r *race[T]) hedgeWon() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active && r.phase == raceWon
}

// replaceWithHedge makes the hedge the last attempt of the exchange. If the hedge is still in flight, it first waits
// for the hedge. The caller holds mu.
func (r *race[T]) replaceWithHedge() T {
	r.awaitsFirstByte = false
	if r.phase == raceRunning {
		r.phase = raceAwaited
		r.waitForHedge()
	}
	return r.adoptHedge()
}

// addFirstByteLatency records the time until the target's first byte, or until the hedge won.
func (r *race[T]) addFirstByteLatency() {
	if r.awaitsFirstByte {
		r.awaitsFirstByte = false
		r.addLatency(r.ex.executor.now().Sub(r.waitStart))
	}
}
