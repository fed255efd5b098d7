package verdict

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// conclusion is the part of an outcome that the tables below test.
type conclusion struct {
	cause  core.Cause
	result core.Result
	charge core.Charge
	retry  core.RetryKind
}

func TestJudge(t *testing.T) {
	failed := func(c core.Cause) Facts {
		return Facts{Idempotent: true, Replayable: true, Err: &Error{Cause: c, Err: errors.New("broken")}}
	}
	response := func(status int, retried, counted bool) Facts {
		return Facts{Idempotent: true, Replayable: true, Status: status, StatusRetried: retried, StatusCounted: counted}
	}
	connect := func(status int) Facts {
		f := response(status, false, false)
		f.Tunnel = true
		return f
	}
	with := func(f Facts, change func(*Facts)) Facts {
		change(&f)
		return f
	}
	const (
		success, failure, timeout, cancelled, replay = core.ResultSuccess, core.ResultFailure, core.ResultTimeout,
			core.ResultCancelled, core.ResultReplay
		final, retry, elsewhere = core.NoRetry, core.RetryAfterBackoff, core.RetryElsewhere
	)
	for name, c := range map[string]struct {
		facts Facts
		want  conclusion
	}{
		"200":                {response(200, false, false), conclusion{Answered, success, nobody, final}},
		"404 of the target":  {response(404, false, false), conclusion{Answered, success, nobody, final}},
		"500 is not retried": {response(500, false, false), conclusion{Answered, success, nobody, final}},
		"503 is retried":     {response(503, true, true), conclusion{RetryStatus, failure, proxyOrTarget, retry}},
		"500 is retried by the request's policy only": {response(500, true, false),
			conclusion{RetryStatus, failure, nobody, retry}},
		"503 that the request does not retry still counts": {response(503, false, true),
			conclusion{RetryStatus, failure, proxyOrTarget, final}},
		"429 is retried": {response(429, true, true), conclusion{RetryStatus, failure, nobody, retry}},
		"407 of the proxy": {with(response(407, false, false), func(f *Facts) {
			f.FromProxy, f.HasChallenge = true,
				true
		}),
			conclusion{CredentialsRefused, failure, proxy, elsewhere}},
		"a direct attempt that is cut short": {
			with(failed(NoAnswerInTime), func(f *Facts) { f.CutShort, f.Direct = true, true }),
			conclusion{CutShort, timeout, core.ChargeTarget, retry}},
		"503 of a direct target": {with(response(503, true, true), func(f *Facts) { f.Direct = true }),
			conclusion{RetryStatus, failure, core.ChargeTarget, retry}},
		"407 of a proxy that has served": {with(response(407, false, false),
			func(f *Facts) { f.FromProxy, f.HasChallenge, f.ProxyHasServed = true, true, true }),
			conclusion{CredentialsRefused, failure, proxyOrTarget, elsewhere}},
		"the target's own 407": {with(response(407, false, false), func(f *Facts) { f.HasChallenge = true }),
			conclusion{Answered, success, nobody, final}},
		"407 with a challenge of the target": {with(response(407, false, false),
			func(f *Facts) {
				f.FromProxy, f.HasChallenge, f.ProxyHasServed, f.TargetChallenge = true, true, true, true
			}),
			conclusion{Answered, success, nobody, final}},
		"407 to a TRACE": {with(response(407, false, false),
			func(f *Facts) { f.FromProxy, f.NoCredentials = true, true }),
			conclusion{Answered, success, nobody, final}},
		"407 without a challenge": {with(response(407, false, false), func(f *Facts) { f.FromProxy = true }),
			conclusion{Answered, success, nobody, final}},
		"the proxy's page: it cannot reach the target": {with(response(500, false, false),
			func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageUnreachable }),
			conclusion{TargetUnreachable, failure, proxyOrTarget, retry}},
		"the proxy's page: forbidden": {with(response(403, false, false),
			func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageForbids }),
			conclusion{ProxyForbids, failure, ifServed, retry}},
		"the proxy's page: unclear": {with(response(404, false, false),
			func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageUnclear }),
			conclusion{ProxyErrorPage, failure, proxyOrTarget, retry}},
		"CONNECT 503 with an error page": {with(connect(503), func(f *Facts) { f.ErrorPage = ErrorPageUnreachable }),
			conclusion{TargetUnreachable, failure, proxyOrTarget, retry}},
		"all attempts of an inner gateway failed": {with(response(502, true, true),
			func(f *Facts) { f.FromProxy, f.InnerOutcome = true, "exhausted" }),
			conclusion{InnerGaveUp, failure, proxyOrTarget, final}},
		"all attempts of an inner gateway failed, other proxies are served": {with(response(502, true, true),
			func(f *Facts) { f.FromProxy, f.InnerOutcome, f.TargetServedElsewhere = true, "exhausted", true }),
			conclusion{InnerGaveUp, failure, proxyOrTarget, retry}},
		"bytes left over from an earlier response": {failed(Leftover),
			conclusion{Leftover, replay, nobody, core.Replay}},
		"garbage on a new connection": {with(failed(Leftover), func(f *Facts) { f.IsReplay = true }),
			conclusion{AnswerMalformed, failure, proxyOrTarget, retry}},
		"a tunnel is open":                    {connect(200), conclusion{TunnelOpen, success, nobody, final}},
		"a tunnel is opened with another 2xx": {connect(299), conclusion{TunnelOpen, success, nobody, final}},
		"CONNECT 407": {connect(407), conclusion{CredentialsRefused, failure, proxy,
			elsewhere}},
		"CONNECT 403": {connect(403), conclusion{TunnelRefused, failure, ifServed, retry}},
		"CONNECT 302": {connect(302), conclusion{TunnelRefused, failure, ifServed, retry}},
		"CONNECT 500": {connect(500), conclusion{TunnelFailed, failure, proxyOrTarget, retry}},
		"CONNECT 403 for an https request": {failed(refusedConnectCause(403)),
			conclusion{TunnelRefused, failure, ifServed, retry}},
		"CONNECT 407 for an https request": {failed(refusedConnectCause(407)),
			conclusion{CredentialsRefused, failure, proxy, elsewhere}},
		"CONNECT 503 for an https request": {failed(refusedConnectCause(503)),
			conclusion{TunnelFailed, failure, proxyOrTarget, retry}},
		"refused": {failed(ProxyUnreachable),
			conclusion{ProxyUnreachable, failure, proxy, retry}},
		"connect timeout": {failed(ProxyConnectTimeout),
			conclusion{ProxyConnectTimeout, timeout, proxy, retry}},
		"no SOCKS, or no HTTP": {failed(ProxyProtocol), conclusion{ProxyProtocol, failure, proxy, retry}},
		"no SOCKS, of a proxy that has served": {with(failed(ProxyProtocol),
			func(f *Facts) { f.ProxyHasServed = true }),
			conclusion{ProxyProtocol, failure, proxyOrTarget, retry}},
		"no response in time": {failed(NoAnswerInTime), conclusion{NoAnswerInTime, timeout, proxyOrTarget, retry}},
		"reset before the head": {failed(ConnectionClosed), conclusion{ConnectionClosed, failure, proxyOrTarget,
			retry}},
		"malformed":          {failed(AnswerMalformed), conclusion{AnswerMalformed, failure, proxyOrTarget, retry}},
		"no descriptor left": {failed(LocalLimit), conclusion{LocalLimit, failure, gateway, retry}},
		"certificate":        {failed(TargetCertificate), conclusion{TargetCertificate, failure, ifServed, retry}},
		"connection closed by a direct target": {with(failed(ConnectionClosed), func(f *Facts) { f.Direct = true }),
			conclusion{ConnectionClosed, failure, core.ChargeTarget, retry}},
		"stale connection": {failed(StaleConnection), conclusion{StaleConnection, replay, nobody, core.Replay}},
		"stale connection, request not idempotent": {with(failed(StaleConnection),
			func(f *Facts) { f.Idempotent = false }),
			conclusion{StaleConnection, failure, nobody, retry}},
		"new connection closed": {with(failed(StaleConnection), func(f *Facts) { f.IsReplay = true }),
			conclusion{ConnectionClosed, failure, proxyOrTarget, retry}},
		"the client left": {with(failed(NoAnswerInTime), func(f *Facts) { f.CancelCause = io.EOF }),
			conclusion{ClientLeft, cancelled, client, final}},
		"shutdown": {with(failed(NoAnswerInTime), func(f *Facts) { f.CancelCause = ErrShutdown }),
			conclusion{ShuttingDown, cancelled, gateway, final}},
		"the request's body ended early": {failed(RequestBroke), conclusion{RequestBroke, cancelled, client, final}},
		"the global total timeout": {with(failed(NoAnswerInTime), func(f *Facts) { f.TotalTimeout = true }),
			conclusion{TotalTimeout, timeout, proxyOrTarget, final}},
		"a request's own total timeout": {with(failed(NoAnswerInTime),
			func(f *Facts) { f.TotalTimeout, f.TighterTotalTimeout = true, true }),
			conclusion{TotalTimeout, timeout, nobody, final}},
		"the attempt timeout of a rule": {with(failed(NoAnswerInTime),
			func(f *Facts) { f.TighterAttemptTimeout = true }),
			conclusion{NoAnswerInTime, timeout, ifServed, retry}},
		"the attempt timeout of a rule while connecting": {with(failed(ProxyConnectTimeout),
			func(f *Facts) { f.TighterAttemptTimeout = true }), conclusion{ProxyConnectTimeout, timeout, ifServed,
			retry}},
		"a failure before the attempt timeout of a rule": {with(failed(ConnectionClosed),
			func(f *Facts) { f.TighterAttemptTimeout = true }), conclusion{ConnectionClosed, failure, proxyOrTarget,
			retry}},
		"total timeout while the client was sending": {with(failed(NoAnswerInTime),
			func(f *Facts) { f.TotalTimeout, f.Err.BodyUnsent = true, true }),
			conclusion{TotalTimeout, timeout, nobody, final}},
		"cut short": {with(failed(NoAnswerInTime), func(f *Facts) { f.CutShort = true }),
			conclusion{CutShort, timeout, ifServed, retry}},
		"cut short by the total timeout": {with(failed(NoAnswerInTime),
			func(f *Facts) { f.CutShort, f.TotalTimeout = true, true }),
			conclusion{TotalTimeout, timeout, proxyOrTarget, final}},
		"connection closed at the adaptive timeout": {with(failed(ConnectionClosed),
			func(f *Facts) { f.CutShort = true }),
			conclusion{ConnectionClosed, failure, proxyOrTarget, retry}},
		"a failure at the total timeout": {with(failed(ProxyUnreachable), func(f *Facts) { f.TotalTimeout = true }),
			conclusion{ProxyUnreachable, failure, proxy, retry}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Judge(&c.facts)
			assert.Equal(t, c.want, conclusion{o.Cause, o.Result, o.Charge, o.Retry}, "%s", CauseName(o.Cause))
			counts := o.Charge == proxy || o.Charge == proxyOrTarget
			switch {
			case o.Result == success && !c.facts.TargetChallenge && !c.facts.NoCredentials:
				assert.Equal(t, core.Success, o.Verdict)
			case counts:
				assert.Equal(t, core.Failure, o.Verdict)
			default:
				assert.Equal(t, core.Excluded, o.Verdict)
			}
			if o.Result == failure && c.facts.Err == nil {
				assert.NotEmpty(t, o.Reason)
			}
		})
	}
}

func TestRepeat(t *testing.T) {
	for name, c := range map[string]struct {
		facts Facts
		want  core.Repeat
	}{
		"a GET": {Facts{Idempotent: true, Replayable: true,
			Err: &Error{Cause: ConnectionClosed}}, core.RepeatAllowed},
		"a POST that was reset": {Facts{Replayable: true, Err: &Error{Cause: ConnectionClosed}},
			core.RepeatUnsafe},
		"a POST that was not sent": {Facts{Replayable: true, Err: &Error{Cause: ProxyUnreachable}},
			core.RepeatAllowed},
		"a long body, partly sent": {Facts{Idempotent: true, Err: &Error{Cause: ConnectionClosed}},
			core.RepeatBodyNotKept},
		"a long body, not sent": {Facts{Idempotent: true, Err: &Error{Cause: TunnelFailed}}, core.RepeatAllowed},
		"a long body and a 407": {Facts{Idempotent: true, Status: 407, FromProxy: true, HasChallenge: true},
			core.RepeatBodyNotKept},
		"an error page: unknown name": {Facts{Replayable: true, Status: 503, FromProxy: true,
			ErrorPage: ErrorPageUnreachable, ErrorPageReason: "dns_error"}, core.RepeatAllowed},
		"an error page: no response": {Facts{Replayable: true, Status: 504, FromProxy: true,
			ErrorPage: ErrorPageUnreachable, ErrorPageReason: "http_response_timeout"}, core.RepeatUnsafe},
		"an error page: forbidden": {Facts{Replayable: true, Status: 403, FromProxy: true,
			ErrorPage: ErrorPageForbids}, core.RepeatUnsafe},
		"the error page of an inner gateway": {Facts{Replayable: true, Status: 502, FromProxy: true,
			ErrorPage: ErrorPageUnreachable, ErrorPageReason: "dns_error",
			InnerOutcome: "not_retryable"}, core.RepeatUnsafe},
		"out of memory while sending": {Facts{Replayable: true, Err: &Error{Cause: LocalLimit, PartSent: true}},
			core.RepeatUnsafe},
	} {
		o := Judge(&c.facts)
		assert.Equal(t, c.want, o.Repeat, name)
	}
}

func TestEveryCauseHasItsRow(t *testing.T) {
	seen := map[string]bool{}
	for c := range numCauses {
		require.NotEmpty(t, rows[c].name, "cause %d", c)
		require.NotEmpty(t, rows[c].meaning, rows[c].name)
		require.False(t, seen[CauseName(c)], CauseName(c))
		seen[CauseName(c)] = true
	}
	assert.Equal(t, "unknown", CauseName(numCauses))
}

func TestEndRelay(t *testing.T) {
	head := Judge(&Facts{Status: 200, Idempotent: true, Replayable: true})
	for name, c := range map[string]struct {
		relayed RelayEnd
		want    conclusion
	}{
		"complete": {RelayEnd{}, conclusion{Answered, core.ResultSuccess, nobody, core.NoRetry}},
		"ended early": {RelayEnd{BodyErr: io.ErrUnexpectedEOF},
			conclusion{AnswerBrokeOff, core.ResultFailure, proxyOrTarget, core.NoRetry}},
		"ended early by a direct target": {RelayEnd{BodyErr: io.ErrUnexpectedEOF, Direct: true},
			conclusion{AnswerBrokeOff, core.ResultFailure, core.ChargeTarget, core.NoRetry}},
		"the client left": {RelayEnd{ClientLeft: true},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the client left a stalled body": {RelayEnd{ClientLeft: true, HasLength: true, SilentTime: stallTime},
			conclusion{AnswerBrokeOff, core.ResultFailure, proxyOrTarget, core.NoRetry}},
		"the client left a stalled body of a direct target": {
			RelayEnd{ClientLeft: true, HasLength: true, SilentTime: stallTime, Direct: true},
			conclusion{AnswerBrokeOff, core.ResultFailure, core.ChargeTarget, core.NoRetry}},
		"the client left a body that had been silent for less": {
			RelayEnd{BodyErr: io.EOF, ClientLeft: true, HasLength: true, SilentTime: stallTime - 1},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the client left a silent body of unknown length": {
			RelayEnd{BodyErr: io.EOF, ClientLeft: true, SilentTime: time.Hour},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the client left a stalled body, literal": {
			RelayEnd{ClientLeft: true, HasLength: true, SilentTime: time.Hour, Literal: true},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the request's body ended early": {RelayEnd{BodyErr: io.EOF, RequestBroke: true},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the gateway cancelled it": {RelayEnd{BodyErr: io.EOF, Cancelled: true},
			conclusion{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
	} {
		o := EndRelay(head, c.relayed)
		assert.Equal(t, c.want, conclusion{o.Cause, o.Result, o.Charge, o.Retry}, name)
	}
}

// For all outcomes of an attempt that lost a race: it is excluded, and no retry follows.
func TestLoseRace(t *testing.T) {
	for name, f := range map[string]*Facts{
		"a response":  {Status: 200, Idempotent: true, Replayable: true},
		"a failure":   {Status: 503, StatusRetried: true, StatusCounted: true, RetryAfter: "3"},
		"interrupted": {Err: &Error{Cause: NoAnswerInTime, Reason: "http_response_timeout", Err: io.EOF}},
		"a tunnel":    {Tunnel: true, Status: 200, Idempotent: true, Replayable: true},
	} {
		o := LoseRace(Judge(f))
		assert.Equal(t, core.Outcome{Cause: HedgeLost, Result: core.ResultCancelled, Verdict: core.Excluded,
			NoTargetResponse: true, Err: errRaceLost}, o, name)
	}
}

func TestEndTunnel(t *testing.T) {
	opened := Judge(&Facts{Tunnel: true, Status: 200, Idempotent: true, Replayable: true})
	for name, c := range map[string]struct {
		end  TunnelEnd
		want core.Cause
	}{
		"bytes in both directions":          {TunnelEnd{BytesUp: 1, BytesDown: 1, Err: io.EOF}, TunnelOpen},
		"died after bytes of the client":    {TunnelEnd{BytesUp: 1, Err: io.EOF}, TunnelDied},
		"died at once":                      {TunnelEnd{Err: io.EOF}, TunnelDied},
		"the client left before a response": {TunnelEnd{BytesUp: 1}, TunnelUnused},
		"the client sent nothing":           {TunnelEnd{}, TunnelOpen},
		"idle tunnel closed":                {TunnelEnd{Err: io.EOF, Unused: true}, TunnelUnused},
		"part of a ClientHello, then idle":  {TunnelEnd{BytesUp: 1, Err: io.EOF, Unused: true}, TunnelUnused},
		"direct":                            {TunnelEnd{BytesUp: 1, Err: io.EOF, Direct: true}, TunnelUnused},
		"shutdown":                          {TunnelEnd{BytesUp: 1, Err: io.EOF, StoppedByGateway: true}, TunnelUnused},
		"cut":                               {TunnelEnd{BytesDown: 1, InRecord: true}, TunnelCut},
		"cut at the shutdown": {
			TunnelEnd{BytesDown: 1, InRecord: true, StoppedByGateway: true}, TunnelOpen,
		},
		"cut without a proxy": {TunnelEnd{BytesDown: 1, InRecord: true, Direct: true}, TunnelOpen},
	} {
		o := EndTunnel(opened, c.end)
		assert.Equal(t, c.want, o.Cause, "%s: %s", name, CauseName(o.Cause))
	}
}

func TestRulingsOnADirectResponse(t *testing.T) {
	answered := Judge(&Facts{Status: 200, Idempotent: true, Replayable: true})
	for k, want := range map[core.RulingKind][2]core.Charge{ // through a proxy, direct
		core.RulingRetry:       {core.ChargeNobody, core.ChargeNobody},
		core.RulingOtherProxy:  {core.ChargeProxyIfServed, core.ChargeTarget},
		core.RulingBanned:      {core.ChargeNobody, core.ChargeNobody},
		core.RulingTargetFault: {core.ChargeTarget, core.ChargeTarget},
	} {
		require.Equal(t, want, [2]core.Charge{ApplyRuling(answered, k, false).Charge, ApplyRuling(answered, k,
			true).Charge}, k)
	}
}
