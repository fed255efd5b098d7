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
	clients          atomic.Int64  // connections
	active           atomic.Int64  // connections that have a request, or may soon have their first one (isActive)
	waitingAcceptors atomic.Int32  // acceptors that wait for a place
	placeFreed       chan struct{} // receives a value when a place may have become free while an acceptor waits

	mu             sync.Mutex
	conns          []*connection      // guarded by mu
	perClient      map[netip.Addr]int // number of connections of each client (clientOf); guarded by mu
	evictSearches  [3]evictSearch     // the last of each kind; guarded by mu
	nextMarkSilent time.Time          // markSilent does nothing before this time; guarded by mu
}

// The kinds of searches for clients that may be evicted.
const (
	searchAll    = iota // among all clients
	searchClient        // among the connections of one client
	searchReady         // among all clients, for a place for a client whose whole request head has arrived
)

// evictSearch is the result of a search for clients that have kept the gateway waiting for long.
type evictSearch struct {
	client     netip.Addr      // the client whose connections were searched; the zero Addr for all clients
	evictable  []evictableConn // connections that may be removed; the last of the list is removed first
	validUntil time.Time       // the list is used until this time
	pauseUntil time.Time       // no search is made before this time, because the last search found no connection
}

// evictableConn is a connection whose client has kept the gateway waiting for longer than clientWait.evictAfter, and
// may therefore be evicted.
type evictableConn struct {
	conn *connection
	clientWait
}

func (p *places) init() {
	p.perClient, p.placeFreed = map[netip.Addr]int{}, make(chan struct{}, 1)
}

// neededFiles returns the number of file descriptors that the clients need: one for each connection, and another one
// for each active connection. It does not include file descriptors for the requests that idle and silent clients will
// send: such a request takes the place of another idle or silent client.
func (p *places) neededFiles() int64 { return p.clients.Load() + p.active.Load() }

// addConn adds a connection to the list of connections. The caller must then call countActive(true).
func (p *places) addConn(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	c.placeIndex = int32(len(p.conns))
	p.clients.Add(1)
	p.perClient[c.client]++
}

// removeConn removes a connection from the list of connections. It returns false if the connection is not in the
// list.
func (p *places) removeConn(c *connection) bool {
	p.mu.Lock()
	removed := p.removeConnLocked(c)
	p.mu.Unlock()
	p.signalPlaceFreed()
	return removed
}

// minConnsCapacity is the minimum capacity of the list of connections.
const minConnsCapacity = 1024

// removeConnLocked is like removeConn, but its caller holds the mutex mu.
func (p *places) removeConnLocked(c *connection) bool {
	if c.placeIndex == 0 {
		return false
	}
	n := len(p.conns) - 1
	last := p.conns[n]
	p.conns[c.placeIndex-1], p.conns[n], last.placeIndex = last, nil, c.placeIndex
	c.placeIndex = 0
	if p.conns = p.conns[:n]; cap(p.conns) > minConnsCapacity && n < cap(p.conns)/4 {
		p.conns = append(make([]*connection, 0, cap(p.conns)/2), p.conns...) // frees the memory of a burst
	}
	p.clients.Add(-1)
	if p.perClient[c.client]--; p.perClient[c.client] == 0 {
		delete(p.perClient, c.client)
	}
	return true
}

// countActive counts one more active connection or, if active is false, one fewer.
func (p *places) countActive(active bool) {
	if active {
		p.active.Add(1)
		return
	}
	p.active.Add(-1)
	p.signalPlaceFreed()
}

// markSilent marks the connections whose clients have not sent their first request for so long that they may be
// evicted. These connections no longer count as active. It returns false if there are none. Because it visits all
// connections, it does nothing for a time after each search (searchPause).
func (p *places) markSilent(now time.Time) (marked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.nextMarkSilent) {
		return false
	}
	p.nextMarkSilent = now.Add(searchPause)
	for _, c := range p.conns {
		if c.readControl.phase.Load() == phaseFresh && c.readControl.currentWait().mayEvict(now, false) {
			marked = c.readControl.markSilent() || marked
		}
	}
	return marked
}

func (p *places) signalPlaceFreed() {
	if p.waitingAcceptors.Load() == 0 {
		return
	}
	select {
	case p.placeFreed <- struct{}{}:
	default:
	}
}

// waitForPlace waits until a place may be free, but at most for the time d, or until done is closed.
func (p *places) waitForPlace(d time.Duration, done <-chan struct{}) {
	p.waitingAcceptors.Add(1)
	defer p.waitingAcceptors.Add(-1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.placeFreed:
	case <-timer.C:
	case <-done:
	}
}

// countForClient returns the number of connections of a client. The result hasMajority reports whether the client has
// more than half of all connections.
func (p *places) countForClient(client netip.Addr) (n int, hasMajority bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = p.perClient[client]
	return n, 2*n > len(p.conns)
}

func (p *places) allConns() []*connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

// The minimum times for which the gateway waits for a client. After that, the gateway may close the client's connection
// to make room for another one.
const (
	minFirstWait = 50 * time.Millisecond  // for the beginning of the first request, without TLS
	minWait      = 200 * time.Millisecond // for the beginning of any other request, or for the TLS handshake
	minHeadWait  = 50 * time.Millisecond  // for the rest of a request's head
	minBodyWait  = time.Second            // for the next bytes of a request's body, or for a body that is too slow

	// minReadyWait is used in place of minFirstWait and minHeadWait if the other client's whole request head has
	// arrived. The head of a request usually arrives in one piece, at once after the connection is made. It is not used
	// for clients of SOCKS5.
	minReadyWait = 10 * time.Millisecond
)

// The times for which the results of a search are used. A search is expensive, because it visits
// all connections.
const (
	searchPause    = 20 * time.Millisecond  // if the search found no client, and between searches of markSilent
	searchLifetime = 100 * time.Millisecond // if the search found clients
)

// removeEvictable removes and returns the connection of the client that has kept the gateway waiting longest. It
// returns nil if no client has kept it waiting for long enough. Idle connections come first, then unfinished heads,
// then slow bodies. Connections with unread bytes stay. If client is valid, only a connection of that client is
// removed. If ready is set, the place is for a client whose whole request head has arrived.
func (p *places) removeEvictable(now time.Time, client netip.Addr, ready bool) *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.evictSearches[searchAll]
	switch {
	case client.IsValid():
		s = &p.evictSearches[searchClient]
	case ready:
		s = &p.evictSearches[searchReady]
	}
	if now.Before(s.pauseUntil) {
		return nil
	}
	if s.client == client && now.Before(s.validUntil) {
		if c := p.takeEvictable(s); c != nil {
			return c
		}
	}
	p.findEvictable(s, now, client, ready)
	c := p.takeEvictable(s)
	if c == nil {
		s.pauseUntil = now.Add(searchPause)
	}
	return c
}

// takeEvictable removes a connection that the search s has found, and returns it. It skips connections whose clients
// have sent something since the search. It returns nil if no connection is left. The caller holds mu.
func (p *places) takeEvictable(s *evictSearch) *connection {
	for n := len(s.evictable) - 1; n >= 0; n-- {
		w := s.evictable[n]
		s.evictable = s.evictable[:n]
		if w.conn.placeIndex > 0 && w.conn.readControl.currentWait() == w.clientWait && !w.conn.hasUnread() &&
			(!w.isFirst || w.conn.readControl.markEvicted()) {
			p.removeConnLocked(w.conn)
			return w.conn
		}
	}
	s.evictable = nil
	return nil
}

// findEvictable looks for clients that have kept the gateway waiting for long, and stores the result in s. The
// caller holds mu.
func (p *places) findEvictable(s *evictSearch, now time.Time, client netip.Addr, ready bool) {
	s.client, s.validUntil, s.evictable = client, now.Add(searchLifetime), nil
	for _, c := range p.conns {
		if client.IsValid() && c.client != client {
			continue
		}
		w := c.readControl.currentWait()
		if w.mayEvict(now, ready) {
			s.evictable = append(s.evictable, evictableConn{c, w})
		}
	}
	slices.SortFunc(s.evictable, func(a, b evictableConn) int {
		return cmp.Or(cmp.Compare(b.kind, a.kind), cmp.Compare(b.start, a.start))
	})
	if len(s.evictable) > 0 {
		until := s.validUntil
		time.AfterFunc(searchLifetime, func() { p.dropEvictable(s, until) })
	}
}

// dropEvictable drops the connections that the search s has found, because the list keeps closed connections in memory.
// The parameter until is the validUntil of this list. If another search has replaced the list since then, dropEvictable
// changes nothing.
func (p *places) dropEvictable(s *evictSearch, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.validUntil.Equal(until) {
		s.evictable = nil
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
