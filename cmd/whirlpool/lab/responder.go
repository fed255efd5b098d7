package lab

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
)

// ExitField is a header field in the responses of a Responder. Its value is the address from which the request came.
const ExitField = "X-Exit-Address"

// Responder is a target of health checks. It responds to every request with status 200. The body and the field
// ExitField have the address from which the request came: the exit address of the proxy.
type Responder struct {
	Addr string // host:port

	server *http.Server
}

// StartResponder starts a Responder that listens at addr ("127.0.0.1:0" for any free port). If certificate is nil,
// the Responder serves http://, otherwise https://.
func StartResponder(addr string, certificate *tls.Certificate) (*Responder, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &Responder{Addr: l.Addr().String(), server: &http.Server{
		Handler: http.HandlerFunc(respond), ErrorLog: log.New(io.Discard, "", 0),
	}}
	if certificate != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*certificate}})
	}
	go r.server.Serve(l)
	return r, nil
}

func respond(w http.ResponseWriter, q *http.Request) {
	host, _, err := net.SplitHostPort(q.RemoteAddr)
	if err != nil {
		host = q.RemoteAddr
	}
	w.Header().Set(ExitField, host)
	io.WriteString(w, host)
}

// Close stops the responder.
func (r *Responder) Close() { r.server.Close() }
