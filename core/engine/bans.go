package engine

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Bans returns the banned proxies, as pairs with the host "".
func (e *Engine) Bans() []rest.Pair { return e.selector.Bans().All(e.pool.Elapsed(e.opts.Now())) }

// BannedUntil returns the end of a proxy's ban as a time of the pool (Pool.Elapsed); ok is false if it is not banned.
func (e *Engine) BannedUntil(u *upstream.Upstream) (until time.Duration, ok bool) {
	return e.selector.Bans().Of(selector.AllHosts).Until(u.Hash(), e.pool.Elapsed(e.opts.Now()))
}

// Ban bans a proxy for the time d: no host gets it. With a host (in lower case, without port), the pair of both rests
// instead. A ban or rest that ends later stays as it is. Ban returns the pair as it is then.
func (e *Engine) Ban(u *upstream.Upstream, host string, d time.Duration) rest.Pair {
	now := e.pool.Elapsed(e.opts.Now())
	list, hash := e.banList(host)
	p := rest.Pair{ProxyID: u.ID(), Host: host, Since: now, Until: now + d}
	list.Begin(u.Hash(), hash, p)
	if until, ok := list.Of(hash).Until(u.Hash(), now); ok {
		p.Until = until
	}
	return p
}

// EndBan ends the ban of a proxy or, with a host, the rest of the pair. It returns false if there is none.
func (e *Engine) EndBan(u *upstream.Upstream, host string) bool {
	list, hash := e.banList(host)
	return list.End(u.Hash(), hash, e.pool.Elapsed(e.opts.Now()))
}

// banList returns the list that has the bans for a host, and the host's hash in it.
func (e *Engine) banList(host string) (*rest.Rests, uint64) {
	if host == "" {
		return e.selector.Bans(), selector.AllHosts
	}
	return e.selector.Rests(), uint64(core.Hash53(host))
}
