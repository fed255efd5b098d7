package verdict

import "github.com/whirlpool-proxy/whirlpool/core"

// The causes: why an attempt ended as it did. Each has one row in the table below.
const (
	// An answer came, or a tunnel stands.
	Answered core.Cause = iota
	TunnelOpen
	RetryStatus

	// By its kind the failure can only be the proxy's own.
	ProxyNameUnknown
	ProxyUnreachable
	ProxyConnectTimeout
	ProxyTLSFailed
	ProxyProtocol
	ProxyLoop
	CredentialsRefused

	// The proxy was reached, and no answer of the target came.
	TunnelRefused
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
	TotalTimeout

	// Neither the proxy's failure nor the target's.
	StaleConnection
	Leftover
	ClientLeft
	RequestBroke
	TunnelUnused
	ShuttingDown
	LocalLimit

	causes // their number
)

// row is what follows from a cause, unless the facts of the attempt say otherwise.
type row struct {
	word    string // stable, snake_case
	charge  core.Charge
	again   core.RetryKind
	unsent  bool // nothing of the request can have reached the target
	timeout bool // a deadline passed
	answer  bool // an answer's head came: it is relayed if the attempt is the last
	meaning string
}

// The charges, short for the table.
const (
	nobody        = core.ChargeNobody
	proxy         = core.ChargeProxy
	proxyOrTarget = core.ChargeProxyOrTarget
	ifServed      = core.ChargeProxyIfServed
	client        = core.ChargeClient
	gateway       = core.ChargeGateway
)

// rows is the table. docs/verdicts.md shows it to users, and a test holds the two
// to each other.
var rows = [causes]row{
	Answered: {word: "answered", again: core.NoRetry, answer: true,
		meaning: "the target's answer came, and its status is not in retry_status_codes"},
	TunnelOpen: {word: "tunnel_open", again: core.NoRetry, answer: true,
		meaning: "the proxy opened the tunnel"},
	RetryStatus: {word: "retry_status", charge: proxyOrTarget, again: core.RetryAfterBackoff, answer: true,
		meaning: "the answer's status is in retry_status_codes"},

	ProxyNameUnknown: {word: "proxy_name_unknown", charge: proxy, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy's host name does not resolve"},
	ProxyUnreachable: {word: "proxy_unreachable", charge: proxy, again: core.RetryAfterBackoff, unsent: true,
		meaning: "no connection to the proxy: refused, reset or without a route"},
	ProxyConnectTimeout: {word: "proxy_connect_timeout", charge: proxy, again: core.RetryAfterBackoff, unsent: true, timeout: true,
		meaning: "the connection to the proxy took longer than timeouts.connect"},
	ProxyTLSFailed: {word: "proxy_tls_failed", charge: proxy, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the TLS handshake with an https:// proxy failed"},
	ProxyProtocol: {word: "proxy_protocol", charge: proxy, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy does not speak the protocol of its URL's scheme"},
	ProxyLoop: {word: "proxy_loop", charge: proxy, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the entry of the pool is this gateway itself"},
	CredentialsRefused: {word: "credentials_refused", charge: proxy, again: core.RetryElsewhere, unsent: true,
		meaning: "the proxy refused the user name and password that the pool has for it (407, or SOCKS)"},

	TunnelRefused: {word: "tunnel_refused", charge: ifServed, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy refused the tunnel: a 3xx or 4xx to CONNECT, or SOCKS reply 2"},
	TunnelFailed: {word: "tunnel_failed", charge: proxyOrTarget, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy could not open the tunnel: a 5xx to CONNECT, or another SOCKS reply"},
	TargetUnreachable: {word: "target_unreachable", charge: proxyOrTarget, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy says that it cannot reach the target: SOCKS replies 3 to 6, or an error page of its own"},
	ProxyForbids: {word: "proxy_forbids", charge: ifServed, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the proxy's own error page: its rules forbid the request"},
	ProxyErrorPage: {word: "proxy_error_page", charge: proxyOrTarget, again: core.RetryAfterBackoff,
		meaning: "another error page of the proxy itself, not the target's answer"},
	InnerGaveUp: {word: "inner_gave_up", charge: proxyOrTarget, again: core.NoRetry,
		meaning: "the proxy is a gateway of this kind, and has tried the request through several proxies in vain"},
	TunnelTimeout: {word: "tunnel_timeout", charge: proxyOrTarget, again: core.RetryAfterBackoff, unsent: true, timeout: true,
		meaning: "the proxy did not answer CONNECT or SOCKS in time"},
	TunnelBroke: {word: "tunnel_broke", charge: proxyOrTarget, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the connection ended before the proxy had answered CONNECT or SOCKS"},
	TargetTLSFailed: {word: "target_tls_failed", charge: proxyOrTarget, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the TLS handshake with the target failed inside the tunnel"},
	TargetCertificate: {word: "target_certificate", charge: ifServed, again: core.RetryAfterBackoff, unsent: true,
		meaning: "the target's certificate does not verify"},
	RequestNotSent: {word: "request_not_sent", charge: proxyOrTarget, again: core.RetryAfterBackoff,
		meaning: "the connection broke while the request was being sent"},
	RequestTimeout: {word: "request_timeout", charge: proxyOrTarget, again: core.RetryAfterBackoff, timeout: true,
		meaning: "the proxy did not take the request in time"},
	NoAnswerInTime: {word: "no_answer_in_time", charge: proxyOrTarget, again: core.RetryAfterBackoff, timeout: true,
		meaning: "no answer's head within timeouts.attempt"},
	CutShort: {word: "cut_short", charge: ifServed, again: core.RetryAfterBackoff, timeout: true,
		meaning: "no answer within three times what the proxy usually takes, while another attempt was left (timeouts.adaptive)"},
	ConnectionClosed: {word: "connection_closed", charge: proxyOrTarget, again: core.RetryAfterBackoff,
		meaning: "the connection was closed or reset before an answer's head"},
	AnswerMalformed: {word: "answer_malformed", charge: proxyOrTarget, again: core.RetryAfterBackoff,
		meaning: "the answer's head breaks the rules of HTTP/1.1 beyond repair"},
	AnswerBrokeOff: {word: "answer_broke_off", charge: proxyOrTarget, again: core.NoRetry,
		meaning: "the answer's body ended before its length; a part of it is with the client"},
	TunnelDied: {word: "tunnel_died", charge: proxyOrTarget, again: core.NoRetry,
		meaning: "the tunnel ended before the first byte came back through it"},
	TotalTimeout: {word: "total_timeout", charge: proxyOrTarget, again: core.NoRetry, timeout: true,
		meaning: "the request's total timeout passed during the attempt"},

	StaleConnection: {word: "stale_connection", charge: nobody, again: core.Replay,
		meaning: "a kept connection had ended before any byte of the answer"},
	Leftover: {word: "leftover", charge: nobody, again: core.Replay,
		meaning: "a kept connection held bytes of an earlier answer, which do not begin an answer's head"},
	ClientLeft: {word: "client_left", charge: client, again: core.NoRetry,
		meaning: "the client closed its connection"},
	RequestBroke: {word: "request_broke", charge: client, again: core.NoRetry,
		meaning: "the client's request body ended early, or breaks the rules"},
	TunnelUnused: {word: "tunnel_unused", charge: nobody, again: core.NoRetry,
		meaning: "the tunnel ended before the target had said anything, and not by the proxy's doing"},
	ShuttingDown: {word: "shutting_down", charge: gateway, again: core.NoRetry,
		meaning: "the gateway is shutting down"},
	LocalLimit: {word: "local_limit", charge: gateway, again: core.RetryAfterBackoff, unsent: true,
		meaning: "this machine had no descriptor, port or memory left"},
}

// Word is the cause's stable snake_case word, for logs, metrics and documents.
func Word(c core.Cause) string {
	if int(c) < len(rows) {
		return rows[c].word
	}
	return "unknown"
}
