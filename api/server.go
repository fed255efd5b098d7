// Package api serves the REST API under /api/v1 and the dashboard. openapi.yaml describes the requests and responses;
// TestResponses compares this description with the server's responses.
//
// Each sort of things in the API, such as proxies or plugins, has one file. The file has the endpoints for these things
// and their JSON types. It also declares the interfaces through which the endpoints use other parts of the program. No
// other package uses Fiber.
package api

import (
	"context"
	"crypto/tls"
	_ "embed" // openapi.yaml
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.yaml.in/yaml/v3"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// Engine has the methods of the engine that the API uses.
type Engine interface {
	drainer
	requester
	scorers
	describer
	bans
	tester
	costs
	users
}

var _ Engine = (*engine.Engine)(nil)

// Config holds the parts of the program that a Server uses. All fields are required except Activated, Events,
// Now, Files, Guard, TLS, Keys and LoopbackOnly.
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
	Running  func() Running      // the configuration in force
	Reload   func() ReloadStatus // reloads the configuration
	// Activated is called after a plugin was activated for a use (first, retry, backoff, judge). It may be nil.
	Activated func(use, plugin string)
	Events    *Events // nil if nothing adds events: the event stream is then empty
	Log       *slog.Logger
	Now       func() time.Time // default time.Now
	Version   string
	StateDir  string // the state folder; "" for none
	Files     Files  // default: no limit

	Guard *access.Guard // delays failed logins; nil for a Guard of the Server's own

	TLS *tls.Config // TLS of the listener; nil for none

	Keys         []Key
	LoopbackOnly bool // refuse requests whose Host is not localhost or a loopback address; for an API without Keys
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	cfg  Config
	app  *fiber.App
	auth atomic.Pointer[auth]
	tls  atomic.Pointer[tls.Config] // nil without TLS
	spec []byte                     // openapi.yaml as JSON

	ctx    context.Context // context of the requests that POST /request sends
	cancel context.CancelCauseFunc
}

//go:embed openapi.yaml
var openapiYAML []byte

// openapiJSON returns openapi.yaml as JSON. The document is converted once.
var openapiJSON = sync.OnceValues(func() ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	out, err := json.Marshal(doc)
	return append(out, '\n'), err
})

// Limits on the body of a request, in bytes.
const (
	maxJSON   = 1 << 20
	maxUpload = 32 << 20
)

// New returns a server for the parts of cfg.
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
	s := &Server{cfg: cfg, spec: spec}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.SetKeys(cfg.Keys, cfg.LoopbackOnly)
	s.SetTLS(cfg.TLS)
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, ErrorHandler: s.fail, Immutable: true, CaseSensitive: true,
		ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, ReadBufferSize: 16 << 10,
	})
	s.routes(parameters)
	s.acceptAnyMethod()
	s.app.Server().HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		return fasthttp.RequestConfig{MaxRequestBodySize: s.bodyLimit(h)}
	}
	return s, nil
}

// Serve accepts connections from l until Shutdown. It blocks until then.
func (s *Server) Serve(l net.Listener) error {
	limited := newListener(l, s.cfg.Files, maxConnections(s.cfg.Files.Limit()), s.cfg.Log, s.cfg.Now)
	limited.tls = s.tls.Load
	return s.app.Listener(limited)
}

// SetTLS changes the TLS settings of connections that are accepted from now on; nil ends TLS.
func (s *Server) SetTLS(config *tls.Config) { s.tls.Store(config) }

// maxConnections returns the maximum number of connections to the API: an eighth of the file descriptors, but at
// least 8 and at most 1024. The parameter files is the limit on file descriptors. If it is 0, there is no limit, and
// the result is 256.
func maxConnections(files int) int {
	if files == 0 {
		return 256
	}
	return max(8, min(files/8, 1024))
}

// Shutdown stops the server. It ends the event streams, because they do not end by themselves. All other requests may
// finish until ctx ends. Then the requests that POST /request sends are cancelled, and their responses may be sent
// within one second.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cfg.Events.stream.Close()
	stop := context.AfterFunc(ctx, func() { s.cancel(executor.ErrShutdown) })
	defer stop()
	last, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, cancel) })
	return s.app.ShutdownWithContext(last)
}

func (s *Server) routes(parameters map[string][]string) {
	s.app.Use(s.guard)
	for path, file := range pages {
		s.app.Get(path, func(c *fiber.Ctx) error { return sendPage(c, file) })
	}
	cfg := &s.cfg
	uses := &pluginUses{engine: cfg.Engine, policies: cfg.Policies, changes: cfg.Changes, activated: cfg.Activated}
	health := &healthHandler{version: cfg.Version, engine: cfg.Engine, pool: cfg.Pool, cluster: cfg.Cluster}
	metrics := &metricsHandler{metrics: cfg.Metrics, events: cfg.Events}
	health.routes(s.app)
	s.app.Get("/metrics", metrics.scrape())

	root := s.app.Group("/api/v1")
	root.Get("/", s.openapi) // the command serve prints this address
	root.Get("/openapi.json", s.openapi)
	v1 := documented{root, parameters}
	lists := &poolLists{pool: cfg.Pool, banned: cfg.Engine.BannedUntil, metrics: cfg.Metrics}
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
	(&clusterHandler{cluster: cfg.Cluster, store: cfg.Store}).routes(v1)
	(&targetHandler{ledger: cfg.Targets, pool: cfg.Pool, metrics: cfg.Metrics}).routes(v1)
	(&restHandler{engine: cfg.Engine, pool: cfg.Pool}).routes(v1)
	(&routeHandler{engine: cfg.Engine, policies: cfg.Policies}).routes(v1)
	(&userHandler{engine: cfg.Engine, now: cfg.Now}).routes(v1)
	(&statusHandler{lists: lists, metrics: cfg.Metrics, cluster: cfg.Cluster}).routes(v1)
	(&groupHandler{lists: lists}).routes(v1)
	(&proxyHandler{
		pool: cfg.Pool, metrics: cfg.Metrics, lists: lists, changes: cfg.Changes, banned: cfg.Engine.BannedUntil,
		avoided: cfg.Engine.Avoided,
	}).routes(v1)
	(&banHandler{engine: cfg.Engine, pool: cfg.Pool, metrics: cfg.Metrics}).routes(v1)
	(&testHandler{engine: cfg.Engine, pool: cfg.Pool, ctx: s.ctx}).routes(v1)
	(&costHandler{engine: cfg.Engine, pool: cfg.Pool}).routes(v1)
	(&stateHandler{changes: cfg.Changes, dir: cfg.StateDir}).routes(v1)
	(&sendHandler{engine: cfg.Engine, ctx: s.ctx}).routes(v1)
	(&requestHandler{tracker: cfg.Requests}).routes(v1)
	(&pluginHandler{
		registry: cfg.Plugins, uses: uses, policies: cfg.Policies, pool: cfg.Pool, engine: cfg.Engine,
	}).routes(v1)
	(&eventHandler{events: cfg.Events, ended: s.ctx, admits: s.admitsKey}).routes(v1)
	(&configHandler{running: cfg.Running, reload: cfg.Reload, policies: cfg.Policies}).routes(v1)
}

func (s *Server) openapi(c *fiber.Ctx) error {
	return sendJSON(c, s.spec)
}

// guard runs before every handler: it refuses requests that are not admitted, responds with a 500
// if a handler panics, and logs changes.
func (s *Server) guard(c *fiber.Ctx) (err error) {
	if client, ok := c.Context().Conn().(*conn); ok {
		client.hold()
		defer client.release()
	}
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("panic in the API", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = s.fail(c, errors.New("panic"))
		}
	}()
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderCacheControl, "no-store")
	if err := s.admit(c); err != nil {
		return err
	}
	if err := c.Next(); err != nil {
		return err
	}
	s.logChange(c)
	return nil
}

// logChange logs a successful request that may have made a change, with the name of its API key, and adds an event.
func (s *Server) logChange(c *fiber.Ctx) {
	if readOnly(c) {
		return
	}
	switch c.Route().Path {
	case "/api/v1/request", "/api/v1/plugins/:name/test", "/api/v1/proxies/:id/test",
		"/api/v1/retry/policy/preview": // these endpoints change nothing
		return
	}
	attrs := []any{slog.String("method", c.Method()), slog.String("path", clip(c.Path()))}
	name, _ := c.Locals(keyName).(string)
	if name != "" {
		attrs = append(attrs, slog.String("key", name))
	}
	if sum, ok := c.Locals(auditSHA256).(string); ok {
		attrs = append(attrs, slog.String("sha256", sum))
	}
	s.cfg.Log.Info("changed through the API", attrs...)
	s.cfg.Events.changed(c.Method(), clip(c.Path()), name)
}

// bodyLimit returns the maximum number of bytes of a request's body. The server reads the body into memory before any
// handler runs. The limit for uploads applies only to clients that may upload a module.
func (s *Server) bodyLimit(h *fasthttp.RequestHeader) int {
	a := s.auth.Load()
	key, _ := a.check(string(h.Peek(fiber.HeaderAuthorization)))
	if strings.HasPrefix(string(h.RequestURI()), "/api/v1/plugins") && (key.admin || len(a.keys) == 0) {
		return maxUpload
	}
	return maxJSON
}

// acceptAnyMethod passes requests with an unknown method to the handlers. The response is then the same as for any
// other method that a path does not accept. Without acceptAnyMethod, Fiber would respond in plain text.
func (s *Server) acceptAnyMethod() {
	server := s.app.Server()
	next := server.Handler
	server.Handler = func(c *fasthttp.RequestCtx) {
		if method := string(c.Method()); !slices.Contains(fiber.DefaultMethods, method) {
			c.SetUserValue(originalMethod, method)
			c.Request.Header.SetMethod(fiber.MethodTrace) // no path accepts TRACE
		}
		next(c)
	}
}

// originalMethod is the key of the user value that holds the method that acceptAnyMethod has replaced.
const originalMethod = "original method"

// method returns the method that the client sent.
func method(c *fiber.Ctx) string {
	if m, ok := c.Locals(originalMethod).(string); ok {
		return clip(m)
	}
	return c.Method()
}
