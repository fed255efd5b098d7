package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// pairedConn is a connection that can send a message together with the next read
// (socket.Conn.WriteThenRead).
type pairedConn struct {
	net.Conn
	message []byte
}

// send sends p. On a plain TCP connection it only stores p, and the next Read sends it. If that write fails, Read
// returns a *socket.WriteError.
func (c *pairedConn) send(p []byte) error {
	if _, ok := c.Conn.(*socket.Conn); ok {
		c.message = p
		return nil
	}
	_, err := c.Conn.Write(p)
	return err
}

// Read implements io.Reader.
func (c *pairedConn) Read(p []byte) (int, error) {
	if c.message == nil {
		return c.Conn.Read(p)
	}
	message := c.message
	c.message = nil
	return c.Conn.(*socket.Conn).WriteThenRead(message, p)
}

// ReadPooled implements the interface pooledSource of package http1. It holds no buffer while it waits for bytes on a
// plain TCP connection. On a TLS connection it holds a buffer.
func (c *pairedConn) ReadPooled(buffers *sync.Pool) (*[]byte, int, error) {
	if plain, ok := c.Conn.(*socket.Conn); ok {
		message := c.message
		c.message = nil
		return plain.WriteThenReadPooled(message, buffers)
	}
	buffer := buffers.Get().(*[]byte)
	n, err := c.Conn.Read(*buffer)
	if n == 0 && err != nil {
		buffers.Put(buffer)
		return nil, 0, err
	}
	return buffer, n, nil
}

// persistConn is a connection that can be reused: to a proxy, or through a proxy to a target.
type persistConn struct {
	pairedConn
	reader        http1.Reader
	tcp           *socket.Conn      // the TCP connection below Conn; nil if there is none
	peekBuf       [1]byte           // used by hasNoExtraBytes and isAlive
	toTarget      bool              // the connection leads through the proxy to a target
	reused        bool              // the connection has served a request before
	writeBlocked  bool              // a write had to wait, so there is a write deadline
	key           string            // see credentialsKey
	target        string            // host:port of the target of all its requests
	credentials   string            // Proxy-Authorization to send; "" for none
	loopToken     string            // the gateway's token for the Proxy-Loop field; "" at first
	filledAddress *upstream.Address // the proxy's address with values in place of its templates; nil without templates
	requestBytes  []byte
	readDeadline  time.Time
	control       *Control // control of the request that is being sent; nil while its body is streamed, and when idle

	uploadRequest *Request      // the request whose body Pipes.Move moves at present; nil if there is none
	bodyIdle      time.Duration // maximum time without progress while the body is streamed
	stall         socket.Stall

	idleAt time.Time // when the connection became idle
}

func newPersistConn(c net.Conn, key, target string, toTarget bool, credentials string) *persistConn {
	pc := &persistConn{
		pairedConn: pairedConn{Conn: c}, key: key, target: target, toTarget: toTarget, credentials: credentials,
	}
	pc.reader = *http1.NewBulkReader(pc)
	pc.tcp, _ = tcpOf(c)
	if pc.tcp != nil {
		pc.tcp.OnWriteBlocked = pc.onWriteBlocked
	}
	return pc
}

// setMeters sets the meters that count the connection's bytes. A connection that is not TCP has no meters.
func (pc *persistConn) setMeters(m traffic.Meters) {
	if pc.tcp != nil {
		pc.tcp.Meters = m
	}
}

// tcpOf returns the TCP connection below c, and the readGate between TCP and TLS. Both may be nil.
func tcpOf(c net.Conn) (tcp *socket.Conn, g *readGate) {
	for {
		switch above := c.(type) {
		case *socket.Conn:
			return above, g
		case *tls.Conn:
			c = above.NetConn()
		case *readGate:
			g, c = above, above.Conn
		case *earlyConn:
			c = above.Conn
		default:
			return nil, g
		}
	}
}

// closeNow closes c. It does not send the close_notify of TLS, because this takes seconds if the peer does not read.
func closeNow(c net.Conn) {
	if tcp, _ := tcpOf(c); tcp != nil {
		c = tcp
	}
	c.Close()
}

// readGate is the connection below a TLS connection. While the field isShut is set, a Read of the TLS connection
// returns only bytes that the TLS connection has already received.
type readGate struct {
	net.Conn
	isShut bool
}

// Read implements io.Reader. While the field isShut is set, it returns a timeout, which TLS does not treat as the end
// of the stream.
func (g *readGate) Read(p []byte) (int, error) {
	if g.isShut {
		return 0, os.ErrDeadlineExceeded
	}
	return g.Conn.Read(p)
}

// hasNoExtraBytes reports whether the connection has no bytes after the end of the response. It does not detect a TLS
// record that has arrived only in part. isAlive detects the bytes that complete such a record.
func (pc *persistConn) hasNoExtraBytes() bool {
	if len(pc.reader.Buffered()) > 0 {
		return false
	}
	if _, plain := pc.Conn.(*socket.Conn); plain {
		return true
	}
	_, gate := tcpOf(pc.Conn)
	if gate == nil {
		return true
	}
	gate.isShut = true
	n, err := pc.Conn.Read(pc.peekBuf[:])
	gate.isShut = false
	return n == 0 && err == os.ErrDeadlineExceeded
}

// onWriteBlocked is called when the peer is slow to read a request. While the body is streamed, it limits only the time
// without progress. Otherwise it limits the write by the attempt's deadline, and calls OnSlow, because the client may
// leave during the write.
func (pc *persistConn) onWriteBlocked() {
	switch c := pc.control; {
	case c == nil:
		if pc.uploadRequest != nil {
			pc.uploadRequest.notifyRead(0) // from now on the gateway waits for the proxy, not for the client
		}
		pc.stall.Start(pc.tcp, pc.bodyIdle)
	case !pc.writeBlocked:
		pc.writeBlocked = true
		c.Interrupt.setWriteDeadline(pc.Conn, c.Deadline)
		c.callOnSlow()
	}
}

// setReadDeadline sets the deadline unless c.Interrupt has fired.
func (pc *persistConn) setReadDeadline(c *Control, t time.Time) {
	pc.readDeadline = t
	c.Interrupt.setReadDeadline(pc.Conn, t)
}

// appendHead appends the request's head in the form that the connection requires.
func (t *Transport) appendHead(b []byte, pc *persistConn, q *Request) []byte {
	target := q.Target
	if pc.toTarget {
		target = q.Path
	}
	b = http1.AppendRequestLine(b, q.Method, target)
	b = http1.AppendFields(b, q.Fields)
	if pc.credentials != "" && !q.isTrace() {
		b = append(append(append(b, "Proxy-Authorization: "...), pc.credentials...), "\r\n"...)
	}
	if q.SendContinue != nil {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	sendsLoopToken := !pc.toTarget && t.cfg.Loop.SendsTokens() // the request goes to a proxy, not to a target
	switch upgrades := q.isUpgrade(); {
	case upgrades && sendsLoopToken: // one Connection field, because some servers read only the first or the last one
		b = append(b, "Connection: Upgrade, "+loop.Field+"\r\n"...)
		b = http1.AppendField(b, "Upgrade", q.Upgrade)
	case upgrades:
		b = http1.AppendUpgrade(b, q.Upgrade)
	case sendsLoopToken:
		b = append(b, "Connection: "+loop.Field+"\r\n"...)
	}
	if sendsLoopToken {
		if pc.loopToken == "" {
			pc.loopToken = string(t.cfg.Loop.Append(nil, nil))
		}
		b = append(b, loop.Field+": "...)
		b = append(loop.AppendReceived(b, pc.control.LoopTokens), pc.loopToken...)
		b = append(b, "\r\n"...)
	}
	b = http1.AppendFraming(b, q.Framing, q.Length)
	if q.TrailerNames != nil && q.Framing == http1.Chunked {
		b = http1.AppendField(b, "Trailer", q.TrailerNames)
	}
	return append(b, "\r\n"...)
}

// appendLoop appends the field Proxy-Loop: the tokens that the request arrived with (c.LoopTokens), and the gateway's
// own token.
func (t *Transport) appendLoop(b []byte, c *Control) []byte {
	b = append(b, loop.Field+": "...)
	return append(t.cfg.Loop.Append(b, c.LoopTokens), "\r\n"...)
}

func appendBody(b []byte, f http1.Framing, p []byte) []byte {
	if f == http1.Chunked {
		return http1.AppendChunk(b, p)
	}
	return append(b, p...)
}

// isAlive reports whether an idle connection can be reused: the peer has neither closed it nor sent anything since
// hasNoExtraBytes was called. Bytes from the peer would be taken for the response to the next request. On a TCP
// connection, the method only asks the kernel. On any other connection (Config.Dial) it tries to read for aliveTimeout.
func (pc *persistConn) isAlive() bool {
	if pc.tcp != nil {
		return pc.tcp.Idle()
	}
	pc.readDeadline = time.Time{}
	pc.SetReadDeadline(time.Now().Add(aliveTimeout))
	n, err := pc.Conn.Read(pc.peekBuf[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// aliveTimeout is the read timeout of isAlive on a connection that is not TCP.
const aliveTimeout = 100 * time.Microsecond
