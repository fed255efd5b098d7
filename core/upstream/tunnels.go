package upstream

import "github.com/whirlpool-proxy/whirlpool/core/verdict"

// EndTunnel counts the end of a tunnel through the proxy.
func (u *Upstream) EndTunnel(e *verdict.TunnelEnd) {
	if e.Short() {
		u.shortTunnels.Add(1)
	}
}

// ShortTunnels returns the number of short tunnels (verdict.TunnelEnd.Short) since the proxy was added.
func (u *Upstream) ShortTunnels() uint64 { return u.shortTunnels.Load() }
