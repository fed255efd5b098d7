package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/access"
)

// Key is one of the API's keys.
type Key struct {
	Name   string // for the log
	Secret string
	Admin  bool // may change things; other keys can only read
}

// auth holds the keys that may use the API. It is immutable.
type auth struct {
	keys         []hashedKey // if there are none, no key is needed
	loopbackOnly bool        // refuse requests whose Host is not localhost or a loopback address
}

type hashedKey struct {
	name  string
	sum   [sha256.Size]byte
	admin bool
}

// SetKeys replaces the keys. With loopbackOnly, requests whose Host is not localhost or
// a loopback address are refused.
func (s *Server) SetKeys(keys []Key, loopbackOnly bool) {
	a := &auth{loopbackOnly: loopbackOnly}
	for _, k := range keys {
		a.keys = append(a.keys, hashedKey{k.Name, sha256.Sum256([]byte(k.Secret)), k.Admin})
	}
	s.auth.Store(a)
}

// check returns the key of an Authorization header. It compares the header with every key, so that its time
// does not depend on the values of the keys.
func (a *auth) check(header string) (found hashedKey, ok bool) {
	scheme, key, _ := strings.Cut(header, " ")
	sum := sha256.Sum256([]byte(key))
	for _, k := range a.keys {
		if subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 && strings.EqualFold(scheme, "Bearer") {
			found, ok = k, true
		}
	}
	return found, ok
}

// admit returns nil for a request that may be served, and an error with the reason for any other.
func (s *Server) admit(c *fiber.Ctx) error {
	a := s.auth.Load()
	// The host is taken from the request line or the Host field. Fiber's Hostname would prefer X-Forwarded-Host,
	// which a script of a web page can set.
	host, target := string(c.Request().URI().Host()), c.Request().Header.RequestURI()
	if proxied := !bytes.HasPrefix(target, []byte("/")); (a.loopbackOnly || proxied) && host != "" && !loopback(host) {
		return newProblem(fiber.StatusMisdirectedRequest, "misdirected_request",
			"this port is the API, not the gateway; without api.keys it accepts requests to a loopback address only")
	}
	// If there are keys, the origin is not checked: a page of another origin has no key, and a reverse proxy may
	// have changed the host.
	if len(a.keys) == 0 && !readOnly(c) && crossOrigin(c) {
		return newProblem(fiber.StatusForbidden, "cross_origin", "a web page of another origin cannot change anything")
	}
	if len(a.keys) > 0 && !open(c.Path()) {
		key, err := s.login(c, a)
		if err != nil {
			return err
		}
		c.Locals(keyName, key.name)
		if !key.admin && !readOnly(c) {
			return newProblem(fiber.StatusForbidden, "forbidden", "a key with the role admin is required")
		}
	}
	// A small compressed body may decode to gigabytes.
	if coding := c.Get(fiber.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return badMediaType("a body with a Content-Encoding is not accepted")
	}
	return nil
}

// login returns the key of a request. A request with a wrong key gets its error after the guard's delay; one without a
// key gets it at once.
func (s *Server) login(c *fiber.Ctx, a *auth) (key hashedKey, err error) {
	result, retryAfter := access.Refused, time.Duration(0)
	if sent := c.Get(fiber.HeaderAuthorization); sent != "" {
		from := access.Login{Listener: access.API, From: c.Context().RemoteAddr()}
		result, retryAfter = s.cfg.Guard.Do(s.ctx, from, func() access.Result {
			var ok bool
			if key, ok = a.check(sent); ok {
				return access.Accepted
			}
			return access.Refused
		})
	}
	switch result {
	case access.Accepted:
		return key, nil
	case access.Blocked:
		c.Context().SetConnectionClose()
		c.Set(fiber.HeaderRetryAfter, strconv.FormatInt(int64(math.Ceil(retryAfter.Seconds())), 10))
		return key, newProblem(fiber.StatusTooManyRequests, "too_many_failed_logins",
			"too many logins from this address have failed; the key was not checked")
	}
	c.Set(fiber.HeaderWWWAuthenticate, "Bearer")
	return key, newProblem(fiber.StatusUnauthorized, "unauthorized",
		"a key of api.keys is required: Authorization: Bearer KEY")
}

// admitsKey reports whether an Authorization header permits reading.
func (s *Server) admitsKey(header string) bool {
	a := s.auth.Load()
	if len(a.keys) == 0 {
		return true
	}
	_, ok := a.check(header)
	return ok
}

// keyName is the key of Fiber's Locals under which the name of a request's API key is stored.
const keyName = "key name"

// open reports whether a path can be requested without a key.
func open(path string) bool {
	if _, ok := pages[path]; ok {
		return true
	}
	switch path {
	case "/healthz", "/readyz", "/api/v1", "/api/v1/", "/api/v1/healthz", "/api/v1/readyz", "/api/v1/openapi.json":
		return true
	}
	return false
}

// readOnly reports whether a request changes nothing.
func readOnly(c *fiber.Ctx) bool {
	return c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead
}

// crossOrigin reports whether a page of another origin has made the browser send the
// request.
func crossOrigin(c *fiber.Ctx) bool {
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, c.Get(fiber.HeaderHost))
}

// loopback reports whether a host, with or without a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
