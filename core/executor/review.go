package executor

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Excerpter is an optional interface of a Sender. A judge rules on the responses of such a Sender.
type Excerpter interface {
	// Excerpt sets e to the parts of the last attempt's response that a judge asks for. It may wait a short time
	// for the beginning of the body. It does not consume the body. e is valid until the response is discarded or
	// read.
	Excerpt(w *core.Wants, e *core.Excerpt)
}

// review asks the judge about the response of an attempt with outcome o, and returns the outcome that follows from
// the ruling. If the judge fails, it returns o.
func (x *Exchange) review(s Excerpter, o core.Outcome) core.Outcome {
	t := x.tuning
	wants := t.Judge.Wants()
	if wants == nil || !wants.Status(o.Status) || o.Status == http.StatusSwitchingProtocols {
		return o
	}
	e, ok := x.executor.excerpts.Get().(*core.Excerpt)
	if !ok {
		e = &core.Excerpt{}
	}
	s.Excerpt(wants, e)
	r := core.JudgeRequest{
		Now: unix(x.executor.now()), Attempt: float64(x.event.Attempt), AttemptsLeft: float64(x.attemptsLeft(&o)),
		Status: float64(o.Status), Latency: o.Latency.Seconds(), HostHash: x.query.HostHash, IDHash: x.proxy.IDHash(),
		Length: float64(e.Length),
	}
	if e.Encoded {
		r.Encoded = 1
	}
	if e.Whole {
		r.Whole = 1
	}
	ruling, err := t.Judge.Rule(&r, e)
	x.executor.excerpts.Put(e)
	x.event.Ended = x.executor.now()
	if err != nil || ruling.Kind == core.RulingFine {
		return o
	}
	if ruling.Kind == core.RulingBanned {
		x.bans = append(x.bans, ban{x.proxy, ruling.Rest})
		x.rest(x.proxy, min(ruling.Rest, unconfirmedRest))
		x.log(slog.LevelInfo, "proxy rests for the target's host", nil, slog.Int("status", o.Status),
			slog.Duration("for", ruling.Rest))
	}
	return verdict.Rule(o, ruling.Kind, x.proxy.Direct())
}

// ban records the ruling that the target bans the proxy of an attempt.
type ban struct {
	proxy *upstream.Upstream
	rest  time.Duration
}

// unconfirmedRest is the longest rest of a pair until another proxy has served the same request. Until then,
// the target may send the same response to every proxy.
const unconfirmedRest = 30 * time.Second

// rest makes u rest for the target's host, for the time d.
func (x *Exchange) rest(u *upstream.Upstream, d time.Duration) {
	now := x.executor.now().Sub(x.tuning.Epoch)
	x.tuning.Rests.Begin(u.Hash(), uint64(x.query.HostHash), rest.Pair{
		ProxyID: u.ID(), Host: x.request.Host, Since: now, Until: now + d,
	})
}

// confirmBans extends each rest that a ban of this exchange has begun to its full length, because another
// proxy has served the request.
func (x *Exchange) confirmBans() {
	for _, b := range x.bans {
		if b.proxy != x.proxy && b.rest > unconfirmedRest {
			x.rest(b.proxy, b.rest)
		}
	}
}

// attemptsLeft returns the number of attempts that may follow an attempt with outcome o.
func (x *Exchange) attemptsLeft(o *core.Outcome) int {
	if o.Repeat != core.RepeatAllowed || !x.deadline.IsZero() && !x.executor.now().Before(x.deadline) {
		return 0
	}
	return x.request.Policy.MaxAttempts - x.result.Attempts
}

// lastResponse reports whether no proxy is left for the retry that the judge asked for, so that the last
// response is relayed. If so, it sets result.Final.
func (x *Exchange) lastResponse(o *core.Outcome) bool {
	s, now := x.executor.selector, x.executor.now()
	err := s.Blocked(&x.query, now)
	switch _, allRest := err.(*core.RestingError); {
	case allRest:
		x.result.Final = core.FinalAllBannedHere
	case err != nil, o.Retry == core.RetryElsewhere && !s.Untried(&x.query, now):
		x.result.Final = core.FinalExhausted
	default:
		return false
	}
	return true
}
