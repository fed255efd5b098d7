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
	// Matches reports whether the tunnels of a user to a target are intercepted. The host is in lower case and has no
	// port. The user is "" if the gateway has no users.
	Matches func(host string, port uint16, user string) bool
}

type interception struct {
	Intercept
	tls *tls.Config // for the TLS connections with intercepted clients
}

// interceptionOf returns the interception for new settings. If the old interception has the same authority, the new
// interception takes over its certificates and TLS sessions.
func interceptionOf(set *Intercept, before *interception) *interception {
	if set == nil {
		return nil
	}
	if before != nil && before.Authority.HasSameCertificate(set.Authority) {
		return &interception{Intercept{before.Authority, set.Matches}, before.tls}
	}
	authority := set.Authority
	return &interception{*set, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, hello.Conn.(*rereadConn).chooseName(hello.ServerName)
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
	reader        *http1.Reader
	host          string                 // the host of the CONNECT
	namePermitted func(name string) bool // reports whether a server name other than host is intercepted
	name          string                 // the name in the certificate; "" until the ClientHello has been read
	helloBytes    []byte                 // the bytes that the client has sent until the end of its ClientHello
	dropWrites    bool                   // the client is not intercepted, and gets no TLS alert
	http2         *http2Conn             // nil until the client has chosen HTTP/2
}

// errNotIntercepted is the error of the handshake with a client whose server name is not intercepted.
var errNotIntercepted = errors.New("no rule intercepts the server name of the client, or the authority excludes it")

// chooseName sets the name in the certificate. It is the server name in the ClientHello or, without a server name, the
// host of the CONNECT. If the server name is not intercepted, it returns an error.
func (c *rereadConn) chooseName(serverName string) error {
	name := normalName(serverName)
	if name != "" && name != c.host && !c.namePermitted(name) {
		c.dropWrites = true
		return errNotIntercepted
	}
	if c.name = name; name == "" {
		c.name = c.host
	}
	c.helloBytes = nil
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
		c.helloBytes = append(c.helloBytes, p[:n]...)
	}
	return n, err
}

// Write implements io.Writer.
func (c *rereadConn) Write(p []byte) (int, error) {
	if c.dropWrites {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// newReader returns a reader whose buffer has all bytes that the client has sent so far.
func (c *rereadConn) newReader() *http1.Reader {
	all := append(c.helloBytes, c.reader.Buffered()...)
	r := http1.NewBulkReader(io.MultiReader(bytes.NewReader(all), c.Conn))
	_ = r.ReadAhead() // the MultiReader has bytes, so ReadAhead neither waits nor fails
	return r
}

// outerConnect holds the data of a CONNECT whose connection is intercepted, for the requests on that connection.
type outerConnect struct {
	authority   proxyhttp.Authority // the target
	serverName  string              // the server name in the ClientHello; "" if it is the host of the target
	user        string              // name of the user; "" if the gateway has no users
	credentials []byte              // the CONNECT's Proxy-Authorization; nil without this field
	fields      []http1.Field       // the CONNECT's X-Whirlpool-* fields

	// The fields below change with each request. Therefore each front has a copy of this struct.
	requestAuthority proxyhttp.Authority // the host of the last request
	requestURL       []byte              // the URL of the last request
}

// firstByteWait is the longest wait for the first byte of a client that may be intercepted. The wait is limited
// because in some protocols the server sends first: the client then sends nothing until it has received bytes of the
// server.
const firstByteWait = 2 * time.Second

// interceptionFor returns the interception of a user's tunnel to a target; nil if the tunnel is not intercepted. The
// account is nil if the gateway has no users.
func (s *Server) interceptionFor(set *settings, target *proxyhttp.Authority, a *access.Account) *interception {
	i := set.interception
	if i == nil || !i.Matches(target.Host, portOf(target.HostPort), nameOf(a)) {
		return nil
	}
	if _, err := i.Authority.Certificate(target.Host); err != nil {
		s.interceptFailures.logExcluded(s.Log, target.Host, err)
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

// interceptTunnel serves the client of a CONNECT in place of the target, if the target is intercepted and the client
// speaks TLS. If the method returns false, the request must be served as a CONNECT. In that case the field
// r.connectReplied is set if the client has already got the response to the CONNECT.
func (r *request) interceptTunnel() (served bool) {
	if r.outerConnect != nil {
		return false
	}
	i := r.server.interceptionFor(r.settings, &r.cache.authority, r.cache.account)
	if i == nil {
		return false
	}
	outer := &outerConnect{
		authority: r.cache.authority, user: nameOf(r.cache.account), credentials: bytes.Clone(r.credentials()),
	}
	for i := range r.head.Fields {
		if f := &r.head.Fields[i]; f.Kind == http1.Whirlpool {
			outer.fields = append(outer.fields, http1.Field{
				Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value), Kind: f.Kind,
			})
		}
	}
	outcome := r.outcome
	r.outcome.Final = core.FinalSuccess
	r.prepareConnectResponse()
	if !r.conn.write(r.responseBuf.buf) {
		return true
	}
	r.responseBuf.put()
	r.connectReplied = true
	r.input.Started = r.server.Now()
	served, endErr := r.conn.interceptClient(r.server, i, outer)
	if !served {
		r.outcome = outcome
		return false
	}
	r.log.hasRun, r.log.final, r.log.status = true, core.FinalSuccess, http.StatusOK
	r.log.clientLeft, r.log.code = interceptResult(endErr)
	r.conn.writer.bytesSent = 0 // the records of the requests inside the tunnel include these bytes
	return true
}

// interceptTunnel is like request.interceptTunnel, for the client of a SOCKS5 request.
func (f *socksFront) interceptTunnel(target *proxyhttp.Authority) (served bool) {
	i := f.server.interceptionFor(f.settings, target, f.account)
	if i == nil {
		return false
	}
	f.sendReply(socks5.Succeeded)
	f.connectReplied = true
	l := f.newRecord()
	l.Target, l.Started, l.Executed, l.Final, l.Status = target.HostPort, f.server.Now(), true, core.FinalSuccess,
		http.StatusOK
	in := &outerConnect{authority: *target, user: nameOf(f.account), credentials: f.credentials}
	served, endErr := f.conn.interceptClient(f.server, i, in)
	if !served {
		return false
	}
	l.ClientLeft, l.Code = interceptResult(endErr)
	if f.server.logsRequests() {
		in := executor.Request{Method: l.Method, Host: target.Host, Target: target.Target, User: l.User}
		f.server.Executor.Route(&in)
		l.Rules = in.Route.Labels()
		f.server.logEnded(&l, f.conn)
	}
	return true
}

// interceptClient serves the client in place of the target. It returns false if the connection must become an ordinary
// tunnel, because the client does not speak TLS or its server name is not intercepted. The error is
// executor.ErrClientLeft if the client left before its first byte. It is executor.ErrShutdown if a drain ended the wait
// for this byte, or ended the handshake.
func (c *connection) interceptClient(s *Server, i *interception, outer *outerConnect) (served bool, endErr error) {
	// Until the first request, the connection may be closed to make room for another client.
	c.readControl.setCurrentWait(requestWait, c.now())
	c.readControl.setPhase(phaseIdle)
	isTLS, endErr := c.detectTLS()
	if isTLS {
		served, endErr = s.serveIntercepted(c, i, outer)
	}
	if !served && endErr == nil {
		c.readControl.setPhase(phaseBusy)
		c.readControl.setDeadline(time.Time{})
	}
	return served || endErr != nil, endErr
}

// interceptResult returns two fields of the access log for an error of connection.interceptClient: whether
// the client has left, and the code.
func interceptResult(endErr error) (clientLeft bool, code string) {
	if endErr == executor.ErrShutdown {
		return false, "shutting_down"
	}
	return endErr != nil, ""
}

// drainEnded reports whether err, the error of a read from the client, is due to a drain.
func (c *connection) drainEnded(err error) bool {
	return c.draining() && errors.Is(err, os.ErrDeadlineExceeded)
}

// detectTLS waits for the client's first byte and reports whether this byte begins a TLS handshake. It returns the same
// errors as connection.interceptClient.
func (c *connection) detectTLS() (isTLS bool, endErr error) {
	if len(c.reader.Buffered()) == 0 {
		c.readControl.setDeadline(c.now().Add(firstByteWait))
		err := c.reader.ReadAhead()
		c.readControl.setDeadline(time.Time{})
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

// serveIntercepted makes the TLS handshake with a client in place of the target, and serves the requests inside the TLS
// connection. It returns false if the server name of the client is not intercepted. Its error is executor.ErrShutdown
// if a drain ended the handshake.
func (s *Server) serveIntercepted(c *connection, i *interception, outer *outerConnect) (served bool, endErr error) {
	below := &rereadConn{Conn: c.netConn, reader: c.reader, host: outer.authority.Host}
	below.namePermitted = func(name string) bool {
		_, err := i.Authority.Certificate(name)
		return err == nil && i.Matches(name, portOf(outer.authority.HostPort), outer.user)
	}
	conn := tls.Server(below, i.tls)
	c.readControl.setDeadline(s.Now().Add(s.settings.Load().Head))
	if err := conn.HandshakeContext(c.ctx); below.dropWrites {
		c.reader = below.newReader()
		c.readControl.setDeadline(time.Time{})
		return false, nil
	} else if err != nil && c.drainEnded(err) {
		s.Log.Debug("the gateway drained before the end of a TLS handshake with an intercepted client",
			slog.String("host", outer.authority.Host))
		return true, executor.ErrShutdown
	} else if err != nil {
		s.countHandshake(false)
		s.interceptFailures.logHandshake(s.Log, outer.authority.Host, err)
		return true, nil
	}
	s.countHandshake(true)
	c.readControl.setDeadline(time.Time{})
	state := conn.ConnectionState()
	if name := normalName(state.ServerName); name != outer.authority.Host {
		outer.serverName = name
	}
	if state.NegotiatedProtocol == "h2" {
		s.streams.serve(s, c, conn, below, outer)
		return true, nil
	}
	c.netConn, c.reader = conn, http1.NewReader(conn)
	c.writer.init(conn, c.writer.tcp)
	c.readControl.setPhase(phaseIdle)
	newInterceptFront(s, c, outer).serve()
	return true, nil
}

// newInterceptFront returns a front for the requests of an intercepted connection. If the client speaks HTTP/2, the
// front serves one stream of the connection at a time.
func newInterceptFront(s *Server, c *connection, outer *outerConnect) *httpFront {
	outerCopy := *outer
	f := &httpFront{}
	f.outerConnect = &outerCopy
	f.initFront(s, c)
	return f
}

func (s *Server) countHandshake(ok bool) {
	if s.OnHandshake != nil {
		s.OnHandshake(ok)
	}
}

// interceptedTarget parses the target of an intercepted request: in origin form or, as some clients send it, in
// absolute form. The request must be for the host of the CONNECT or the name in the ClientHello.
func (r *request) interceptedTarget() (t proxyhttp.Target, bad *proxyhttp.ErrorResponse) {
	r.cache.authority = r.outerConnect.authority
	r.log.target = r.outerConnect.authority.HostPort
	host := r.head.Host
	if len(host) == 0 {
		host = []byte(r.outerConnect.authority.Host)
		if strings.Contains(r.outerConnect.authority.Host, ":") {
			host = []byte("[" + r.outerConnect.authority.Host + "]")
		}
	}
	path := r.head.Target
	var err error
	switch {
	case r.input.WantsTunnel:
		err = errors.New("a CONNECT inside of an intercepted connection")
	case bytes.ContainsAny(host, "/?#"):
		err = errors.New("the Host field is not host:port")
	case len(path) > 0 && path[0] == '/', r.input.Method == http.MethodOptions && string(path) == "*":
		if path, _, _ = bytes.Cut(path, []byte("#")); string(path) == "*" {
			path = nil
		}
		url := append(r.outerConnect.requestURL[:0], "https://"...)
		r.outerConnect.requestURL = append(append(url, host...), path...)
		t, err = proxyhttp.ParseTarget(r.head.Method, r.outerConnect.requestURL)
	default:
		if t, err = proxyhttp.ParseTarget(r.head.Method, path); err == nil && !t.TLS {
			err = errors.New("an http:// URL inside of an intercepted connection")
		}
	}
	if err != nil {
		bad = badRequestResponse("bad_target", err.Error())
		bad.Close = true
		return t, bad
	}
	r.head.Target = t.Absolute
	if err := r.outerConnect.requestAuthority.Set(t.Host, "443"); err != nil {
		return t, badRequestResponse("bad_target", err.Error())
	}
	outer := r.outerConnect
	if named := outer.requestAuthority.Host; named != outer.authority.Host &&
		(named == "" || named != outer.serverName) {
		return t, &proxyhttp.ErrorResponse{
			Status: http.StatusMisdirectedRequest, Code: "misdirected_request", Reason: "http_request_error",
			Message: "the request's host is not the host of the connection",
		}
	}
	return t, nil
}

// isGRPC reports whether q is a call of gRPC on an intercepted HTTP/2 connection.
func (r *request) isGRPC(q *transport.Request) bool {
	if r.outerConnect == nil || !r.conn.isStream {
		return false
	}
	for i := range q.Fields {
		if f := &q.Fields[i]; http1.EqualFold(f.Name, "content-type") {
			return bytes.HasPrefix(f.Value, []byte("application/grpc"))
		}
	}
	return false
}
