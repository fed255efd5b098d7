package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/access"
)

// Key is one of the API's keys.
type Key struct {
	Name string // for the log
	// Certificate is a name in a client certificate; "" for none. If it is set, a client logs in with a certificate
	// that has this name, not with Secret.
	Certificate string
	Secret      string // "" if the key is a certificate
	Admin       bool   // the key permits changes; a key without Admin permits only reading
}

// auth holds the keys of the API. It is immutable.
type auth struct {
	keys         []hashedKey // empty if the API requires no key
	loopbackOnly bool        // refuse requests whose Host is not localhost or a loopback address
}

type hashedKey struct {
	name        string
	sum         [sha256.Size]byte // hash of the secret
	certificate string            // the Certificate of the Key; if it is not "", sum is not used
	admin       bool
}

// SetKeys replaces the keys. If loopbackOnly is set, requests whose Host is not localhost or a
// loopback address are refused.
func (s *Server) SetKeys(keys []Key, loopbackOnly bool) {
	a := &auth{loopbackOnly: loopbackOnly}
	for _, k := range keys {
		a.keys = append(a.keys, hashedKey{
			name: k.Name, sum: sha256.Sum256([]byte(k.Secret)), certificate: k.Certificate, admin: k.Admin,
		})
	}
	s.auth.Store(a)
}

// check returns the key in an Authorization header. It compares the header with every key, so that the duration of
// check does not depend on the values of the keys.
func (a *auth) check(header string) (found hashedKey, ok bool) {
	scheme, key, _ := strings.Cut(header, " ")
	sum := sha256.Sum256([]byte(key))
	for _, k := range a.keys {
		equal := subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
		if equal && k.certificate == "" && strings.EqualFold(scheme, "Bearer") {
			found, ok = k, true
		}
	}
	return found, ok
}

// certified returns the key whose Certificate is one of the names in a client certificate. If there are several such
// keys, certified prefers a key with Admin.
func (a *auth) certified(names []string) (found hashedKey, ok bool) {
	for _, k := range a.keys {
		if k.certificate != "" && slices.Contains(names, k.certificate) && !found.admin {
			found, ok = k, true
		}
	}
	return found, ok
}

// clientNames returns the names of the client's verified certificate: the common name and the alternative names (RFC
// 5280 section 4.2.1.6). It returns nil if there is no certificate.
func clientNames(c *fiber.Ctx) (names []string) {
	client, ok := c.Context().Conn().(*conn)
	if !ok {
		return nil
	}
	secured, ok := client.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	chains := secured.ConnectionState().VerifiedChains
	if len(chains) == 0 {
		return nil
	}
	leaf := chains[0][0]
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	return append(append(names, leaf.DNSNames...), leaf.EmailAddresses...)
}

// roleHeader is a header field of responses. Its value is the role of the key that the request has. The dashboard hides
// the buttons that a client with this role may not use. Without keys, every client has the role "admin".
const roleHeader = "X-Whirlpool-Role"

func role(admin bool) string {
	if admin {
		return "admin"
	}
	return "read"
}

// admit returns nil if the request may be served. Otherwise it returns an error with the reason.
func (s *Server) admit(c *fiber.Ctx) error {
	a := s.auth.Load()
	// The host is taken from the request line or the Host field. Fiber's Hostname would prefer X-Forwarded-Host,
	// which a script of a web page can set.
	host, target := string(c.Request().URI().Host()), c.Request().Header.RequestURI()
	if proxied := !bytes.HasPrefix(target, []byte("/")); (a.loopbackOnly || proxied) && host != "" && !loopback(host) {
		return newProblem(fiber.StatusMisdirectedRequest, "misdirected_request",
			"this port is the API, not the gateway; without api.keys it accepts requests to a loopback address only")
	}
	// If the API requires a key, the origin is not checked: a page of another origin has no key, and a reverse
	// proxy may have changed the host.
	if len(a.keys) == 0 && !readOnly(c) && crossOrigin(c) {
		return newProblem(fiber.StatusForbidden, "cross_origin", "a web page of another origin cannot change anything")
	}
	admin := true
	if len(a.keys) > 0 && !open(c.Path()) {
		key, err := s.login(c, a)
		if err != nil {
			return err
		}
		c.Locals(keyName, key.name)
		admin = key.admin
		if !key.admin && !readOnly(c) {
			return newProblem(fiber.StatusForbidden, "forbidden", "a key with the role admin is required")
		}
	}
	if !open(c.Path()) {
		c.Set(roleHeader, role(admin))
	}
	// A small compressed body may decode to gigabytes.
	if coding := c.Get(fiber.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return badMediaType("a body with a Content-Encoding is not accepted")
	}
	return nil
}

// login returns the key of a request. If the key in the Authorization header is wrong, login returns an error after
// the guard's delay. If there is no key, login returns an error without a delay.
func (s *Server) login(c *fiber.Ctx, a *auth) (key hashedKey, err error) {
	result, retryAfter := access.Refused, time.Duration(0)
	sent := c.Get(fiber.HeaderAuthorization)
	if sent == "" {
		if key, ok := a.certified(clientNames(c)); ok {
			return key, nil
		}
	} else {
		from := access.Login{Listener: access.API, From: c.Context().RemoteAddr()}
		result, retryAfter = s.cfg.Guard.Do(s.ctx, from, access.Check{Known: func() (ok, decided bool) {
			key, ok = a.check(sent)
			return ok, true
		}})
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

// admitsKey reports whether an Authorization header permits reading. If header is "", the names in the client's
// certificate decide.
func (s *Server) admitsKey(header string, names []string) bool {
	a := s.auth.Load()
	if len(a.keys) == 0 {
		return true
	}
	if header == "" {
		_, ok := a.certified(names)
		return ok
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

// crossOrigin reports whether a browser sends the request on behalf of a page of another origin.
func crossOrigin(c *fiber.Ctx) bool {
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, c.Get(fiber.HeaderHost))
}

// loopback reports whether a host, with or without a port, is localhost or a loopback address.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
