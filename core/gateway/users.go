package gateway

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
)

// User is an account with which clients log in.
type User = access.User

// authorize sets the user who sends the request. It returns an error response if the gateway has users and the
// client's credentials belong to no user; otherwise nil. An account that was accepted on this connection is not
// checked again until the credentials or the settings change.
func (r *request) authorize() (bad *proxyhttp.ErrorResponse) {
	if r.settings.users.Len() == 0 {
		r.cache.account, r.cache.options = nil, session.Options{}
		return nil
	}
	sent, c := r.credentials(), &r.cache
	if sent == nil {
		return r.authorizeCertificate()
	}
	if c.acceptedSettings == r.settings && c.acceptedLogin == string(sent) {
		return nil
	}
	c.acceptedSettings, c.account, c.options = nil, nil, session.Options{}
	value := string(sent)
	name, password := parseBasic(value)
	name, options := r.settings.users.SplitName(name)
	l := access.Login{Listener: access.Gateway, From: r.conn.netConn.RemoteAddr(), User: name}
	account, result, retryAfter := r.settings.users.Login(r.conn.ctx, r.server.Guard, l, password)
	switch result {
	case access.Accepted:
		var err error
		if c.options, err = r.server.parseOptions(options, l); err != nil {
			return wrongOptionResponse(err)
		}
		c.acceptedSettings, c.acceptedLogin, c.account = r.settings, value, account
		return nil
	case access.Blocked:
		return &proxyhttp.ErrorResponse{
			Status: http.StatusTooManyRequests, Code: "too_many_failed_logins", Reason: "http_request_denied",
			Message:    "too many logins from this address have failed; the user name and password were not checked",
			RetryAfter: retryAfter, Close: true,
		}
	}
	return loginRequiredResponse()
}

// credentials returns the value of the request's Proxy-Authorization field; nil without this field. For an
// intercepted request, it returns the credentials of the CONNECT.
func (r *request) credentials() []byte {
	if r.outerConnect != nil {
		return r.outerConnect.credentials
	}
	return r.fieldOfKind(http1.ProxyAuthorization)
}

// authorizeCertificate is like authorize, but for a request without credentials. It sets the user whose name
// is one of the names in the client's certificate. If there is no such user, it returns an error response.
func (r *request) authorizeCertificate() *proxyhttp.ErrorResponse {
	c := &r.cache
	if c.acceptedSettings == r.settings && c.acceptedLogin == "" {
		return nil
	}
	c.acceptedSettings, c.options = nil, session.Options{}
	if c.account = r.settings.users.ByCertificate(r.conn.certNames); c.account == nil {
		return loginRequiredResponse()
	}
	c.acceptedSettings, c.acceptedLogin = r.settings, ""
	return nil
}

func loginRequiredResponse() *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusProxyAuthRequired, Code: "proxy_authentication_required",
		Message: "this proxy wants a user name and password", Reason: "http_request_denied",
	}
}

// fieldOfKind returns the value of the first header field of the given kind, or nil.
func (r *request) fieldOfKind(kind http1.Kind) []byte {
	if !r.head.Has(kind) {
		return nil
	}
	for i := range r.head.Fields {
		if f := &r.head.Fields[i]; f.Kind == kind {
			return f.Value
		}
	}
	return nil
}

// parseBasic parses a Proxy-Authorization field with the scheme Basic (RFC 7617). For any other value it returns an
// empty name, which no user has.
func parseBasic(value string) (name, password string) {
	scheme, token, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "basic") {
		return "", ""
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	if err != nil {
		return "", ""
	}
	name, password, _ = strings.Cut(string(plain), ":")
	return name, password
}

// basicCredentials returns the value of a Proxy-Authorization field with the scheme Basic.
func basicCredentials(name, password string) []byte {
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
}

// overrideMode returns the override mode that applies to the request.
func (r *request) overrideMode() retry.OverrideMode {
	return r.settings.overrideMode(r.cache.account)
}

// overrideMode returns the override mode of a user. The account a is nil if the gateway has no users.
func (set *settings) overrideMode(a *access.Account) retry.OverrideMode {
	switch {
	case a != nil && a.Override != retry.OverrideDefault:
		return a.Override
	case set.Override != retry.OverrideDefault:
		return set.Override
	case set.users.Len() > 0:
		return retry.OverrideCapped
	}
	return retry.OverrideAny
}

// grantRequest counts the request for its user. If a limit of the user denies the request, grantRequest returns the
// error response instead. If the gateway has no users, it does nothing.
func (r *request) grantRequest() *proxyhttp.ErrorResponse {
	a := r.cache.account
	if a == nil {
		return nil
	}
	bad := beginRequest(a, &r.cache.authority, r.server.Now())
	if bad == nil {
		r.countedUser, r.conn.writer.user, r.input.Regions, r.input.Meter = a, a, a.Regions(), &a.Usage.Meter
	}
	return bad
}

// beginRequest counts a request of a user for the given target. If a limit of the user denies the request, it returns
// the error response instead.
func beginRequest(a *access.Account, target *proxyhttp.Authority, now time.Time) *proxyhttp.ErrorResponse {
	switch denial, rule := a.BeginRequest(target.Host, portOf(target.HostPort), now); denial {
	case access.Granted:
		return nil
	case access.TargetDenied:
		return forbiddenResponse("user_target_denied", "the user may not use this target: deny has the rule "+rule)
	case access.TargetNotAllowed:
		return forbiddenResponse("user_target_denied", "the user may not use this target: no rule of allow matches it")
	case access.TooManyInFlight:
		return limitResponse("user_in_flight", "the user has max_in_flight requests in flight", time.Second)
	case access.InFlightShareSpent:
		return shareSpentResponse("user_in_flight", "max_in_flight")
	case access.RequestsSpent:
		return limitResponse("user_requests_spent", "the user has made requests_per_day requests today",
			a.Usage.UntilNextDay(now))
	case access.RequestsShareSpent:
		return shareSpentResponse("user_requests_spent", "requests_per_day")
	case access.BytesShareSpent:
		return shareSpentResponse("user_bytes_spent", "bytes_per_day")
	default:
		return limitResponse("user_bytes_spent", "the user has used bytes_per_day today", a.Usage.UntilNextDay(now))
	}
}

// shareSpentResponse returns the response to a request of a user whose limit is shared by the nodes of a cluster, if
// this gateway has used up its share of the limit.
func shareSpentResponse(code, limit string) *proxyhttp.ErrorResponse {
	return limitResponse(code, "this gateway's share of the user's "+limit+
		" is in use; the gateways of the cluster share the limit", time.Second)
}

func limitResponse(code, message string, retryAfter time.Duration) *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusTooManyRequests, Code: code, Message: message, Reason: "http_request_denied",
		RetryAfter: retryAfter,
	}
}

// endGrant ends the request that grantRequest has counted, and adds the bytes of the request's body to the
// user's usage.
func (r *request) endGrant() {
	if a := r.countedUser; a != nil {
		a.Usage.AddBytes(r.body.Received())
		a.EndRequest()
		r.countedUser, r.conn.writer.user = nil, nil
	}
}

// portOf returns the port of host:port.
func portOf(hostPort string) uint16 {
	port, _ := strconv.ParseUint(hostPort[strings.LastIndexByte(hostPort, ':')+1:], 10, 16) // already checked
	return uint16(port)
}
