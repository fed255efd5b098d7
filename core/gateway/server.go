package gateway

import (
	"context"
	"crypto/tls"
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
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// Settings are the settings that a reload may change. A request uses the settings that were in
// force when it began.
type Settings struct {
	Users          []User
	Override       retry.OverrideMode     // OverrideDefault: capped if there are users, otherwise any
	TLS            *tls.Config            // of the listener; nil for none
	Via            bool                   // add the gateway to Via (RFC 9110 section 7.6.3)
	ReplayLimit    int64                  // bytes of a request body that are kept for replay
	ReplayMemory   int64                  // bytes of all request bodies that are kept for replay
	MaxConnections int                    // maximum number of client connections; 0 for no limit
	MaxPerClient   int                    // maximum number of client connections from one address; 0 for no limit
	Head           time.Duration          // maximum time from the first byte of a request's head to its last
	BodyIdle       time.Duration          // maximum time without progress of a body
	MinBodyRate    int64                  // minimum bytes per second that a client must send or read; 0 for no limit
	BodyGrace      time.Duration          // time of waiting for a client after which MinBodyRate applies; 0 for 30 s
	Strategies     func(name string) bool // reports whether there is a backoff of that name
}

// Tracker lists the requests in flight, for GET /requests.
type Tracker interface {
	Track() TrackerEntry
}

// TrackerEntry tracks the requests of one client connection, one at a time.
type TrackerEntry interface {
	executor.Progress
	Begin(id core.RequestID, method, host string, started time.Time)
	Release()
}

// AccessLog receives a record of each request that has ended.
type AccessLog interface {
	// On reports whether requests are logged. The record of a request that began while On returned false has no
	// attempts.
	On() bool
	// Write logs a request. It does not keep the record.
	Write(*accesslog.Record)
}

// Config has the dependencies of a Server. All fields are required, unless stated otherwise.
type Config struct {
	Executor  *executor.Executor
	Transport *transport.Transport
	Policies  interface{ Current() *retry.Policy }
	Tracker   Tracker
	AccessLog AccessLog            // receives each request that has ended; nil for none
	Tunnels   func(up, down int64) // called with the bytes of a finished tunnel
	Guard     *access.Guard        // limits failed logins
	Sessions  *session.Table       // shared with the API
	Loop      *loop.Guard          // recognizes requests that come back; nil for none
	Files     *budget.Files        // file descriptors; nil for no limit
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

	outs   *sync.Pool // buffers of loans, for responses
	pieces *pieces    // buffers of kept bodies

	ctx    context.Context // cancelled when the grace period of a drain ends
	cancel context.CancelCauseFunc

	places   places
	watcher  socket.Watcher
	draining atomic.Bool
	leaving  atomic.Bool // see Leave
	refusing atomic.Int32
	wg       sync.WaitGroup
}

type settings struct {
	Settings
	users *access.Users
}

// New returns a Server. Serve makes it accept clients.
func New(cfg Config, set Settings) *Server {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Server{
		Config: cfg, outs: newSpares(), pieces: newPieces(), ctx: ctx, cancel: cancel,
	}
	s.places.init()
	s.buffers = newBuffers(socket.NewPipes(
		func() bool { return cfg.Files.TakeSpare(pipeFiles) }, func() { cfg.Files.Give(budget.Other, pipeFiles) },
	))
	s.Apply(set)
	return s
}

// Apply replaces the settings. Requests that have begun keep the old ones.
func (s *Server) Apply(set Settings) {
	var before *access.Users
	if old := s.settings.Load(); old != nil {
		before = old.users
	}
	if set.BodyGrace == 0 {
		set.BodyGrace = bodyGrace
	}
	s.settings.Store(&settings{Settings: set, users: access.NewUsers(set.Users, before)})
}

// Users returns the users with their usage of today (UTC).
func (s *Server) Users() []access.Today { return s.settings.Load().users.Today(s.Now()) }

// Usage returns the usage of the users, to save it.
func (s *Server) Usage() []access.Used { return s.settings.Load().users.Used() }

// RestoreUsage sets the usage of users to that of an earlier process. It is called before Serve.
func (s *Server) RestoreUsage(used []access.Used) { s.settings.Load().users.Restore(used) }

// Serve accepts HTTP and SOCKS5 clients from l until l is closed, and returns nil. It logs other errors of l
// and tries again.
func (s *Server) Serve(l net.Listener) error { return s.accept(l, newAnyFront) }

// serve runs f, a method of c's front, and ends the connection.
func (s *Server) serve(c *connection, f func()) {
	defer s.rescue()
	defer c.end()
	f()
}

// rescue is deferred by a client's goroutine. It recovers from a panic, so that only this client is
// affected.
func (s *Server) rescue() {
	if p := recover(); p != nil {
		s.Log.Error("panic while serving a client", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// Connections returns the number of client connections.
func (s *Server) Connections() int { return int(s.places.clients.Load()) }

// Leave makes each connection end after its next response, which announces this with Connection: close. Leave is
// called some time before Shutdown.
func (s *Server) Leave() { s.leaving.Store(true) }

// settlePoll is the interval at which Settle checks the connections.
const settlePoll = 10 * time.Millisecond

// Settle waits until no connection waits for a request any more, at most until ctx ends. The caller must have
// closed the listener. Requests that arrive during the wait are served.
func (s *Server) Settle(ctx context.Context) {
	for s.waiting() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(settlePoll):
		}
	}
}

// waiting reports whether a connection waits for a request.
func (s *Server) waiting() (waits bool) {
	s.eachConn(func(c *connection) { waits = waits || c.read.phase.Load() != busy })
	return waits
}

// Shutdown drains the server. Connections without a request in flight are closed at once. Requests and
// tunnels in flight may finish until ctx ends; then requests that wait for a retry get a 503, and all
// connections are closed. The caller must close the listener before the call.
func (s *Server) Shutdown(ctx context.Context) {
	defer s.watcher.Close()
	s.draining.Store(true)
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
	select {
	case <-done:
		return
	case <-time.After(shutdownAnswer):
	}
	s.eachConn((*connection).close)
	<-done
}

// shutdownAnswer is the time in which cancelled requests can write their 503.
const shutdownAnswer = 500 * time.Millisecond

// eachConn calls f for each connection. It does not hold the lock during the calls, because closing a TLS
// connection may take long (it sends a close alert).
func (s *Server) eachConn(f func(*connection)) {
	for _, c := range s.places.all() {
		f(c)
	}
}
