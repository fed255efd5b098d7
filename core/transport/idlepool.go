package transport

import (
	"crypto/tls"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// idlePool holds the idle connections and the TLS sessions of one proxy.
type idlePool struct {
	owner atomic.Pointer[Transport] // the Transport that uses this idlePool; nil after close

	credentials string // Proxy-Authorization for the proxy; "" for none

	// sessions holds the TLS sessions with the proxy, and with targets through it. They are not used through
	// other proxies, because a target could then link the requests of two proxies.
	sessions tls.ClientSessionCache

	viaRecord   viaRecord
	digest      digestState
	tokenOffers tokenOffers

	mu      sync.Mutex                // guards the fields below
	unkeyed []*persistConn            // connections without a key; least recently used first
	keyed   map[string][]*persistConn // connections with a key (credentialsKey); least recently used first
	shared  map[string][]*sharedConn  // HTTP/2 connections, by credentialsKey
	// noReuseUntil holds, by key (credentialsKey), the end of the time in which unrepeatable requests reuse no
	// connection.
	noReuseUntil map[string]time.Time
	count        int
	closed       bool
}

const (
	// noReuseTime is the time for which unrepeatable requests reuse no connection, after one with the same key
	// (credentialsKey) was lost on a reused connection.
	noReuseTime = 10 * time.Minute
	// maxNoReuseKeys is the maximum number of entries of idlePool.noReuseUntil.
	maxNoReuseKeys = 1000
)

func newIdlePool(a upstream.Address) *idlePool {
	p := &idlePool{sessions: tls.NewLRUClientSessionCache(tlsSessions)}
	if a.Scheme == upstream.HTTP || a.Scheme == upstream.HTTPS {
		p.credentials = string(basicAuth(a))
	}
	return p
}

// get returns an idle connection with the given key that has been used for the given target, or nil if there is none.
// The target must be the same, because some proxies (pproxy, proxy.py 2.4) send all requests of a connection to the
// target of its first request. get checks each connection (isAlive), even after a short idle time. An unrepeatable
// request gets no connection if another unrepeatable request with this key was lost less than noReuseTime ago (see
// recordLoss).
func (p *idlePool) get(key string, target string, now time.Time, unrepeatable bool) *persistConn {
	for {
		pc := p.pop(key, target, now, unrepeatable)
		if pc == nil {
			return nil
		}
		if now.Sub(pc.idleAt) < idleTimeout && pc.isAlive() {
			pc.reused = true
			return pc
		}
		closeNow(pc.Conn)
	}
}

// recordLoss records that an unrepeatable request with the given key was lost because the peer had closed an idle
// connection.
func (p *idlePool) recordLoss(key string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.noReuseUntil) >= maxNoReuseKeys {
		maps.DeleteFunc(p.noReuseUntil, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	if len(p.noReuseUntil) >= maxNoReuseKeys {
		return
	}
	if p.noReuseUntil == nil {
		p.noReuseUntil = map[string]time.Time{}
	}
	p.noReuseUntil[key] = now.Add(noReuseTime)
}

// pop removes the most recently used connection with the given key and target from the pool, and returns it. It returns
// nil if there is none. It also returns nil for an unrepeatable request before the time in noReuseUntil.
func (p *idlePool) pop(key string, target string, now time.Time, unrepeatable bool) *persistConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if unrepeatable && now.Before(p.noReuseUntil[key]) {
		return nil
	}
	list := p.list(key)
	i := len(list) - 1
	for i >= 0 && list[i].target != target {
		i--
	}
	if i < 0 {
		return nil
	}
	pc := list[i]
	p.setList(key, slices.Delete(list, i, i+1))
	p.count--
	return pc
}

// setList replaces the list of connections with the given key. The caller holds mu.
func (p *idlePool) setList(key string, list []*persistConn) {
	switch {
	case key == "":
		p.unkeyed = list
	case len(list) == 0:
		delete(p.keyed, key)
	default:
		if p.keyed == nil {
			p.keyed = map[string][]*persistConn{}
		}
		p.keyed[key] = list
	}
}

// put adds a connection to the pool. If the pool is closed, it closes the connection instead. If the pool is full, put
// closes the least recently used connection with the same key or, if there is none, the least recently used connection
// without a key. Without either, it closes the given connection.
func (p *idlePool) put(pc *persistConn, now time.Time) {
	pc.idleAt = now
	pc.reader.Release()
	pc.control = nil
	pc.setMeters(traffic.Meters{})
	if pc.writeBlocked {
		pc.writeBlocked = false
		pc.SetWriteDeadline(time.Time{})
	}
	if surplus := p.add(pc); surplus != nil {
		closeNow(surplus.Conn)
	}
}

// add does the work of put, except that it returns the connection to close; nil for none.
func (p *idlePool) add(pc *persistConn) (surplus *persistConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return pc
	}
	if p.count >= maxIdle {
		key := pc.key
		if len(p.list(key)) == 0 {
			key = ""
		}
		list := p.list(key)
		if len(list) == 0 {
			return pc
		}
		surplus = list[0]
		p.setList(key, slices.Delete(list, 0, 1))
		p.count--
	}
	p.setList(pc.key, append(p.list(pc.key), pc))
	p.count++
	return surplus
}

// list returns the connections with the given key. The caller holds mu.
func (p *idlePool) list(key string) []*persistConn {
	if key == "" {
		return p.unkeyed
	}
	return p.keyed[key]
}

// closeSurplus closes connections that became idle before the time cutoff, the oldest first. It keeps at least
// minIdleKept connections.
func (p *idlePool) closeSurplus(cutoff time.Time) {
	p.mu.Lock()
	few := p.count <= minIdleKept
	p.mu.Unlock()
	if few {
		return
	}
	since := p.appendIdleTimes(nil)
	if len(since) <= minIdleKept {
		return
	}
	slices.SortFunc(since, time.Time.Compare)
	if first := since[len(since)-minIdleKept]; first.Before(cutoff) { // the oldest of the connections that stay
		cutoff = first
	}
	p.closeIdleBefore(cutoff)
}

// appendIdleTimes appends, for each idle connection, the time at which it became idle.
func (p *idlePool) appendIdleTimes(since []time.Time) []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pc := range p.unkeyed {
		since = append(since, pc.idleAt)
	}
	for _, list := range p.keyed {
		for _, pc := range list {
			since = append(since, pc.idleAt)
		}
	}
	for _, list := range p.shared {
		for _, s := range list {
			if s.streams == 0 {
				since = append(since, s.idleAt)
			}
		}
	}
	return since
}

// closeIdleBefore closes the connections that became idle before cutoff, and returns their number.
func (p *idlePool) closeIdleBefore(cutoff time.Time) (closed int) {
	conns, shared := p.removeIdle(cutoff)
	for _, pc := range conns { // without the mutex, because requests wait for the mutex
		closeNow(pc.Conn)
	}
	for _, s := range shared {
		s.close()
	}
	return len(conns) + len(shared)
}

// removeIdle removes the connections that became idle before cutoff. The caller closes them.
func (p *idlePool) removeIdle(cutoff time.Time) (conns []*persistConn, shared []*sharedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	remove := func(key string, list []*persistConn) {
		n := 0
		for n < len(list) && list[n].idleAt.Before(cutoff) {
			n++
		}
		if n > 0 {
			conns = append(conns, list[:n]...)
			p.count -= n
			p.setList(key, slices.Clone(list[n:]))
		}
	}
	remove("", p.unkeyed)
	for key, list := range p.keyed {
		remove(key, list)
	}
	return conns, p.removeIdleShared(cutoff)
}

func (p *idlePool) close() {
	p.owner.Store(nil)
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.closeIdleBefore(time.Unix(1<<40, 0))
}
