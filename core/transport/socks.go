package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// SOCKS version 5 (RFC 1928) with user name and password (RFC 1929).
const (
	socksVersion      = 5
	socksNoAuth       = 0
	socksUserPassword = 2
	socksNoneFit      = 0xff
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksIPv6         = 4
)

// socksFault is a reply other than "succeeded".
type socksFault struct {
	text, reason string
	cause        core.Cause
}

func (e *socksFault) Error() string { return "SOCKS5: " + e.text }

// protocolError is an answer of something that does not speak SOCKS5.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

func notSOCKS(format string, value byte) error { return &protocolError{fmt.Sprintf(format, value)} }

// socksReplies are those of RFC 1928 section 6.
var socksReplies = map[byte]socksFault{
	1: {"general failure of the proxy", "destination_unavailable", verdict.TunnelFailed},
	2: {"the proxy's rules forbid this target", "destination_ip_prohibited", verdict.TunnelRefused},
	3: {"network unreachable", "destination_ip_unroutable", verdict.TargetUnreachable},
	4: {"host unreachable", "destination_unavailable", verdict.TargetUnreachable},
	5: {"the target refused the connection", "connection_refused", verdict.TargetUnreachable},
	6: {"TTL expired", "connection_timeout", verdict.TargetUnreachable},
	7: {"the proxy does not support CONNECT", "proxy_configuration_error", verdict.ProxyProtocol},
	8: {"the proxy does not support this type of address", "proxy_configuration_error", verdict.TunnelFailed},
}

// socksGreet agrees with the proxy at the other end of c on a login method, and
// logs in (RFC 1928 section 3, RFC 1929). buf has 262 bytes.
func socksGreet(c net.Conn, a upstream.Address, buf []byte) error {
	login := a.Username != "" || a.Password != ""
	hello := []byte{socksVersion, 1, socksNoAuth}
	if login {
		hello = []byte{socksVersion, 2, socksNoAuth, socksUserPassword}
	}
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return clearer(err)
	}
	if buf[0] != socksVersion {
		return notSOCKS("SOCKS5: the proxy answers with version %d", buf[0])
	}
	switch method := buf[1]; {
	case method == socksNoAuth:
	case method == socksUserPassword && login:
		if err := socksLogin(c, a, buf); err != nil {
			return err
		}
	case method == socksNoneFit || method == socksUserPassword:
		return &socksFault{"the proxy wants a login that the pool does not have", "proxy_configuration_error", verdict.CredentialsRefused}
	default:
		return notSOCKS("SOCKS5: the proxy chose login method %d, which was not offered", method)
	}
	return nil
}

// socksHandshake asks the proxy at the other end of c for a connection to
// authority (host:port). Names go to the proxy as they are: they are never
// resolved here.
func socksHandshake(c net.Conn, a upstream.Address, authority string) error {
	host, port, err := splitAuthority(authority)
	if err != nil {
		return err
	}
	var buf [262]byte
	if err := socksGreet(c, a, buf[:]); err != nil {
		return err
	}
	req := append(buf[:0], socksVersion, socksConnect, 0)
	if ip, err := netip.ParseAddr(host); err != nil {
		if len(host) > 255 {
			return errors.New("SOCKS5: the target's name has more than 255 bytes")
		}
		req = append(req, socksName, byte(len(host)))
		req = append(req, host...)
	} else if ip = ip.Unmap(); ip.Is4() {
		req = append(append(req, socksIPv4), ip.AsSlice()...)
	} else {
		req = append(append(req, socksIPv6), ip.AsSlice()...)
	}
	if _, err := c.Write(append(req, byte(port>>8), byte(port))); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:4]); err != nil {
		return clearer(err)
	}
	if buf[0] != socksVersion {
		return notSOCKS("SOCKS5: the proxy replies with version %d", buf[0])
	}
	if code := buf[1]; code != 0 {
		if f, known := socksReplies[code]; known {
			return &f
		}
		return notSOCKS("SOCKS5: the proxy replies with the unknown code %d", code)
	}
	// The bound address is of no use here, but has to be read.
	size := 0
	switch buf[3] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return clearer(err)
		}
		size = int(buf[0])
	default:
		return notSOCKS("SOCKS5: the proxy's reply has the unknown address type %d", buf[3])
	}
	_, err = io.ReadFull(c, buf[:size+2])
	return clearer(err)
}

func socksLogin(c net.Conn, a upstream.Address, buf []byte) error {
	user, password := a.Username, a.Password.Reveal()
	if len(user) == 0 || len(user) > 255 || len(password) > 255 {
		return &socksFault{"a user name has 1 to 255 bytes and a password up to 255", "proxy_configuration_error", verdict.CredentialsRefused}
	}
	req := make([]byte, 0, 3+len(user)+len(password))
	req = append(append(req, 1, byte(len(user))), user...)
	req = append(append(req, byte(len(password))), password...)
	if _, err := c.Write(req); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return clearer(err)
	}
	if buf[1] != 0 {
		return &socksFault{"the proxy refused the credentials the pool holds for it", "proxy_configuration_error", verdict.CredentialsRefused}
	}
	return nil
}

func splitAuthority(authority string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(authority)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return host, uint16(n), err
}

// handshakeFault words a failed way to the target.
func handshakeFault(err error) *verdict.Error {
	f := fault(tunnelling, err)
	var s *socksFault
	if errors.As(err, &s) {
		f.Reason, f.Cause = s.reason, s.cause
	}
	var p *protocolError
	if errors.As(err, &p) {
		f.Reason, f.Cause = "proxy_configuration_error", verdict.ProxyProtocol
	}
	return f
}
