package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// streams serves HTTP/2 on intercepted client connections. The server of net/http speaks HTTP/2 with the client. The
// server sends the request of each stream as HTTP/1.1 over a connection in memory to an httpFront. The httpFront serves
// this request like a request from any other connection.
type streams struct {
	once   sync.Once
	server *http.Server
	conns  chan net.Conn // the connections that the server accepts
	closed chan struct{} // closed when the server accepts no more connections
}

type http2Conn struct {
	gateway      *Server
	conn         *connection
	outerConnect *outerConnect
	transport    *http.Transport // sends the requests to the fronts of the streams
	closed       chan struct{}   // closed when the connection has ended

	mu          sync.Mutex
	noNewFronts bool           // no front may begin; guarded by mu
	fronts      sync.WaitGroup // Add is called while mu is held
}

// The limits of an intercepted HTTP/2 connection.
const (
	maxStreams     = 128 // streams at the same time
	maxIdleFronts  = 8   // fronts that wait for their next stream
	idleFrontTime  = 3 * time.Second
	maxStreamHead  = 64 << 10 // bytes of the head of a request
	bufferToFront  = 20 << 10 // bytes; net/http needs room here for all trailers of a response (at most 16 KiB)
	maxHeadToFront = 4 << 20  // bytes of the head of a response; package transport has a lower limit
)

// start starts the server.
func (st *streams) start(s *Server) {
	st.conns, st.closed = make(chan net.Conn), make(chan struct{})
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	st.server = &http.Server{
		Handler: http.HandlerFunc(serveStream), Protocols: protocols,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: time.Minute},
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxStreamHead,
		ErrorLog:       slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, streamsKey{}, http2ConnOf(c))
		},
		ConnState: func(c net.Conn, state http.ConnState) { http2ConnOf(c).onState(state) },
	}
	go st.server.Serve(st)
}

type streamsKey struct{}

func http2ConnOf(c net.Conn) *http2Conn { return c.(*tls.Conn).NetConn().(*rereadConn).http2 }

// Accept implements net.Listener.
func (st *streams) Accept() (net.Conn, error) {
	select {
	case c := <-st.conns:
		return c, nil
	case <-st.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The server calls it once.
func (st *streams) Close() error {
	close(st.closed)
	return nil
}

// Addr implements net.Listener.
func (st *streams) Addr() net.Addr { return &net.TCPAddr{} }

// drain lets the streams in flight end. When a connection has no more streams, the connection ends as well.
func (st *streams) drain(ctx context.Context) {
	st.once.Do(func() {}) // from now on, the method serve starts no server
	if st.server != nil {
		go st.server.Shutdown(ctx)
	}
}

// serve serves HTTP/2 on conn, the TLS connection with the client of c, until conn ends. The parameter below is the
// connection that carries this TLS.
func (st *streams) serve(s *Server, c *connection, conn *tls.Conn, below *rereadConn, in *outerConnect) {
	st.once.Do(func() { st.start(s) })
	if st.server == nil || c.draining() {
		return
	}
	x := &http2Conn{gateway: s, conn: c, outerConnect: in, closed: make(chan struct{})}
	x.transport = &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return x.dial() },
		DisableCompression: true, MaxIdleConnsPerHost: maxIdleFronts, IdleConnTimeout: idleFrontTime,
		MaxResponseHeaderBytes: maxHeadToFront, ReadBufferSize: bufferToFront,
	}
	below.http2 = x
	c.readControl.places = nil // the connections of the streams are counted instead
	select {
	case st.conns <- conn:
		<-x.closed
	case <-st.closed:
	}
	x.endFronts()
	c.readControl.phase.Store(phaseIdle) // places does not count the connection as active: it was idle when serve began
}

// endFronts ends the fronts, and waits until they have ended.
func (h *http2Conn) endFronts() {
	h.mu.Lock()
	h.noNewFronts = true
	h.mu.Unlock()
	h.transport.CloseIdleConnections()
	h.fronts.Wait()
}

// onState is called when the state of the connection changes. An idle connection may be closed by a drain, or to make
// room for another client.
func (h *http2Conn) onState(state http.ConnState) {
	switch read := &h.conn.readControl; state {
	case http.StateActive:
		read.setPhase(phaseBusy)
	case http.StateIdle:
		read.setCurrentWait(requestWait, h.gateway.Now())
		read.setPhase(phaseIdle)
	case http.StateClosed, http.StateHijacked:
		close(h.closed)
	}
}

var errConnEnded = errors.New("the client's connection has ended")

// dial returns a connection in memory to a new front. If the number of active connections and streams (places.active)
// has reached gateway.max_connections, the front refuses the request.
func (h *http2Conn) dial() (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noNewFronts {
		return nil, errConnEnded
	}
	clientEnd, frontEnd := net.Pipe()
	s := h.gateway
	c := newConnection(h.conn.ctx, streamConn{frontEnd, h.conn.base.RemoteAddr()}, s.Now, &s.draining)
	c.certNames, c.isStream = h.conn.certNames, true
	if maxConns := s.settings.Load().MaxConnections; maxConns > 0 && s.places.active.Load() >= int64(maxConns) {
		reason := reasonMaxConnections
		c.refusalReason = &reason
		h.fronts.Go(func() {
			s.serve(c, func() {
				if c.reader.ReadAhead() == nil { // net/http ignores a response that arrives before the request
					newInterceptFront(s, c, h.outerConnect).respondNoPlace()
				}
			})
		})
		return clientEnd, nil
	}
	c.readControl.places = &s.places
	s.places.countActive(true)
	h.fronts.Go(func() {
		s.serve(c, newInterceptFront(s, c, h.outerConnect).serve)
		if isActive(c.readControl.phase.Load()) {
			s.places.countActive(false)
		}
	})
	return clientEnd, nil
}

// streamConn is the front's side of a connection in memory. Its remote address is the client's address.
type streamConn struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr implements net.Conn.
func (c streamConn) RemoteAddr() net.Addr { return c.remote }

func serveStream(w http.ResponseWriter, in *http.Request) {
	x := in.Context().Value(streamsKey{}).(*http2Conn)
	out := in.WithContext(in.Context())
	target := *in.URL
	target.Scheme, target.Host = "http", "front"
	if target.RequestURI() != in.RequestURI && len(in.RequestURI) > 1 && in.RequestURI[1] != '/' {
		target.Opaque = in.RequestURI // the request's target in its original form
		target.RawQuery, target.ForceQuery = "", false
	}
	out.URL, out.RequestURI, out.Header = &target, "", in.Header.Clone()
	out.Header.Del("Expect") // the server of net/http has responded to this field
	if out.Header.Get("User-Agent") == "" {
		out.Header.Set("User-Agent", "") // net/http then sends no User-Agent
	}
	if in.ContentLength == 0 {
		out.Body = http.NoBody
	}
	if len(in.Trailer) > 0 { // the announced fields, whose values net/http sets at the end of the body
		out.ContentLength = -1
	}
	resp, err := x.transport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler) // the front has ended the connection without a response
	}
	defer resp.Body.Close()
	x.relay(w, resp)
}

// relay writes a response of a front to the client.
func (h *http2Conn) relay(w http.ResponseWriter, resp *http.Response) {
	header := w.Header()
	for name, values := range resp.Header {
		switch name { // HTTP/2 forbids these fields (RFC 9113 section 8.2.2)
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		default:
			header[name] = values
		}
	}
	if header["Date"] == nil {
		header["Date"] = nil // net/http then sends no Date
	}
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // net/http then does not guess the type
	}
	control := http.NewResponseController(w)
	wait := h.gateway.settings.Load().BodyIdle
	w.WriteHeader(resp.StatusCode)
	if resp.Body == http.NoBody {
		return
	}
	control.Flush() // the body may come much later
	buf := streamBuffers.Get().(*[]byte)
	defer streamBuffers.Put(buf)
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			control.SetWriteDeadline(h.gateway.Now().Add(wait))
			if _, err := w.Write((*buf)[:n]); err != nil {
				panic(http.ErrAbortHandler)
			}
			control.Flush()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client gets a reset of its stream instead of a regular end
		}
	}
	for name, values := range resp.Trailer {
		header[http.TrailerPrefix+name] = values
	}
}

var streamBuffers = sync.Pool{New: func() any { b := make([]byte, largeChunk); return &b }}
