package gateway

import (
	"io"
	"log/slog"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
)

// front speaks one protocol with one client. The Server ends the connection when serve or respondNoPlace has returned.
// A front runs its requests with executor.Run, and passes a tunnel to Server.serveTunnel.
type front interface {
	// serve serves the client until the client or the gateway ends the connection.
	serve()
	// respondNoPlace sends an error response to a client without a place.
	respondNoPlace()
}

type frontFunc func(*Server, *connection) front

// sniffingFront serves HTTP/1.1 or SOCKS5: the first byte of a client's connection decides.
type sniffingFront struct {
	server *Server
	conn   *connection
}

func newSniffingFront(s *Server, c *connection) front { return sniffingFront{s, c} }

func (f sniffingFront) serve() {
	if !f.conn.readControl.beginRequestWait(f.server.Now()) {
		return
	}
	if err := f.conn.reader.ReadAhead(); err != nil {
		if err != io.EOF {
			f.server.Log.Debug("client connection ended", slog.Any("error", err))
		}
		return
	}
	if f.speaksSOCKS() {
		newSOCKSFront(f.server, f.conn).serve()
		return
	}
	f.serveHTTP()
}

// serveHTTP makes the front for HTTP when the whole first head has arrived, because that front takes 5 KB. Thousands of
// clients that send their heads slowly would otherwise make garbage collections long and frequent.
func (f sniffingFront) serveHTTP() {
	c := f.conn
	c.reader.OnPart = func() { c.readControl.beginHeadWait(f.server.Now().Add(f.server.settings.Load().Head)) }
	if err := c.reader.AwaitRequest(); err != nil {
		f.refuseFirstHead(err)
		return
	}
	newHTTPFront(f.server, c).serve()
}

// refuseFirstHead ends a connection whose first head is malformed or late. Its front comes from a pool, and returns to
// the pool empty: no attempt and no other goroutine has ever used it.
func (f sniffingFront) refuseFirstHead(err error) {
	h := f.server.refusingFronts.Get().(*httpFront)
	h.initFront(f.server, f.conn)
	h.handleReadError(err)
	*h = httpFront{}
	f.server.refusingFronts.Put(h)
}

// respondNoPlace implements front. It responds with HTTP to a client that has not sent anything yet.
func (f sniffingFront) respondNoPlace() {
	if _, plain := f.conn.netConn.(*socket.Conn); !plain { // for a plain TCP client, sendRefusal has waited already
		f.conn.readControl.setDeadline(f.conn.now().Add(refusalWait))
		_ = f.conn.reader.ReadAhead() // the response is written even after an error
	}
	if f.speaksSOCKS() {
		newSOCKSFront(f.server, f.conn).respondNoPlace()
		return
	}
	newHTTPFront(f.server, f.conn).respondNoPlace()
}

// speaksSOCKS reports whether the first byte of the client has arrived and is the version of SOCKS5.
func (f sniffingFront) speaksSOCKS() bool {
	first := f.conn.reader.Buffered()
	return len(first) > 0 && first[0] == socks5.Version
}
