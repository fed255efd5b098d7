package gateway

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// places holds the client connections of a Server. If there is no place for another connection, it chooses the
// connections to close.
type places struct {
	clients atomic.Int64  // connections
	active  atomic.Int64  // number of connections that have a request or wait for their first request
	waiting atomic.Int32  // acceptors that wait for a place
	freed   chan struct{} // receives a value when a place may have become free while an acceptor waits

	mu        sync.Mutex
	conns     []*connection      // guarded by mu
	perClient map[netip.Addr]int // number of connections of each client (clientOf); guarded by mu
	found     [2]search          // the last search over all clients, and the last over one client; guarded by mu
}

// search is the result of a search for clients that have kept the gateway waiting for long.
type search struct {
	client netip.Addr // the client whose connections were searched; the zero Addr for all clients
	list   []waiter   // the found waiters that have not been removed yet; they are removed from the end of the list
	until  time.Time  // the list is used until this time
	pause  time.Time  // no search is made before this time, because the last search found no waiter
}

// waiter is a connection whose client has kept the gateway waiting for longer than awaitedSince.patience, and may
// therefore be evicted.
type waiter struct {
	conn *connection
	awaitedSince
}

func (p *places) init() {
	p.perClient, p.freed = map[netip.Addr]int{}, make(chan struct{}, 1)
}

// need returns the number of file descriptors that the clients need: one for each connection, and another one for
// each active connection. It does not include file descriptors for the requests that idle clients will send.
func (p *places) need() int64 { return p.clients.Load() + p.active.Load() }

// add adds a connection. After add, the caller must call enter(true).
func (p *places) add(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	c.place = int32(len(p.conns))
	p.clients.Add(1)
	p.perClient[c.client]++
}

// remove removes a connection. It returns false if the connection had already been removed.
func (p *places) remove(c *connection) bool {
	p.mu.Lock()
	removed := p.drop(c)
	p.mu.Unlock()
	p.signal()
	return removed
}

// minPlaces is the minimum capacity of the list of connections.
const minPlaces = 1024

// drop is like remove, but the caller holds mu.
func (p *places) drop(c *connection) bool {
	if c.place == 0 {
		return false
	}
	n := len(p.conns) - 1
	last := p.conns[n]
	p.conns[c.place-1], p.conns[n], last.place = last, nil, c.place
	c.place = 0
	if p.conns = p.conns[:n]; cap(p.conns) > minPlaces && n < cap(p.conns)/4 {
		p.conns = append(make([]*connection, 0, cap(p.conns)/2), p.conns...) // frees the memory of a burst
	}
	p.clients.Add(-1)
	if p.perClient[c.client]--; p.perClient[c.client] == 0 {
		delete(p.perClient, c.client)
	}
	return true
}

// enter counts a connection that becomes active, or, if active is false, one that is not active any more.
func (p *places) enter(active bool) {
	if active {
		p.active.Add(1)
		return
	}
	p.active.Add(-1)
	p.signal()
}

// signal wakes an acceptor that waits for a place.
func (p *places) signal() {
	if p.waiting.Load() == 0 {
		return
	}
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// await waits until a place may be free. It returns at the latest after the time d, or when done is closed.
func (p *places) await(d time.Duration, done <-chan struct{}) {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.freed:
	case <-timer.C:
	case <-done:
	}
}

// ofClient returns the number of connections of a client. The result most reports whether the client has more than
// half of all connections.
func (p *places) ofClient(client netip.Addr) (n int, most bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = p.perClient[client]
	return n, 2*n > len(p.conns)
}

func (p *places) all() []*connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

// The minimum times for which the gateway waits for a client. After that time, it may close the connection to make
// room for another one.
const (
	minFirstWait = 50 * time.Millisecond  // for the beginning of the first request, without TLS
	minWait      = 200 * time.Millisecond // for the beginning of any other request, or for the TLS handshake
	minHeadWait  = 50 * time.Millisecond  // for the rest of a request's head
	minBodyWait  = time.Second            // for the next bytes of a request's body, or for a body that is too slow
)

// The times for which the results of a search are used. A search is expensive, because it visits
// all connections.
const (
	evictAgain = 20 * time.Millisecond  // if the search found no client
	foundFor   = 100 * time.Millisecond // if the search found clients
)

// oldest removes the connection whose client has kept the gateway waiting longest, and returns it; the caller ends the
// connection. The method chooses among idle connections and connections whose clients have sent nothing. If there are
// none, it chooses among connections with an unfinished head, and then among those whose clients have stopped sending a
// body, or send it more slowly than MinBodyRate. It returns nil if no client has kept the gateway waiting for long
// enough. If client is valid, it removes only a connection of that client. It does not remove a connection on which
// unread bytes have arrived.
func (p *places) oldest(now time.Time, client netip.Addr) *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.found[0]
	if client.IsValid() {
		s = &p.found[1]
	}
	if now.Before(s.pause) {
		return nil
	}
	if s.client == client && now.Before(s.until) {
		if c := p.takeFrom(s); c != nil {
			return c
		}
	}
	p.search(s, now, client)
	c := p.takeFrom(s)
	if c == nil {
		s.pause = now.Add(evictAgain)
	}
	return c
}

// takeFrom removes a connection that the search s has found, and returns it. It skips connections whose clients have
// sent something since the search. It returns nil if no connection is left. The caller holds mu.
func (p *places) takeFrom(s *search) *connection {
	for n := len(s.list) - 1; n >= 0; n-- {
		w := s.list[n]
		s.list = s.list[:n]
		if w.conn.place > 0 && w.conn.read.awaited() == w.awaitedSince && !w.conn.unread() &&
			(!w.first || w.conn.read.evict()) {
			p.drop(w.conn)
			return w.conn
		}
	}
	s.list = nil
	return nil
}

// search looks for clients that have kept the gateway waiting for long, and stores the result in s. The
// caller holds mu.
func (p *places) search(s *search, now time.Time, client netip.Addr) {
	s.client, s.until, s.list = client, now.Add(foundFor), nil
	for _, c := range p.conns {
		if client.IsValid() && c.client != client {
			continue
		}
		w := c.read.awaited()
		if w.what != awaitsNothing && now.UnixNano()-w.since >= int64(w.patience()) {
			s.list = append(s.list, waiter{c, w})
		}
	}
	slices.SortFunc(s.list, func(a, b waiter) int {
		return cmp.Or(cmp.Compare(b.what, a.what), cmp.Compare(b.since, a.since))
	})
	if len(s.list) > 0 {
		until := s.until
		time.AfterFunc(foundFor, func() { p.forget(s, until) })
	}
}

// forget drops the list of the search s, because the list keeps closed connections in memory. It does nothing if
// another search has replaced the list. The parameter until identifies the search: it is the value that the field until
// had after the search.
func (p *places) forget(s *search, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.until.Equal(until) {
		s.list = nil
	}
}

// clientOf returns the key by which connections of one client are counted. This is an IPv4 address, or the first 64
// bits of an IPv6 address: a single machine often owns all addresses with the same first 64 bits. It returns the zero
// Addr if there is no address.
func clientOf(remote net.Addr) netip.Addr {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.Is6() {
		network, _ := addr.Prefix(64) // valid for every IPv6 address
		return network.Addr()
	}
	return addr
}
