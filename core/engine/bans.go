package engine

import (
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Bans returns a pair with the host "" for each banned proxy.
func (e *Engine) Bans() []ban.Pair { return e.selector.ProxyBans().All(e.pool.Elapsed(e.opts.Now())) }

// BannedUntil returns the end of a proxy's ban, as a time since the pool's epoch (Pool.Elapsed). It returns false if
// the proxy is not banned.
func (e *Engine) BannedUntil(u *upstream.Upstream) (until time.Duration, ok bool) {
	bans := e.selector.ProxyBans().BansOf(selector.AllHosts)
	if len(bans) == 0 {
		return 0, false // saves a read of the clock: the API calls BannedUntil for each proxy
	}
	return bans.EndOf(u.Hash(), e.pool.Elapsed(e.opts.Now()))
}

// Ban bans a proxy for the time d. If host is "", the proxy is not chosen for any host. Otherwise it is not chosen for
// this host. The host must be in lower case and without a port. If the proxy is already banned for longer, nothing
// changes. Ban returns the ban that is then in force.
func (e *Engine) Ban(u *upstream.Upstream, host string, d time.Duration) ban.Pair {
	now := e.pool.Elapsed(e.opts.Now())
	list, hash := e.banList(host)
	p := ban.Pair{ProxyID: u.ID(), Host: host, Since: now, Until: now + d}
	list.Begin(u.Hash(), hash, p)
	if in, ok := list.BansOf(hash).Get(u.Hash(), now); ok {
		return in
	}
	return p // the list is full, and a later pair has already displaced p
}

// minLastingBan is the shortest host ban that is kept over a restart. Proxy bans of any length are kept.
const minLastingBan = time.Hour

// LastingBans returns the bans of proxies, and the bans of pairs of a proxy and a host, that are kept over a restart.
func (e *Engine) LastingBans() []ban.Pair {
	short := func(p ban.Pair) bool { return p.Until-p.Since < minLastingBan }
	return append(e.Bans(), slices.DeleteFunc(e.HostBans(), short)...)
}

// SavedBan is the ban of a proxy, or of a pair of a proxy and a host, in the form in which a file stores it.
type SavedBan struct {
	Proxy string    `json:"proxy"`
	Host  string    `json:"host,omitempty"` // "" for the ban of a proxy for all hosts
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// SaveBan converts the ban of a proxy, or of a pair of a proxy and a host, to the form for a file.
func (e *Engine) SaveBan(p ban.Pair) SavedBan {
	return SavedBan{p.ProxyID, p.Host, e.pool.TimeAt(p.Since).UTC(), e.pool.TimeAt(p.Until).UTC()}
}

// RestoreBans restores those bans of proxies, and of pairs of a proxy and a host, that an earlier process has
// saved and that have not ended. The proxies need not be in the pool yet. Only Options.Restore may call it.
func (e *Engine) RestoreBans(saved []SavedBan) {
	now := e.opts.Now()
	for _, b := range saved {
		list, hash := e.banList(b.Host)
		list.Restore(uint64(core.Hash53(b.Proxy)), hash, ban.Pair{
			ProxyID: b.Proxy, Host: b.Host, Since: e.pool.Elapsed(b.Since), Until: e.pool.Elapsed(b.Until),
		}, e.pool.Elapsed(now))
	}
}

// EndBan ends the ban of a proxy for all hosts or, if host is not "", for this host. It returns false if there is no
// such ban.
func (e *Engine) EndBan(u *upstream.Upstream, host string) bool {
	list, hash := e.banList(host)
	return list.End(u.Hash(), hash, e.pool.Elapsed(e.opts.Now()))
}

// banList returns the table of banned proxies if host is "". Otherwise it returns the table of banned pairs of a proxy
// and a host. It also returns the hash that stands for the host in this table.
func (e *Engine) banList(host string) (*ban.Table, uint64) {
	if host == "" {
		return e.selector.ProxyBans(), selector.AllHosts
	}
	return e.selector.HostBans(), uint64(core.Hash53(host))
}
