package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
)

// tlsFront makes a TLS handshake with a client. After the handshake, the front in the field inner serves the client.
type tlsFront struct {
	server *Server
	conn   *connection
	tls    *tls.Conn // conn.netConn
	inner  front
}

// newTLSFront returns a function that makes a tlsFront. The parameter inner makes the front that serves the client
// after the handshake.
func newTLSFront(newInner frontFunc) frontFunc {
	return func(s *Server, c *connection) front {
		return tlsFront{s, c, c.netConn.(*tls.Conn), newInner(s, c)}
	}
}

// serve implements front. The handshake may take as long as the head of a request (Settings.Head).
func (f tlsFront) serve() {
	now := f.server.Now()
	if !f.conn.readControl.beginRequestWait(now) {
		return
	}
	if f.handshake(now.Add(f.server.settings.Load().Head)) {
		f.inner.serve()
	}
}

// refusedHandshakeTimeout is the longest time for the handshake with a client that is refused.
const refusedHandshakeTimeout = time.Second

// respondNoPlace implements front.
func (f tlsFront) respondNoPlace() {
	until := f.server.Now().Add(refusedHandshakeTimeout)
	f.conn.writer.setDeadline(until)
	if f.handshake(until) {
		f.inner.respondNoPlace()
	}
}

// handshake makes the handshake and reports whether it has succeeded. It fails if the handshake has not ended in time.
func (f tlsFront) handshake(until time.Time) bool {
	f.conn.readControl.setDeadline(until)
	if err := f.tls.Handshake(); err != nil {
		if f.conn.drainEnded(err) {
			f.server.Log.Debug("the gateway drained before the end of a TLS handshake with a client")
		} else {
			f.logHandshakeError(err)
		}
		return false
	}
	f.conn.certNames = certificateNames(f.tls.ConnectionState().VerifiedChains)
	return true
}

// logHandshakeError logs a failed handshake. A client that has sent HTTP without TLS gets a response.
func (f tlsFront) logHandshakeError(err error) {
	f.server.Log.Debug("TLS handshake with a client failed", slog.Any("error", err))
	var first tls.RecordHeaderError
	if errors.As(err, &first) && first.Conn != nil && beginsHTTP(first.RecordHeader[:]) {
		f.conn.writer.setDeadline(f.server.Now().Add(refusedHandshakeTimeout))
		e := proxyhttp.ErrorResponse{
			Status: http.StatusBadRequest, Code: codeTLSRequired, Reason: "http_request_error",
			Message: "this port expects TLS; use https:// for the proxy",
		}
		_, _ = first.Conn.Write(e.AppendClosing(nil))
		f.server.reportRefused(f.conn, refusedRequest{code: codeTLSRequired})
	}
}

// codeTLSRequired is the code of the response to a client that sends HTTP without TLS to a listener with TLS.
const codeTLSRequired = "tls_required"

// beginsHTTP reports whether b, the first bytes of a connection, can begin an HTTP/1.1 request.
func beginsHTTP(b []byte) bool {
	for _, m := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace,
	} {
		if n := min(len(b), len(m)); bytes.Equal(b[:n], []byte(m)[:n]) {
			return true
		}
	}
	return false
}

// certificateNames returns the names of a verified client certificate: the common name, then the alternative names (RFC
// 5280 section 4.2.1.6). Any of them may be the name of a user. It returns nil if there is no certificate.
func certificateNames(chains [][]*x509.Certificate) (names []string) {
	if len(chains) == 0 {
		return nil
	}
	leaf := chains[0][0]
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	names = append(names, leaf.DNSNames...)
	return append(names, leaf.EmailAddresses...)
}
