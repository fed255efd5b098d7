package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// maxFailedHosts is the maximum number of hosts in interceptFailures. When this number is reached, the log gets no
// warnings about other hosts.
const maxFailedHosts = 1000

// interceptFailures has the hosts that cannot be intercepted. It limits the log to one warning for each of these hosts.
type interceptFailures struct {
	mu    sync.Mutex
	hosts map[string]struct{} // guarded by mu
}

// addHost adds a host to f, and reports whether the host is new. If f is full, it adds nothing and returns false.
func (f *interceptFailures) addHost(host string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.hosts[host]; known || len(f.hosts) >= maxFailedHosts {
		return false
	}
	if f.hosts == nil {
		f.hosts = map[string]struct{}{}
	}
	f.hosts[host] = struct{}{}
	return true
}

// logHandshake logs the error of a TLS handshake that the gateway made with a client in place of host.
func (f *interceptFailures) logHandshake(log *slog.Logger, host string, err error) {
	attrs := []any{slog.String("host", host), slog.Any("error", err)}
	switch {
	case !rejectsCertificate(err):
		log.Debug("the TLS handshake with an intercepted client failed", attrs...)
	case f.addHost(host):
		log.Warn("a client does not accept the certificate of the gateway for an intercepted host: make the client "+
			"trust the authority (whirlpool ca trust) or, if it accepts only one fixed certificate, add the host to "+
			"intercept.exclude; further refusals of this host are logged with level debug", attrs...)
	default:
		log.Debug("a client does not accept the certificate of the gateway for an intercepted host", attrs...)
	}
}

// logExcluded logs that a rule intercepts host, but the authority cannot sign a certificate for host.
func (f *interceptFailures) logExcluded(log *slog.Logger, host string, err error) {
	if f.addHost(host) {
		log.Warn("a host is not intercepted, because the authority cannot sign for it",
			slog.String("host", host), slog.Any("error", err))
	}
}

// rejectsCertificate reports whether err, the error of a handshake, means that the client does not accept the
// certificate. Such a client has sent an alert about the certificate, or has closed the connection. OpenSSL sends the
// alert without encryption; crypto/tls then reports a bad record.
func rejectsCertificate(err error) bool {
	var alert *net.OpError
	if errors.As(err, &alert) {
		switch alert.Op {
		case "remote error":
			return strings.Contains(alert.Error(), "certificate")
		case "local error":
			return strings.Contains(alert.Error(), "bad record MAC")
		}
	}
	return errors.Is(err, io.EOF) || socket.Is(err, syscall.ECONNRESET)
}
