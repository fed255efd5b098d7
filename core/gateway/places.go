package gateway

import (
	"cmp"
	"maps"
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
	conns     map[*connection]struct{} // guarded by mu
	perClient map[netip.Addr]int       // connections by clientOf; guarded by mu
	pause     [2]time.Time             // until then evict does not search: all clients, one client; guarded by mu
}

func (p *places) init() {
	p.conns, p.perClient = map[*connection]struct{}{}, map[netip.Addr]int{}
	p.freed = make(chan struct{}, 1)
}

// need returns the number of file descriptors that the clients need: one for each connection, and another one
// for each connection that has a request or may send one at once. Idle clients that are about to send a
// request may need more.
func (p *places) need() int64 { return p.clients.Load() + p.active.Load() }

// add adds a connection, which the caller enters.
func (p *places) add(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	p.clients.Add(1)
	p.perClient[c.client]++
}

// remove removes a connection. It returns false if the connection was already removed.
func (p *places) remove(c *connection) bool {
	p.mu.Lock()
	removed := p.drop(c)
	p.mu.Unlock()
	p.signal()
	return removed
}

// drop is like remove, but the caller holds mu.
func (p *places) drop(c *connection) bool {
	if _, ok := p.conns[c]; !ok {
		return false
	}
	delete(p.conns, c)
	p.clients.Add(-1)
	if p.perClient[c.client]--; p.perClient[c.client] == 0 {
		delete(p.perClient, c.client)
	}
	return true
}

// enter records that a connection becomes active, or is no longer active.
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

// await waits until a place may be free, or for d. done ends the wait.
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

// ofClient returns the number of connections of a client, and whether these are more than half of all.
func (p *places) ofClient(client netip.Addr) (n int, most bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = p.perClient[client]
	return n, 2*n > len(p.conns)
}

func (p *places) all() []*connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.conns))
}

// The minimum times that a client has before its connection may be closed to make room for another one: for
// the beginning of a request, for the rest of its head, and for the next bytes of its body.
const (
	minWait     = 200 * time.Millisecond
	minHeadWait = 50 * time.Millisecond
	minBodyWait = time.Second
)

// evictAgain is the time for which evict does not search again after it has found no client. A search is
// expensive, because it visits all connections.
const evictAgain = 20 * time.Millisecond

// oldest removes the connections whose clients have waited for longest, and returns them; the caller ends
// them. Idle connections, and those whose clients have sent nothing, come first. Then come those with an
// unfinished head, then those whose clients send nothing more of a body. A search visits all connections, so
// oldest removes a 64th of them at once, but at least one. It removes none if no client has waited for long
// enough. If client is valid, it removes only that client's connections. It keeps a connection on which
// unread bytes have arrived.
func (p *places) oldest(now time.Time, client netip.Addr) []*connection {
	type waiting struct {
		conn *connection
		awaitedSince
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pause := &p.pause[0]
	if client.IsValid() {
		pause = &p.pause[1]
	}
	if now.Before(*pause) {
		return nil
	}
	var list []waiting
	for c := range p.conns {
		if client.IsValid() && c.client != client {
			continue
		}
		w := c.read.awaited()
		if w.what != awaitsNothing && now.UnixNano()-w.since >= int64(w.patience()) {
			list = append(list, waiting{c, w})
		}
	}
	if len(list) == 0 {
		*pause = now.Add(evictAgain)
		return nil
	}
	slices.SortFunc(list, func(a, b waiting) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.since, b.since))
	})
	var conns []*connection
	for _, w := range list {
		if w.conn.unread() {
			continue
		}
		p.drop(w.conn)
		if conns = append(conns, w.conn); len(conns) > len(list)/64 {
			break
		}
	}
	return conns
}

// soonFree reports whether at least a quarter of the connections will be closed, or may be closed, soon: their
// clients have just connected or been answered, or have a request that began less than maxWaited ago.
func (p *places) soonFree(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c := range p.conns {
		soon := minWait
		if c.read.phase.Load() == busy {
			soon = maxWaited
		}
		if now.UnixNano()-c.read.waiting.Load()&^awaitsMask < int64(soon) {
			n++
		}
	}
	return n > 0 && 4*n >= len(p.conns)
}

// clientOf returns the key by which connections of one client are counted: an IPv4 address, or the first 64
// bits of an IPv6 address, because a single machine often has all addresses with these bits. It returns the
// zero Addr if there is no address.
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
