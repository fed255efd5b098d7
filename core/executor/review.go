package executor

import (
	"log/slog"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
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
	Excerpt(w *core.ExcerptSpec, e *core.Excerpt)
}

// applyReview applies the rules and the judge to the outcome of the last attempt. If a rule applies, the judge is not
// asked. The parameter s is nil if the Sender gives no excerpts of responses.
func (ex *Exchange) applyReview(s Excerpter) {
	t, o := ex.tuning, &ex.event.Outcome
	if t.Rules.HasResponseRules() {
		if action := ex.matchRule(s, o); action != nil {
			*o = ex.applyRule(action, *o)
			return
		}
	}
	if t.Judge != nil && s != nil && verdict.IsReviewable(o.Cause) {
		*o = ex.askJudge(s, *o)
	}
}

// matchRule returns the action of the rule that applies to an attempt with outcome o; nil if no rule applies.
func (ex *Exchange) matchRule(s Excerpter, o *core.Outcome) *rules.Action {
	a := rules.Attempt{Request: ex.request.ruleRequest(), Status: o.Status, Cause: o.Cause}
	if o.SwitchesProtocols() {
		return nil
	}
	spec := ex.tuning.Rules.ExcerptSpec(&a)
	if spec == nil {
		return ex.tuning.Rules.Match(&a, nil)
	}
	e, ok := ex.executor.excerpts.Get().(*core.Excerpt)
	if !ok {
		e = &core.Excerpt{}
	}
	if s == nil {
		*e = core.Excerpt{Length: -1}
	} else {
		s.Excerpt(spec, e)
	}
	action := ex.tuning.Rules.Match(&a, e)
	ex.executor.excerpts.Put(e)
	ex.event.Ended = ex.executor.now()
	return action
}

// applyRule applies the action of a rule to an attempt with outcome o. direct:// is never banned, because it stands for
// the gateway itself.
func (ex *Exchange) applyRule(a *rules.Action, o core.Outcome) core.Outcome {
	ex.event.Rule, ex.event.RuleLimit = a.Label, a.MaxAttempts
	if ex.query.Retryable && !ex.request.Policy.RequestedAttempts() {
		ex.maxAttempts = max(ex.maxAttempts, a.MaxAttempts)
	}
	if a.Rest > 0 {
		ex.banForHost(&o, a.Rest, slog.String("rule", a.Label))
	}
	if a.Ban > 0 && !ex.proxy.Direct() {
		ex.unconfirmedBans = append(ex.unconfirmedBans, unconfirmedBan{ex.proxy, a.Ban, true})
		ex.banProxy(ex.proxy, min(a.Ban, maxUnconfirmed))
		ex.log(slog.LevelWarn, "proxy banned", nil, slog.Int("status", o.Status), slog.String("rule", a.Label),
			slog.Duration("for", a.Ban))
	}
	return verdict.ApplyRule(o, a.Instruction, ex.proxy.Direct())
}

// banForHost bans the attempt's proxy for the target's host: the proxy is not chosen for this host. The ban lasts for
// at most maxUnconfirmed at first. Later, confirmBans may extend it to the time d.
func (ex *Exchange) banForHost(o *core.Outcome, d time.Duration, more ...slog.Attr) {
	ex.unconfirmedBans = append(ex.unconfirmedBans, unconfirmedBan{ex.proxy, d, false})
	ex.banPair(ex.proxy, min(d, maxUnconfirmed))
	ex.log(slog.LevelInfo, "proxy rests for the target's host", nil,
		append([]slog.Attr{slog.Int("status", o.Status), slog.Duration("for", d)}, more...)...)
}

// askJudge asks the judge about the response of an attempt with outcome o, and returns the outcome that follows from
// the ruling. If the judge fails, it returns o.
func (ex *Exchange) askJudge(s Excerpter, o core.Outcome) core.Outcome {
	t := ex.tuning
	spec := t.Judge.ExcerptSpec()
	if spec == nil || !spec.IncludesStatus(o.Status) || o.SwitchesProtocols() {
		return o
	}
	e, ok := ex.executor.excerpts.Get().(*core.Excerpt)
	if !ok {
		e = &core.Excerpt{}
	}
	s.Excerpt(spec, e)
	r := core.JudgeRequest{
		Now: unixSeconds(ex.executor.now()), Attempt: float64(ex.event.Attempt),
		AttemptsLeft: float64(ex.attemptsLeft(&o)),
		Status:       float64(o.Status), Latency: o.Latency.Seconds(), HostHash: ex.query.HostHash,
		IDHash: ex.proxy.IDHash(), Length: float64(e.Length),
	}
	if e.Encoded {
		r.Encoded = 1
	}
	if e.Whole {
		r.Whole = 1
	}
	ruling, err := t.Judge.Rule(&r, e)
	ex.executor.excerpts.Put(e)
	ex.event.Ended = ex.executor.now()
	if err != nil || ruling.Kind == core.RulingFine {
		return o
	}
	if ruling.Kind == core.RulingBanned {
		ex.banForHost(&o, ruling.BanTime)
	}
	return verdict.ApplyRuling(o, ruling.Kind, ex.proxy.Direct())
}

// unconfirmedBan is a ban of the proxy of an attempt. No success of another proxy has confirmed it yet.
type unconfirmedBan struct {
	proxy    *upstream.Upstream
	duration time.Duration
	allHosts bool // the proxy is banned for all hosts
}

// maxUnconfirmed is the maximum length of a ban as long as no other proxy has served the same request. Until then, the
// target may have sent the same response to every proxy.
const maxUnconfirmed = 30 * time.Second

// banPair bans the proxy u for the target's host, for the time d.
func (ex *Exchange) banPair(u *upstream.Upstream, d time.Duration) {
	now := ex.executor.now().Sub(ex.tuning.Epoch)
	ex.tuning.HostBans.Begin(u.Hash(), uint64(ex.query.HostHash), ban.Pair{
		ProxyID: u.ID(), Host: ex.request.Host, Since: now, Until: now + d,
	})
}

// banProxy bans the proxy u for all hosts, for the time d.
func (ex *Exchange) banProxy(u *upstream.Upstream, d time.Duration) {
	now := ex.executor.now().Sub(ex.tuning.Epoch)
	ex.tuning.ProxyBans.Begin(u.Hash(), selector.AllHosts, ban.Pair{ProxyID: u.ID(), Since: now, Until: now + d})
}

// confirmBans is called when the current proxy has served the request. The success confirms that the target refuses
// only the proxies that the exchange has banned. Before, each of these bans lasts for at most maxUnconfirmed;
// confirmBans extends it to its full length.
func (ex *Exchange) confirmBans() {
	for _, b := range ex.unconfirmedBans {
		switch {
		case b.proxy == ex.proxy || b.duration <= maxUnconfirmed:
		case b.allHosts:
			ex.banProxy(b.proxy, b.duration)
		default:
			ex.banPair(b.proxy, b.duration)
		}
	}
}

// attemptsLeft returns the number of attempts that may follow an attempt with outcome o.
func (ex *Exchange) attemptsLeft(o *core.Outcome) int {
	if o.Repeat != core.RepeatAllowed || !ex.deadline.IsZero() && !ex.executor.now().Before(ex.deadline) {
		return 0
	}
	return ex.maxAttempts - ex.result.Attempts
}

// relayLastResponse is called if the judge or a rule asks for a retry. If no proxy is left for the retry, it sets
// result.Final and returns true: the last response is relayed instead.
func (ex *Exchange) relayLastResponse(o *core.Outcome) bool {
	s, now := ex.executor.selector, ex.executor.now()
	err := s.CheckSelect(&ex.query, now)
	switch banned, isBannedErr := err.(*core.BannedError); {
	case isBannedErr:
		ex.result.Final = bannedFinal(banned)
	case err != nil, o.Retry == core.RetryElsewhere && !s.HasUntried(&ex.query, now):
		ex.result.Final = core.FinalExhausted
	default:
		return false
	}
	return true
}
