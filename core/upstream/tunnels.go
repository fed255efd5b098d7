package upstream

import "github.com/whirlpool-proxy/whirlpool/core/verdict"

// EndTunnel is called when a tunnel through the proxy has ended. It counts short tunnels.
func (u *Upstream) EndTunnel(e *verdict.TunnelEnd) {
	if e.IsShort() {
		u.ensureAttemptFields().shortTunnels.Add(1)
	}
}

// ShortTunnels returns the number of short tunnels (verdict.TunnelEnd.IsShort) since the proxy was added.
func (u *Upstream) ShortTunnels() uint64 {
	if x := u.attemptFields.Load(); x != nil {
		return x.shortTunnels.Load()
	}
	return 0
}
