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
	Name string // name of the key in the log
	// Certificate, if not "", is a name that a client's certificate must have. The client then logs in with this
	// certificate, not with Secret.
	Certificate string
	Secret      string // "" if the key is a certificate
	Admin       bool   // the key permits changes; a key without Admin permits only reading
}

// keySet holds the keys of the API. It is immutable.
type keySet struct {
	keys         []hashedKey // empty if the API requires no key
	loopbackOnly bool        // refuse requests whose Host is not localhost or a loopback address
}

type hashedKey struct {
	name        string
	sum         [sha256.Size]byte // hash of the secret
	certificate string            // if it is not "", sum is not used
	admin       bool
}

// SetKeys replaces the keys. The parameter loopbackOnly is described at Config.LoopbackOnly.
func (s *Server) SetKeys(keys []Key, loopbackOnly bool) {
	a := &keySet{loopbackOnly: loopbackOnly}
	for _, k := range keys {
		a.keys = append(a.keys, hashedKey{
			name: k.Name, sum: sha256.Sum256([]byte(k.Secret)), certificate: k.Certificate, admin: k.Admin,
		})
	}
	s.keys.Store(a)
}

// findBearer returns the key in an Authorization header. It compares the header with every key, so that the duration
// of the comparison does not depend on the values of the keys.
func (k *keySet) findBearer(header string) (found hashedKey, ok bool) {
	scheme, key, _ := strings.Cut(header, " ")
	sum := sha256.Sum256([]byte(key))
	for _, k := range k.keys {
		equal := subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
		if equal && k.certificate == "" && strings.EqualFold(scheme, "Bearer") {
			found, ok = k, true
		}
	}
	return found, ok
}

// findCertificate returns the key whose Certificate is one of the names in a client certificate. It prefers a key with
// the role admin.
func (k *keySet) findCertificate(names []string) (found hashedKey, ok bool) {
	for _, k := range k.keys {
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

// roleHeader is the response header field with the role of the request's API key. The dashboard hides the buttons that
// this role may not use. Without keys, every client has the role "admin".
const roleHeader = "X-Whirlpool-Role"

func roleName(admin bool) string {
	if admin {
		return "admin"
	}
	return "read"
}

// checkAccess returns an error if the request may not be served.
func (s *Server) checkAccess(c *fiber.Ctx) error {
	a := s.keys.Load()
	// The host is taken from the request line or the Host field. Fiber's Hostname would prefer X-Forwarded-Host,
	// which a script of a web page can set.
	host, target := string(c.Request().URI().Host()), c.Request().Header.RequestURI()
	proxied := !bytes.HasPrefix(target, []byte("/"))
	if (a.loopbackOnly || proxied) && host != "" && !isLoopback(host) {
		return newProblem(fiber.StatusMisdirectedRequest, "misdirected_request",
			"this port is the API, not the gateway; without api.keys it accepts requests to a loopback address only")
	}
	// If the API requires a key, the origin is not checked, because a page of another origin does not have a key. The
	// check would refuse the dashboard behind a reverse proxy that changes the Host field.
	if len(a.keys) == 0 && !isReadOnly(c) && isCrossOrigin(c) {
		return newProblem(fiber.StatusForbidden, "cross_origin", "a web page of another origin cannot change anything")
	}
	admin := true
	if len(a.keys) > 0 && !isPublic(c.Path()) {
		key, err := s.login(c, a)
		if err != nil {
			return err
		}
		c.Locals(keyNameLocal, key.name)
		admin = key.admin
	}
	c.Locals(adminLocal, admin)
	isPreview := c.Method() == fiber.MethodPost && c.Path() == previewPath
	if !isReadOnly(c) && !isPreview {
		if err := requireAdmin(c); err != nil {
			return err
		}
	}
	if !isPublic(c.Path()) {
		c.Set(roleHeader, roleName(admin))
	}
	// A compressed body is refused, because a small one may decode to gigabytes.
	if coding := c.Get(fiber.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return badMediaType("a body with a Content-Encoding is not accepted")
	}
	return nil
}

// login returns the key of a request. For a wrong key, it returns an error after the guard's delay; for a missing key,
// it returns an error without a delay.
func (s *Server) login(c *fiber.Ctx, a *keySet) (key hashedKey, err error) {
	result, retryAfter := access.Refused, time.Duration(0)
	authorization := c.Get(fiber.HeaderAuthorization)
	if authorization == "" {
		if key, ok := a.findCertificate(clientNames(c)); ok {
			return key, nil
		}
	} else {
		login := access.Login{Listener: access.API, From: c.Context().RemoteAddr()}
		result, retryAfter = s.cfg.Guard.CheckLogin(s.ctx, login, access.Check{WithoutHash: func() (ok, decided bool) {
			key, ok = a.findBearer(authorization)
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

// canRead reports whether a client may read the API. The key in its Authorization header decides. If the header is
// empty, the names in the client's certificate decide.
func (s *Server) canRead(header string, names []string) bool {
	a := s.keys.Load()
	if len(a.keys) == 0 {
		return true
	}
	if header == "" {
		_, ok := a.findCertificate(names)
		return ok
	}
	_, ok := a.findBearer(header)
	return ok
}

// adminLocal is the key of Fiber's Locals under which checkAccess stores whether the request has the role admin.
const adminLocal = "is admin"

// requireAdmin returns a problem unless the request has the role admin.
func requireAdmin(c *fiber.Ctx) error {
	if admin, _ := c.Locals(adminLocal).(bool); !admin {
		return newProblem(fiber.StatusForbidden, "forbidden", "a key with the role admin is required")
	}
	return nil
}

// keyNameLocal is the key of Fiber's Locals under which checkAccess stores the name of the request's API key.
const keyNameLocal = "key name"

// isPublic reports whether a path can be requested without a key.
func isPublic(path string) bool {
	if _, ok := pages[path]; ok {
		return true
	}
	switch path {
	case "/healthz", "/readyz", "/api/v1", "/api/v1/", "/api/v1/healthz", "/api/v1/readyz", "/api/v1/openapi.json":
		return true
	}
	return false
}

func isReadOnly(c *fiber.Ctx) bool {
	return c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead
}

// isCrossOrigin reports whether a browser sends the request on behalf of a page of another origin.
func isCrossOrigin(c *fiber.Ctx) bool {
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, c.Get(fiber.HeaderHost))
}

// isLoopback reports whether a host, with or without a port, is localhost or a loopback address.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
