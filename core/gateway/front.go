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
	newHTTPFront(f.server, f.conn).serve()
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
