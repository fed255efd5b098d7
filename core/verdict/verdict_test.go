package verdict

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// concluded is the part of an outcome that the table is about.
type concluded struct {
	cause  core.Cause
	result core.Result
	charge core.Charge
	again  core.RetryKind
}

// TestTheTable has one case for each way that an attempt can end.
func TestTheTable(t *testing.T) {
	fault := func(c core.Cause) Facts {
		return Facts{Idempotent: true, Replayable: true, Err: &Error{Cause: c, Err: errors.New("broken")}}
	}
	answer := func(status int, listed, counted bool) Facts {
		return Facts{Idempotent: true, Replayable: true, Status: status, StatusRetried: listed, StatusCounted: counted}
	}
	connect := func(status int) Facts {
		f := answer(status, false, false)
		f.Tunnel = true
		return f
	}
	with := func(f Facts, change func(*Facts)) Facts {
		change(&f)
		return f
	}
	const (
		success, failure, timeout, cancelled, replay = core.ResultSuccess, core.ResultFailure, core.ResultTimeout, core.ResultCancelled, core.ResultReplay
		never, again, elsewhere                      = core.NoRetry, core.RetryAfterBackoff, core.RetryElsewhere
	)
	for name, c := range map[string]struct {
		facts Facts
		want  concluded
	}{
		"200":                               {answer(200, false, false), concluded{Answered, success, nobody, never}},
		"404 is the target's answer":        {answer(404, false, false), concluded{Answered, success, nobody, never}},
		"500 is not listed: the path works": {answer(500, false, false), concluded{Answered, success, nobody, never}},
		"503 is listed":                     {answer(503, true, true), concluded{RetryStatus, failure, proxyOrTarget, again}},
		"500 is listed by the request's policy only":       {answer(500, true, false), concluded{RetryStatus, failure, nobody, again}},
		"503 that the request does not retry still counts": {answer(503, false, true), concluded{RetryStatus, failure, proxyOrTarget, never}},
		"429 is listed": {answer(429, true, true), concluded{RetryStatus, failure, nobody, again}},
		"407 of the proxy": {with(answer(407, false, false), func(f *Facts) { f.FromProxy, f.Challenged = true, true }),
			concluded{CredentialsRefused, failure, proxy, elsewhere}},
		"503 of a direct target": {with(answer(503, true, true), func(f *Facts) { f.Direct = true }),
			concluded{RetryStatus, failure, core.ChargeTarget, again}},
		"407 of a proxy that has served": {with(answer(407, false, false), func(f *Facts) { f.FromProxy, f.Challenged, f.Proven = true, true, true }),
			concluded{CredentialsRefused, failure, proxyOrTarget, elsewhere}},
		"the target's own 407": {with(answer(407, false, false), func(f *Facts) { f.Challenged = true }),
			concluded{Answered, success, nobody, never}},
		"407 without a challenge": {with(answer(407, false, false), func(f *Facts) { f.FromProxy = true }),
			concluded{Answered, success, nobody, never}},
		"the proxy's page: it cannot reach the target": {with(answer(500, false, false), func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageUnreachable }),
			concluded{TargetUnreachable, failure, proxyOrTarget, again}},
		"the proxy's page: forbidden": {with(answer(403, false, false), func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageForbids }),
			concluded{ProxyForbids, failure, ifServed, again}},
		"the proxy's page: unclear": {with(answer(404, false, false), func(f *Facts) { f.FromProxy, f.ErrorPage = true, ErrorPageUnclear }),
			concluded{ProxyErrorPage, failure, proxyOrTarget, again}},
		"CONNECT 503, and why": {with(connect(503), func(f *Facts) { f.ErrorPage = ErrorPageUnreachable }),
			concluded{TargetUnreachable, failure, proxyOrTarget, again}},
		"an inner gateway gave up": {with(answer(502, true, true), func(f *Facts) { f.FromProxy, f.InnerOutcome = true, "exhausted" }),
			concluded{InnerGaveUp, failure, proxyOrTarget, never}},
		"but others are served": {with(answer(502, true, true), func(f *Facts) { f.FromProxy, f.InnerOutcome, f.TargetServed = true, "exhausted", true }),
			concluded{InnerGaveUp, failure, proxyOrTarget, again}},
		"bytes left over from an earlier answer": {fault(Leftover), concluded{Leftover, replay, nobody, core.Replay}},
		"garbage on a fresh connection": {with(fault(Leftover), func(f *Facts) { f.Replayed = true }),
			concluded{AnswerMalformed, failure, proxyOrTarget, again}},
		"a tunnel stands":        {connect(200), concluded{TunnelOpen, success, nobody, never}},
		"a tunnel stands by 2xx": {connect(299), concluded{TunnelOpen, success, nobody, never}},
		"CONNECT 407":            {connect(407), concluded{CredentialsRefused, failure, proxy, elsewhere}},
		"CONNECT 403":            {connect(403), concluded{TunnelRefused, failure, ifServed, again}},
		"CONNECT 302":            {connect(302), concluded{TunnelRefused, failure, ifServed, again}},
		"CONNECT 500":            {connect(500), concluded{TunnelFailed, failure, proxyOrTarget, again}},
		"our CONNECT 403":        {fault(RefusalCause(403)), concluded{TunnelRefused, failure, ifServed, again}},
		"our CONNECT 407":        {fault(RefusalCause(407)), concluded{CredentialsRefused, failure, proxy, elsewhere}},
		"our CONNECT 503":        {fault(RefusalCause(503)), concluded{TunnelFailed, failure, proxyOrTarget, again}},
		"refused":                {fault(ProxyUnreachable), concluded{ProxyUnreachable, failure, proxy, again}},
		"connecting took long":   {fault(ProxyConnectTimeout), concluded{ProxyConnectTimeout, timeout, proxy, again}},
		"no SOCKS, or no HTTP":   {fault(ProxyProtocol), concluded{ProxyProtocol, failure, proxy, again}},
		"of a proxy that spoke it before": {with(fault(ProxyProtocol), func(f *Facts) { f.Proven = true }),
			concluded{ProxyProtocol, failure, proxyOrTarget, again}},
		"no answer in time":     {fault(NoAnswerInTime), concluded{NoAnswerInTime, timeout, proxyOrTarget, again}},
		"reset before the head": {fault(ConnectionClosed), concluded{ConnectionClosed, failure, proxyOrTarget, again}},
		"malformed":             {fault(AnswerMalformed), concluded{AnswerMalformed, failure, proxyOrTarget, again}},
		"no descriptor left":    {fault(LocalLimit), concluded{LocalLimit, failure, gateway, again}},
		"certificate":           {fault(TargetCertificate), concluded{TargetCertificate, failure, ifServed, again}},
		"direct: nobody but the target": {with(fault(ConnectionClosed), func(f *Facts) { f.Direct = true }),
			concluded{ConnectionClosed, failure, core.ChargeTarget, again}},
		"a kept connection was dead": {fault(StaleConnection), concluded{StaleConnection, replay, nobody, core.Replay}},
		"and the request may not be repeated": {with(fault(StaleConnection), func(f *Facts) { f.Idempotent = false }),
			concluded{StaleConnection, failure, nobody, again}},
		"a fresh connection closed": {with(fault(StaleConnection), func(f *Facts) { f.Replayed = true }),
			concluded{ConnectionClosed, failure, proxyOrTarget, again}},
		"the client left": {with(fault(NoAnswerInTime), func(f *Facts) { f.Stopped = io.EOF }),
			concluded{ClientLeft, cancelled, client, never}},
		"shutdown": {with(fault(NoAnswerInTime), func(f *Facts) { f.Stopped = ErrShutdown }),
			concluded{ShuttingDown, cancelled, gateway, never}},
		"the request's body broke off": {fault(RequestBroke), concluded{RequestBroke, cancelled, client, never}},
		"the global total timeout": {with(fault(NoAnswerInTime), func(f *Facts) { f.TotalTimeout = true }),
			concluded{TotalTimeout, timeout, proxyOrTarget, never}},
		"a request's own total timeout": {with(fault(NoAnswerInTime), func(f *Facts) { f.TotalTimeout, f.TighterTimeout = true, true }),
			concluded{TotalTimeout, timeout, nobody, never}},
		"the client was still sending": {with(fault(NoAnswerInTime), func(f *Facts) { f.TotalTimeout, f.Err.Sending = true, true }),
			concluded{TotalTimeout, timeout, nobody, never}},
		"cut short": {with(fault(NoAnswerInTime), func(f *Facts) { f.CutShort = true }),
			concluded{CutShort, timeout, ifServed, again}},
		"cut short by the total timeout": {with(fault(NoAnswerInTime), func(f *Facts) { f.CutShort, f.TotalTimeout = true, true }),
			concluded{TotalTimeout, timeout, proxyOrTarget, never}},
		"closed right at the limit": {with(fault(ConnectionClosed), func(f *Facts) { f.CutShort = true }),
			concluded{ConnectionClosed, failure, proxyOrTarget, again}},
		"a failure right at the total timeout": {with(fault(ProxyUnreachable), func(f *Facts) { f.TotalTimeout = true }),
			concluded{ProxyUnreachable, failure, proxy, again}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Judge(&c.facts)
			assert.Equal(t, c.want, concluded{o.Cause, o.Result, o.Charge, o.Retry}, "%s", Word(o.Cause))
			counts := o.Charge == proxy || o.Charge == proxyOrTarget
			switch {
			case o.Result == success:
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

func TestWhatMayBeRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		facts Facts
		want  core.Repeat
	}{
		"a GET":                           {Facts{Idempotent: true, Replayable: true, Err: &Error{Cause: ConnectionClosed}}, core.RepeatAllowed},
		"a POST that was reset":           {Facts{Replayable: true, Err: &Error{Cause: ConnectionClosed}}, core.RepeatUnsafe},
		"a POST that was never sent":      {Facts{Replayable: true, Err: &Error{Cause: ProxyUnreachable}}, core.RepeatAllowed},
		"a long body of which some went":  {Facts{Idempotent: true, Err: &Error{Cause: ConnectionClosed}}, core.RepeatBodyNotKept},
		"a long body of which none went":  {Facts{Idempotent: true, Err: &Error{Cause: TunnelFailed}}, core.RepeatAllowed},
		"a 407 may have taken some of it": {Facts{Idempotent: true, Status: 407, FromProxy: true, Challenged: true}, core.RepeatBodyNotKept},
		"a page: the name is unknown":     {Facts{Replayable: true, Status: 503, FromProxy: true, ErrorPage: ErrorPageUnreachable, ErrorPageReason: "dns_error"}, core.RepeatAllowed},
		"a page: no answer came":          {Facts{Replayable: true, Status: 504, FromProxy: true, ErrorPage: ErrorPageUnreachable, ErrorPageReason: "http_response_timeout"}, core.RepeatUnsafe},
		"a page: forbidden":               {Facts{Replayable: true, Status: 403, FromProxy: true, ErrorPage: ErrorPageForbids}, core.RepeatUnsafe},
		"an inner gateway's page":         {Facts{Replayable: true, Status: 502, FromProxy: true, ErrorPage: ErrorPageUnreachable, ErrorPageReason: "dns_error", InnerOutcome: "not_retryable"}, core.RepeatUnsafe},
		"out of memory while sending":     {Facts{Replayable: true, Err: &Error{Cause: LocalLimit, PartSent: true}}, core.RepeatUnsafe},
	} {
		o := Judge(&c.facts)
		assert.Equal(t, c.want, o.Repeat, name)
	}
}

// Every cause has a word of its own and a meaning.
func TestEveryCauseHasItsRow(t *testing.T) {
	seen := map[string]bool{}
	for c := range causes {
		require.NotEmpty(t, rows[c].word, "cause %d", c)
		require.NotEmpty(t, rows[c].meaning, rows[c].word)
		require.False(t, seen[Word(c)], Word(c))
		seen[Word(c)] = true
	}
	assert.Equal(t, "unknown", Word(causes))
}

func TestHowAnAnswerEnds(t *testing.T) {
	head := Judge(&Facts{Status: 200, Idempotent: true, Replayable: true})
	for name, c := range map[string]struct {
		relayed Relayed
		want    concluded
	}{
		"whole":                         {Relayed{}, concluded{Answered, core.ResultSuccess, nobody, core.NoRetry}},
		"broken off":                    {Relayed{Broke: io.ErrUnexpectedEOF}, concluded{AnswerBrokeOff, core.ResultFailure, proxyOrTarget, core.NoRetry}},
		"broken off by a direct target": {Relayed{Broke: io.ErrUnexpectedEOF, Direct: true}, concluded{AnswerBrokeOff, core.ResultFailure, core.ChargeTarget, core.NoRetry}},
		"the client left":               {Relayed{ClientLeft: true}, concluded{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the request's body broke off":  {Relayed{Broke: io.EOF, RequestBroke: true}, concluded{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
		"the gateway ended it":          {Relayed{Broke: io.EOF, Stopped: true}, concluded{ClientLeft, core.ResultCancelled, client, core.NoRetry}},
	} {
		o := EndRelay(head, c.relayed)
		assert.Equal(t, c.want, concluded{o.Cause, o.Result, o.Charge, o.Retry}, name)
	}
}

func TestHowATunnelEnds(t *testing.T) {
	opened := Judge(&Facts{Tunnel: true, Status: 200, Idempotent: true, Replayable: true})
	for name, c := range map[string]struct {
		end  TunnelEnd
		want core.Cause
	}{
		"both spoke":                          {TunnelEnd{Up: 1, Down: 1, Died: io.EOF}, TunnelOpen},
		"it died after the client had spoken": {TunnelEnd{Up: 1, Died: io.EOF}, TunnelDied},
		"it died at once":                     {TunnelEnd{Died: io.EOF}, TunnelDied},
		"the client left before an answer":    {TunnelEnd{Up: 1}, TunnelUnused},
		"the client left without a word":      {TunnelEnd{}, TunnelOpen},
		"somebody closed what was idle":       {TunnelEnd{Died: io.EOF, Idle: true}, TunnelUnused},
		"a client spoke and waited in vain":   {TunnelEnd{Up: 1, Died: io.EOF, Idle: true}, TunnelDied},
		"there is no proxy":                   {TunnelEnd{Up: 1, Died: io.EOF, Direct: true}, TunnelUnused},
		"the gateway stops":                   {TunnelEnd{Up: 1, Died: io.EOF, Stopped: true}, TunnelUnused},
	} {
		o := EndTunnel(opened, c.end)
		assert.Equal(t, c.want, o.Cause, "%s: %s", name, Word(o.Cause))
	}
}
