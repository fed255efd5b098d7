package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// Intercept are the settings of interception. For some targets, the gateway makes the TLS handshake with the client
// in place of the target. It serves the requests inside the TLS connection like requests in absolute form
// (docs/interception.md).
type Intercept struct {
	Authority *intercept.Authority // signs the certificates that clients get
	// Names reports whether the tunnels of a user to a target are intercepted. The host is in lower case and has no
	// port. The user is "" if the gateway has no users.
	Names func(host string, port uint16, user string) bool
}

// interception is an Intercept in force.
type interception struct {
	Intercept
	tls *tls.Config // for the TLS connections with intercepted clients
}

// interceptionOf returns the interception for new settings. The parameter before is the interception until now. If the
// authority is the same, the result keeps the certificates and TLS sessions that the interception had until now.
func interceptionOf(set *Intercept, before *interception) *interception {
	if set == nil {
		return nil
	}
	if before != nil && before.Authority.HasSameCertificate(set.Authority) {
		return &interception{Intercept{before.Authority, set.Names}, before.tls}
	}
	authority := set.Authority
	return &interception{*set, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, hello.Conn.(*rereadConn).choose(hello.ServerName)
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return authority.Certificate(hello.Conn.(*rereadConn).name)
		},
	}}
}

// rereadConn is a client connection below TLS. Its first bytes are in the buffer of an http1.Reader. It keeps the
// client's bytes until the ClientHello has been read, so that the connection can still become an ordinary tunnel.
type rereadConn struct {
	net.Conn
	reader  *http1.Reader
	host    string                 // the host of the CONNECT
	permits func(name string) bool // reports whether a server name other than host is intercepted
	name    string                 // the name in the certificate; "" until the ClientHello has been read
	kept    []byte                 // the bytes that the client has sent until the end of its ClientHello
	mute    bool                   // the client is not intercepted, and gets no TLS alert
	streams *multiplexed           // nil until the client has chosen HTTP/2
}

// errNotIntercepted is the error of the handshake with a client whose server name is not intercepted.
var errNotIntercepted = errors.New("no rule intercepts the server name of the client, or the authority excludes it")

// choose sets the name in the certificate. It is the server name in the ClientHello or, without a server name, the host
// of the CONNECT. If the server name is not intercepted, choose returns an error.
func (c *rereadConn) choose(serverName string) error {
	name := normalName(serverName)
	if name != "" && name != c.host && !c.permits(name) {
		c.mute = true
		return errNotIntercepted
	}
	if c.name = name; name == "" {
		c.name = c.host
	}
	c.kept = nil
	return nil
}

// normalName returns a server name in the form of proxyhttp.Authority.Host.
func normalName(serverName string) string {
	return strings.ToLower(strings.TrimSuffix(serverName, "."))
}

// Read implements io.Reader.
func (c *rereadConn) Read(p []byte) (n int, err error) {
	if early := c.reader.Buffered(); len(early) > 0 {
		n = copy(p, early)
		c.reader.Discard(n)
		c.reader.Release()
	} else {
		n, err = c.Conn.Read(p)
	}
	if c.name == "" {
		c.kept = append(c.kept, p[:n]...)
	}
	return n, err
}

// Write implements io.Writer.
func (c *rereadConn) Write(p []byte) (int, error) {
	if c.mute {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// unread returns a reader whose buffer has all bytes that the client has sent so far.
func (c *rereadConn) unread() *http1.Reader {
	all := append(c.kept, c.reader.Buffered()...)
	r := http1.NewBulkReader(io.MultiReader(bytes.NewReader(all), c.Conn))
	_ = r.ReadAhead() // the MultiReader has bytes, so ReadAhead neither waits nor fails
	return r
}

// inner holds the data of a CONNECT that the requests of its intercepted connection use.
type inner struct {
	authority   proxyhttp.Authority // the target
	serverName  string              // the server name in the ClientHello; "" if it is the host of the target
	user        string              // name of the user; "" if the gateway has no users
	credentials []byte              // the CONNECT's Proxy-Authorization; nil without this field
	fields      []http1.Field       // the CONNECT's X-Whirlpool-* fields

	// The fields below change with each request. Therefore each front has a copy of this struct.
	named    proxyhttp.Authority // the host of the last request
	absolute []byte              // the URL of the last request
}

// firstByteWait is the longest wait for the first byte of a client that may be intercepted. The wait is limited
// because in some protocols the server sends first: the client then sends nothing until it has received bytes of the
// server.
const firstByteWait = 2 * time.Second

// intercepted returns the interception of a tunnel; nil if the tunnel is not intercepted. The parameter to is the
// tunnel's target. The parameter a is the user's account; it is nil if the gateway has no users.
func (s *Server) intercepted(set *settings, to *proxyhttp.Authority, a *access.Account) *interception {
	i := set.intercept
	if i == nil || !i.Names(to.Host, portOf(to.HostPort), nameOf(a)) {
		return nil
	}
	if _, err := i.Authority.Certificate(to.Host); err != nil {
		s.unaccepted.excluded(s.Log, to.Host, err)
		return nil
	}
	return i
}

// nameOf returns the name of the user with the account a; "" if a is nil.
func nameOf(a *access.Account) string {
	if a == nil {
		return ""
	}
	return a.Name
}

// intercept serves the client of a CONNECT in place of the target, if the target is intercepted and the client speaks
// TLS. If the method returns false, the request must be served as a CONNECT. In that case the field r.established is
// set if the client has already got the response to the CONNECT.
func (r *request) intercept() (served bool) {
	if r.inner != nil {
		return false
	}
	i := r.server.intercepted(r.set, &r.cache.authority, r.cache.account)
	if i == nil {
		return false
	}
	in := &inner{authority: r.cache.authority, user: nameOf(r.cache.account), credentials: bytes.Clone(r.credentials())}
	for i := range r.head.Fields {
		if f := &r.head.Fields[i]; f.Kind == http1.Whirlpool {
			in.fields = append(in.fields, http1.Field{
				Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value), Kind: f.Kind,
			})
		}
	}
	outcome := r.outcome
	r.outcome.Final = core.FinalSuccess
	r.establish()
	if !r.conn.write(r.out.buf) {
		return true
	}
	r.out.back()
	r.established = true
	r.input.Started = r.server.Now()
	served, ended := r.conn.intercept(r.server, i, in)
	if !served {
		r.outcome = outcome
		return false
	}
	r.log.ran, r.log.final, r.log.status = true, core.FinalSuccess, http.StatusOK
	r.log.left, r.log.code = endingOf(ended)
	r.conn.out.sent = 0 // the records of the requests inside the tunnel include these bytes
	return true
}

// intercept is like request.intercept, for the client of a SOCKS5 request.
func (f *socksFront) intercept(to *proxyhttp.Authority) (served bool) {
	i := f.server.intercepted(f.set, to, f.account)
	if i == nil {
		return false
	}
	f.reply(socks5.Succeeded)
	f.established = true
	l := f.record()
	l.Target, l.Started, l.Executed, l.Final, l.Status = to.HostPort, f.server.Now(), true, core.FinalSuccess,
		http.StatusOK
	in := &inner{authority: *to, user: nameOf(f.account), credentials: f.credentials}
	served, ended := f.conn.intercept(f.server, i, in)
	if !served {
		return false
	}
	l.ClientLeft, l.Code = endingOf(ended)
	if f.server.logs() {
		in := executor.Request{Method: l.Method, Host: to.Host, Target: to.Target, User: l.User}
		f.server.Executor.Route(&in)
		l.Rules = in.Route.Labels()
		f.server.logEnded(&l, f.conn)
	}
	return true
}

// intercept serves the client in place of the target. It returns served = false if the connection must become an
// ordinary tunnel, because the client does not speak TLS or its server name is not intercepted. The result ended is
// executor.ErrClientLeft if the client has left before its first byte, and executor.ErrShutdown if a drain has ended
// the wait for this byte or the handshake; otherwise nil.
func (c *connection) intercept(s *Server, i *interception, in *inner) (served bool, ended error) {
	// Until the first request, the connection may be closed to make room for another client.
	c.read.setAwaited(awaitsRequest, c.now())
	c.read.enter(idle)
	speaks, ended := c.speaksTLS()
	if speaks {
		served, ended = s.serveIntercepted(c, i, in)
	}
	if !served && ended == nil {
		c.read.enter(busy)
		c.read.await(time.Time{})
	}
	return served || ended != nil, ended
}

// endingOf returns two fields of the access log: left (the client has left) and code. The argument is the second result
// of connection.intercept.
func endingOf(ended error) (left bool, code string) {
	if ended == executor.ErrShutdown {
		return false, "shutting_down"
	}
	return ended != nil, ""
}

// drainEnded reports whether err, the error of a read from the client, is due to a drain.
func (c *connection) drainEnded(err error) bool {
	return c.draining() && errors.Is(err, os.ErrDeadlineExceeded)
}

// speaksTLS waits for the client's first byte and reports whether this byte begins a TLS handshake. The result ended
// has the same meaning as in the method intercept.
func (c *connection) speaksTLS() (speaks bool, ended error) {
	if len(c.reader.Buffered()) == 0 {
		c.read.await(c.now().Add(firstByteWait))
		err := c.reader.ReadAhead()
		c.read.await(time.Time{})
		switch {
		case err != nil && c.drainEnded(err):
			return false, executor.ErrShutdown
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return false, executor.ErrClientLeft
		}
	}
	first := c.reader.Buffered()
	return len(first) > 0 && first[0] == tlsHandshake, nil
}

// serveIntercepted makes the TLS handshake with a client in place of the target, and serves the requests inside. It
// returns false if the server name of the client is not intercepted. The result ended has the same meaning as in the
// method intercept.
func (s *Server) serveIntercepted(c *connection, i *interception, in *inner) (served bool, ended error) {
	below := &rereadConn{Conn: c.raw, reader: c.reader, host: in.authority.Host, permits: func(name string) bool {
		_, err := i.Authority.Certificate(name)
		return err == nil && i.Names(name, portOf(in.authority.HostPort), in.user)
	}}
	conn := tls.Server(below, i.tls)
	c.read.await(s.Now().Add(s.settings.Load().Head))
	if err := conn.HandshakeContext(c.ctx); below.mute {
		c.reader = below.unread()
		c.read.await(time.Time{})
		return false, nil
	} else if err != nil && c.drainEnded(err) {
		s.Log.Debug("the gateway drained before the end of a TLS handshake with an intercepted client",
			slog.String("host", in.authority.Host))
		return true, executor.ErrShutdown
	} else if err != nil {
		s.countHandshake(false)
		s.unaccepted.handshake(s.Log, in.authority.Host, err)
		return true, nil
	}
	s.countHandshake(true)
	c.read.await(time.Time{})
	state := conn.ConnectionState()
	if name := normalName(state.ServerName); name != in.authority.Host {
		in.serverName = name
	}
	if state.NegotiatedProtocol == "h2" {
		s.streams.serve(s, c, conn, below, in)
		return true, nil
	}
	c.raw, c.reader = conn, http1.NewReader(conn)
	c.out.init(conn, c.out.tcp)
	c.read.enter(idle)
	newInnerFront(s, c, in).serve()
	return true, nil
}

// newInnerFront returns a front for the requests of an intercepted connection. If the client speaks HTTP/2, the front
// serves one stream of the connection at a time.
func newInnerFront(s *Server, c *connection, in *inner) *httpFront {
	own := *in
	f := &httpFront{}
	f.inner = &own
	f.start(s, c)
	return f
}

func (s *Server) countHandshake(ok bool) {
	if s.Intercepted != nil {
		s.Intercepted(ok)
	}
}

// innerTarget parses the target of an intercepted request: in origin form or, as some clients send it, in absolute
// form. The request must be for the host of the CONNECT or the name in the ClientHello.
func (r *request) innerTarget() (t proxyhttp.Target, bad *proxyhttp.ErrorResponse) {
	r.cache.authority = r.inner.authority
	r.log.target = r.inner.authority.HostPort
	host := r.head.Host
	if len(host) == 0 {
		host = []byte(r.inner.authority.Host)
		if strings.Contains(r.inner.authority.Host, ":") {
			host = []byte("[" + r.inner.authority.Host + "]")
		}
	}
	path := r.head.Target
	var err error
	switch {
	case r.input.Tunnel:
		err = errors.New("a CONNECT inside of an intercepted connection")
	case bytes.ContainsAny(host, "/?#"):
		err = errors.New("the Host field is not host:port")
	case len(path) > 0 && path[0] == '/', r.input.Method == http.MethodOptions && string(path) == "*":
		if path, _, _ = bytes.Cut(path, []byte("#")); string(path) == "*" {
			path = nil
		}
		r.inner.absolute = append(append(append(r.inner.absolute[:0], "https://"...), host...), path...)
		t, err = proxyhttp.ParseTarget(r.head.Method, r.inner.absolute)
	default:
		if t, err = proxyhttp.ParseTarget(r.head.Method, path); err == nil && !t.TLS {
			err = errors.New("an http:// URL inside of an intercepted connection")
		}
	}
	if err != nil {
		bad = badRequest("bad_target", err.Error())
		bad.Close = true
		return t, bad
	}
	r.head.Target = t.Absolute
	if err := r.inner.named.Set(t.Host, "443"); err != nil {
		return t, badRequest("bad_target", err.Error())
	}
	if named := r.inner.named.Host; named != r.inner.authority.Host && (named == "" || named != r.inner.serverName) {
		return t, &proxyhttp.ErrorResponse{
			Status: http.StatusMisdirectedRequest, Code: "misdirected_request", Reason: "http_request_error",
			Message: "the request's host is not the host of the connection",
		}
	}
	return t, nil
}

// isGRPC reports whether q is a call of gRPC on an intercepted HTTP/2 connection.
func (r *request) isGRPC(q *transport.Request) bool {
	if r.inner == nil || !r.conn.stream {
		return false
	}
	for i := range q.Fields {
		if f := &q.Fields[i]; http1.EqualFold(f.Name, "content-type") {
			return bytes.HasPrefix(f.Value, []byte("application/grpc"))
		}
	}
	return false
}
