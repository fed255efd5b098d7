package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// step is a step of an attempt. The attempt may fail at each step.
type step uint8

// The steps of an attempt, in order.
const (
	stepDial      step = iota + 1 // opening a socket to the proxy, or directly to the target
	stepProxyTLS                  // TLS with an https:// proxy
	stepTunnel                    // CONNECT or SOCKS
	stepTargetTLS                 // TLS with the target, inside the tunnel
	stepSend                      // sending the request
	stepWait                      // waiting for the response's head
)

// stepCauses holds, for each step of an attempt, the cause of a timeout and the cause of any other failure at this
// step.
var stepCauses = [...]struct{ timeout, other core.Cause }{
	stepDial:      {verdict.ProxyConnectTimeout, verdict.ProxyUnreachable},
	stepProxyTLS:  {verdict.ProxyConnectTimeout, verdict.ProxyTLSFailed},
	stepTunnel:    {verdict.TunnelTimeout, verdict.TunnelBroke},
	stepTargetTLS: {verdict.TunnelTimeout, verdict.TargetTLSFailed},
	stepSend:      {verdict.RequestTimeout, verdict.RequestNotSent},
	stepWait:      {verdict.NoAnswerInTime, verdict.ConnectionClosed},
}

// newError returns the error of an attempt that failed with err at the given step. Errors of package net and
// crypto/tls contain no credentials, so the text of err may be shown.
func newError(failedStep step, err error) *verdict.Error {
	verr := &verdict.Error{Err: err}
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if ne, ok := err.(net.Error); ok && ne.Timeout() || runtime.GOOS == "windows" && socket.Is(err, syscall.ETIMEDOUT) {
		timeout = true
	}
	verr.Reason = reasonToken(failedStep, err, timeout)
	var proto *http1.ProtocolError
	var dns *net.DNSError
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		verr.Cause, verr.Reason, verr.Err = verdict.EgressDenied, "destination_ip_prohibited", denied
	case isLocalLimit(err):
		verr.Cause, verr.Reason, verr.PartSent = verdict.LocalLimit, "proxy_internal_error", failedStep >= stepSend
	case timeout:
		verr.Cause, verr.Err = stepCauses[failedStep].timeout, &timeoutError{failedStep, err}
	case failedStep == stepDial && errors.As(err, &dns):
		verr.Cause = verdict.ProxyNameUnknown
	case failedStep == stepTargetTLS && verr.Reason == "tls_certificate_error":
		verr.Cause = verdict.TargetCertificate
	case failedStep >= stepSend && errors.As(err, &proto):
		verr.Cause = verdict.AnswerMalformed
	default:
		verr.Cause = stepCauses[failedStep].other
	}
	return verr
}

// timeoutError reports that a deadline has passed. Its text names the operation that did not end in time.
type timeoutError struct {
	step step
	err  error
}

func (e *timeoutError) Error() string {
	switch e.step {
	case stepDial:
		return "the connection was not established in time"
	case stepProxyTLS, stepTunnel, stepTargetTLS:
		return "the proxy did not finish its handshake in time"
	case stepSend:
		return "the proxy did not read the request in time"
	}
	return "no response arrived in time"
}

func (e *timeoutError) Unwrap() error { return e.err }

// isLocalLimit reports whether a limit of this machine, and not the proxy, caused err.
func isLocalLimit(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC} {
		if socket.Is(err, e) {
			return true
		}
	}
	return socket.Is(err, syscall.EADDRNOTAVAIL) && !noSourceAddress(err)
}

// noSourceAddress reports whether this machine has no address from which the destination of a failed dial can be
// reached, for example because it has no IPv6. The kernel then returns the same error code (EADDRNOTAVAIL) as when no
// free port is left.
func noSourceAddress(err error) bool {
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

// reasonToken returns the RFC 9209 error token of err.
func reasonToken(failedStep step, err error, timeout bool) string {
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
	case timeout && failedStep <= stepTargetTLS:
		return "connection_timeout"
	case timeout && failedStep == stepSend:
		return "connection_write_timeout"
	case timeout:
		return "http_response_timeout"
	case socket.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case socket.Is(err, syscall.EHOSTUNREACH), socket.Is(err, syscall.ENETUNREACH), socket.Is(err,
		syscall.EADDRNOTAVAIL):
		return "destination_ip_unroutable"
	case errors.As(err, &cert), errors.As(err, &invalid):
		return "tls_certificate_error"
	case errors.As(err, &alert):
		return "tls_alert_received"
	case errors.As(err, &record):
		return "tls_protocol_error"
	case errors.As(err, &proto):
		return "http_protocol_error"
	case errors.Is(err, errNoResponse), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		socket.Is(err, syscall.ECONNRESET), socket.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "connection_terminated"
	}
	return "destination_unavailable"
}

// An attempt can fail although no function has returned an error. These are the errors of such attempts.
var (
	errNoResponse  = errors.New("the proxy closed the connection without a response")
	errIdleTimeout = errors.New("the proxy closed the idle connection with a 408")
	errCancelled   = errors.New("the attempt was cancelled")
)

// readError replaces io.EOF and io.ErrUnexpectedEOF by errNoResponse, whose text is clearer.
func readError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errNoResponse
	}
	return err
}
