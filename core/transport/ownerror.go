package transport

import (
	"bytes"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ErrorPage says that an answer with status 400 or above is a page of the proxy
// itself, not of the target.
type ErrorPage struct {
	Mark   string // how it was recognised: a mark of this file, or "own_error" for a rule of the configuration
	Kind   verdict.ErrorPage
	Reason string // RFC 9209 section 2.3 error token that says the same; "" if the page does not tell
	Detail string // squid's name of the page, such as "ERR_DNS_FAIL"; "" for all others
}

// says is what a page with that error token says; of another page it is unclear.
func says(reason string) verdict.ErrorPage {
	if own, known := blame[reason]; known {
		return own
	}
	return verdict.ErrorPageUnclear
}

// blame maps the error tokens of RFC 9209 section 2.3 to what they blame.
var blame = map[string]verdict.ErrorPage{
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
	"connection_limit_reached":           verdict.ErrorPageTrouble,
	"proxy_internal_error":               verdict.ErrorPageTrouble,
	"proxy_configuration_error":          verdict.ErrorPageTrouble,
	"proxy_loop_detected":                verdict.ErrorPageTrouble,
	"http_request_error":                 verdict.ErrorPageUnclear,
	"proxy_internal_response":            verdict.ErrorPageUnclear,
}

// page is an answer with status 400 or above, as the marks see it. All slices are
// views.
type page struct {
	status  int
	reason  []byte
	fields  []http1.Field
	body    []byte // its beginning, as far as it has come
	connect bool   // it refuses a CONNECT: no target can have written it

	vias                          int    // Via fields
	via                           []byte // the last of them
	server, agent, modified, date []byte
	contentType, squidError       []byte
	whirlpool                     bool // it carries X-Whirlpool-Outcome
	sized                         bool // and Content-Length
	proxyStatus                   []string
}

// read gathers the fields that marks look at.
func (p *page) read() {
	for i := range p.fields {
		f := &p.fields[i]
		switch {
		case f.Kind == http1.Via:
			p.vias++
			p.via = f.Value
		case f.Kind == http1.Whirlpool && http1.EqualFold(f.Name, "x-whirlpool-outcome"):
			p.whirlpool = true
		case f.Kind == http1.ContentLength:
			p.sized = true
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

// mark looks for a known own page of a proxy. reason is the RFC 9209 token for what
// it says; "" if it does not tell.
//
// Each mark was measured (testdata/ownerrors). All but squid's count on answers
// without Via only: a proxy that adds one adds it to what it relays. One that adds
// nothing could relay such a page of a target that is itself the same software; no
// mark can tell. The pages of
// HAProxy, nginx, Apache, Traffic Server and Varnish have no mark: origins stand
// behind the same servers, and a proxy that adds nothing relays their pages byte
// for byte.
func (p *page) mark(habit viaWord) (name, reason string, ok bool) {
	if p.bySquid(habit) {
		return "x-squid-error", squidReason(p.squidError), true
	}
	if !p.local() {
		return "", "", false
	}
	// A proxy that adds no Via may relay a Proxy-Status of the target's own making.
	if p.proxyStatus != nil && (p.connect || p.whirlpool || !habit.without()) {
		if reason, ok = proxyStatusError(p.proxyStatus, p.whirlpool); ok {
			return "proxy-status", reason, true
		}
	}
	switch {
	case p.byTinyproxy():
		return "tinyproxy", tinyproxyReasons[string(p.reason)], true
	case p.byPrivoxy():
		return "privoxy", privoxyReasons[string(p.reason)], true
	case bytes.HasPrefix(p.agent, []byte("proxy.py")): // Proxy-agent is on its own pages only
		return "proxy.py", badGateway(p.status), true
	case p.by3proxy():
		return "3proxy", threeproxyReasons[string(p.heading3())], true
	case bytes.HasPrefix(p.server, []byte("mitmproxy")) && p.date == nil && p.html():
		return "mitmproxy", badGateway(p.status), true
	}
	return "", "", false
}

// byTinyproxy reports whether tinyproxy wrote the page: it gives it neither a date
// nor a length.
func (p *page) byTinyproxy() bool {
	return bytes.HasPrefix(p.server, []byte("tinyproxy")) && p.date == nil && !p.sized && p.html()
}

// by3proxy reports whether 3proxy wrote the page. Its pages are fixed texts, sent at
// once with a head that names neither server nor date nor length.
func (p *page) by3proxy() bool {
	if p.server != nil || p.date != nil || p.sized || !p.html() {
		return false
	}
	_, known := threeproxyReasons[string(p.heading3())]
	return known
}

// heading3 is the text of the first <h3> in what has come of the body.
func (p *page) heading3() []byte {
	_, after, _ := bytes.Cut(p.body, []byte("<h3>"))
	text, _, _ := bytes.Cut(after, []byte("<"))
	return text
}

func (p *page) html() bool { return bytes.HasPrefix(p.contentType, []byte("text/html")) }

// byPrivoxy reports whether Privoxy wrote the page. Pages made from its templates
// carry a date before the Web; its others are plain text, without Server and Date.
func (p *page) byPrivoxy() bool {
	if string(p.modified) == "Wed, 08 Jun 1955 12:00:00 GMT" {
		return true
	}
	_, known := privoxyReasons[string(p.reason)]
	return known && string(p.contentType) == "text/plain" && p.server == nil && p.date == nil
}

// local reports whether nothing shows that the answer was relayed.
func (p *page) local() bool { return p.connect || p.vias == 0 }

// bySquid reports whether the page is that of a squid, the one that was asked.
// squid adds Via to its own pages too, unless it is told not to. A second Via is
// that of a squid behind it, which may be the target's.
func (p *page) bySquid(habit viaWord) bool {
	switch {
	case p.squidError == nil || !p.html() || p.server != nil && !bytes.HasPrefix(p.server, []byte("squid")):
		return false
	case p.local():
		return true
	case habit.without(): // what it relays has no Via of its own: this one is the target's
		return false
	}
	return p.vias == 1 && bytes.IndexByte(p.via, ',') < 0 && bytes.Contains(p.via, []byte("(squid"))
}

func badGateway(status int) string {
	if status == 502 {
		return "destination_unavailable"
	}
	return ""
}

// tinyproxyReasons are the reason phrases of tinyproxy 1.11.
var tinyproxyReasons = map[string]string{
	"Unable to connect":                  "destination_unavailable", // its resolver failed, or the connection
	"Could not retrieve all the headers": "http_response_incomplete",
	"Access denied":                      "http_request_denied",
	"Access violation":                   "http_request_denied",
	"Filtered":                           "http_request_denied",
	"Proxy Authentication Required":      "http_request_denied",
	"Internal error":                     "proxy_internal_error",
	"Bad Request":                        "http_request_error",
}

// privoxyReasons are the reason phrases of Privoxy 3.0.34.
var privoxyReasons = map[string]string{
	"No such domain":                            "dns_error",
	"Connect failed":                            "destination_unavailable",
	"Connection timeout":                        "connection_read_timeout",
	"No data received from server or forwarder": "connection_terminated",
	"Server or forwarder response invalid":      "http_protocol_error",
	"Certificate validation failed":             "tls_certificate_error",
	"Request blocked by Privoxy":                "http_request_denied",
	"Request not trusted or feature disabled":   "http_request_denied",
	"Forwarding failure":                        "proxy_configuration_error", // its parent proxy
	"Internal Privoxy Error":                    "proxy_internal_error",
	"Too many open connections":                 "connection_limit_reached",
	"Invalid header received from client":       "http_request_error",
	"Invalid request received from client":      "http_request_error",
	"Bad request received from client":          "http_request_error",
}

// threeproxyReasons are the texts of 3proxy 1.0 (src/proxy.c).
var threeproxyReasons = map[string]string{
	"Host Not Found or connection failed":                    "destination_unavailable",
	"Failed to connect parent proxy":                         "proxy_configuration_error",
	"You have exceeded your limits":                          "connection_limit_reached", // those of the proxy's user
	"Recursion detected":                                     "proxy_loop_detected",
	"Internal proxy error during processing your request":    "proxy_internal_error",
	"Access control list denies you to access this resource": "http_request_denied",
	"Your request violates configured policy":                "http_request_denied",
	"Required action is not supported by proxy server":       "http_request_error",
	"Access to requested resource disallowed by administrator or you need valid username/password to use this resource": "http_request_denied",
}

// squidReasons are squid's pages (doc/errors of squid 5.7). ERR_CANNOT_FORWARD is
// absent: squid gives it to a CONNECT whose name does not resolve, too.
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

// squidReason reads X-Squid-Error: the name of the page, and the errno of Linux,
// 0 for none.
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

// proxyStatusError returns the error of the member of Proxy-Status that stands for
// the proxy nearest to us, which is the last (RFC 9209 section 2). whirlpool says
// that this proxy is a gateway of our kind: then only its own member counts, since
// it relays others. What cannot be parsed is ignored, as RFC 9651 section 4.2 wants
// it.
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
	if _, known := blame[string(token)]; known {
		reason = string(token)
	}
	return reason, true
}

// ownError returns nil unless the page is the proxy's own: by a rule of the
// configuration or by a known mark.
func ownError(p *page, rules []upstream.OwnError, habit viaWord) *ErrorPage {
	for i := range rules {
		if matches(&rules[i], p) {
			return &ErrorPage{Mark: "own_error", Kind: verdict.ErrorPageUnclear}
		}
	}
	p.read()
	name, reason, ok := p.mark(habit)
	if !ok {
		return nil
	}
	own := &ErrorPage{Mark: name, Kind: says(reason), Reason: reason}
	if name == "x-squid-error" {
		own.Detail = squidPage(p.squidError)
	}
	return own
}

// squidPage returns the page's name if it is one of squid's, fit for a log.
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

// matches reports whether every part of the rule holds for the page.
func matches(rule *upstream.OwnError, p *page) bool {
	return headMatches(rule, p) && (rule.Body == "" || bytes.Contains(p.body, []byte(rule.Body)))
}

// headMatches is matches without the body.
func headMatches(rule *upstream.OwnError, p *page) bool {
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
