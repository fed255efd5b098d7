package transport

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// The version, command and reply codes of SOCKS4 (Ying-Da Lee, "SOCKS: A protocol for TCP proxy across firewalls").
const (
	socks4Version  = 4
	socks4Connect  = 1
	socks4Granted  = 90
	socks4Rejected = 91
	socks4NoIdent  = 92 // the proxy cannot ask for the user's identity
	socks4Identity = 93 // the user's identity differs from the request
)

// socks4Handshake asks the proxy at the far end of c for a connection to authority (host:port). A host name is sent
// to the proxy, which resolves it (SOCKS4A, an extension of SOCKS4 by Ying-Da Lee).
func socks4Handshake(c net.Conn, a upstream.Address, authority string) error {
	req, err := appendSOCKS4Request(nil, a, authority)
	if err != nil {
		return err
	}
	if _, err := c.Write(req); err != nil {
		return err
	}
	var reply [8]byte // with the bound address, which is not used
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return readError(err)
	}
	if reply[0] != 0 {
		return notSOCKS("SOCKS4: the proxy replies with version %d", reply[0])
	}
	switch reply[1] {
	case socks4Granted:
		return nil
	case socks4Rejected: // the general code, which covers all failures
		return &socksError{"SOCKS4: the proxy rejected the request, or it failed", "destination_unavailable",
			verdict.TunnelFailed}
	case socks4NoIdent, socks4Identity:
		return &socksError{"SOCKS4: the proxy refused the configured user name", "proxy_configuration_error",
			verdict.CredentialsRefused}
	}
	return notSOCKS("SOCKS4: the proxy replies with the unknown code %d", reply[1])
}

// announcesName reports whether ip has the form 0.0.0.x, with which a SOCKS4A request announces a name. A target with
// such an address must be sent as a name.
func announcesName(ip netip.Addr) bool {
	return ip.Is4() && ip.AsSlice()[0] == 0 && ip.AsSlice()[1] == 0 && ip.AsSlice()[2] == 0
}

func appendSOCKS4Request(b []byte, a upstream.Address, authority string) ([]byte, error) {
	host, port, err := splitAuthority(authority)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Password != "":
		return nil, &socksError{"SOCKS4: the protocol has no passwords, only user names; use socks5",
			"proxy_configuration_error",
			verdict.CredentialsRefused}
	case strings.IndexByte(a.Username, 0) >= 0 || strings.IndexByte(host, 0) >= 0:
		return nil, errors.New("SOCKS4: a user name or the target's name has a NUL in it")
	case len(host) > 255:
		return nil, errors.New("SOCKS4: the target's name has more than 255 bytes")
	}
	b = append(b, socks4Version, socks4Connect, byte(port>>8), byte(port))
	ip, err := netip.ParseAddr(host)
	switch ip = ip.Unmap(); {
	case err != nil || announcesName(ip):
		b = append(b, 0, 0, 0, 1) // announces a name
		b = append(append(b, a.Username...), 0)
		return append(append(b, host...), 0), nil
	case !ip.Is4():
		return nil, &socksError{"SOCKS4: the protocol has no IPv6 addresses", "proxy_configuration_error",
			verdict.TunnelFailed}
	}
	b = append(b, ip.AsSlice()...)
	return append(append(b, a.Username...), 0), nil
}
