package verdict

import "github.com/whirlpool-proxy/whirlpool/core"

// The causes. Each has a row in the table below.
const (
	// A response arrived, or a tunnel is open.
	Answered core.Cause = iota
	TunnelOpen
	RetryStatus
	JudgeRetry
	JudgeOtherProxy
	BannedHere
	TargetFault
	RuleFinal

	// Only the proxy can cause the failure.
	ProxyNameUnknown
	ProxyUnreachable
	ProxyConnectTimeout
	ProxyTLSFailed
	ProxyProtocol
	ProxyLoop
	EgressDenied
	CredentialsRefused

	// These are the causes of attempts that reached the proxy, but got no complete response of the target.
	TunnelRefused
	TunnelUnsupported
	TunnelFailed
	TargetUnreachable
	ProxyForbids
	ProxyErrorPage
	InnerGaveUp
	TunnelTimeout
	TunnelBroke
	TargetTLSFailed
	TargetCertificate
	RequestNotSent
	RequestTimeout
	NoAnswerInTime
	CutShort
	ConnectionClosed
	AnswerMalformed
	AnswerBrokeOff
	TunnelDied
	TunnelCut
	TotalTimeout

	// Neither the proxy nor the target caused the failure.
	StaleConnection
	Leftover
	ClientLeft
	RequestBroke
	TunnelUnused
	HedgeLost
	ShuttingDown
	LocalLimit

	numCauses
)

// IsTimeout reports whether a timeout ended the attempt.
func IsTimeout(c core.Cause) bool { return rows[c].isTimeout }

// IsConnectFailure reports whether no connection to the proxy could be opened.
func IsConnectFailure(c core.Cause) bool {
	switch c {
	case ProxyNameUnknown, ProxyUnreachable, ProxyConnectTimeout, ProxyTLSFailed:
		return true
	}
	return false
}

// SentToProxy reports whether the attempt has sent something to its proxy.
func SentToProxy(c core.Cause) bool {
	return !IsConnectFailure(c) && c != LocalLimit && c != EgressDenied
}

// BarsProxy reports whether later attempts of the request must not use the proxy of this attempt.
func BarsProxy(c core.Cause) bool {
	return c == CredentialsRefused || c == EgressDenied || c == ProxyLoop
}

// IsReviewable reports whether a judge may rule on the response: it is a response of the target, and not, for example,
// a proxy's own error page.
func IsReviewable(c core.Cause) bool { return c == Answered || c == RetryStatus }

// FollowsRuling reports whether a judge's ruling or a rule about the response has set the cause.
func FollowsRuling(c core.Cause) bool { return c >= JudgeRetry && c <= RuleFinal }

// IsRefusal reports whether the proxy refused the request for a reason that may lie in the target. Such an attempt is
// charged to the proxy only if another proxy serves the request. If none does, the target counts as failing.
func IsRefusal(c core.Cause) bool {
	return c == TunnelRefused || c == ProxyForbids || c == TargetCertificate
}

// AtTarget returns the meaning of an attempt for its target. It returns Failure if the target may have caused the
// failure of the attempt or have refused the proxy. It returns Success if the attempt got the target's response or a
// tunnel, and Excluded otherwise.
func AtTarget(c core.Cause) core.Verdict {
	switch charge := rows[c].charge; {
	case c == Answered, c == TunnelOpen:
		return core.Success
	case c == BannedHere, charge == proxyOrTarget, charge == ifServed, charge == target:
		return core.Failure
	}
	return core.Excluded
}

// IsProxyFault reports whether a failure with the cause c is charged to the proxy, whatever the results of other
// attempts are.
func IsProxyFault(c core.Cause) bool { return rows[c].charge == proxy }

// A row lists the consequences of a cause. The function applyExceptions changes them in special cases.
type row struct {
	name        string // stable name in snake_case
	charge      core.Charge
	retry       core.RetryKind
	unreached   bool // no part of the request can have reached the target
	isTimeout   bool // a timeout ended the attempt
	hasResponse bool // the head of a response arrived; it is relayed if this is the last attempt
	meaning     string
}

// Short names of the charges, for the table.
const (
	nobody        = core.ChargeNobody
	proxy         = core.ChargeProxy
	proxyOrTarget = core.ChargeProxyOrTarget
	ifServed      = core.ChargeProxyIfServed
	target        = core.ChargeTarget
	client        = core.ChargeClient
	gateway       = core.ChargeGateway
)

// rows is the table of causes. docs/verdicts.md has a copy for users; a test compares the two.
var rows = [numCauses]row{
	Answered: {name: "answered", retry: core.NoRetry, hasResponse: true,
		meaning: "the target's response arrived; its status is not in retry_status_codes"},
	TunnelOpen: {name: "tunnel_open", retry: core.NoRetry, hasResponse: true,
		meaning: "the proxy opened the tunnel"},
	RetryStatus: {name: "retry_status", charge: proxyOrTarget, retry: core.RetryAfterBackoff, hasResponse: true,
		meaning: "the response's status is in retry_status_codes"},
	JudgeRetry: {name: "judge_retry", charge: nobody, retry: core.RetryAfterBackoff, hasResponse: true,
		meaning: "the judge or a rule: retry"},
	JudgeOtherProxy: {name: "judge_other_proxy", charge: ifServed, retry: core.RetryElsewhere, hasResponse: true,
		meaning: "the judge or a rule: another proxy"},
	BannedHere: {name: "banned_here", charge: nobody, retry: core.RetryElsewhere, hasResponse: true,
		meaning: "the judge or a rule: the target refuses this proxy, which is banned for the target's host"},
	TargetFault: {name: "target_fault", charge: target, retry: core.NoRetry, hasResponse: true,
		meaning: "the judge or a rule: the target is at fault, and a retry is of no use"},
	RuleFinal: {name: "rule_final", charge: nobody, retry: core.NoRetry, hasResponse: true,
		meaning: "a rule: the response is final"},

	ProxyNameUnknown: {name: "proxy_name_unknown", charge: proxy, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the proxy's host name does not resolve"},
	ProxyUnreachable: {name: "proxy_unreachable", charge: proxy, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the connection to the proxy was refused or reset, or there is no route to it"},
	ProxyConnectTimeout: {name: "proxy_connect_timeout", charge: proxy, retry: core.RetryAfterBackoff,
		unreached: true, isTimeout: true,
		meaning: "the connection to the proxy took longer than timeouts.connect"},
	ProxyTLSFailed: {name: "proxy_tls_failed", charge: proxy, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the TLS handshake with an https:// proxy failed"},
	ProxyProtocol: {name: "proxy_protocol", charge: proxy, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the proxy does not speak the protocol of its URL's scheme, or it lacks CONNECT (SOCKS reply 7)"},
	ProxyLoop: {name: "proxy_loop", charge: proxy, retry: core.RetryElsewhere, unreached: true,
		meaning: "the proxy is this gateway itself, or leads back to it"},
	EgressDenied: {name: "egress_denied", charge: nobody, retry: core.RetryElsewhere, unreached: true,
		meaning: "[egress] denies the target's address, which only direct:// connects to"},
	CredentialsRefused: {name: "credentials_refused", charge: proxy, retry: core.RetryElsewhere, unreached: true,
		meaning: "the proxy refused the configured user name and password (407, or SOCKS)"},

	TunnelRefused: {name: "tunnel_refused", charge: ifServed, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the proxy refused the tunnel: a 3xx or 4xx to CONNECT, or SOCKS reply 2"},
	TunnelUnsupported: {name: "tunnel_unsupported", charge: nobody, retry: core.RetryAfterBackoff,
		unreached: true,
		meaning:   "the proxy opens no tunnels: a 405 or 501 to CONNECT; or it neither forwards nor opens a tunnel"},
	TunnelFailed: {name: "tunnel_failed", charge: proxyOrTarget, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the proxy could not open the tunnel: a 5xx to CONNECT, or another SOCKS reply"},
	TargetUnreachable: {name: "target_unreachable", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		unreached: true,
		meaning:   "the proxy reports that it cannot reach the target: SOCKS replies 3 to 6, or its own error page"},
	ProxyForbids: {name: "proxy_forbids", charge: ifServed, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the proxy's own error page: its rules forbid the request"},
	ProxyErrorPage: {name: "proxy_error_page", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		meaning: "another error page of the proxy itself"},
	InnerGaveUp: {name: "inner_gave_up", charge: proxyOrTarget, retry: core.NoRetry,
		meaning: "the proxy is a Whirlpool itself, and all its attempts have failed"},
	TunnelTimeout: {name: "tunnel_timeout", charge: proxyOrTarget, retry: core.RetryAfterBackoff, unreached: true,
		isTimeout: true,
		meaning:   "the proxy did not reply to CONNECT or SOCKS within the attempt timeout"},
	TunnelBroke: {name: "tunnel_broke", charge: proxyOrTarget, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "the connection ended before the proxy had replied to CONNECT or SOCKS"},
	TargetTLSFailed: {name: "target_tls_failed", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		unreached: true,
		meaning:   "the TLS handshake with the target failed inside the tunnel"},
	TargetCertificate: {name: "target_certificate", charge: ifServed, retry: core.RetryAfterBackoff,
		unreached: true,
		meaning:   "the target's certificate is not valid"},
	RequestNotSent: {name: "request_not_sent", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		meaning: "the connection broke while the request was being sent"},
	RequestTimeout: {name: "request_timeout", charge: proxyOrTarget, retry: core.RetryAfterBackoff, isTimeout: true,
		meaning: "the proxy did not read the request within the attempt timeout"},
	NoAnswerInTime: {name: "no_answer_in_time", charge: proxyOrTarget, retry: core.RetryAfterBackoff, isTimeout: true,
		meaning: "no response head within timeouts.attempt"},
	CutShort: {name: "cut_short", charge: ifServed, retry: core.RetryAfterBackoff, isTimeout: true,
		meaning: "no response within the adaptive timeout (timeouts.adaptive), and another attempt was possible"},
	ConnectionClosed: {name: "connection_closed", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		meaning: "the connection was closed or reset before a response head"},
	AnswerMalformed: {name: "answer_malformed", charge: proxyOrTarget, retry: core.RetryAfterBackoff,
		meaning: "the response head is not valid HTTP/1.1"},
	AnswerBrokeOff: {name: "answer_broke_off", charge: proxyOrTarget, retry: core.NoRetry,
		meaning: "the response's body ended early; the client has a part of it"},
	TunnelDied: {name: "tunnel_died", charge: proxyOrTarget, retry: core.NoRetry,
		meaning: "the tunnel ended before its first byte from the target"},
	TunnelCut: {name: "tunnel_cut", charge: proxyOrTarget, retry: core.NoRetry,
		meaning: "the tunnel ended within a TLS record of the target; the client has a part of it"},
	TotalTimeout: {name: "total_timeout", charge: proxyOrTarget, retry: core.NoRetry, isTimeout: true,
		meaning: "the request's total timeout passed during the attempt"},

	StaleConnection: {name: "stale_connection", charge: nobody, retry: core.Replay,
		meaning: "the proxy had closed the idle connection: no byte of a response arrived, or only a 408"},
	Leftover: {name: "leftover", charge: nobody, retry: core.Replay,
		meaning: "the idle connection had bytes left of an earlier response, which are not the head of a response"},
	ClientLeft: {name: "client_left", charge: client, retry: core.NoRetry,
		meaning: "the client closed its connection"},
	RequestBroke: {name: "request_broke", charge: client, retry: core.NoRetry,
		meaning: "the client's request body ended early or is malformed"},
	TunnelUnused: {name: "tunnel_unused", charge: nobody, retry: core.NoRetry,
		meaning: "the tunnel ended before its first byte from the target, and the proxy is not the reason"},
	HedgeLost: {name: "hedge_lost", charge: nobody, retry: core.NoRetry,
		meaning: "another attempt of the same request, in flight at the same time, got its response first"},
	ShuttingDown: {name: "shutting_down", charge: gateway, retry: core.NoRetry,
		meaning: "the gateway is shutting down"},
	LocalLimit: {name: "local_limit", charge: gateway, retry: core.RetryAfterBackoff, unreached: true,
		meaning: "this machine has no file descriptor, port or memory left"},
}

// CauseName returns the name of a cause in the log, metrics and documents, in snake_case. It never changes.
func CauseName(c core.Cause) string {
	if int(c) < len(rows) {
		return rows[c].name
	}
	return "unknown"
}
