package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// step is how far an attempt had come when it failed.
type step uint8

// The steps of an attempt, in order.
const (
	dialing    step = iota + 1 // opening a socket to the proxy, or directly to the target
	greeting                   // TLS with an https:// proxy
	tunnelling                 // CONNECT or SOCKS
	targetTLS                  // TLS with the target, inside the tunnel
	sending                    // the request
	waiting                    // for the answer's head
)

// stepCauses are the causes of a step's failure: of a deadline, and of anything else.
var stepCauses = [...]struct{ timeout, other core.Cause }{
	dialing:    {verdict.ProxyConnectTimeout, verdict.ProxyUnreachable},
	greeting:   {verdict.ProxyConnectTimeout, verdict.ProxyTLSFailed},
	tunnelling: {verdict.TunnelTimeout, verdict.TunnelBroke},
	targetTLS:  {verdict.TunnelTimeout, verdict.TargetTLSFailed},
	sending:    {verdict.RequestTimeout, verdict.RequestNotSent},
	waiting:    {verdict.NoAnswerInTime, verdict.ConnectionClosed},
}

// fault states why an attempt failed at that step. Nothing of an address with
// credentials is ever part of a net or tls error, so err may be shown.
func fault(at step, err error) *verdict.Error {
	f := &verdict.Error{Err: err}
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		timeout = true
	}
	f.Reason = reason(at, err, timeout)
	var proto *http1.ProtocolError
	var dns *net.DNSError
	switch {
	case exhausted(err):
		f.Cause, f.Reason, f.PartSent = verdict.LocalLimit, "proxy_internal_error", at >= sending
	case timeout:
		f.Cause, f.Err = stepCauses[at].timeout, &late{at, err}
	case at == dialing && errors.As(err, &dns):
		f.Cause = verdict.ProxyNameUnknown
	case at == targetTLS && f.Reason == "tls_certificate_error":
		f.Cause = verdict.TargetCertificate
	case at >= sending && errors.As(err, &proto):
		f.Cause = verdict.AnswerMalformed
	default:
		f.Cause = stepCauses[at].other
	}
	return f
}

// late is a deadline that passed, in words that say what was waited for.
type late struct {
	at  step
	err error
}

func (l *late) Error() string {
	switch l.at {
	case dialing:
		return "the connection did not stand in time"
	case greeting, tunnelling, targetTLS:
		return "the proxy did not finish its handshake in time"
	case sending:
		return "the request was not taken in time"
	}
	return "no answer came in time"
}

func (l *late) Unwrap() error { return l.err }

// exhausted reports whether err says that this machine is at a limit of its
// own, which is no fault of any proxy.
func exhausted(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL) && !sourceless(err)
}

// sourceless reports whether no address of this machine leads to where err says
// that a dial went: to IPv6, say, where there is none. The kernel gives that the
// same name as being out of ports (EADDRNOTAVAIL).
func sourceless(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) {
		return false
	}
	to, ok := op.Addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: to.IP, Port: to.Port, Zone: to.Zone}) // sends nothing
	if err != nil {
		return true
	}
	c.Close()
	return false
}

func reason(at step, err error, timeout bool) string {
	var (
		dns     *net.DNSError
		proto   *http1.ProtocolError
		alert   tls.AlertError
		record  tls.RecordHeaderError
		cert    *tls.CertificateVerificationError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns) && dns.IsTimeout:
		return "dns_timeout"
	case errors.As(err, &dns):
		return "dns_error"
	case timeout && at <= targetTLS:
		return "connection_timeout"
	case timeout && at == sending:
		return "connection_write_timeout"
	case timeout:
		return "http_response_timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "destination_ip_unroutable"
	case errors.As(err, &cert), errors.As(err, &invalid):
		return "tls_certificate_error"
	case errors.As(err, &alert):
		return "tls_alert_received"
	case errors.As(err, &record):
		return "tls_protocol_error"
	case errors.As(err, &proto):
		return "http_protocol_error"
	case errors.Is(err, errNoAnswer), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "connection_terminated"
	}
	return "destination_unavailable"
}

// Errors of a proxy that answers, but not as it should.
var (
	errNoAnswer = errors.New("the proxy closed the connection without an answer")
	errStopped  = errors.New("the attempt was called off")
)

// clearer replaces an error whose text says nothing to a person.
func clearer(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errNoAnswer
	}
	return err
}
