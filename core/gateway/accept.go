package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
)

// accept accepts clients from l, and serves each client with a front that f makes. It returns nil when l is closed or
// the gateway drains.
func (s *Server) accept(l net.Listener, f frontFunc) error {
	s.runningAccepts.Add(1)
	defer s.runningAccepts.Add(-1)
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
			pause = min(max(2*pause, 5*time.Millisecond), maxAcceptPause)
			s.Log.Error("cannot accept a client; trying again", slog.Any("error", err), slog.Duration("pause", pause))
			s.Evict()
			time.Sleep(pause)
			continue
		}
		pause = 0
		a.admit(raw, f)
	}
}

// maxAcceptPause is the longest pause after an error of Accept.
const maxAcceptPause = 50 * time.Millisecond

// pipeFiles is the number of file descriptors of a pipe.
const pipeFiles = 2

type acceptor struct {
	*Server
	waitedForPlace bool // the client that is being admitted found no place at first
	// waitCounts counts how often clients have waited for a place since a client of the same kind last got one. Index 1
	// is for clients with more than half of all connections, index 0 for all other clients.
	waitCounts  [2]int
	lastWarning time.Time           // the time of the last warning that there is no place
	peeked      [maxPeekedHead]byte // the first bytes of the client that is being admitted
}

// reservedShare is the share of all file descriptors that a client with more than half of the connections cannot use.
// These file descriptors remain for other clients. The rule does not apply to clients on this machine.
const reservedShare = 1.0 / 32

// If file descriptors are missing, a new client waits for a place. It waits for less than 100 ms, including the time in
// the listener's queue. During this wait, clients that send nothing can be evicted in its favour (minFirstWait,
// minHeadWait). The wait is divided into at most maxPlaceWaits short waits, because the system may pause the whole
// process during one of them.
const (
	placeWait     = 10 * time.Millisecond
	maxPlaceWaits = 6
	maxReadyWait  = 8 * placeWait // the limit of the wait for a client whose whole request head has arrived
)

// admit serves a connection in a new goroutine. If there is no place for the connection, admit waits for one or refuses
// the connection (findPlace).
func (a *acceptor) admit(raw net.Conn, f frontFunc) {
	if config := a.settings.Load().TLS; config != nil {
		raw, f = tls.Server(socket.Wrap(raw), config), newTLSFront(f)
	}
	// The contexts of the connections have no common parent. A parent would keep its children in a map, and the map
	// would keep its size after a burst of connections.
	c := newConnection(context.Background(), raw, a.Now, &a.draining)
	reason := a.findPlace(c)
	if reason != "" {
		a.refuseClient(c, f, reason)
		return
	}
	if a.waitedForPlace { // the client has waited in the listener's queue
		c.readControl.addQueueTime(socket.SinceReceived(tcpBelow(c.netConn)), c.hasUnread())
	}
	c.readControl.places, c.clientWatch.watcher = &a.places, &a.watcher
	a.wg.Add(1) // before Shutdown can find the connection in places, because Shutdown then waits for wg
	a.places.addConn(c)
	a.places.countActive(true)
	go func() {
		defer a.wg.Done()
		a.serve(c, f(a.Server, c).serve)
		a.freePlace(c) // first, because places may change the phase of each connection in its list
		if isActive(c.readControl.phase.Load()) {
			a.places.countActive(false)
		}
	}()
}

// freePlace frees the place of a connection. A second call for the same connection has no effect.
func (s *Server) freePlace(c *connection) {
	if s.places.removeConn(c) {
		s.Files.Release(budget.ForClients, 1)
	}
}

// codeNoPlace is the code of the response to a client that is refused because there is no place for its connection.
const codeNoPlace = "too_many_connections"

// The reasons why a client gets no place.
const (
	reasonMaxConnections = "the gateway holds gateway.max_connections clients already, or is shutting down"
	reasonMaxPerClient   = "this address holds gateway.max_connections_per_client connections already"
	reasonNoFiles        = "the gateway holds as many clients as its limit of open files (ulimit -n) allows"
)

// findPlace gets a place for a new client: a connection below the limits, and a file descriptor for it. If there is no
// place, it evicts another client that has kept the gateway waiting too long. If there is no such client, but only file
// descriptors are missing, it waits for a short time. It returns "" if the client has got a place, and otherwise the
// reason why there is none.
//
// A client whose whole request head has arrived has two advantages, unless it holds more than half of all connections:
// it can evict a client that has kept the gateway waiting for a shorter time (minReadyWait), and it waits a little
// longer.
func (a *acceptor) findPlace(c *connection) (reason string) {
	for a.waitedForPlace = false; ; a.waitedForPlace = true {
		o := a.checkPlace(c)
		waits := &a.waitCounts[0]
		if o.hasMajority {
			waits = &a.waitCounts[1]
		}
		switch {
		case o.reason == "" && a.Files.Acquire(budget.ForClients, 1):
			*waits = 0
			return ""
		case o.reason == "":
			o.reason = reasonNoFiles
		case a.draining.Load():
			return o.reason
		case o.reason == reasonNoFiles && a.places.markSilent(a.Now()):
			continue
		case a.evict(o.client, false):
			continue
		case o.reason != reasonNoFiles:
			return o.reason
		}
		maxWait := maxPlaceWaits * placeWait
		if !o.hasMajority && a.isReady(c) {
			if a.evict(netip.Addr{}, true) {
				continue
			}
			maxWait = maxReadyWait
		}
		a.warnNoPlace(o.reason)
		if *waits >= maxPlaceWaits || socket.SinceReceived(tcpBelow(c.netConn)) >= maxWait {
			return o.reason // no further wait: the clients behind c in the listener's queue have waited as long
		}
		*waits++
		a.places.waitForPlace(placeWait, a.ctx.Done())
	}
}

// maxPeekedHead is the number of bytes among which isReady looks for the end of a head.
const maxPeekedHead = 4 << 10

// isReady reports whether the gateway can serve c without waiting for the client: its whole first request head has
// arrived or, for SOCKS5 and TLS, its whole first message. A head of maxPeekedHead bytes or more counts as whole.
func (a *acceptor) isReady(c *connection) bool {
	b := a.peeked[:socket.Peek(tcpBelow(c.base), a.peeked[:])]
	if _, plain := c.netConn.(*socket.Conn); !plain {
		kind, _ := classifyHello(b)
		return kind == wholeHello
	}
	if len(b) > 0 && b[0] == socks5.Version {
		return len(b) >= 2 && len(b)-2 >= int(b[1])
	}
	head := bytes.TrimLeft(b, "\r\n") // empty lines before a request are skipped (RFC 9112 section 2.2)
	return bytes.Contains(head, []byte("\r\n\r\n")) || len(head) == len(a.peeked)
}

// warnInterval is the minimum time between two warnings of warnNoPlace.
const warnInterval = time.Minute

func (a *acceptor) warnNoPlace(why string) {
	if now := a.Now(); now.Sub(a.lastWarning) >= warnInterval {
		a.lastWarning = now
		a.Log.Warn("a client has to wait for a place, or is refused", slog.String("why", why),
			slog.Int("clients", a.Connections()))
	}
}

// placeCheck states why there is no place for a client.
type placeCheck struct {
	reason      string     // "" if there is a place
	client      netip.Addr // the client of which a connection must be closed first; the zero Addr if any client will do
	hasMajority bool       // the new client holds more than half of all connections
}

// checkPlace returns the reason why there is no place for c now.
func (s *Server) checkPlace(c *connection) (o placeCheck) {
	set := s.settings.Load()
	n, hasMajority := s.places.countForClient(c.client)
	reserved := 0.0
	if hasMajority && !c.client.IsLoopback() {
		o.hasMajority, reserved = true, reservedShare
	}
	switch {
	case s.draining.Load() || set.MaxConnections > 0 && s.Connections() >= set.MaxConnections:
		o.reason = reasonMaxConnections
	case set.MaxPerClient > 0 && n >= set.MaxPerClient && c.client.IsValid():
		o.reason, o.client = reasonMaxPerClient, c.client
	case !s.Files.HasRoom(s.places.neededFiles()+2, reserved):
		o.reason = reasonNoFiles
	}
	return o
}

// Evict closes the connection of the client that has kept the gateway waiting longest. It returns false if no client
// has kept the gateway waiting for longer than clientWait.evictAfter.
func (s *Server) Evict() bool { return s.evict(netip.Addr{}, false) }

// evict is like Evict. If the parameter client is a valid address, it closes only a connection from this address. If
// ready is set, the place is for a client whose whole request head has arrived (clientWait.evictAfter).
func (s *Server) evict(client netip.Addr, ready bool) bool {
	c := s.places.removeEvictable(s.Now(), client, ready)
	if c == nil {
		return false
	}
	if c.readControl.phase.Load() == phaseEvicted {
		// The response is for a client that is about to send its first request. The write does not block: the send
		// buffer is empty.
		e := proxyhttp.ErrorResponse{
			Status: http.StatusServiceUnavailable, Code: codeNoPlace, Reason: "connection_limit_reached",
			Message:    "the client sent nothing, and its place was needed for another client",
			RetryAfter: time.Second,
		}
		_, _ = c.base.Write(e.AppendClosing(nil))
		s.reportRefused(c, refusedRequest{code: codeNoPlace})
	}
	c.abort()
	c.cancel(executor.ErrClientLeft) // if a request of the client arrived at this moment, the request is not sent
	s.Files.Release(budget.ForClients, 1)
	return true
}

// CloseSparePipe closes a pipe that is not in use. It returns false if there is no such pipe.
func (s *Server) CloseSparePipe() bool { return s.buffers.pipes.CloseUnused() }

// refuseClient sends an error response to a client without a place. A new goroutine sends the response, because
// this may take half a second. If the number of such goroutines has reached the maximum (Files.Refusals), the method
// starts no goroutine. A plain TCP client then gets the response almost immediately, and its connection is closed. A
// TLS connection is closed without a response.
func (s *Server) refuseClient(c *connection, f frontFunc, reason string) {
	c.refusalReason = &reason
	if int(s.activeRefusals.Add(1)) > s.Files.Refusals() {
		defer s.activeRefusals.Add(-1)
		if _, plain := c.netConn.(*socket.Conn); !plain { // a TLS handshake may take long
			s.reportRefused(c, refusedRequest{code: codeNoPlace})
			c.endServing()
			return
		}
		c.closeAtOnce = true
		s.serve(c, func() { s.sendRefusal(c, f, shortRefusalWait) })
		return
	}
	go func() {
		defer s.activeRefusals.Add(-1)
		s.serve(c, func() { s.sendRefusal(c, f, refusalWait) })
	}()
}

// The maximum times for which the gateway waits for the request of a refused client. Clients such as Go's net/http need
// this wait: if a response arrives before they have sent a request, they report an error of the connection.
const (
	refusalWait      = 20 * time.Millisecond
	shortRefusalWait = 200 * time.Microsecond // if many other clients are being refused
)

// sendRefusal sends the error response when the client has sent something, or after the given wait. It does not wait if
// the client speaks TLS, or if the client has already been silent for the given wait.
func (s *Server) sendRefusal(c *connection, f frontFunc, wait time.Duration) {
	front := f(s, c)
	tcp, plain := c.netConn.(*socket.Conn)
	if plain && (socket.SinceReceived(tcp) < wait || c.hasUnread()) {
		c.readControl.setDeadline(c.now().Add(wait))
		_ = c.reader.ReadAhead() // the response is written even after an error
	}
	front.respondNoPlace()
}
