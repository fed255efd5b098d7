package proxyhttp

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Proxy-Status contains an error of RFC 9209, or the status with which a proxy responded.
func TestProxyErrors(t *testing.T) {
	for reason, want := range map[string]string{
		"connection_refused":    "error=connection_refused",
		"http_request_error":    "error=http_request_error",
		"http_response_timeout": "error=http_response_timeout",
		"http_502":              "error=destination_unavailable; received-status=502",
	} {
		require.Equal(t, want, string(appendErrorToken(nil, reason)))
	}
}

func TestTheErrorBodyIsJSON(t *testing.T) {
	for message, want := range map[string]string{
		"plain":          `{"error":"code","message":"plain"}`,
		`say "no" \ <b>`: `{"error":"code","message":"say \"no\" \\ \u003cb\u003e"}`,
		"über\n":         `{"error":"code","message":"über\n"}`,
		"bad \xff":       `{"error":"code","message":"bad \ufffd"}`,
		"":               `{"error":"code","message":""}`,
	} {
		require.Equal(t, want, string((&ErrorResponse{Code: "code", Message: message}).AppendBody(nil)))
	}
}

// The error code of POST /request is the word of the final outcome, unless several codes have the same
// outcome.
func TestFinalCodes(t *testing.T) {
	e := ErrorResponse{Code: "the code"}
	for f := core.FinalSuccess; f <= core.LastFinal; f++ {
		want := f.String()
		if f == core.FinalNotRetryable || f == core.FinalCancelled {
			want = "the code"
		}
		require.Equal(t, want, e.FinalCode(f), f)
	}
}

// Each refusal of the executor has one status, one code and one message.
func TestRefusalResponses(t *testing.T) {
	broken := errors.New("broken")
	last := func(change func(*core.Outcome)) core.Outcome {
		o := core.Outcome{Cause: verdict.ConnectionClosed, Result: core.ResultFailure, Reason: "connection_terminated",
			Err: broken}
		change(&o)
		return o
	}
	failed := last(func(*core.Outcome) {})
	const attempted = "no proxy brought an answer: attempt 2 through p failed: "
	const attempt = attempted + "broken"
	for _, c := range []struct {
		r      executor.Refusal
		status int
		code   string
		reason string
		says   string
		err    error
	}{
		{executor.Refusal{Kind: executor.NoProxy, Final: core.FinalPoolEmpty, Err: core.ErrPoolEmpty},
			503, "pool_empty", "destination_unavailable", core.ErrPoolEmpty.Error(), core.ErrPoolEmpty},
		{executor.Refusal{Kind: executor.NoProxy, Final: core.FinalAllBusy, Err: core.ErrAllBusy, LastOutcome: failed},
			503, "all_proxies_busy", "destination_unavailable", core.ErrAllBusy.Error(), core.ErrAllBusy},
		{executor.Refusal{Kind: executor.CredentialsRefused, Final: core.FinalExhausted, Err: broken,
			LastOutcome: failed},
			502, "exhausted", "proxy_configuration_error",
			"every admissible proxy refused its credentials; p: broken",
			broken},
		{executor.Refusal{Kind: executor.Denied, Final: core.FinalEgressDenied, Err: broken},
			403, "egress_denied", "http_request_denied", "broken", broken},
		{executor.Refusal{Kind: executor.AttemptFailed, Final: core.FinalLoopDetected,
			LastOutcome: last(func(o *core.Outcome) { o.Cause, o.Reason = verdict.ProxyLoop, "proxy_loop_detected" })},
			508, "loop_detected", "proxy_loop_detected",
			"the request came back to this gateway: p leads back to it", broken},
		{executor.Refusal{Kind: executor.AttemptFailed, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Reason = verdict.ProxyUnreachable, "connection_refused"
		})},
			502, "upstream_failed", "connection_refused", attempted +
				"the proxy cannot be reached (connection refused)", broken},
		{executor.Refusal{Kind: executor.AttemptFailed, Direct: true, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Reason = verdict.ProxyUnreachable, "connection_refused"
		})},
			502, "upstream_failed", "destination_unavailable", attempted +
				"the target cannot be reached", broken},
		{executor.Refusal{Kind: executor.AttemptFailed, Direct: true, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Reason, o.Result = verdict.ProxyConnectTimeout, "connection_timeout", core.ResultTimeout
		})},
			502, "upstream_failed", "destination_unavailable", attempted +
				"the target cannot be reached", broken},
		{executor.Refusal{Kind: executor.AttemptFailed, Direct: true, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Reason = verdict.ProxyNameUnknown, "dns_error"
		})},
			502, "upstream_failed", "dns_error", attempted +
				"the target's name does not resolve", broken},
		{executor.Refusal{Kind: executor.Cancelled, Final: core.FinalCancelled, Err: executor.ErrClientLeft},
			503, "cancelled", "proxy_internal_error", executor.ErrClientLeft.Error(), executor.ErrClientLeft},
		{executor.Refusal{
			Kind: executor.Cancelled, Final: core.FinalCancelled, Err: executor.ErrShutdown, LastOutcome: failed},
			503, "shutting_down", "proxy_internal_error", executor.ErrShutdown.Error(), executor.ErrShutdown},
		{executor.Refusal{Kind: executor.TimedOut, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Result = verdict.TotalTimeout, core.ResultTimeout
		})},
			504, "total_timeout", "connection_terminated", "the request's total timeout passed before an answer came",
			broken},
		{executor.Refusal{Kind: executor.NoTimeLeft, LastOutcome: failed},
			504, "total_timeout", "http_response_timeout",
			"the next retry would begin after the request's total timeout",
			broken},
		{executor.Refusal{Kind: executor.AttemptFailed, LastOutcome: failed}, 502, "upstream_failed",
			"connection_terminated", attempt, broken},
		{executor.Refusal{Kind: executor.AttemptFailed,
			LastOutcome: last(func(o *core.Outcome) { o.Result = core.ResultTimeout })},
			504, "upstream_timeout", "connection_terminated", attempt, broken},
		{executor.Refusal{Kind: executor.AttemptFailed, LastOutcome: last(func(o *core.Outcome) {
			o.Cause, o.Status, o.Err = verdict.CredentialsRefused, 407, nil
		})}, 502, "upstream_auth", "connection_terminated",
			"no proxy brought an answer: attempt 2 through p failed: " +
				"the proxy refused the credentials the pool holds for it (407)", nil},
		{executor.Refusal{Kind: executor.AttemptFailed, LastOutcome: last(func(o *core.Outcome) {
			o.Cause = verdict.CredentialsRefused
		})},
			502, "upstream_failed", "connection_terminated", attempt, broken},
		{executor.Refusal{Kind: executor.TargetSuspect, Target: "a.test:443", LastOutcome: failed},
			502, "upstream_failed", "connection_terminated",
			attempt + "; tried once only, as a.test:443 fails through every proxy", broken},
		{executor.Refusal{Kind: executor.BudgetSpent, LastOutcome: failed},
			502, "upstream_failed", "connection_terminated", attempt + "; the retry budget is spent", broken},
		{executor.Refusal{Kind: executor.BodyNotKept, LastOutcome: failed},
			502, "upstream_failed", "connection_terminated",
			attempt + "; not tried again, as its body is longer than gateway.replay_limit, or gateway.replay_memory " +
				"is used up", broken},
		{executor.Refusal{Kind: executor.NotRepeatable, LastOutcome: failed},
			502, "upstream_failed", "connection_terminated",
			attempt + "; not tried again, as it may have reached its target (retry_non_idempotent allows it)", broken},
	} {
		c.r.Attempts, c.r.ProxyID = 2, "p"
		require.Equal(t, ErrorResponse{Status: c.status, Code: c.code, Reason: c.reason, Message: c.says, Err: c.err},
			RefusalResponse(&c.r))
	}
	require.Equal(t, ErrorResponse{
		Status: 503, Code: "local_limit", Reason: "proxy_internal_error", RetryAfter: time.Second, Err: broken,
		Message: "the gateway has no file descriptor, port or memory left for a connection",
	}, RefusalResponse(&executor.Refusal{
		Kind:        executor.AttemptFailed,
		LastOutcome: last(func(o *core.Outcome) { o.Cause, o.Reason = verdict.LocalLimit, "proxy_internal_error" }),
	}))
	for kind := executor.NoProxy; kind <= executor.NotRepeatable; kind++ {
		r := executor.Refusal{Kind: kind, RetryAfter: 1500 * time.Millisecond, Err: broken}
		a := RefusalResponse(&r)
		want := int64(2)
		if kind == executor.CredentialsRefused || kind == executor.Cancelled { // a later repetition would not help
			want = 0
		}
		require.Equal(t, want, a.RetryAfterSeconds(), kind)
	}
}

// A head has the same fields as a net/http header after Outcome.Set.
func TestHeads(t *testing.T) {
	outcome := Outcome{ID: 0xabc, Attempts: 2, ProxyID: "p", Final: core.FinalExhausted}
	h := Head{
		Status: 503, Reason: []byte("No"), Minor: 1, Framing: http1.Length, Length: 0, Outcome: outcome,
		Fields: []http1.Field{{Name: []byte("X"), Value: []byte("y")},
			{Name: []byte("Keep-Alive"), Value: []byte("z"), Kind: http1.KeepAlive}},
		Via: Via(0), Error: &ErrorResponse{Reason: "http_request_error", Message: `a "b"`, RetryAfter: time.Second},
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(h.Append(nil))), nil)
	require.NoError(t, err)
	require.Equal(t, "503 No", r.Status)
	want := http.Header{
		"X": {"y"}, "Via": {"1.0 whirlpool"}, "Content-Length": {"0"}, "Retry-After": {"1"},
		"Proxy-Status": {`whirlpool; error=http_request_error; details="a \"b\""; next-hop="p"`},
	}
	outcome.Set(want)
	require.Equal(t, want, r.Header)

	none := Outcome{ID: 1}
	h = Head{Status: 200, Reason: []byte("OK"), Length: -1, Outcome: none, Close: true}
	r, err = http.ReadResponse(bufio.NewReader(bytes.NewReader(h.Append(nil))), &http.Request{Method: "CONNECT"})
	require.NoError(t, err)
	require.True(t, r.Close)
	want = http.Header{}
	none.Set(want)
	require.Equal(t, "-", want.Get(proxyIDField))
	require.Equal(t, "not_retryable", want.Get(outcomeField))
	require.Equal(t, want, r.Header)
}

// The same fields are hop-by-hop in a message and in a net/http header.
func TestFieldsOfThisHop(t *testing.T) {
	h := http.Header{
		"Connection": {"X-Mine, close"}, "X-Mine": {"1"}, "Keep-Alive": {"1"}, "Proxy-Connection": {"1"},
		"Proxy-Authorization": {"1"},
		"Te":                  {"trailers"}, "Trailer": {"X"}, "Transfer-Encoding": {"chunked"},
		"Upgrade": {"h2c"}, "Content-Length": {"4"},
		"X-Whirlpool-Retry": {"1"}, "Accept": {"a", "b"}, "Expect": {"100-continue"},
	}
	out := AppendRequestFields(nil, FieldsOf(h), []byte("a.test"))
	require.Equal(t, http.Header{"Accept": {"a", "b"}, "Host": {"a.test"}}, HeaderOf(out))

	var q http1.Request
	raw := "GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n"
	for name, values := range h {
		for _, v := range values {
			if name != "Transfer-Encoding" {
				raw += name + ": " + v + "\r\n"
			}
		}
	}
	require.NoError(t, http1.NewReader(bytes.NewReader([]byte(raw+"\r\n"))).ReadRequest(&q))
	require.Equal(t, HeaderOf(out), HeaderOf(AppendRequestFields(nil, q.Fields, []byte("a.test"))))
}

func TestTheResponseToAClientThatWasNotRead(t *testing.T) {
	e := ErrorResponse{
		Status: 503, Code: "busy", Message: "there is no place", Reason: "connection_limit_reached",
		RetryAfter: time.Second,
	}
	require.Equal(t, "HTTP/1.1 503 Service Unavailable: there is no place\r\n"+
		"Content-Type: application/json\r\nContent-Length: 46\r\n"+
		"Proxy-Status: whirlpool; error=connection_limit_reached; details=\"there is no place\"\r\nRetry-After: 1\r\n"+
		"X-Whirlpool-Attempts: 0\r\nX-Whirlpool-Proxy-Id: -\r\nX-Whirlpool-Outcome: not_retryable\r\n"+
		"Connection: close\r\n\r\n"+
		`{"error":"busy","message":"there is no place"}`, string(e.AppendClosing(nil)))
}
