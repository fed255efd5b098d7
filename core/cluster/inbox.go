package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// startFor is the time for which a node keeps a lease without beginning the probe.
const startFor = 2 * time.Second

// aloneFor is the time after which a node that cannot reach the store makes probes without a lease. Until then, a
// node makes a probe only if it has a lease.
const aloneFor = 2 * time.Second

// inbox holds the reports of the gateway to its node, and the data that MayProbe and BeginProbe need to return without
// an exchange. Its lock is held for short times only. While the lock is held, no method of Local is called, because
// such a method may wait for a goroutine that waits for the lock.
type inbox struct {
	mu          sync.Mutex // guards the fields below
	alone       bool
	aloneAt     time.Time
	failed      map[string]struct{} // proxies through which an attempt has failed
	transitions []transition
	resets      []string
	written     chan struct{} // closed when the store has the resets
	bans        []banned
	moves       []moved
	moving      map[string]struct{} // the sessions of moves
	lostMoves   uint64              // moves that were dropped, because maxEvents moves waited
	gates       map[string]*gate    // of the proxies whose breaker is open for the cluster
}

// transition is a transition of a local breaker.
type transition struct {
	proxy string
	core.Transition
	fence int64     // of the probe's lease, if a probe with a lease caused the transition; otherwise 0
	at    time.Time // of this node's clock
}

type banned struct {
	proxy, host string
	until, at   time.Time // of this node's clock
}

// gate decides whether the probe of a breaker that is open for the cluster may begin. The probe needs a lease.
type gate struct {
	asked      bool      // a probe is wanted
	fence      int64     // of this node's lease; 0 if it has none
	start      time.Time // the probe may begin until this time
	until      time.Time // end of the lease
	probeBegun bool      // the probe has begun
	endSeenAt  time.Time // when the probe was found to have ended without a transition; zero before
}

func (g *gate) drop() { *g = gate{} }

// setAlone records whether the node is alone, and since when.
func (i *inbox) setAlone(alone bool, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.alone, i.aloneAt = alone, at
}

// mayProbeAlone reports whether probes need no lease because the node is alone. The caller holds mu.
func (i *inbox) mayProbeAlone(now time.Time) bool { return i.alone && now.Sub(i.aloneAt) >= aloneFor }

// setGate sets whether the probes of the proxy need a lease. If the probes already needed a lease, the node keeps its
// lease, but stops asking for one.
func (i *inbox) setGate(proxy string, needed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch g := i.gates[proxy]; {
	case !needed:
		delete(i.gates, proxy)
	case g == nil:
		i.gates[proxy] = &gate{}
	default:
		g.asked = false
	}
}

// leases returns the fencing numbers of this node's leases.
func (i *inbox) leases() map[string]int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := map[string]int64{}
	for key, g := range i.gates {
		if g.fence > 0 {
			out[key] = g.fence
		}
	}
	return out
}

// MayProbe reports whether a probe of the proxy may begin now. If the probe needs a lease and the node has none, the
// node asks for one.
func (n *Node) MayProbe(proxy string) bool {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	g, now := b.gates[proxy], n.cfg.Now()
	if g == nil || b.mayProbeAlone(now) || g.fence > 0 && !g.probeBegun && now.Before(g.start) {
		return true
	}
	if !g.asked {
		g.asked = true
		n.notify()
	}
	return false
}

// BeginProbe begins a probe, and returns the end of the probe's lease: the result of the probe must have been reported
// by then. The end is zero if the probe needs no lease. If the probe may not begin, BeginProbe returns false, and the
// node asks for a lease.
func (n *Node) BeginProbe(proxy string) (until time.Time, ok bool) {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	g, now := b.gates[proxy], n.cfg.Now()
	switch {
	case g == nil:
		return time.Time{}, true
	case g.fence > 0 && !g.probeBegun && now.Before(g.start):
		g.probeBegun = true
		return g.until, true
	case b.mayProbeAlone(now):
		return time.Time{}, true
	}
	if !g.asked {
		g.asked = true
		n.notify()
	}
	return time.Time{}, false
}

// Failed reports that an attempt through the proxy has failed.
func (n *Node) Failed(proxy string) {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.failed[proxy]; known {
		return
	}
	if b.failed == nil {
		b.failed = map[string]struct{}{}
	}
	b.failed[proxy] = struct{}{}
	n.notifyUrgent()
}

// Transition reports a transition of the proxy's local breaker. Transitions that Local.Open, Close and Reset cause need
// not be reported.
func (n *Node) Transition(proxy string, t core.Transition) {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	tr := transition{proxy: proxy, Transition: t, at: n.cfg.Now()}
	if g := b.gates[proxy]; g != nil && g.probeBegun && t.From == core.HalfOpen {
		tr.fence = g.fence
		g.drop()
	}
	b.transitions = append(b.transitions, tr)
	n.notify()
}

// Reset reports that the proxy's breaker was reset here, and resets it on all nodes. If the node is not alone, Reset
// waits until the store has the reset, at most until ctx ends.
func (n *Node) Reset(ctx context.Context, proxy string) {
	b := &n.inbox
	b.mu.Lock()
	b.resets = append(b.resets, proxy)
	if b.written == nil {
		b.written = make(chan struct{})
	}
	written, alone := b.written, b.alone
	b.mu.Unlock()
	n.notify()
	if alone {
		return
	}
	select {
	case <-written:
	case <-ctx.Done():
	}
}

// Banned reports that the proxy is banned for a host ("" for all hosts) until the given time. If this time is not in
// the future, the ban has ended.
func (n *Node) Banned(proxy, host string, until time.Time) {
	b := &n.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bans = append(b.bans, banned{proxy, host, until, n.cfg.Now()})
	n.notify()
}

// takeInbox moves the reports of the gateway from the inbox to the node. The caller holds mu.
func (n *Node) takeInbox(now time.Time) {
	b := &n.inbox
	b.mu.Lock()
	failed, transitions, resets, bans, written := b.failed, b.transitions, b.resets, b.bans, b.written
	moves := b.moves
	n.counts.Dropped += b.lostMoves
	b.failed = nil
	b.transitions, b.resets, b.bans, b.written, b.moves, b.lostMoves = nil, nil, nil, nil, nil, 0
	clear(b.moving)
	b.mu.Unlock()
	for key := range failed {
		n.trackProxy(key).failed = now
	}
	for i := range transitions {
		n.shareTransition(&transitions[i])
	}
	for _, key := range resets {
		n.shareReset(key)
	}
	for _, ban := range bans {
		n.ban(ban)
	}
	for i := range moves {
		n.addMove(&moves[i])
	}
	if written != nil {
		n.waiters = append(n.waiters, written)
	}
}
