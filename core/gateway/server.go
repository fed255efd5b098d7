package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// Settings are what a reload may change. A request uses those in force when it began.
type Settings struct {
	Users          []User
	Via            bool                   // add the gateway to Via (RFC 9110 section 7.6.3)
	ReplayLimit    int64                  // bytes of a request body that are kept for replay
	MaxConnections int                    // client connections at once; 0 for no limit
	BodyIdle       time.Duration          // how long a body may stand still
	Strategies     func(name string) bool // reports whether there is a backoff of that name
}

// Tracker lists the requests in flight, for GET /requests.
type Tracker interface {
	Track() TrackerEntry
}

// TrackerEntry follows the requests of one client connection, one after the other.
type TrackerEntry interface {
	executor.Progress
	Begin(id core.RequestID, method, host string, started time.Time)
	Release()
}

// Config is what a Server is built from. Every field is needed.
type Config struct {
	Executor  *executor.Executor
	Transport *transport.Transport
	Policies  interface{ Current() *retry.Policy }
	Tracker   Tracker
	Tunnels   func(up, down int64) // bytes of a finished tunnel
	Files     int                  // descriptors the process may have open; 0 when unknown
	Log       *slog.Logger
	Now       func() time.Time
	NewID     func() core.RequestID
}

// Server is the forward proxy. It is safe for concurrent use.
type Server struct {
	Config
	settings atomic.Pointer[settings]
	buffers  *buffers

	outs, bodies *sync.Pool // buffers of loans: for responses, and for bodies kept for replay

	ctx    context.Context // cancelled when the grace period of a drain ends
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	conns    map[*connection]struct{} // guarded by mu
	clients  atomic.Int64             // the size of conns, read without mu
	crowd    sync.Once                // logs that clients wait
	draining atomic.Bool
	refusing atomic.Int32
	wg       sync.WaitGroup
}

type settings struct {
	Settings
	users users
}

// New returns a server; Serve starts it.
func New(cfg Config, set Settings) *Server {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Server{
		Config: cfg, outs: newSpares(), bodies: newSpares(), ctx: ctx, cancel: cancel,
		conns: map[*connection]struct{}{},
	}
	s.buffers = newBuffers(socket.NewPipes(s.pipeRoom))
	s.Apply(set)
	return s
}

// Apply replaces the settings for requests that begin from now on.
func (s *Server) Apply(set Settings) {
	s.settings.Store(&settings{Settings: set, users: newUsers(set.Users)})
}

// Serve accepts HTTP clients until l is closed; Shutdown then ends them. It returns nil
// after Shutdown, else the error of l.
func (s *Server) Serve(l net.Listener) error { return s.accept(l, newHTTPFront) }

// accept accepts the clients of one front.
func (s *Server) accept(l net.Listener, f newFront) error {
	var pause time.Duration
	for {
		s.awaitRoom()
		raw, err := l.Accept()
		if err != nil {
			if s.draining.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of file descriptors or the like: it passes, as in net/http.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.Log.Error("accept", slog.Any("error", err), slog.Duration("pause", pause))
			time.Sleep(pause)
			continue
		}
		pause = 0
		s.admit(raw, f)
	}
}

// spareFiles is the number of descriptors for everything but clients: listeners, the API,
// configuration, a few idle connections.
const spareFiles = 128

// roomPoll is the time between two looks of awaitRoom.
const roomPoll = 5 * time.Millisecond

// awaitRoom waits while the clients may need every descriptor that the process may have
// open: one for each client and, unless it is idle, one for its proxy, beside those of
// the pipes. Further clients wait in the listener's queue rather than at a gateway that
// can open nothing for them.
func (s *Server) awaitRoom() {
	for s.Files > 0 && !s.roomy() && !s.draining.Load() {
		s.crowd.Do(func() {
			s.Log.Warn("clients wait: the limit of open files (ulimit -n) allows no more at once",
				slog.Int("clients", s.Connections()), slog.Int("files", s.Files))
		})
		time.Sleep(roomPoll)
	}
}

func (s *Server) roomy() bool {
	room := s.room()
	if 2*s.Connections() < room {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	need := 0
	for c := range s.conns {
		if need++; c.read.phase.Load() != idle {
			need++
		}
	}
	return need < room
}

// pipeRoom reports whether another pipe may be made without taking a descriptor
// that a client may need.
func (s *Server) pipeRoom() bool { return s.Files == 0 || 2*s.Connections() < s.room() }

// room is the number of descriptors for clients and their proxies.
func (s *Server) room() int { return max(s.Files-2*s.buffers.pipes.Open()-spareFiles, 2) }

// admit serves a connection in a goroutine of its own, or refuses it.
func (s *Server) admit(raw net.Conn, f newFront) {
	c := newConnection(s.ctx, raw, s.Now, &s.draining)
	s.mu.Lock()
	limit := s.settings.Load().MaxConnections
	if s.draining.Load() || limit > 0 && len(s.conns) >= limit {
		s.mu.Unlock()
		s.refuse(c, f)
		return
	}
	s.conns[c] = struct{}{}
	s.clients.Add(1)
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		s.serve(c, f(s, c).serve)
		s.mu.Lock()
		delete(s.conns, c)
		s.clients.Add(-1)
		s.mu.Unlock()
	}()
}

// serve calls f, a method of c's front, and ends the connection.
func (s *Server) serve(c *connection, f func()) {
	defer s.rescue()
	defer c.end()
	f()
}

// maxRefusing is how many clients are refused with a response at once.
const maxRefusing = 64

// refuse refuses a client beyond the limit in a goroutine of its own: that may take half
// a second. When maxRefusing are being refused already, the connection is closed without
// a response.
func (s *Server) refuse(c *connection, f newFront) {
	if s.refusing.Add(1) > maxRefusing {
		s.refusing.Add(-1)
		c.end()
		return
	}
	go func() {
		defer s.refusing.Add(-1)
		s.serve(c, f(s, c).refuse)
	}()
}

// rescue, deferred, keeps a panic in a client's own goroutine from ending more than that client.
func (s *Server) rescue() {
	if p := recover(); p != nil {
		s.Log.Error("panic while serving a client", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// Connections is the number of client connections.
func (s *Server) Connections() int { return int(s.clients.Load()) }

// Shutdown drains: connections without a request close at once, running
// requests and tunnels may finish until ctx ends; then retries that wait are
// answered 503 and what is left is closed. The listener is the caller's to
// close first.
func (s *Server) Shutdown(ctx context.Context) {
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

// shutdownAnswer is how long cancelled requests have to write their 503.
const shutdownAnswer = 500 * time.Millisecond

// eachConn calls f for each connection, without the lock: closing one may take long, as
// TLS sends a close alert.
func (s *Server) eachConn(f func(*connection)) {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}
