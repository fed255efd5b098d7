package gateway

import (
	"context"
	"crypto/tls"
	"iter"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// Settings are the settings that a reload may change. A request uses the settings that were in force when the request
// began.
type Settings struct {
	Users          []User
	Override       retry.OverrideMode     // OverrideDefault means capped if there are users, otherwise any
	TLS            *tls.Config            // TLS of the listener; nil for a listener without TLS
	Intercept      *Intercept             // interception of HTTPS; nil for no interception
	Via            bool                   // add the gateway to Via (RFC 9110 section 7.6.3)
	ReplayLimit    int64                  // maximum number of bytes that are kept of one request body, for repeats
	ReplayMemory   int64                  // maximum number of bytes of all kept request bodies together
	MaxConnections int                    // maximum number of client connections; 0 for no limit
	MaxPerClient   int                    // maximum number of client connections from one address; 0 for no limit
	Head           time.Duration          // maximum time from the first byte of a request's head to its last
	BodyIdle       time.Duration          // maximum time without progress of a body
	MinBodyRate    int64                  // minimum bytes per second that a client must send or read; 0 for no limit
	BodyGrace      time.Duration          // MinBodyRate applies after this time of waiting for a client; 0 for 30 s
	Strategies     func(name string) bool // reports whether a backoff with the given name exists
}

// Tracker lists the requests in flight, for GET /requests.
type Tracker interface {
	Track() TrackerEntry
}

// TrackerEntry tracks the requests of one client connection, one at a time.
type TrackerEntry interface {
	executor.Progress
	Begin(id core.RequestID, method, host string, started time.Time)
	SetClientID(id string)
	Release()
}

// AccessLog receives a record of each request that has ended.
type AccessLog interface {
	// On reports whether requests are logged. If On returns false when a request begins, the record of the request
	// has no attempts.
	On() bool
	// Write logs a request. It does not use the record after it has returned.
	Write(*accesslog.Record)
}

// Config has the dependencies of a Server. All fields are required, unless stated otherwise.
type Config struct {
	Executor    *executor.Executor
	Transport   *transport.Transport
	Policies    interface{ Current() *retry.Policy }
	Tracker     Tracker
	AccessLog   AccessLog            // receives each request that has ended; nil for no access log
	Tracer      Tracer               // nil traces no request
	OnTunnelEnd func(up, down int64) // called with the numbers of bytes to and from the target when a tunnel has ended

	// TargetBytes is called at the end of each request that has run, with the host of its target. The argument bytes is
	// the number of bytes that the client has sent and received: all bytes of a tunnel, or the bytes of the request's
	// body and of the whole response. The time at is the end of the request or, if the end is not known, the current
	// time. TargetBytes may be nil.
	TargetBytes func(host string, bytes int64, at time.Time)
	// OnHandshake is called after a TLS handshake with a client in place of a target. The parameter ok is set if the
	// handshake has succeeded. OnHandshake may be nil.
	OnHandshake func(ok bool)
	// OnRefused is called for each request or connection that the gateway refuses itself (type refusedRequest). The
	// parameter code is the code of the error response. OnRefused may be nil.
	OnRefused func(l core.Listener, code string)
	Guard     *access.Guard  // limits failed logins
	Sessions  *session.Table // shared with the API
	Loop      *loop.Guard    // recognizes requests that come back to this process; nil for no check
	Files     *budget.Files  // file descriptors; nil for no limit
	Log       *slog.Logger
	Now       func() time.Time
	NewID     func() core.RequestID
}

// Server is the forward proxy. It is safe for concurrent use.
type Server struct {
	Config
	settings atomic.Pointer[settings]
	buffers  *buffers

	replay budget.Memory

	writeBuffers *sync.Pool // buffers with which connections write responses (pooledBuffer)
	piecePool    *piecePool // buffers of kept bodies

	refusingFronts sync.Pool // empty values (*httpFront) for sniffingFront.refuseFirstHead

	ctx    context.Context // cancelled, like the contexts of the connections, when the grace period of a drain ends
	cancel context.CancelCauseFunc

	places             places
	watcher            socket.Watcher
	draining           atomic.Bool
	runningAccepts     atomic.Int32 // calls of accept that have not returned
	closeAfterResponse atomic.Bool  // see CloseAfterResponse
	activeRefusals     atomic.Int32
	wg                 sync.WaitGroup

	streams           streams           // HTTP/2 connections of intercepted clients
	interceptFailures interceptFailures // hosts that cannot be intercepted
}

type settings struct {
	Settings
	users        *access.Users
	interception *interception // nil for none
}

// New returns a Server. Serve makes it accept clients.
func New(cfg Config, set Settings) *Server {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Server{
		Config: cfg, writeBuffers: newBufferPool(), piecePool: newPieces(), ctx: ctx, cancel: cancel,
	}
	s.places.init()
	s.refusingFronts.New = func() any { return new(httpFront) }
	s.buffers = newBuffers(socket.NewPipes(
		func() bool { return cfg.Files.AcquireSpare(pipeFiles) },
		func() { cfg.Files.Release(budget.ForOthers, pipeFiles) },
	))
	s.Apply(set)
	return s
}

// Apply replaces the settings. Requests that have begun keep the old settings.
func (s *Server) Apply(set Settings) {
	var before *access.Users
	var intercepted *interception
	if old := s.settings.Load(); old != nil {
		before, intercepted = old.users, old.interception
	}
	if set.BodyGrace == 0 {
		set.BodyGrace = socket.RateGrace
	}
	s.settings.Store(&settings{
		Settings: set, users: access.NewUsers(set.Users, before),
		interception: interceptionOf(set.Intercept, intercepted),
	})
}

// Users returns the users with their usage of today (UTC).
func (s *Server) Users() []access.DailyUsage { return s.settings.Load().users.UsageToday(s.Now()) }

// Accounts returns the users in force.
func (s *Server) Accounts() *access.Users { return s.settings.Load().users }

// Usage returns the usage of the users. The caller saves it for RestoreUsage.
func (s *Server) Usage() []access.SavedUsage { return s.settings.Load().users.SavedUsages() }

// RestoreUsage sets the usage of users to the usage in an earlier process. It is called before Serve.
func (s *Server) RestoreUsage(used []access.SavedUsage) { s.settings.Load().users.Restore(used) }

// Costs returns the bytes, attempts and costs of each user. It leaves out users without bytes, attempts and costs.
func (s *Server) Costs() iter.Seq2[string, traffic.Total] { return s.settings.Load().users.Costs() }

// RestoreCosts adds the costs that a user had in an earlier process. It is called before Serve.
func (s *Server) RestoreCosts(name string, t traffic.Total) {
	s.settings.Load().users.RestoreCosts(name, t)
}

// Serve accepts HTTP and SOCKS5 clients from l until l is closed, and then returns nil. After any other error of l,
// it logs the error and accepts again.
func (s *Server) Serve(l net.Listener) error { return s.accept(l, newSniffingFront) }

// serve runs f, a method of the front of c, and then ends the connection c.
func (s *Server) serve(c *connection, f func()) {
	defer s.recoverPanic()
	defer c.endServing()
	f()
}

// recoverPanic is deferred by the goroutine that serves a client. It recovers from a panic, which then ends only the
// connection of this client.
func (s *Server) recoverPanic() {
	if p := recover(); p != nil {
		s.Log.Error("panic while serving a client", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// Connections returns the number of client connections.
func (s *Server) Connections() int { return int(s.places.clients.Load()) }

// CloseAfterResponse makes each connection end after its next response. That response has the field Connection: close.
// CloseAfterResponse is called some time before Shutdown.
func (s *Server) CloseAfterResponse() { s.closeAfterResponse.Store(true) }

// busyPollInterval is the interval at which WaitUntilBusy checks the connections.
const busyPollInterval = 10 * time.Millisecond

// WaitUntilBusy waits until each connection has a request in flight or is closed, but at most until ctx ends. The
// caller must have closed the listeners. Requests that arrive during the wait are served. This includes the requests of
// clients that the listeners accepted just before they were closed.
func (s *Server) WaitUntilBusy(ctx context.Context) {
	for s.runningAccepts.Load() > 0 || s.hasIdleConn() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(busyPollInterval):
		}
	}
}

func (s *Server) hasIdleConn() (waits bool) {
	s.eachConn(func(c *connection) { waits = waits || c.readControl.phase.Load() != phaseBusy })
	return waits
}

// Shutdown drains the server. It closes connections without a request in flight immediately. Requests and tunnels in
// flight may finish until ctx ends. When ctx ends, requests that wait for a retry get a 503, and all connections are
// closed. The caller must close the listener before the call.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.watcher.Close()
	s.draining.Store(true)
	s.streams.drain(ctx)
	s.eachConn((*connection).drain)
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	s.cancel(executor.ErrShutdown)
	s.eachConn(func(c *connection) { c.cancel(executor.ErrShutdown) })
	select {
	case <-done:
		return
	case <-time.After(shutdownResponseTime):
	}
	s.eachConn((*connection).abort)
	<-done
}

// shutdownResponseTime is the time in which cancelled requests can write their 503.
const shutdownResponseTime = 500 * time.Millisecond

// eachConn calls f for each connection. It does not hold the lock of places during the calls, because f may take
// long: to close a TLS connection, it sends a close alert.
func (s *Server) eachConn(f func(*connection)) {
	for _, c := range s.places.allConns() {
		f(c)
	}
}
