package api

import (
	"io"
	"net"
	"time"
)

// lingering takes connections whose Close lets the client read the answer
// first: a body too large is refused before it has been read, and closing then
// would reset the connection, with the refusal still under way.
type lingering struct{ net.Listener }

const (
	lingerTime  = 2 * time.Second
	lingerBytes = 2 * maxBody
)

func (l lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return lingeringConn{tcp}, nil
	}
	return c, err
}

type lingeringConn struct{ *net.TCPConn }

// Close ends the connection in this direction at once, and altogether when the
// client has ended it too, in the background and within bounds.
func (c lingeringConn) Close() error {
	if c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return c.TCPConn.Close()
	}
	go func() {
		io.CopyN(io.Discard, c.TCPConn, lingerBytes)
		c.TCPConn.Close()
	}()
	return nil
}
