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

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// fault words err as the fault of an attempt at that phase, with the error
// token of RFC 9209 section 2.3. Nothing of an address with credentials is
// ever part of a net or tls error, so err may be shown.
func fault(phase retry.Phase, err error) *retry.Fault {
	f := &retry.Fault{Phase: phase, Err: err, Unsent: phase <= retry.Handshake}
	f.Timeout = errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		f.Timeout = true
	}
	f.Reason = reason(phase, err, f.Timeout)
	if f.Ours = exhausted(err); f.Ours {
		f.Reason = "proxy_internal_error"
	}
	if f.Timeout {
		f.Err = &late{phase, err}
	}
	return f
}

// late is a deadline that passed, in words that say what was waited for.
type late struct {
	phase retry.Phase
	err   error
}

func (l *late) Error() string {
	switch l.phase {
	case retry.Dial:
		return "the connection did not stand in time"
	case retry.Handshake:
		return "the proxy did not finish its handshake in time"
	case retry.Write:
		return "the request was not taken in time"
	case retry.Head:
		return "no answer came in time"
	}
	return "the body stood still for too long"
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

func reason(phase retry.Phase, err error, timeout bool) string {
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
	case timeout && phase <= retry.Handshake:
		return "connection_timeout"
	case timeout && phase == retry.Write:
		return "connection_write_timeout"
	case timeout && phase == retry.Head:
		return "http_response_timeout"
	case timeout:
		return "connection_read_timeout"
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
	case phase == retry.Read:
		return "http_response_incomplete"
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
