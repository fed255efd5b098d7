// Package api is the REST API, under /api/v1, and the dashboard. openapi.yaml
// says what it takes and gives; the tests hold it to that. (fiber stops here.)
package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/valyala/fasthttp"
	"go.yaml.in/yaml/v3"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/strictjson"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Key lets its bearer in.
type Key struct {
	Name   string // as the log has it
	Secret string
	Admin  bool // may change things
}

// ReloadStatus is how the last reload of the configuration went.
type ReloadStatus struct {
	OK      bool      `json:"ok"`
	At      time.Time `json:"at"`
	Faults  any       `json:"faults"`
	Restart []string  `json:"restart"` // keys that have changed and are read at a start only
}

// Running is the configuration a gateway runs with.
type Running struct {
	Config  any          `json:"config"`  // as it is written; secrets masked
	Gateway string       `json:"gateway"` // where clients connect
	Reload  ReloadStatus `json:"reload"`
}

// Config is what a Server is built from.
type Config struct {
	Engine       *engine.Engine
	Plugins      *plugins.Registry
	Keys         []Key
	Running      func() Running
	Reload       func() ReloadStatus
	Log          *slog.Logger
	Version      string
	LoopbackOnly bool // no keys: take requests addressed to this machine only
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	Config
	app  *fiber.App
	auth atomic.Pointer[auth]
	spec []byte
	uses sync.Mutex // held while a plugin is put to use or deleted: what is in use stays

	ctx    context.Context // of the requests that POST /request makes
	cancel context.CancelFunc
}

type auth struct {
	keys         []hashedKey
	loopbackOnly bool
}

type hashedKey struct {
	name  string
	sum   [sha256.Size]byte
	admin bool
}

//go:embed openapi.yaml
var openapiYAML []byte

//go:embed dashboard
var dashboard embed.FS

const (
	maxJSON = 1 << 20  // bytes of a JSON body
	maxBody = 32 << 20 // bytes of an upload
)

// New returns a server.
func New(cfg Config) (*Server, error) {
	s := &Server{Config: cfg}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.SetKeys(cfg.Keys, cfg.LoopbackOnly)
	var doc map[string]any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	var err error
	if s.spec, err = json.Marshal(doc); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, ErrorHandler: s.fail, BodyLimit: maxBody, Immutable: true, CaseSensitive: true,
		ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, ReadBufferSize: 16 << 10, DisableDefaultDate: false, ServerHeader: "",
	})
	s.routes()
	s.refuseOddMethods()
	s.app.Server().HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		return fasthttp.RequestConfig{MaxRequestBodySize: s.bodyLimit(h)}
	}
	return s, nil
}

// bodyLimit is how much of a request's body is read, into memory, before anything
// looks at it: as much as a module may have only if this client may upload one.
func (s *Server) bodyLimit(h *fasthttp.RequestHeader) int {
	a := s.auth.Load()
	key, _ := a.check(string(h.Peek(fiber.HeaderAuthorization)))
	if strings.HasPrefix(string(h.RequestURI()), "/api/v1/plugins") && (key.admin || len(a.keys) == 0) {
		return maxBody
	}
	return maxJSON
}

// refuseOddMethods sees to it that a method Fiber does not know is answered like
// one that is not allowed for the path: Fiber itself would answer in plain text,
// before any handler of ours.
func (s *Server) refuseOddMethods() {
	server := s.app.Server()
	next := server.Handler
	server.Handler = func(c *fasthttp.RequestCtx) {
		if method := string(c.Method()); !slices.Contains(fiber.DefaultMethods, method) {
			c.SetUserValue(oddMethod, method)
			c.Request.Header.SetMethod(fiber.MethodTrace) // which is for nothing here
		}
		next(c)
	}
}

// oddMethod is where a request's method is kept if Fiber does not know it.
const oddMethod = "odd method"

// method is what the client asked with.
func method(c *fiber.Ctx) string {
	if odd, ok := c.Locals(oddMethod).(string); ok {
		return clip(odd)
	}
	return c.Method()
}

// SetKeys replaces the keys.
func (s *Server) SetKeys(keys []Key, loopbackOnly bool) {
	a := &auth{loopbackOnly: loopbackOnly}
	for _, k := range keys {
		a.keys = append(a.keys, hashedKey{k.Name, sha256.Sum256([]byte(k.Secret)), k.Admin})
	}
	s.auth.Store(a)
}

// Serve takes requests from l until Shutdown.
func (s *Server) Serve(l net.Listener) error { return s.app.Listener(lingering{l}) }

// Shutdown stops the server. Running requests may finish until ctx ends; then
// those that POST /request makes are called off, and have a second to say so.
func (s *Server) Shutdown(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	last, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, cancel) })
	return s.app.ShutdownWithContext(last)
}

func (s *Server) routes() {
	s.app.Use(s.guard)
	for path, file := range pages {
		s.app.Get(path, func(c *fiber.Ctx) error { return page(c, file) })
	}
	s.app.Get("/healthz", func(c *fiber.Ctx) error { return s.send(c, fiber.Map{"status": "ok", "version": s.Version}) })
	s.app.Get("/readyz", s.ready)
	s.app.Get("/metrics", adaptor.HTTPHandler(s.Engine.Metrics().Handler()))
	v1 := s.app.Group("/api/v1")
	v1.Get("/healthz", func(c *fiber.Ctx) error { return s.send(c, fiber.Map{"status": "ok", "version": s.Version}) })
	v1.Get("/readyz", s.ready)
	v1.Get("/", s.openapi) // where serve says that the API is
	v1.Get("/openapi.json", s.openapi)
	v1.Get("/retry/policy", s.getPolicy)
	v1.Put("/retry/policy", s.putPolicy)
	v1.Get("/circuit-breakers", s.listBreakers)
	v1.Get("/circuit-breakers/metrics", s.breakerEvents) // before :id, which would take it
	v1.Get("/circuit-breakers/:id", s.getBreaker)
	v1.Post("/circuit-breakers/:id/reset", s.resetBreaker)
	v1.Get("/targets", s.listTargets)
	v1.Get("/metrics/retries", s.summary)
	v1.Get("/metrics/retries/timeseries", s.timeseries)
	v1.Get("/metrics/retries/by-proxy", s.byProxy)
	v1.Get("/proxies", s.listProxies)
	v1.Post("/proxies", s.addProxies)
	v1.Get("/proxies/:id", s.getProxy)
	v1.Patch("/proxies/:id", s.patchProxy)
	v1.Delete("/proxies/:id", s.deleteProxy)
	v1.Post("/request", s.request)
	v1.Get("/requests", s.listRequests)
	v1.Get("/requests/:id", s.getRequest)
	v1.Get("/plugins", s.listPlugins)
	v1.Post("/plugins", s.addPlugin)
	v1.Get("/plugins/:name", s.getPlugin)
	v1.Put("/plugins/:name", s.putPlugin)
	v1.Delete("/plugins/:name", s.deletePlugin)
	v1.Post("/plugins/:name/test", s.testPlugin)
	v1.Post("/plugins/:name/activate", s.activatePlugin)
	v1.Post("/plugins/:name/rollback", s.rollBackPlugin)
	v1.Post("/plugins/:name/release", s.releasePlugin)
	v1.Get("/config", s.getConfig)
	v1.Post("/config/reload", s.postReload)
}

func (s *Server) openapi(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(s.spec)
}

// Error is the shape of every error.
type Error struct {
	Error   string `json:"error"` // stable snake_case
	Message string `json:"message"`
	Details any    `json:"details,omitempty"`
}

// problem is an Error on its way out.
type problem struct {
	status int
	body   Error
}

func (p *problem) Error() string { return p.body.Message }

func refuse(status int, code, message string, details any) error {
	return &problem{status, Error{code, message, details}}
}

// fail answers every error, Fiber's own included.
func (s *Server) fail(c *fiber.Ctx, err error) error {
	var p *problem
	var f *fiber.Error
	status, body := 500, Error{Error: "internal", Message: "something went wrong; the log says more"}
	switch {
	case errors.As(err, &p):
		status, body = p.status, p.body
	case errors.Is(err, core.ErrNotFound):
		status, body = 404, Error{Error: "not_found", Message: err.Error()}
	case errors.Is(err, core.ErrConflict):
		status, body = 409, Error{Error: "conflict", Message: err.Error()}
	case errors.As(err, &f):
		status = f.Code
		switch f.Code {
		case 404:
			body = Error{Error: "not_found", Message: "there is nothing at " + clip(c.Path()) + "; /api/v1/openapi.json says what there is"}
		case 405:
			body = Error{Error: "method_not_allowed", Message: method(c) + " is not for " + clip(c.Path()) + "; allowed: " + c.GetRespHeader(fiber.HeaderAllow)}
		case 413:
			if refused := s.admit(c); refused != nil { // that is why so little was read
				return s.fail(c, refused)
			}
			body = Error{Error: "body_too_large", Message: fmt.Sprintf("the body is larger than %d bytes", s.bodyLimit(&c.Request().Header))}
		case 431:
			body = Error{Error: "header_too_large", Message: "the header is larger than 16 KiB"}
		default:
			if f.Code < 500 { // its own message quotes the request, keys and all
				body = Error{Error: "bad_request", Message: "this is not an HTTP request that can be read"}
			}
		}
	default:
		s.Log.Error("api", slog.Any("error", err), slog.String("path", clip(c.Path())))
	}
	c.Status(status)
	return s.send(c, body)
}

func (s *Server) send(c *fiber.Ctx, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Send(body)
}

// open reports whether a path tells nothing that a key should protect.
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

// guard lets in who may use the API, but no request that a web page of another
// origin has made a browser send.
func (s *Server) guard(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("panic in the API", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = s.fail(c, errors.New("panic"))
		}
	}()
	c.Set("X-Content-Type-Options", "nosniff")
	c.Set(fiber.HeaderCacheControl, "no-store")
	if err := s.admit(c); err != nil {
		return err
	}
	if err := c.Next(); err != nil {
		return err
	}
	s.tell(c)
	return nil
}

// tell logs what has been changed, and whose key changed it.
func (s *Server) tell(c *fiber.Ctx) {
	changed := c.Method() != fiber.MethodGet && c.Method() != fiber.MethodHead && c.Response().StatusCode() < 400
	switch c.Route().Path {
	case "/api/v1/request", "/api/v1/plugins/:name/test":
		changed = false
	}
	if !changed {
		return
	}
	what := []any{slog.String("method", c.Method()), slog.String("path", clip(c.Path()))}
	if name, ok := c.Locals(keyName).(string); ok && name != "" {
		what = append(what, slog.String("key", name))
	}
	s.Log.Info("changed through the API", what...)
}

// keyName is where the name of a request's key is kept.
const keyName = "key name"

// pages are the dashboard's files, by path: for everybody who reaches the port.
var pages = map[string]string{"/": "index.html", "/dashboard.css": "dashboard.css", "/dashboard.js": "dashboard.js"}

func page(c *fiber.Ctx, file string) error {
	content, err := dashboard.ReadFile("dashboard/" + file)
	if err != nil {
		return err
	}
	c.Type(filepath.Ext(file), "utf-8")
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
	return c.Send(content)
}

// admit says why a request may not be answered; nil if it may.
func (s *Server) admit(c *fiber.Ctx) error {
	a := s.auth.Load()
	// A browser always names a host; Fiber's Hostname would take X-Forwarded-Host
	// for it, which a page may set.
	host, target := string(c.Request().URI().Host()), c.Request().Header.RequestURI()
	if proxied := !bytes.HasPrefix(target, []byte("/")); (a.loopbackOnly || proxied) && host != "" && !local(host) {
		return refuse(421, "misdirected_request", "this is the API, not the gateway's port; without api.keys it answers to localhost and loopback addresses only", nil)
	}
	// Where a key is needed no page can use another's, and a reverse proxy may have
	// changed the host.
	if origin := c.Get(fiber.HeaderOrigin); len(a.keys) == 0 && origin != "" && c.Method() != fiber.MethodGet && c.Method() != fiber.MethodHead {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, c.Get(fiber.HeaderHost)) {
			return refuse(403, "cross_origin", "a page of another origin may not change anything here", nil)
		}
	}
	if len(a.keys) > 0 && !open(c.Path()) {
		key, ok := a.check(c.Get(fiber.HeaderAuthorization))
		if !ok {
			c.Set(fiber.HeaderWWWAuthenticate, "Bearer")
			return refuse(401, "unauthorized", "this needs an Authorization: Bearer key of api.keys", nil)
		}
		c.Locals(keyName, key.name)
		if !key.admin && c.Method() != fiber.MethodGet && c.Method() != fiber.MethodHead {
			return refuse(403, "forbidden", "this needs a key with the role admin", nil)
		}
	}
	if coding := c.Get(fiber.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") { // a few bytes may be gigabytes
		return refuse(415, "unsupported_media_type", "a body is taken as it is, without a Content-Encoding", nil)
	}
	return nil
}

// check compares the header's key with every key, in a time that tells nothing
// about them.
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

func local(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// decode reads a JSON body strictly.
func decode(c *fiber.Ctx, v any) error {
	mime, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	if mime = strings.TrimSpace(strings.ToLower(mime)); mime != fiber.MIMEApplicationJSON {
		return refuse(415, "unsupported_media_type", "the body must be application/json", nil)
	}
	body := c.Body()
	if len(body) > maxJSON {
		return refuse(413, "body_too_large", fmt.Sprintf("the body is larger than %d bytes", maxJSON), nil)
	}
	return decodeError(strictjson.Decode(body, v))
}

func decodeError(err error) error {
	var field *strictjson.FieldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field):
		return refuse(400, "invalid_field", err.Error(), fiber.Map{"field": field.Field})
	}
	return refuse(400, "invalid_json", err.Error(), nil)
}

// param returns a path parameter, decoded.
func param(c *fiber.Ctx, name string) (string, error) {
	raw := c.Params(name)
	v, err := url.PathUnescape(raw)
	if err != nil {
		return "", refuse(404, "not_found", "the path has a malformed escape", nil)
	}
	return v, nil
}

// query returns a parameter of the query, and whether it is given, even if empty.
// If it is given more than once, its value is "": it is not clear which one is
// meant.
func query(c *fiber.Ctx, name string) (value string, given bool) {
	all := c.Context().QueryArgs().PeekMulti(name)
	if len(all) != 1 {
		return "", len(all) > 0
	}
	return string(all[0]), true
}

func clip(s string) string {
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
