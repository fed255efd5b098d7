package gateway

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// accept accepts clients from l and serves each of them with a front that f makes. It returns nil
// when l is closed or the gateway drains.
func (s *Server) accept(l net.Listener, f newFront) error {
	a := acceptor{Server: s}
	var pause time.Duration
	for {
		raw, err := l.Accept()
		if err != nil {
			if s.draining.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// An example is that no file descriptor is free. net/http also retries after such an
			// error.
			pause = min(max(2*pause, 5*time.Millisecond), maxPause)
			s.Log.Error("cannot accept a client; trying again", slog.Any("error", err), slog.Duration("pause", pause))
			s.Evict()
			time.Sleep(pause)
			continue
		}
		pause = 0
		a.admit(raw, f)
	}
}

// maxPause is the longest pause after an error of Accept.
const maxPause = 50 * time.Millisecond

// pipeFiles is the number of file descriptors of a pipe.
const pipeFiles = 2

// acceptor admits the clients of one listener.
type acceptor struct {
	*Server
	behind bool      // there was no place for the last client at once
	waits  [2]waits  // for a client that holds more than half of all connections, and for other clients
	warned time.Time // the time of the last log record that there is no place
}

// waits are the waits for a place.
type waits struct {
	number int       // waits since there was a place
	began  time.Time // the first wait since there was a place for which no connection had to be closed
}

// keptForOthers is the share of all file descriptors that a client with more than half of the connections
// cannot use. It prevents one client from locking out the others. The rule does not apply to clients on
// this machine.
const keptForOthers = 1.0 / 32

// A client is refused if there was no place during maxWaits waits of placeWait each: 60 ms. This is short enough
// for a response within 100 ms. It is long enough that, if the places are taken by clients with unfinished
// heads, one of these has reached minHeadWait and can be closed. There are several waits because, after a pause
// of the whole process, a single wait would end before other goroutines had the time to free a place. A client
// waits for maxWaited, and not only for maxWaits waits, while many of the places will be free soon: see
// [places.soonFree].
const (
	placeWait = 10 * time.Millisecond
	maxWaits  = 6
	maxWaited = 500 * time.Millisecond
)

// admit serves a connection in a new goroutine, or refuses it. It may wait for a place (see place).
func (s *acceptor) admit(raw net.Conn, f newFront) {
	if config := s.settings.Load().TLS; config != nil {
		raw, f = tls.Server(socket.Wrap(raw), config), overTLS(f)
	}
	c := newConnection(s.ctx, raw, s.Now, &s.draining)
	why := s.place(c)
	if why != "" {
		s.refuse(c, f, why)
		return
	}
	if s.behind && !c.unread() { // the client has waited in the listener's queue, and has sent nothing
		c.read.silent = socket.SinceReceived(below(c.raw))
	}
	c.read.places, c.watch.watcher = &s.places, &s.watcher
	s.wg.Add(1) // before the connection can be seen, because Shutdown waits for it
	s.places.add(c)
	s.places.enter(true)
	go func() {
		defer s.wg.Done()
		s.serve(c, f(s.Server, c).serve)
		if c.read.phase.Load() != idle {
			s.places.enter(false)
		}
		s.free(c)
	}()
}

// free frees the place of a connection. Further calls have no effect.
func (s *Server) free(c *connection) {
	if s.places.remove(c) {
		s.Files.Give(budget.Serving, 1)
	}
}

// The reasons why a client gets no place.
const (
	tooMany      = "the gateway holds gateway.max_connections clients already, or is shutting down"
	tooManyOfOne = "this address holds gateway.max_connections_per_client connections already"
	tooFewFiles  = "the gateway holds as many clients as its limit of open files (ulimit -n) allows"
)

// place makes a place for a new client. If there is none, it closes connections of clients that have waited
// for long, and waits for a while. It returns "" if it has made a place, otherwise the reason why there is
// none.
func (s *acceptor) place(c *connection) (why string) {
	evicted := false
	for s.behind = false; ; s.behind = true {
		o := s.obstacle(c)
		w := &s.waits[0]
		if o.most {
			w = &s.waits[1]
		}
		switch {
		case o.why == "" && s.Files.Take(budget.Serving, 1):
			if w.number = 0; !evicted {
				w.began = time.Time{}
			}
			return ""
		case o.why == "":
			o.why = tooFewFiles
		case s.draining.Load():
			return o.why
		case s.evict(o.client):
			evicted = true
			continue
		case o.why != tooFewFiles:
			return o.why
		}
		s.warn(o.why)
		now := s.Now()
		if w.began.IsZero() {
			w.began = now
		}
		if w.number >= maxWaits && (now.Sub(w.began) >= maxWaited || !s.places.soonFree(now)) {
			return o.why
		}
		w.number++
		s.places.await(placeWait, s.ctx.Done())
	}
}

// warnEvery is the minimum time between two warnings that there is no place.
const warnEvery = time.Minute

func (s *acceptor) warn(why string) {
	if now := s.Now(); now.Sub(s.warned) >= warnEvery {
		s.warned = now
		s.Log.Warn("a client has to wait for a place, or is refused", slog.String("why", why),
			slog.Int("clients", s.Connections()))
	}
}

// obstacle states why there is no place for a client.
type obstacle struct {
	why    string     // "" if there is a place
	client netip.Addr // the client whose connections must be closed first; the zero Addr for those of all clients
	most   bool       // the client holds more than half of all connections
}

// obstacle returns the reason why there is no place for c now.
func (s *Server) obstacle(c *connection) (o obstacle) {
	set := s.settings.Load()
	n, most := s.places.ofClient(c.client)
	kept := 0.0
	if most && !c.client.IsLoopback() {
		o.most, kept = true, keptForOthers
	}
	switch {
	case s.draining.Load() || set.MaxConnections > 0 && s.Connections() >= set.MaxConnections:
		o.why = tooMany
	case set.MaxPerClient > 0 && n >= set.MaxPerClient && c.client.IsValid():
		o.why, o.client = tooManyOfOne, c.client
	case !s.Files.Fits(s.places.need()+2, kept):
		o.why = tooFewFiles
	}
	return o
}

// Evict closes the connection of the client that has waited longest. It returns false if none has waited for long
// enough.
func (s *Server) Evict() bool { return s.evict(netip.Addr{}) }

// evict is like Evict, but if client is valid, it closes only a connection of that client.
func (s *Server) evict(client netip.Addr) bool {
	c := s.places.oldest(s.Now(), client)
	if c == nil {
		return false
	}
	c.close()
	c.cancel(executor.ErrClientLeft) // if its request arrived at this moment, it is not sent
	s.Files.Give(budget.Serving, 1)
	return true
}

// CloseSparePipe closes a pipe that is not in use. It returns false if there is none.
func (s *Server) CloseSparePipe() bool { return s.buffers.pipes.CloseUnused() }

// maxRefusing is the maximum number of goroutines in which refuse sends responses.
const maxRefusing = 64

// refusals returns the maximum number of clients that are refused at the same time in goroutines of their
// own. The file descriptors of these clients are not in the budget.
func (s *Server) refusals() int32 {
	if limit := s.Files.Limit(); limit > 0 {
		return int32(min(max(limit/16, 4), maxRefusing))
	}
	return maxRefusing
}

// refuse sends an error response to a client without a place. It does so in a new goroutine, because this may take
// half a second. If refusals() goroutines do so already, it does not start another one: a plain TCP client gets the
// response and is closed almost at once, and a TLS client is closed without a response.
func (s *Server) refuse(c *connection, f newFront, why string) {
	c.refused = why
	if s.refusing.Add(1) > s.refusals() {
		defer s.refusing.Add(-1)
		if _, plain := c.raw.(*socket.Conn); !plain { // a TLS handshake may take long
			c.end()
			return
		}
		c.hasty = true
		s.serve(c, func() { s.refuseAfter(c, f, hastyWait) })
		return
	}
	go func() {
		defer s.refusing.Add(-1)
		s.serve(c, func() { s.refuseAfter(c, f, requestWait) })
	}()
}

// The longest waits for the request of a client that is refused. Some clients, such as Go's net/http, treat a
// response that arrives before they have sent a request as an error of the connection.
const (
	requestWait = 20 * time.Millisecond
	hastyWait   = 200 * time.Microsecond // if many others are being refused
)

// refuseAfter sends the error response when the client has sent something, or after wait, or at once if the client has
// sent nothing for longer than wait.
func (s *Server) refuseAfter(c *connection, f newFront, wait time.Duration) {
	front := f(s, c)
	tcp, plain := c.raw.(*socket.Conn)
	if plain && (socket.SinceReceived(tcp) < wait || c.unread()) {
		c.read.await(c.now().Add(wait))
		_ = c.reader.ReadAhead() // an error will be returned again when the response is written
	}
	front.refuse()
}
