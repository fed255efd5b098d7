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

// places are the client connections of a Server. They decide whose connections are closed if there is no
// place for another one.
type places struct {
	clients atomic.Int64  // connections
	active  atomic.Int64  // number of connections with a request, or whose first request has not been sent yet
	waiting atomic.Int32  // acceptors that wait for a place
	freed   chan struct{} // receives a value when a place may have become free while an acceptor waits

	mu        sync.Mutex
	conns     []*connection      // guarded by mu
	perClient map[netip.Addr]int // connections by clientOf; guarded by mu
	found     [2]search          // results for all clients, and for one client; guarded by mu
}

// search is the result of a search for clients that have waited for long.
type search struct {
	client netip.Addr // the client whose connections were searched; the zero Addr for all clients
	list   []waiter   // the waiters that have not been removed, the next one last
	until  time.Time  // list is used before this time
	pause  time.Time  // no search is made before this time, because the last one found none
}

// waiter is a connection whose client has waited for long enough.
type waiter struct {
	conn *connection
	awaitedSince
}

func (p *places) init() {
	p.perClient, p.freed = map[netip.Addr]int{}, make(chan struct{}, 1)
}

// need returns the number of file descriptors that the clients need: one for each connection, and another one
// for each connection that has a request or may send one at once. Idle clients that are about to send a
// request may need more.
func (p *places) need() int64 { return p.clients.Load() + p.active.Load() }

// add adds a connection. The caller then calls enter(true).
func (p *places) add(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	c.place = len(p.conns)
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
		p.conns = append(make([]*connection, 0, cap(p.conns)/2), p.conns...) // the memory of a burst is not kept
	}
	p.clients.Add(-1)
	if p.perClient[c.client]--; p.perClient[c.client] == 0 {
		delete(p.perClient, c.client)
	}
	return true
}

// enter records that a connection becomes active, or ceases to be active.
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

// await waits until a place may be free, but at most for d or until done is closed.
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

// ofClient returns the number of connections of a client. most reports whether these are more than
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

// The minimum times that a client has before its connection may be closed to make room for another one: for
// the beginning of a request, for the rest of its head, and for the next bytes of its body.
const (
	minWait     = 200 * time.Millisecond
	minHeadWait = 50 * time.Millisecond
	minBodyWait = time.Second
)

// The results of a search are used for this time. A search is expensive, because it visits all connections.
const (
	evictAgain = 20 * time.Millisecond  // if no client was found
	foundFor   = 100 * time.Millisecond // otherwise
)

// oldest removes the connection whose client has waited for longest, and returns it; the caller ends it. Idle
// connections, and those whose clients have sent nothing, come first. Next are those with an unfinished head, and
// last those whose clients have stopped sending a body. It returns nil if no client has waited for long enough. If
// client is valid, it removes only that client's connections. It keeps a connection on which unread bytes have
// arrived.
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

// takeFrom removes the next connection that a search has found, and returns it; nil if there is none. The caller holds
// mu.
func (p *places) takeFrom(s *search) *connection {
	for n := len(s.list) - 1; n >= 0; n-- {
		w := s.list[n]
		s.list = s.list[:n]
		if w.conn.place > 0 && w.conn.read.awaited() == w.awaitedSince && !w.conn.unread() {
			p.drop(w.conn)
			return w.conn
		}
	}
	s.list = nil
	return nil
}

// search makes a search at the time now, and stores the result in s. The caller holds mu.
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

// forget drops the list of s, so that it does not keep the memory of connections. until is the end of the list's use;
// a list of a later search stays.
func (p *places) forget(s *search, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.until.Equal(until) {
		s.list = nil
	}
}

// soonFree reports whether at least a quarter of the connections will be closed, or may be closed, soon: their
// clients have just connected or been answered, or have a request that began less than maxWaited ago and whose body is
// still arriving.
func (p *places) soonFree(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.conns {
		soon := minWait
		switch {
		case c.read.awaited().what == awaitsBody:
			soon = minHeadWait
		case c.read.phase.Load() == busy:
			soon = maxWaited
		}
		if now.UnixNano()-c.read.waiting.Load()&^awaitsMask < int64(soon) {
			n++
		}
	}
	return n > 0 && 4*n >= len(p.conns)
}

// clientOf returns the key by which connections of one client are counted: an IPv4 address, or the first 64
// bits of an IPv6 address, because a single machine often owns all addresses with the same first 64 bits.
// It returns the zero Addr if there is no address.
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
