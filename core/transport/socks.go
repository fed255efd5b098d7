package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// socksError is an error that the proxy reports in a SOCKS reply.
type socksError struct {
	text, reason string
	cause        core.Cause
}

func (e *socksError) Error() string { return e.text }

// protocolError is a reply that is not valid SOCKS.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

func notSOCKS(format string, value byte) error { return &protocolError{fmt.Sprintf(format, value)} }

// socksReplies maps the reply codes of RFC 1928 section 6, and socks5.LoopDetected, to errors. Code 7 (command not
// supported) is charged to the proxy: a proxy that does not support CONNECT can serve no target.
var socksReplies = map[byte]socksError{
	1: {"SOCKS5: general failure of the proxy", "destination_unavailable", verdict.TunnelFailed},
	2: {"SOCKS5: the proxy's rules forbid this target", "destination_ip_prohibited", verdict.TunnelRefused},
	3: {"SOCKS5: network unreachable", "destination_ip_unroutable", verdict.TargetUnreachable},
	4: {"SOCKS5: host unreachable", "destination_unavailable", verdict.TargetUnreachable},
	5: {"SOCKS5: the target refused the connection", "connection_refused", verdict.TargetUnreachable},
	6: {"SOCKS5: TTL expired", "connection_timeout", verdict.TargetUnreachable},
	7: {"SOCKS5: the proxy does not support CONNECT", "proxy_configuration_error", verdict.ProxyProtocol},
	8: {"SOCKS5: the proxy does not support this type of address", "proxy_configuration_error", verdict.TunnelFailed},
	byte(socks5.LoopDetected): {"SOCKS5: all proxies of the gateway lead back", "proxy_loop_detected",
		verdict.ProxyLoop},
}

// socksGreet negotiates the authentication method with the proxy at the far end of c, and authenticates (RFC 1928
// section 3, RFC 1929). The buffer buf has at least 262 bytes.
func socksGreet(c net.Conn, a upstream.Address, offer *tokenOffer, buf []byte) error {
	hasCredentials := a.Username != "" || a.Password != ""
	methods := append(make([]byte, 0, 3), socks5.NoAuth)
	if hasCredentials {
		methods = append(methods, socks5.UserPassword)
	}
	if offer.tokens != nil {
		methods = append(methods, socks5.Tokens)
	}
	if _, err := c.Write(append([]byte{socks5.Version, byte(len(methods))}, methods...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return readError(err)
	}
	if buf[0] != socks5.Version {
		return notSOCKS("SOCKS5: the proxy replies with version %d", buf[0])
	}
	method := buf[1]
	if method == socks5.Tokens && offer.tokens != nil {
		offer.accepted = true
		var err error
		if method, err = socksSendTokens(c, offer.tokens, buf); err != nil {
			return err
		}
	}
	switch {
	case method == socks5.NoAuth:
	case method == socks5.UserPassword && hasCredentials:
		if err := socksAuthenticate(c, a, buf); err != nil {
			return err
		}
	case method == socks5.NoMethod && hasCredentials:
		return &socksError{"SOCKS5: the proxy accepts neither user name and password nor a connection without them",
			"proxy_configuration_error", verdict.CredentialsRefused}
	case method == socks5.NoMethod || method == socks5.UserPassword:
		return &socksError{"SOCKS5: the proxy requires credentials, and none are configured",
			"proxy_configuration_error", verdict.CredentialsRefused}
	default:
		return notSOCKS("SOCKS5: the proxy chose authentication method %d, which was not offered", method)
	}
	return nil
}

// socksSendTokens sends loop tokens to a proxy that has chosen the method socks5.Tokens. Only a Whirlpool chooses this
// method. The proxy then chooses a second authentication method, which socksSendTokens returns.
func socksSendTokens(c net.Conn, tokens, buf []byte) (method byte, err error) {
	if _, err := c.Write(socks5.AppendTokens(nil, tokens)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, buf[:3]); err != nil {
		return 0, readError(err)
	}
	switch status := socks5.TokensStatus(buf[1]); {
	case buf[0] != socks5.TokensVersion:
		return 0, notSOCKS("SOCKS5: the proxy answers tokens with version %d", buf[0])
	case status == socks5.TokensAccepted:
		return buf[2], nil
	case status == socks5.TokensOwn:
		return 0, &socksError{"SOCKS5: the proxy leads back to a gateway that has sent this request",
			"proxy_loop_detected", verdict.ProxyLoop}
	case status == socks5.TokensTooMany:
		return 0, &socksError{"SOCKS5: this request has passed too many gateways", "http_request_denied",
			verdict.TunnelRefused}
	default:
		return 0, notSOCKS("SOCKS5: the proxy answers tokens with the unknown status %d", byte(status))
	}
}

// socksHandshake asks the proxy at the far end of c for a connection to authority (host:port). A host name is sent to
// the proxy, which resolves it.
func socksHandshake(c net.Conn, a upstream.Address, authority string, offer *tokenOffer) error {
	if a.Scheme == upstream.SOCKS4 || a.Scheme == upstream.SOCKS4A {
		return socks4Handshake(c, a, authority)
	}
	var buf [262]byte
	if _, _, err := splitAuthority(authority); err != nil {
		return err
	}
	if err := socksGreet(c, a, offer, buf[:]); err != nil {
		return err
	}
	req, err := appendSOCKSRequest(buf[:0], authority)
	if err != nil {
		return err
	}
	if _, err := c.Write(req); err != nil {
		return err
	}
	return readSOCKSReply(c, buf[:])
}

// appendSOCKSRequest appends a CONNECT request for authority (RFC 1928 section 4).
func appendSOCKSRequest(b []byte, authority string) ([]byte, error) {
	host, port, err := splitAuthority(authority)
	if err != nil {
		return nil, err
	}
	b = append(b, socks5.Version, socks5.Connect, 0)
	if ip, err := netip.ParseAddr(host); err != nil {
		if len(host) > 255 {
			return nil, errors.New("SOCKS5: the target's name has more than 255 bytes")
		}
		b = append(b, socks5.Name, byte(len(host)))
		b = append(b, host...)
	} else if ip = ip.Unmap(); ip.Is4() {
		b = append(append(b, socks5.IPv4), ip.AsSlice()...)
	} else {
		b = append(append(b, socks5.IPv6), ip.AsSlice()...)
	}
	return append(b, byte(port>>8), byte(port)), nil
}

// readSOCKSReply reads exactly one reply to a request (RFC 1928 section 6). The buffer buf has at least 262 bytes.
func readSOCKSReply(c net.Conn, buf []byte) error {
	if _, err := io.ReadFull(c, buf[:4]); err != nil {
		return readError(err)
	}
	if buf[0] != socks5.Version {
		return notSOCKS("SOCKS5: the proxy replies with version %d", buf[0])
	}
	if code := buf[1]; code != 0 {
		if e, known := socksReplies[code]; known {
			return &e
		}
		// An unknown code does not mean that the proxy speaks no SOCKS: Tor uses such codes for errors of targets (its
		// proposal 304).
		return &socksError{fmt.Sprintf("SOCKS5: the proxy replies with the unknown code %d", code),
			"proxy_configuration_error", verdict.TunnelFailed}
	}
	// The bound address is read, but not used.
	size := 0
	switch buf[3] {
	case socks5.IPv4:
		size = 4
	case socks5.IPv6:
		size = 16
	case socks5.Name:
		if _, err := io.ReadFull(c, buf[:1]); err != nil {
			return readError(err)
		}
		size = int(buf[0])
	default:
		return notSOCKS("SOCKS5: the proxy's reply has the unknown address type %d", buf[3])
	}
	_, err := io.ReadFull(c, buf[:size+2])
	return readError(err)
}

// socksAuthenticate sends user name and password to the proxy, and reads its reply (RFC 1929).
func socksAuthenticate(c net.Conn, a upstream.Address, buf []byte) error {
	user, password := a.Username, a.Password.Reveal()
	if len(user) == 0 || len(user) > 255 || len(password) > 255 {
		return &socksError{"SOCKS5: a user name has 1 to 255 bytes and a password up to 255",
			"proxy_configuration_error", verdict.CredentialsRefused}
	}
	req := make([]byte, 0, 3+len(user)+len(password))
	req = append(append(req, 1, byte(len(user))), user...)
	req = append(append(req, byte(len(password))), password...)
	if _, err := c.Write(req); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return readError(err)
	}
	if buf[1] != 0 {
		return &socksError{"SOCKS5: the proxy refused the configured credentials",
			"proxy_configuration_error", verdict.CredentialsRefused}
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

// socksFailure returns the error of an attempt whose SOCKS handshake has failed.
func socksFailure(err error) *verdict.Error {
	verr := newError(stepTunnel, err)
	var s *socksError
	if errors.As(err, &s) {
		verr.Reason, verr.Cause = s.reason, s.cause
	}
	var p *protocolError
	if errors.As(err, &p) {
		verr.Reason, verr.Cause = "proxy_configuration_error", verdict.ProxyProtocol
	}
	return verr
}
