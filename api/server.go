// Package api serves the REST API under /api/v1 and the dashboard. openapi.yaml describes the requests and responses;
// TestResponses compares this description with the server's responses.
//
// Each resource of the API, such as proxies or plugins, has one file: its endpoints, their JSON types, and the
// interfaces through which they use other parts of the program. No other package uses Fiber.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// Engine has the methods of the engine that the API uses.
type Engine interface {
	drainer
	requester
	scorerEngine
	describer
	banEngine
	tester
	costEngine
	userEngine
}

var _ Engine = (*engine.Engine)(nil)

// Config holds the parts of the program that a Server uses. All fields are required except OnActivation, Events, Now,
// Files, Guard, TLS, Keys and LoopbackOnly.
type Config struct {
	Engine   Engine
	Pool     Pool
	Targets  Targets
	Policies Policies
	Changes  Changes
	Cluster  Cluster // nil without a cluster
	Store    string  // URL of the cluster's store, without credentials
	Metrics  Metrics
	Requests Requests
	Plugins  Plugins
	Running  func() RunningConfig // the configuration in force
	Reload   func() ReloadStatus  // reloads the configuration
	// OnActivation is called after the activation of a plugin. The parameter use is the place where the plugin is used:
	// "first", "retry", "backoff" or "judge".
	OnActivation func(use, plugin string)
	Events       *Events // nil for an empty event stream
	Log          *slog.Logger
	Now          func() time.Time // default time.Now
	Version      string
	StateDir     string // the state folder; "" for none
	Files        Files  // default: no limit

	Guard *access.Guard // delays failed logins; nil for a Guard of the Server's own

	TLS    *tls.Config // TLS of the listener; nil for none
	Limits Limits

	Keys         []Key
	LoopbackOnly bool // refuse requests whose Host is not localhost or a loopback address; for an API without Keys
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	cfg  Config
	app  *fiber.App
	keys atomic.Pointer[keySet]
	tls  atomic.Pointer[tls.Config] // nil without TLS

	limits atomic.Pointer[Limits]

	spec []byte // openapi.yaml as JSON

	audit *auditTrail

	ctx    context.Context // context of the requests that POST /request and POST /requests send
	cancel context.CancelCauseFunc
}

// Limits on the body of a request, in bytes.
const (
	maxJSON   = 1 << 20
	maxUpload = 32 << 20
)

// New returns a server of the API.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Files == nil {
		cfg.Files = (*budget.Files)(nil)
	}
	if cfg.Events == nil {
		cfg.Events = NewEvents(cfg.Now)
	}
	if cfg.Guard == nil {
		cfg.Guard = access.NewGuard(cfg.Now, cfg.Log)
	}
	spec, err := openapiJSON()
	if err != nil {
		return nil, err
	}
	parameters, err := queryParameters()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, spec: spec, audit: &auditTrail{cluster: cfg.Cluster, events: cfg.Events, now: cfg.Now},
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.SetKeys(cfg.Keys, cfg.LoopbackOnly)
	s.SetTLS(cfg.TLS)
	s.SetLimits(cfg.Limits)
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, ErrorHandler: s.sendError, Immutable: true, CaseSensitive: true,
		ReadBufferSize: 16 << 10, // no timeouts: strictReader and conn set all deadlines
	})
	s.routes(parameters)
	s.acceptAnyMethod()
	s.app.Server().HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		return fasthttp.RequestConfig{MaxRequestBodySize: s.bodyLimit(h)}
	}
	return s, nil
}

// Serve serves connections from l until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	limited := newListener(l, s.cfg.Files, maxConnections(s.cfg.Files.Limit()), s.cfg.Log, s.cfg.Now,
		func() Limits { return *s.limits.Load() })
	limited.tls = s.tls.Load
	return s.app.Listener(limited)
}

// SetTLS changes the TLS settings of connections that are accepted from now on; nil ends TLS.
func (s *Server) SetTLS(config *tls.Config) { s.tls.Store(config) }

// SetLimits changes the limits of requests and responses that begin from now on.
func (s *Server) SetLimits(limits Limits) { s.limits.Store(&limits) }

// maxConnections returns the maximum number of connections to the API: an eighth of the limit on file descriptors, but
// at least 8 and at most 1024. Without a limit (files is 0), it returns 256.
func maxConnections(files int) int {
	if files == 0 {
		return 256
	}
	return max(8, min(files/8, 1024))
}

// Shutdown stops the server. It ends the event streams immediately. All other requests may finish until ctx ends. Then
// Shutdown cancels the requests that were sent by POST /request and POST /requests, and waits at most one second for
// the responses of the API.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cfg.Events.stream.Close()
	stop := context.AfterFunc(ctx, func() { s.cancel(executor.ErrShutdown) })
	defer stop()
	deadline, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, cancel) })
	return s.app.ShutdownWithContext(deadline)
}

func (s *Server) routes(parameters map[string][]string) {
	s.app.Use(s.middleware)
	for path, file := range pages {
		s.app.Get(path, func(c *fiber.Ctx) error { return sendPage(c, file) })
	}
	cfg := &s.cfg
	uses := &pluginUses{
		engine: cfg.Engine, policies: cfg.Policies, changes: cfg.Changes, onActivation: cfg.OnActivation,
	}
	health := &healthHandler{version: cfg.Version, engine: cfg.Engine, pool: cfg.Pool, cluster: cfg.Cluster}
	metrics := &metricsHandler{metrics: cfg.Metrics, events: cfg.Events}
	health.routes(s.app)
	s.app.Get("/metrics", metrics.scrapeHandler())

	root := s.app.Group("/api/v1")
	root.Get("/", s.getOpenAPI) // the command serve prints this address
	root.Get("/openapi.json", s.getOpenAPI)
	v1 := checkedRouter{root, parameters}
	lists := &poolLists{pool: cfg.Pool, bannedUntil: cfg.Engine.BannedUntil, metrics: cfg.Metrics}
	health.routes(v1)
	metrics.routes(v1)
	(&policyHandler{policies: cfg.Policies, plugins: uses}).routes(v1)
	(&previewHandler{
		policies: cfg.Policies, requests: cfg.Requests, metrics: cfg.Metrics, hasBackoff: cfg.Engine.HasBackoff,
		now: cfg.Now,
	}).routes(v1)
	(&breakerHandler{
		pool: cfg.Pool, lists: lists, metrics: cfg.Metrics, now: cfg.Now, cluster: cfg.Cluster,
	}).routes(v1)
	cluster := &clusterHandler{cluster: cfg.Cluster, store: cfg.Store}
	cluster.routes(v1)
	s.audit.routes(v1)
	(&targetHandler{ledger: cfg.Targets, pool: cfg.Pool, metrics: cfg.Metrics}).routes(v1)
	(&hostBanHandler{engine: cfg.Engine, pool: cfg.Pool}).routes(v1)
	(&routeHandler{engine: cfg.Engine, policies: cfg.Policies}).routes(v1)
	(&userHandler{engine: cfg.Engine, now: cfg.Now}).routes(v1)
	status := &statusHandler{
		lists: lists, metrics: cfg.Metrics, tracker: cfg.Requests, now: cfg.Now, cluster: cfg.Cluster,
	}
	status.routes(v1)
	(&groupHandler{lists: lists}).routes(v1)
	proxies := &proxyHandler{
		pool: cfg.Pool, metrics: cfg.Metrics, lists: lists, changes: cfg.Changes, bannedUntil: cfg.Engine.BannedUntil,
		avoidedPairs: cfg.Engine.Avoided,
	}
	proxies.routes(v1)
	(&proxyListHandler{
		pool: cfg.Pool, lists: lists, changes: cfg.Changes, proxies: proxies, now: cfg.Now,
	}).routes(v1)
	(&banHandler{engine: cfg.Engine, pool: cfg.Pool, metrics: cfg.Metrics}).routes(v1)
	(&testHandler{engine: cfg.Engine, pool: cfg.Pool, ctx: s.ctx}).routes(v1)
	(&costHandler{engine: cfg.Engine, pool: cfg.Pool}).routes(v1)
	(&stateHandler{changes: cfg.Changes, dir: cfg.StateDir}).routes(v1)
	(&sendHandler{engine: cfg.Engine, ctx: s.ctx, now: cfg.Now, log: cfg.Log}).routes(v1)
	(&requestHandler{tracker: cfg.Requests}).routes(v1)
	plugins := &pluginHandler{
		registry: cfg.Plugins, uses: uses, policies: cfg.Policies, pool: cfg.Pool, engine: cfg.Engine,
	}
	plugins.routes(v1)
	(&eventHandler{
		events: cfg.Events, ctx: s.ctx, canRead: s.canRead,
		live: newLive(cfg, status, metrics, plugins, cluster, s.audit),
	}).routes(v1)
	(&configHandler{running: cfg.Running, reload: cfg.Reload, policies: cfg.Policies}).routes(v1)
}

func (s *Server) getOpenAPI(c *fiber.Ctx) error {
	return sendJSON(c, s.spec)
}

// middleware runs before every handler: it refuses requests, responds with a 500 if a handler panics, and logs changes.
func (s *Server) middleware(c *fiber.Ctx) (err error) {
	if client, ok := c.Context().Conn().(*conn); ok {
		client.beginUse()
		defer client.endUse()
	}
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("panic in the API", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = s.sendError(c, errors.New("panic"))
		}
	}()
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderCacheControl, "no-store")
	if err := s.checkAccess(c); err != nil {
		return err
	}
	if err := c.Next(); err != nil {
		return err
	}
	s.logChange(c)
	return nil
}

// logChange logs a successful request that may have made a change, and adds it to the audit trail.
func (s *Server) logChange(c *fiber.Ctx) {
	if isReadOnly(c) {
		return
	}
	switch c.Route().Path {
	case "/api/v1/request", "/api/v1/requests", "/api/v1/plugins/:name/test", "/api/v1/proxies/:id/test",
		previewPath: // these endpoints change nothing
		return
	case "/api/v1/proxy-lists":
		if changesNothing(c) {
			return
		}
	}
	name, _ := c.Locals(keyNameLocal).(string)
	e := s.audit.entryOf(c, name)
	attrs := []any{slog.String("method", e.Method), slog.String("path", e.Path)}
	if name != "" {
		attrs = append(attrs, slog.String("key", name))
	}
	if e.Query != "" {
		attrs = append(attrs, slog.String("query", e.Query))
	}
	if e.Total > 0 {
		attrs = append(attrs, slog.Any("changed", e.Changed), slog.Int("changed_total", e.Total))
	}
	if sum, ok := c.Locals(sha256Local).(string); ok {
		attrs = append(attrs, slog.String("sha256", sum))
	}
	s.cfg.Log.Info("changed through the API", attrs...)
	s.audit.add(e)
}

// bodyLimit returns the maximum number of bytes of a request's body, which is read into memory before any handler runs.
// The larger limits of uploads and lists apply only to clients that may make changes.
func (s *Server) bodyLimit(h *fasthttp.RequestHeader) int {
	a := s.keys.Load()
	key, _ := a.findBearer(string(h.Peek(fiber.HeaderAuthorization)))
	mayChange := key.admin || len(a.keys) == 0
	switch path := string(h.RequestURI()); {
	case mayChange && strings.HasPrefix(path, "/api/v1/plugins"):
		return maxUpload
	case mayChange && strings.HasPrefix(path, "/api/v1/proxy-lists"):
		return maxList
	}
	return maxJSON
}

// acceptAnyMethod passes requests with an unknown method to the handlers. Fiber itself would respond in plain text.
func (s *Server) acceptAnyMethod() {
	server := s.app.Server()
	next := server.Handler
	server.Handler = func(c *fasthttp.RequestCtx) {
		if method := string(c.Method()); !slices.Contains(fiber.DefaultMethods, method) {
			c.SetUserValue(methodLocal, method)
			c.Request.Header.SetMethod(fiber.MethodTrace) // no path accepts TRACE
		}
		next(c)
	}
}

// methodLocal is the key of Fiber's Locals that holds the method that acceptAnyMethod has replaced.
const methodLocal = "original method"

// clientMethod returns the method that the client sent.
func clientMethod(c *fiber.Ctx) string {
	if m, ok := c.Locals(methodLocal).(string); ok {
		return clipText(m)
	}
	return c.Method()
}
