package transport

import (
	"bytes"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ErrorPage describes a proxy's own error page: a response with a status of 400 or above that the proxy
// wrote itself instead of relaying the target's response.
type ErrorPage struct {
	Signature string // the name of the signature in this file, "own_error" for a configured rule, or "no via"
	Kind      verdict.ErrorPage
	Reason    string // the RFC 9209 error token with the same meaning (section 2.3); "" if unknown
	Detail    string // squid's name of the page, such as "ERR_DNS_FAIL"; "" for other proxies
}

// pageKind returns the kind of a page with the given error token.
func pageKind(reason string) verdict.ErrorPage {
	if kind, known := tokenKinds[reason]; known {
		return kind
	}
	return verdict.ErrorPageUnclear
}

// tokenKinds maps the error tokens of RFC 9209 section 2.3 to kinds of error pages.
var tokenKinds = map[string]verdict.ErrorPage{
	"dns_timeout":                        verdict.ErrorPageUnreachable,
	"dns_error":                          verdict.ErrorPageUnreachable,
	"destination_not_found":              verdict.ErrorPageUnreachable,
	"destination_unavailable":            verdict.ErrorPageUnreachable,
	"destination_ip_unroutable":          verdict.ErrorPageUnreachable,
	"connection_refused":                 verdict.ErrorPageUnreachable,
	"connection_terminated":              verdict.ErrorPageUnreachable,
	"connection_timeout":                 verdict.ErrorPageUnreachable,
	"connection_read_timeout":            verdict.ErrorPageUnreachable,
	"connection_write_timeout":           verdict.ErrorPageUnreachable,
	"tls_protocol_error":                 verdict.ErrorPageUnreachable,
	"tls_certificate_error":              verdict.ErrorPageUnreachable,
	"tls_alert_received":                 verdict.ErrorPageUnreachable,
	"http_response_incomplete":           verdict.ErrorPageUnreachable,
	"http_response_header_section_size":  verdict.ErrorPageUnreachable,
	"http_response_header_size":          verdict.ErrorPageUnreachable,
	"http_response_body_size":            verdict.ErrorPageUnreachable,
	"http_response_trailer_section_size": verdict.ErrorPageUnreachable,
	"http_response_trailer_size":         verdict.ErrorPageUnreachable,
	"http_response_transfer_coding":      verdict.ErrorPageUnreachable,
	"http_response_content_coding":       verdict.ErrorPageUnreachable,
	"http_response_timeout":              verdict.ErrorPageUnreachable,
	"http_upgrade_failed":                verdict.ErrorPageUnreachable,
	"http_protocol_error":                verdict.ErrorPageUnreachable,
	"destination_ip_prohibited":          verdict.ErrorPageForbids,
	"http_request_denied":                verdict.ErrorPageForbids,
	"connection_limit_reached":           verdict.ErrorPageUnclear,
	"proxy_internal_error":               verdict.ErrorPageUnclear,
	"proxy_configuration_error":          verdict.ErrorPageUnclear,
	"proxy_loop_detected":                verdict.ErrorPageUnclear,
	"http_request_error":                 verdict.ErrorPageUnclear,
	"proxy_internal_response":            verdict.ErrorPageUnclear,
}

// A page holds the parts of a response that are compared with the signatures of proxies' own error pages. The status is
// 400 or above. The byte slices share the memory of the response.
type page struct {
	status    int
	reason    []byte
	fields    []http1.Field
	body      []byte // the part that has arrived
	isConnect bool   // the page is the response to a CONNECT, so no target has written it

	viaCount                      int    // Via fields
	lastVia                       []byte // the last Via field
	server, agent, modified, date []byte
	contentType, squidError       []byte
	isWhirlpool                   bool // the page has X-Whirlpool-Outcome
	hasLength                     bool // the page has Content-Length
	proxyStatus                   []string
}

// readFields reads p.fields, and sets the other fields of p that the signatures use.
func (p *page) readFields() {
	for i := range p.fields {
		f := &p.fields[i]
		switch {
		case f.Kind == http1.Via:
			p.viaCount++
			p.lastVia = f.Value
		case f.Kind == http1.Whirlpool && http1.EqualFold(f.Name, "x-whirlpool-outcome"):
			p.isWhirlpool = true
		case f.Kind == http1.ContentLength:
			p.hasLength = true
		case http1.EqualFold(f.Name, "server"):
			p.server = f.Value
		case http1.EqualFold(f.Name, "proxy-agent"):
			p.agent = f.Value
		case http1.EqualFold(f.Name, "last-modified"):
			p.modified = f.Value
		case http1.EqualFold(f.Name, "date"):
			p.date = f.Value
		case http1.EqualFold(f.Name, "content-type"):
			p.contentType = f.Value
		case http1.EqualFold(f.Name, "x-squid-error"):
			p.squidError = f.Value
		case http1.EqualFold(f.Name, "proxy-status"):
			p.proxyStatus = append(p.proxyStatus, string(f.Value))
		}
	}
}

// identifyPage returns the name of the signature that identifies the page as a proxy's own error page. It also returns
// the RFC 9209 token of the error; "" if there is none. All signatures except squid's require a response without Via,
// because a proxy that adds Via adds it to the responses that it relays. testdata/ownerrors has the recorded pages.
func (p *page) identifyPage(via viaState) (name, reason string, ok bool) {
	if p.isSquidPage(via) {
		return "x-squid-error", squidReason(p.squidError), true
	}
	if !p.isUnrelayed() {
		return "", "", false
	}
	// A proxy that relays responses without Via may also relay the target's Proxy-Status, so the field of such a proxy
	// does not count. There are two exceptions: the response to a CONNECT, which is the proxy's own, and the response
	// of a Whirlpool, where proxyStatusError reads only the member that the Whirlpool has added.
	if p.proxyStatus != nil && (p.isConnect || p.isWhirlpool || !via.lacksVia()) {
		if reason, ok = proxyStatusError(p.proxyStatus, p.isWhirlpool); ok {
			return "proxy-status", reason, true
		}
	}
	switch {
	case p.isTinyproxyPage():
		return "tinyproxy", tinyproxyReasons[string(p.reason)], true
	case p.isPrivoxyPage():
		return "privoxy", privoxyReasons[string(p.reason)], true
	case bytes.HasPrefix(p.agent, []byte("proxy.py")): // only proxy.py's own pages have Proxy-agent
		return "proxy.py", badGatewayReason(p.status), true
	case p.is3proxyPage():
		return "3proxy", threeproxyReasons[string(p.heading3())], true
	case bytes.HasPrefix(p.server, []byte("mitmproxy")) && p.date == nil && p.isHTML():
		return "mitmproxy", badGatewayReason(p.status), true
	}
	return "", "", false
}

// isTinyproxyPage reports whether tinyproxy wrote the page. Tinyproxy's pages have neither a date nor a length, unless
// something between tinyproxy and the gateway has added them. The last line of a page from a template begins with
// "Generated by" and names tinyproxy.
func (p *page) isTinyproxyPage() bool {
	if !bytes.HasPrefix(p.server, []byte("tinyproxy")) || !p.isHTML() {
		return false
	}
	_, known := tinyproxyReasons[string(p.reason)]
	return p.date == nil && !p.hasLength || known || bytes.Contains(p.body, []byte("<em>Generated by "))
}

// is3proxyPage reports whether 3proxy wrote the page. The pages of 3proxy are fixed texts, with a head that has neither
// Server nor Date nor Content-Length.
func (p *page) is3proxyPage() bool {
	if p.server != nil || p.date != nil || p.hasLength || !p.isHTML() {
		return false
	}
	_, known := threeproxyReasons[string(p.heading3())]
	return known
}

// heading3 returns the text of the first <h3> in the part of the body that has arrived.
func (p *page) heading3() []byte {
	_, after, _ := bytes.Cut(p.body, []byte("<h3>"))
	text, _, _ := bytes.Cut(after, []byte("<"))
	return text
}

func (p *page) isHTML() bool { return bytes.HasPrefix(p.contentType, []byte("text/html")) }

// isPrivoxyPage reports whether Privoxy wrote the page. A page from one of Privoxy's templates has a Last-Modified of
// 1955. All other pages of Privoxy are plain text without Server and Date.
func (p *page) isPrivoxyPage() bool {
	if string(p.modified) == "Wed, 08 Jun 1955 12:00:00 GMT" {
		return true
	}
	_, known := privoxyReasons[string(p.reason)]
	return known && string(p.contentType) == "text/plain" && p.server == nil && p.date == nil
}

// isUnrelayed reports whether the page is the response to a CONNECT, or has no Via. Nothing then shows that the proxy
// has relayed the page.
func (p *page) isUnrelayed() bool { return p.isConnect || p.viaCount == 0 }

// isSquidPage reports whether the proxy is squid and has written the page itself. squid adds Via to its own pages as
// well, unless it is configured otherwise. If there is a second Via, another squid between the proxy and the target
// may have written the page.
func (p *page) isSquidPage(via viaState) bool {
	switch {
	case p.squidError == nil || !p.isHTML() || p.server != nil && !bytes.HasPrefix(p.server, []byte("squid")):
		return false
	case p.isUnrelayed():
		return true
	case via.lacksVia(): // this proxy adds no Via, so the target has added it
		return false
	}
	return p.viaCount == 1 && bytes.IndexByte(p.lastVia, ',') < 0 && bytes.Contains(p.lastVia, []byte("(squid"))
}

// badGatewayReason returns the error token for a page that shows its cause only by its status. It returns "" unless the
// status is 502.
func badGatewayReason(status int) string {
	if status == 502 {
		return "destination_unavailable"
	}
	return ""
}

// tinyproxyReasons maps the reason phrases of tinyproxy 1.11 to error tokens.
var tinyproxyReasons = map[string]string{
	"Unable to connect":                  "destination_unavailable", // name resolution or the connection failed
	"Could not retrieve all the headers": "http_response_incomplete",
	"Access denied":                      "http_request_denied",
	"Access violation":                   "http_request_denied",
	"Filtered":                           "http_request_denied",
	"Proxy Authentication Required":      "http_request_denied",
	"Internal error":                     "proxy_internal_error",
	"Bad Request":                        "http_request_error",
}

// privoxyReasons maps the reason phrases of Privoxy 3.0.34 to error tokens.
var privoxyReasons = map[string]string{
	"No such domain":                            "dns_error",
	"Connect failed":                            "destination_unavailable",
	"Connection timeout":                        "connection_read_timeout",
	"No data received from server or forwarder": "connection_terminated",
	"Server or forwarder response invalid":      "http_protocol_error",
	"Certificate validation failed":             "tls_certificate_error",
	"Request blocked by Privoxy":                "http_request_denied",
	"Request not trusted or feature disabled":   "http_request_denied",
	"Forwarding failure":                        "proxy_configuration_error", // to a parent proxy
	"Internal Privoxy Error":                    "proxy_internal_error",
	"Too many open connections":                 "connection_limit_reached",
	"Invalid header received from client":       "http_request_error",
	"Invalid request received from client":      "http_request_error",
	"Bad request received from client":          "http_request_error",
}

// threeproxyReasons maps the texts of 3proxy's pages (3proxy 1.0, src/proxy.c) to error tokens.
var threeproxyReasons = map[string]string{
	"Host Not Found or connection failed":                    "destination_unavailable",
	"Failed to connect parent proxy":                         "proxy_configuration_error",
	"You have exceeded your limits":                          "connection_limit_reached", // limits of the proxy's user
	"Recursion detected":                                     "proxy_loop_detected",
	"Internal proxy error during processing your request":    "proxy_internal_error",
	"Access control list denies you to access this resource": "http_request_denied",
	"Your request violates configured policy":                "http_request_denied",
	"Required action is not supported by proxy server":       "http_request_error",
	"Access to requested resource disallowed by administrator or you need valid username/password to use this " +
		"resource": "http_request_denied",
}

// squidReasons maps the names of squid's pages (doc/errors of squid 5.7) to error tokens. ERR_CANNOT_FORWARD is
// absent, because squid also uses it for a CONNECT whose name does not resolve.
var squidReasons = map[string]string{
	"ERR_DNS_FAIL":                "dns_error",
	"ERR_CONNECT_FAIL":            "destination_unavailable",
	"ERR_READ_ERROR":              "connection_terminated",
	"ERR_READ_TIMEOUT":            "connection_read_timeout",
	"ERR_WRITE_ERROR":             "connection_terminated",
	"ERR_ZERO_SIZE_OBJECT":        "connection_terminated",
	"ERR_INVALID_RESP":            "http_protocol_error",
	"ERR_LIFETIME_EXP":            "http_response_timeout",
	"ERR_SECURE_CONNECT_FAIL":     "tls_protocol_error",
	"ERR_ACCESS_DENIED":           "http_request_denied",
	"ERR_CACHE_ACCESS_DENIED":     "http_request_denied",
	"ERR_FORWARDING_DENIED":       "http_request_denied",
	"ERR_ACL_TIME_QUOTA_EXCEEDED": "http_request_denied",
	"ERR_SOCKET_FAILURE":          "proxy_internal_error",
	"ERR_SHUTTING_DOWN":           "proxy_internal_error",
	"ERR_ICAP_FAILURE":            "proxy_internal_error",
	"ERR_GATEWAY_FAILURE":         "proxy_internal_error",
	"ERR_INVALID_REQ":             "http_request_error",
	"ERR_INVALID_URL":             "http_request_error",
	"ERR_TOO_BIG":                 "http_request_error",
	"ERR_UNSUP_REQ":               "http_request_error",
}

// squidReason returns the error token for an X-Squid-Error field, or "" if unknown. The field has the name of the
// page and a Linux errno, which is 0 if there is none.
func squidReason(value []byte) string {
	name, errno, _ := bytes.Cut(value, []byte(" "))
	if string(name) == "ERR_CONNECT_FAIL" {
		switch string(errno) {
		case "110":
			return "connection_timeout"
		case "111":
			return "connection_refused"
		case "101", "113":
			return "destination_ip_unroutable"
		}
	}
	return squidReasons[string(name)]
}

// proxyStatusError returns the error token in the last member of Proxy-Status, which the nearest proxy has added (RFC
// 9209 section 2). The token is "" if it is unknown. If the member has no error token, proxyStatusError returns false.
// A Whirlpool also relays the members of the proxies behind it. If the nearest proxy is a Whirlpool, the last member
// therefore counts only if this Whirlpool has added it. Malformed fields are ignored (RFC 9651 section 4.2).
func proxyStatusError(values []string, whirlpool bool) (reason string, ok bool) {
	list, err := httpsfv.UnmarshalList(values)
	if err != nil || len(list) == 0 {
		return "", false
	}
	item, isItem := list[len(list)-1].(httpsfv.Item)
	if !isItem {
		return "", false
	}
	if whirlpool && item.Value != httpsfv.Token("whirlpool") {
		return "", false
	}
	value, given := item.Params.Get("error")
	token, isToken := value.(httpsfv.Token)
	if !given || !isToken {
		return "", false
	}
	if _, known := tokenKinds[string(token)]; known {
		reason = string(token)
	}
	return reason, true
}

// findErrorPage returns a description of the page if a configured rule or a known signature shows that the proxy
// wrote the page itself. Otherwise it returns nil.
func findErrorPage(p *page, rules []upstream.OwnError, via viaState) *ErrorPage {
	for i := range rules {
		if ruleMatches(&rules[i], p) {
			return &ErrorPage{Signature: "own_error", Kind: verdict.ErrorPageUnclear}
		}
	}
	p.readFields()
	name, reason, ok := p.identifyPage(via)
	if !ok {
		return nil
	}
	own := &ErrorPage{Signature: name, Kind: pageKind(reason), Reason: reason}
	if name == "x-squid-error" {
		own.Detail = squidPage(p.squidError)
	}
	return own
}

// squidPage returns the page's name from an X-Squid-Error field, such as "ERR_DNS_FAIL". If the
// field has another form, squidPage returns "", so that no arbitrary text gets into the log.
func squidPage(value []byte) string {
	name, _, _ := bytes.Cut(value, []byte(" "))
	if len(name) > 64 || !bytes.HasPrefix(name, []byte("ERR_")) {
		return ""
	}
	for _, c := range name {
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return ""
		}
	}
	return string(name)
}

// ruleMatches reports whether the page meets all conditions of the rule.
func ruleMatches(rule *upstream.OwnError, p *page) bool {
	return ruleMatchesHead(rule, p) && (rule.Body == "" || bytes.Contains(p.body, []byte(rule.Body)))
}

// ruleMatchesHead reports whether the page meets all conditions of the rule except the one about the body.
func ruleMatchesHead(rule *upstream.OwnError, p *page) bool {
	if rule.Status != 0 && rule.Status != p.status {
		return false
	}
	if rule.Header == "" {
		return true
	}
	name, part, _ := strings.Cut(rule.Header, ":")
	part = strings.TrimSpace(part)
	for i := range p.fields {
		if f := &p.fields[i]; strings.EqualFold(string(f.Name), name) && strings.Contains(string(f.Value), part) {
			return true
		}
	}
	return false
}
