package executor

import (
	"context"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// LeastSilence is the shortest time that a target gets to answer a ClientHello. The recorded latencies
// of a proxy are those of opening a tunnel; the target's first bytes take longer.
const LeastSilence = 500 * time.Millisecond

// CanRetry reports whether RetryTunnel may find another proxy: an attempt and time are left, the pool has
// another proxy, and breaker.blame is not "literal".
func (t *Tunnel) CanRetry() bool {
	x := t.x
	return x.open == openTunnel && x.tuning.Targets != nil && x.result.Attempts < x.request.Policy.MaxAttempts &&
		!x.proxy.Direct() && x.mayChange(x.proxy) &&
		(x.deadline.IsZero() || x.executor.now().Before(x.deadline))
}

// Silence returns the time that the caller should wait for the target's answer before it calls RetryTunnel; 0
// means no limit. It returns 0 if there is a retry budget, because the budget may refuse the retry.
func (t *Tunnel) Silence() time.Duration {
	tuning := t.x.tuning
	if !tuning.Adaptive || tuning.Budget != nil || !t.CanRetry() {
		return 0
	}
	if tail := t.x.proxy.Tail(); tail > 0 {
		return min(max(tailFactor*tail, LeastSilence), tuning.AttemptTimeout)
	}
	return tuning.AttemptTimeout
}

// unusedAfter is the age at which a tunnel counts as unused. It applies while the target has nothing to
// answer: the client has sent nothing, or only a part of a ClientHello. Browsers open such tunnels in
// reserve, and targets close them after a while. A bad proxy that drops its tunnels does so earlier, and
// is still charged.
const unusedAfter = time.Second

// UnusedAfter returns the time from which the tunnel counts as unused if the target still has nothing to
// answer: unusedAfter after the tunnel has opened. If breaker.blame is "literal", it is the attempt timeout
// after the attempt has begun.
func (t *Tunnel) UnusedAfter() time.Time {
	if t.x.tuning.Targets == nil {
		return t.x.event.Started.Add(t.x.tuning.AttemptTimeout)
	}
	return t.x.event.Ended.Add(unusedAfter)
}

// RetryTunnel ends the tunnel as a failed attempt and continues its exchange with another proxy. The target
// must not have sent a byte. The client must have sent nothing more than a ClientHello, so that its bytes can
// be sent again. died is the error of the tunnel. silence is above 0 if the tunnel is still open, but the target
// has not answered the ClientHello, which was sent that long ago. Request.BeforeWait is not called any more.
func RetryTunnel[T any](ctx context.Context, t *Tunnel, died error, silence time.Duration, s Sender[T]) Ending[T] {
	x := t.x
	if x.open != openTunnel {
		return refused[T](x)
	}
	x.open, t.unrecorded = nothing, false
	x.request.BeforeWait = nil
	x.event.Ended = x.executor.now()
	o := verdict.RetryTunnel(x.event.Outcome, died, silence > 0)
	o.Latency += silence // without the time in which the client had not sent anything yet
	r, raced := x.race.(*race[T])
	raced = raced && r.stop()
	x.settle(&o)
	if n := len(x.deferred); silence > 0 && n > 0 {
		x.deferred[n-1].tunnel = true
	}
	if raced && r.phase != raceFailed {
		response, hedge := r.replace()
		r.mu.Unlock()
		if hedge.Result == core.ResultSuccess {
			x.served(&hedge)
			return Ending[T]{Response: response, Tunnel: x.stand()}
		}
		s.Discard(response)
		if o = hedge; o.Cause == verdict.TunnelDied {
			o = verdict.RetryTunnel(o, o.Err, false)
		}
		x.settle(&o)
	} else if raced {
		r.lost()
		r.mu.Unlock()
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

// HedgeTunnel is called when the client has sent a ClientHello through the tunnel. If the policy has hedges
// and the target does not answer in time, a second tunnel is opened. The tunnel in which the target's first
// byte arrives first wins. first represents the open tunnel. first.Hedge returns a Sender that opens a
// tunnel, sends the ClientHello, and has a response when the target's first byte has arrived. first.Stop is
// called when the hedge has won: the caller must then call TakeHedge. Another goroutine calls Hedge and Stop.
// HedgeTunnel must not run at the same time as RetryTunnel, TakeHedge or a method of t.
func HedgeTunnel[T any](ctx context.Context, t *Tunnel, first Hedger[T]) {
	x := t.x
	if x.hedgeable() && t.CanRetry() {
		after := x.tuning.Hedging.Delay(x.request.Policy, retry.HedgeFirstByte)
		arm(ctx, x, first, retry.HedgeFirstByte, x.executor.now(), after).firstByte = true
	}
}

// TakeHedge ends the attempt of t, which has lost to its hedge. It makes t the tunnel of the hedge and
// returns the hedge's response. ok is false if no hedge has won.
func TakeHedge[T any](t *Tunnel) (response T, ok bool) {
	x := t.x
	r, raced := x.race.(*race[T])
	if !raced || x.open != openTunnel || !r.won() {
		return response, false
	}
	r.stop()
	defer r.mu.Unlock()
	t.unrecorded = false
	x.event.Ended = x.executor.now()
	r.observeFirstByte()
	lost := verdict.LoseRace(x.event.Outcome)
	lost.Latency = x.event.Ended.Sub(x.event.Started)
	x.settle(&lost)
	response, hedge := r.take()
	x.served(&hedge)
	x.stand()
	return response, true
}

// won reports whether the hedge has served the request.
func (r *race[T]) won() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running && r.phase == raceWon
}

// replace waits for the hedge if it is in flight, and makes it the exchange's last attempt. The caller holds
// mu.
func (r *race[T]) replace() (T, core.Outcome) {
	r.firstByte = false
	if r.phase == raceRunning {
		r.phase = raceAwaited
		r.await()
	}
	return r.take()
}

// observeFirstByte records the time until the target's first byte, or until the hedge won.
func (r *race[T]) observeFirstByte() {
	if r.firstByte {
		r.firstByte = false
		r.observe(r.x.executor.now().Sub(r.began))
	}
}
