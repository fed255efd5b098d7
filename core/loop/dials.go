package loop

import (
	"net"
	"net/netip"
	"sync"
)

// dials holds the connections to proxies on which this process is waiting for a tunnel.
type dials struct {
	mu   sync.Mutex
	back map[netip.AddrPort]bool // by local address; true if the connection has come back to this process
}

// Dialled registers a connection to a proxy whose protocol cannot carry a token (SOCKS). It is called before a target
// is requested on the connection. The caller calls end when the proxy has answered. back is true if the proxy has led
// the connection back to this process, which CameBack has detected. If g is nil, nothing is registered.
func (g *Guard) Dialled(c net.Conn) (end func() (back bool)) {
	local, ok := addrPort(c.LocalAddr())
	if g == nil || !ok {
		return func() bool { return false }
	}
	d := &g.dials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.back == nil {
		d.back = map[netip.AddrPort]bool{}
	}
	d.back[local] = false
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		back := d.back[local]
		delete(d.back, local)
		return back
	}
}

// CameBack reports whether a client's connection is the other end of a registered one. It does not recognize a
// connection whose source address was changed on the way, by a relay or by NAT.
func (g *Guard) CameBack(client net.Conn) bool {
	remote, ok := addrPort(client.RemoteAddr())
	if g == nil || !ok {
		return false
	}
	g.dials.mu.Lock()
	defer g.dials.mu.Unlock()
	_, back := g.dials.back[remote]
	if back {
		g.dials.back[remote] = true
	}
	return back
}

// addrPort returns a TCP address in the form in which both ends of a connection have the same one.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()), true
}
