package api

import (
	"io"
	"net"
	"time"
)

// lingerListener accepts connections whose Close waits until the client has read the
// response. A body that is too large is refused before it has been read; closing the
// connection then would reset it, and the response could get lost.
type lingerListener struct{ net.Listener }

// Limits on what a closed connection still reads.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 2 * maxUpload
)

func (l lingerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return lingerConn{tcp}, nil
	}
	return c, err
}

type lingerConn struct{ *net.TCPConn }

// Close ends the direction to the client at once. The connection ends, in the
// background, when the client has closed its direction or a limit is reached.
func (c lingerConn) Close() error {
	if c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return c.TCPConn.Close()
	}
	go func() {
		_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
		c.TCPConn.Close()
	}()
	return nil
}
