package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// accept accepts clients from l, and serves each client with a front that f makes. It returns nil when l is closed or
// the gateway drains.
func (s *Server) accept(l net.Listener, f newFront) error {
	a := acceptor{Server: s}
	var pause time.Duration
	for {
		raw, err := l.Accept()
		if err != nil {
			if s.draining.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Accept fails, for example, if no file descriptor is free. Like net/http, the gateway accepts again
			// after a pause.
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
	behind bool // the client that is being admitted found no place at first
	// waits has the numbers of waits since a client last got a place: those for clients that hold more than half of
	// all connections, in waits[1], and those for other clients, in waits[0].
	waits  [2]int
	warned time.Time // the time of the last warning that there is no place
}

// keptForOthers is the share of all file descriptors that a client with more than half of the connections cannot use.
// These file descriptors remain for other clients. The rule does not apply to clients on this machine.
const keptForOthers = 1.0 / 32

// If the process has too few file descriptors for a client, the client waits for a place. It is refused if no place
// becomes free during maxWaits waits of placeWait each, 60 ms in total. This time is short enough for a response
// within 100 ms. It is longer than minFirstWait and minHeadWait, so that a connection whose client has sent nothing,
// or a part of a head, can become old enough to be evicted. The time is divided into several short waits, because the
// system may pause the whole process during one of them: other goroutines then have time to free a place during the
// next wait.
const (
	placeWait = 10 * time.Millisecond
	maxWaits  = 6
)

// admit serves a connection in a new goroutine, or refuses it. It may wait for a place (see the method place).
func (a *acceptor) admit(raw net.Conn, f newFront) {
	if config := a.settings.Load().TLS; config != nil {
		raw, f = tls.Server(socket.Wrap(raw), config), overTLS(f)
	}
	// The contexts of the connections have no common parent. A parent would keep its children in a map, and the map
	// would keep its size after a burst of connections.
	c := newConnection(context.Background(), raw, a.Now, &a.draining)
	why := a.place(c)
	if why != "" {
		a.refuse(c, f, why)
		return
	}
	if a.behind { // the client has waited in the listener's queue
		c.read.queue(socket.SinceReceived(below(c.raw)), c.unread())
	}
	c.read.places, c.watch.of = &a.places, &a.watcher
	a.wg.Add(1) // before Shutdown can find the connection in places, because Shutdown then waits for wg
	a.places.add(c)
	a.places.enter(true)
	go func() {
		defer a.wg.Done()
		a.serve(c, f(a.Server, c).serve)
		if c.read.phase.Load() != idle {
			a.places.enter(false)
		}
		a.free(c)
	}()
}

// free frees the place of a connection. A second call for the same connection has no effect.
func (s *Server) free(c *connection) {
	if s.places.remove(c) {
		s.Files.Release(budget.Serving, 1)
	}
}

// The reasons why a client gets no place.
const (
	tooMany      = "the gateway holds gateway.max_connections clients already, or is shutting down"
	tooManyOfOne = "this address holds gateway.max_connections_per_client connections already"
	tooFewFiles  = "the gateway holds as many clients as its limit of open files (ulimit -n) allows"
)

// place makes a place for a new client. If there is no place, it evicts a client that has kept the gateway
// waiting for long. If there is no such client, and file descriptors are short, it waits for a while. It returns "" if
// it has made a place, otherwise the reason why there is no place.
func (a *acceptor) place(c *connection) (why string) {
	for a.behind = false; ; a.behind = true {
		o := a.obstacle(c)
		waits := &a.waits[0]
		if o.most {
			waits = &a.waits[1]
		}
		switch {
		case o.why == "" && a.Files.Acquire(budget.Serving, 1):
			*waits = 0
			return ""
		case o.why == "":
			o.why = tooFewFiles
		case a.draining.Load():
			return o.why
		case a.evict(o.client):
			continue
		case o.why != tooFewFiles:
			return o.why
		}
		a.warn(o.why)
		if *waits >= maxWaits {
			return o.why
		}
		*waits++
		a.places.await(placeWait, a.ctx.Done())
	}
}

// warnEvery is the minimum time between two warnings that there is no place.
const warnEvery = time.Minute

func (a *acceptor) warn(why string) {
	if now := a.Now(); now.Sub(a.warned) >= warnEvery {
		a.warned = now
		a.Log.Warn("a client has to wait for a place, or is refused", slog.String("why", why),
			slog.Int("clients", a.Connections()))
	}
}

// obstacle states why there is no place for a client.
type obstacle struct {
	why    string     // "" if there is a place
	client netip.Addr // the client of which a connection must be closed first; the zero Addr if any client will do
	most   bool       // the new client holds more than half of all connections
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
	case !s.Files.HasRoom(s.places.need()+2, kept):
		o.why = tooFewFiles
	}
	return o
}

// Evict closes the connection of the client that has kept the gateway waiting longest. It returns false if no client
// has kept the gateway waiting for longer than awaitedSince.patience.
func (s *Server) Evict() bool { return s.evict(netip.Addr{}) }

// evict is like Evict, but if client is valid, it closes only a connection of that client.
func (s *Server) evict(client netip.Addr) bool {
	c := s.places.oldest(s.Now(), client)
	if c == nil {
		return false
	}
	if c.read.phase.Load() == evicted {
		// The client may be about to send its first request. Its buffer is empty, so this does not block.
		io.WriteString(c.base, tooSlow)
	}
	c.close()
	c.cancel(executor.ErrClientLeft) // if a request of the client arrived at this moment, the request is not sent
	s.Files.Release(budget.Serving, 1)
	return true
}

// tooSlow is the response to a client that has sent nothing when its connection is closed in favour of another client.
const tooSlow = "HTTP/1.1 503 Service Unavailable: nothing was received\r\nContent-Type: application/json\r\n" +
	"Content-Length: 113\r\nRetry-After: 1\r\nX-Whirlpool-Attempts: 0\r\nX-Whirlpool-Proxy-Id: -\r\n" +
	"X-Whirlpool-Outcome: not_retryable\r\nConnection: close\r\n\r\n" +
	`{"error":"too_many_connections","message":"the client sent nothing, and its place was needed for another client"}`

// CloseSparePipe closes a pipe that is not in use. It returns false if there is no such pipe.
func (s *Server) CloseSparePipe() bool { return s.buffers.pipes.CloseUnused() }

// refuse sends an error response to a client without a place. A new goroutine sends the response, because
// this may take half a second. If the number of such goroutines has reached the maximum (Files.Refusals), the method
// starts no goroutine. A plain TCP client then gets the response almost immediately, and its connection is closed. A
// TLS connection is closed without a response.
func (s *Server) refuse(c *connection, f newFront, why string) {
	c.refused = &why
	if int(s.refusing.Add(1)) > s.Files.Refusals() {
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

// The longest waits for the request of a client that is refused. The wait is for clients such as Go's net/http: if a
// response arrives before they have sent a request, they report an error of the connection.
const (
	requestWait = 20 * time.Millisecond
	hastyWait   = 200 * time.Microsecond // if many other clients are being refused
)

// refuseAfter sends the error response when the client has sent something, or after the given wait. It does not wait if
// the client speaks TLS, or if the client has already sent nothing for longer than that.
func (s *Server) refuseAfter(c *connection, f newFront, wait time.Duration) {
	front := f(s, c)
	tcp, plain := c.raw.(*socket.Conn)
	if plain && (socket.SinceReceived(tcp) < wait || c.unread()) {
		c.read.await(c.now().Add(wait))
		_ = c.reader.ReadAhead() // the response is written even after an error
	}
	front.refuse()
}
