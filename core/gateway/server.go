package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
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
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
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
	Head           time.Duration          // maximum time from the first byte of a request's head to its last
	BodyIdle       time.Duration          // maximum time without progress of a body
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

// Config has the dependencies of a Server. All fields are required.
type Config struct {
	Executor  *executor.Executor
	Transport *transport.Transport
	Policies  interface{ Current() *retry.Policy }
	Tracker   Tracker
	Tunnels   func(up, down int64) // called with the bytes of a finished tunnel
	Guard     *access.Guard        // of failed logins
	Loop      *loop.Guard          // recognizes requests that come back; nil for none
	Files     int                  // maximum number of open file descriptors; 0 if unknown
	Log       *slog.Logger
	Now       func() time.Time
	NewID     func() core.RequestID
}

// Server is the forward proxy. It is safe for concurrent use.
type Server struct {
	Config
	settings atomic.Pointer[settings]
	buffers  *buffers

	replay replayMemory

	outs   *sync.Pool // buffers of loans, for responses
	pieces *pieces    // buffers of kept bodies

	ctx    context.Context // cancelled when the grace period of a drain ends
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	conns    map[*connection]struct{} // guarded by mu
	clients  atomic.Int64             // the size of conns, read without mu
	crowd    sync.Once                // logs once that clients have to wait
	draining atomic.Bool
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
		conns: map[*connection]struct{}{},
	}
	s.buffers = newBuffers(socket.NewPipes(s.pipeRoom))
	s.Apply(set)
	return s
}

// Apply replaces the settings. Requests that have begun keep the old ones.
func (s *Server) Apply(set Settings) {
	var before *access.Users
	if old := s.settings.Load(); old != nil {
		before = old.users
	}
	s.settings.Store(&settings{Settings: set, users: access.NewUsers(set.Users, before)})
}

// Users returns the users with what they have used today (UTC).
func (s *Server) Users() []access.Today { return s.settings.Load().users.Today(s.Now()) }

// Serve accepts HTTP and SOCKS5 clients from l until l is closed. It returns nil after Shutdown or when l is
// closed, otherwise the error of l.
func (s *Server) Serve(l net.Listener) error { return s.accept(l, newAnyFront) }

// accept accepts clients from l and serves each with a front.
func (s *Server) accept(l net.Listener, f newFront) error {
	var pause time.Duration
	for {
		s.awaitRoom()
		raw, err := l.Accept()
		if err != nil {
			if s.draining.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// For example, no file descriptor is free. net/http retries in the same way.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.Log.Error("cannot accept a client; trying again", slog.Any("error", err), slog.Duration("pause", pause))
			time.Sleep(pause)
			continue
		}
		pause = 0
		s.admit(raw, f)
	}
}

// spareFiles is the number of file descriptors that are not available to clients: they are for listeners, the
// API, configuration files and a few idle connections.
const spareFiles = 128

// roomPoll is the interval at which awaitRoom checks for free descriptors.
const roomPoll = 5 * time.Millisecond

// awaitRoom ensures that the clients do not need more file descriptors than the process has. Each client
// connection needs one, and so does the proxy connection of each request in flight; pipes need some as well.
// If there are too few, awaitRoom closes connections without a request (evict). If all connections have a
// request, it waits, and new clients wait in the listener's queue.
func (s *Server) awaitRoom() {
	for s.Files > 0 && !s.roomy() && !s.draining.Load() {
		if s.evict() {
			continue
		}
		s.crowd.Do(func() {
			s.Log.Warn("new clients wait: the limit of open files (ulimit -n) permits no more at the same time",
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

// pipeRoom reports whether there are enough descriptors for another pipe, besides those that clients may
// need.
func (s *Server) pipeRoom() bool { return s.Files == 0 || 2*s.Connections() < s.room() }

// room returns the number of file descriptors for clients and their proxy connections.
func (s *Server) room() int { return max(s.Files-2*s.buffers.pipes.Open()-spareFiles, 2) }

// admit serves a connection in a new goroutine, or refuses it.
func (s *Server) admit(raw net.Conn, f newFront) {
	if config := s.settings.Load().TLS; config != nil {
		raw, f = tls.Server(socket.Wrap(raw), config), overTLS(f)
	}
	c := newConnection(s.ctx, raw, s.Now, &s.draining)
	s.mu.Lock()
	limit := s.settings.Load().MaxConnections
	for limit > 0 && len(s.conns) >= limit && !s.draining.Load() {
		s.mu.Unlock()
		evicted := s.evict()
		s.mu.Lock()
		if !evicted {
			break
		}
	}
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
		s.remove(c)
		s.mu.Unlock()
	}()
}

// remove removes a connection from conns, once. The caller holds mu.
func (s *Server) remove(c *connection) {
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		s.clients.Add(-1)
	}
}

// minWait is the shortest time that a client has to send a request before evict may close its connection.
const minWait = 200 * time.Millisecond

// evict closes the connections that have waited longest for a request. These are idle connections, and
// connections whose client has sent nothing or only a part of a head. A connection with bytes that the gateway, short
// of a processor, has not read yet is none of them. Because evict looks at every connection, it closes a 64th of them
// at once, at least one. It returns false if no connection has waited for minWait.
func (s *Server) evict() bool {
	type waiting struct {
		conn  *connection
		since int64
	}
	var list []waiting
	newest := s.Now().Add(-minWait).UnixNano()
	s.mu.Lock()
	for c := range s.conns {
		if since := c.read.waiting.Load(); since > 0 && since <= newest && c.read.phase.Load() != busy {
			list = append(list, waiting{c, since})
		}
	}
	slices.SortFunc(list, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	most, closed := (len(list)+63)/64, list[:0]
	for _, w := range list {
		if len(closed) < most && !w.conn.unread() {
			s.remove(w.conn)
			closed = append(closed, w)
		}
	}
	s.mu.Unlock()
	for _, w := range closed {
		w.conn.close()
	}
	return len(closed) > 0
}

// serve runs f, a method of c's front, and ends the connection.
func (s *Server) serve(c *connection, f func()) {
	defer s.rescue()
	defer c.end()
	f()
}

// maxRefusing is the maximum number of clients to which refuse is sending a response.
const maxRefusing = 64

// refuse sends an error response to a client beyond the limit. It does so in a new goroutine, because this
// may take half a second. If maxRefusing such responses are being sent already, it closes the connection
// without a response.
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

// rescue is deferred by a client's goroutine. It recovers from a panic, so that only this client is
// affected.
func (s *Server) rescue() {
	if p := recover(); p != nil {
		s.Log.Error("panic while serving a client", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	}
}

// Connections returns the number of client connections.
func (s *Server) Connections() int { return int(s.clients.Load()) }

// Shutdown drains the server. Connections without a request are closed at once. Requests and tunnels in
// flight may finish until ctx ends; then requests that wait for a retry get a 503, and all connections are
// closed. The caller must close the listener before the call.
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

// shutdownAnswer is the time in which cancelled requests can write their 503.
const shutdownAnswer = 500 * time.Millisecond

// eachConn calls f for each connection. It does not hold the lock during the calls, because closing a TLS
// connection may take long (it sends a close alert).
func (s *Server) eachConn(f func(*connection)) {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}
