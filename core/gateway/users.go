package gateway

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// User is the account of a client.
type User = access.User

// authorize finds out which user sends the request. It returns an error response if there are users and the client is
// none of them, otherwise nil. An account that was accepted on this connection is not checked again until the
// credentials or the settings change.
func (r *request) authorize() (bad *proxyhttp.ErrorResponse) {
	if r.set.users.Len() == 0 {
		r.cache.account = nil
		return nil
	}
	sent := r.field(http1.ProxyAuthorization)
	if sent == nil {
		return loginRequired()
	}
	c := &r.cache
	if c.acceptedBy == r.set && c.accepted == string(sent) {
		return nil
	}
	c.acceptedBy, c.account = nil, nil
	value := string(sent)
	name, password := parseBasic(value)
	l := access.Login{Listener: access.Gateway, From: r.conn.raw.RemoteAddr(), User: name}
	account, result, retryAfter := r.set.users.Login(r.conn.ctx, r.server.Guard, l, password)
	switch result {
	case access.Accepted:
		c.acceptedBy, c.accepted, c.account = r.set, value, account
		return nil
	case access.Blocked:
		return &proxyhttp.ErrorResponse{
			Status: http.StatusTooManyRequests, Code: "too_many_failed_logins", Reason: "http_request_denied",
			Message:    "too many logins from this address have failed; the user name and password were not checked",
			RetryAfter: retryAfter, Close: true,
		}
	}
	return loginRequired()
}

func loginRequired() *proxyhttp.ErrorResponse {
	return &proxyhttp.ErrorResponse{
		Status: http.StatusProxyAuthRequired, Code: "proxy_authentication_required",
		Message: "this proxy wants a user name and password", Reason: "http_request_denied",
	}
}

// field returns the value of the first field of a kind, or nil.
func (r *request) field(kind http1.Kind) []byte {
	for i := range r.head.Fields {
		if f := &r.head.Fields[i]; f.Kind == kind {
			return f.Value
		}
	}
	return nil
}

// parseBasic parses a Proxy-Authorization: Basic (RFC 7617). It returns an empty name for anything else; no user has an
// empty name.
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
