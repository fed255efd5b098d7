package executor

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
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

// inspect returns the outcome of an attempt after the rules and the judge; o is the outcome without them. If a rule
// applies, the judge is not asked. s is nil if there are no excerpts of the response.
func (x *Exchange) inspect(s Excerpter, o core.Outcome) core.Outcome {
	t := x.tuning
	if t.Rules != nil {
		if action := x.rule(s, &o); action != nil {
			return x.obey(action, o)
		}
	}
	if t.Judge != nil && s != nil && verdict.Reviewable(o.Cause) {
		return x.review(s, o)
	}
	return o
}

// rule returns the action of the rule that applies to an attempt with outcome o; nil if there is none.
func (x *Exchange) rule(s Excerpter, o *core.Outcome) *rules.Action {
	a := rules.Attempt{Host: x.request.Host, Method: x.request.Method, Status: o.Status, Cause: o.Cause}
	if o.Status == http.StatusSwitchingProtocols {
		return nil
	}
	wants := x.tuning.Rules.Wants(&a)
	if wants == nil {
		return x.tuning.Rules.Match(&a, nil)
	}
	e, ok := x.executor.excerpts.Get().(*core.Excerpt)
	if !ok {
		e = &core.Excerpt{}
	}
	if s == nil {
		*e = core.Excerpt{Length: -1}
	} else {
		s.Excerpt(wants, e)
	}
	action := x.tuning.Rules.Match(&a, e)
	x.executor.excerpts.Put(e)
	x.event.Ended = x.executor.now()
	return action
}

// obey applies the action of a rule to an attempt with outcome o. direct:// is never banned, because it stands for the
// gateway itself.
func (x *Exchange) obey(a *rules.Action, o core.Outcome) core.Outcome {
	if a.Rest > 0 {
		x.refuseHere(&o, a.Rest, slog.Int("rule", a.Rule))
	}
	if a.Ban > 0 && !x.proxy.Direct() {
		x.bans = append(x.bans, ban{x.proxy, a.Ban, true})
		x.ban(x.proxy, min(a.Ban, unconfirmedRest))
		x.log(slog.LevelWarn, "proxy banned", nil, slog.Int("status", o.Status), slog.Int("rule", a.Rule),
			slog.Duration("for", a.Ban))
	}
	return verdict.ByRule(o, a.Instruction, x.proxy.Direct())
}

// refuseHere lets the pair of the attempt's proxy and the target's host rest.
func (x *Exchange) refuseHere(o *core.Outcome, d time.Duration, more ...slog.Attr) {
	x.bans = append(x.bans, ban{x.proxy, d, false})
	x.rest(x.proxy, min(d, unconfirmedRest))
	x.log(slog.LevelInfo, "proxy rests for the target's host", nil,
		append([]slog.Attr{slog.Int("status", o.Status), slog.Duration("for", d)}, more...)...)
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
		x.refuseHere(&o, ruling.Rest)
	}
	return verdict.Rule(o, ruling.Kind, x.proxy.Direct())
}

// ban records the decision that the target bans the proxy of an attempt.
type ban struct {
	proxy      *upstream.Upstream
	rest       time.Duration
	everywhere bool // the proxy is banned for all hosts
}

// unconfirmedRest is the longest rest of a pair, and the longest ban of a proxy, until another proxy has served the
// same request. Until then, the target may send the same response to every proxy.
const unconfirmedRest = 30 * time.Second

// rest makes u rest for the target's host, for the time d.
func (x *Exchange) rest(u *upstream.Upstream, d time.Duration) {
	now := x.executor.now().Sub(x.tuning.Epoch)
	x.tuning.Rests.Begin(u.Hash(), uint64(x.query.HostHash), rest.Pair{
		ProxyID: u.ID(), Host: x.request.Host, Since: now, Until: now + d,
	})
}

// ban bans u for the time d.
func (x *Exchange) ban(u *upstream.Upstream, d time.Duration) {
	now := x.executor.now().Sub(x.tuning.Epoch)
	x.tuning.Bans.Begin(u.Hash(), selector.AllHosts, rest.Pair{ProxyID: u.ID(), Since: now, Until: now + d})
}

// confirmBans extends each rest and each ban of a proxy that this exchange has begun to its full length, because
// another proxy has served the request.
func (x *Exchange) confirmBans() {
	for _, b := range x.bans {
		switch {
		case b.proxy == x.proxy || b.rest <= unconfirmedRest:
		case b.everywhere:
			x.ban(b.proxy, b.rest)
		default:
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
	switch resting, allRest := err.(*core.RestingError); {
	case allRest:
		x.result.Final = restingFinal(resting)
	case err != nil, o.Retry == core.RetryElsewhere && !s.Untried(&x.query, now):
		x.result.Final = core.FinalExhausted
	default:
		return false
	}
	return true
}
