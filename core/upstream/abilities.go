package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
)

// Abilities returns the proxy's abilities. The set stays empty for SOCKS proxies and direct://, which open
// all tunnels.
func (u *Upstream) Abilities() *ability.Set { return &u.ensureAttemptFields().abilities }

// Ability returns the current state of an ability.
func (u *Upstream) Ability(k ability.Kind) ability.View {
	if x := u.attemptFields.Load(); x != nil {
		return x.abilities.View(k, u.Elapsed(u.now()))
	}
	return ability.View{}
}

// MeetsNeed reports whether the proxy may be able to serve a request that requires the given ability
// (ability.Set.CanServe).
func (u *Upstream) MeetsNeed(n ability.Need, at time.Duration) bool {
	x := u.attemptFields.Load()
	return x == nil || x.abilities.CanServe(n, at)
}

// IsKnownToRelay reports whether the proxy is known to relay responses of targets. An HTTP proxy that has served may be
// a web server that responds itself, unless it has opened a tunnel or relayed a response with a status below 400.
func (u *Upstream) IsKnownToRelay(at time.Duration) bool {
	if !u.HasServed() || u.breaker.State() != core.Closed {
		return false
	}
	if scheme := u.Spec().Address.Scheme; scheme != HTTP && scheme != HTTPS {
		return true
	}
	x := u.attemptFields.Load()
	can := func(k ability.Kind) bool { return x.abilities.State(k, at) == ability.Can }
	return x != nil && (can(ability.Forward) || can(ability.TunnelTLS) || can(ability.TunnelOther))
}

// LearnsAbilities reports whether the proxy's abilities are learnt from the requests of clients. It returns false
// if breaker.blame is "literal".
func (u *Upstream) LearnsAbilities() bool { return !u.pool.literal.Load() }

// Elapsed converts a time to the duration since the epoch of the proxy's pool (Pool.Elapsed).
func (u *Upstream) Elapsed(now time.Time) time.Duration { return u.pool.Elapsed(now) }

// LacksAbilities reports whether some proxy of the pool is known to lack an ability. If not, a selection need not
// consider abilities.
func (p *Pool) LacksAbilities() bool { return p.lacksAbilities.Load() }

// TunnelOpened records that the proxy has opened a tunnel to authority (host:port) for a client.
func (u *Upstream) TunnelOpened(authority string, at time.Duration) {
	u.Abilities().RecordSuccess(ability.TunnelTo(authority), at, ability.Traffic)
	u.pool.refusals.RecordServed(u.Abilities(), ability.TunnelTLS, targetHash(authority), at)
}

// RecordTunnelRefused records that the proxy has refused a client's tunnel with a status that the proxy itself
// chose.
func (u *Upstream) RecordTunnelRefused(authority string, status int, at time.Duration) {
	u.pool.refusals.Add(u.Abilities(), ability.TunnelTo(authority), targetHash(authority), status, at)
}

// RecordForwarded records that the proxy has relayed a response with a status below 400 to a client's request in
// absolute form.
func (u *Upstream) RecordForwarded(url []byte, at time.Duration) {
	u.Abilities().RecordSuccess(ability.Forward, at, ability.Traffic)
	if l := &u.pool.refusals; !l.Empty() {
		l.RecordServed(u.Abilities(), ability.Forward, targetHash(string(url)), at)
	}
}

// ForwardRefused records that a client's request in absolute form got a 405 or 501, and that it is unknown whether
// the proxy or the target sent this response.
func (u *Upstream) ForwardRefused(url []byte, status int, at time.Duration) {
	u.pool.refusals.Add(u.Abilities(), ability.Forward, targetHash(string(url)), status, at)
}

func targetHash(authority string) uint64 { return uint64(core.Hash53(authority)) }
