package gateway

import (
	"net"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// stallWriter writes to a connection. A write ends with an error if the peer accepts no bytes for stallTimeout, or if
// it accepts fewer bytes per second than the minimum rate (see configure). Nothing else may set the connection's write
// deadline. A stallWriter is not safe for concurrent use.
type stallWriter struct {
	conn         net.Conn
	tcp          *socket.Conn // conn, or the TCP connection below its TLS; nil if there is no TCP connection
	stall        socket.Stall
	stallTimeout time.Duration
	bytesSent    int64           // bytes written
	user         *access.Account // the written bytes count for the usage of this user; nil without a user
}

// init prepares w for a connection. If tcp is nil, writes have no limits.
func (w *stallWriter) init(conn net.Conn, tcp *socket.Conn) {
	w.conn, w.tcp = conn, tcp
	if tcp != nil {
		tcp.OnWriteBlocked = func() { w.stall.Start(tcp, w.stallTimeout) }
	}
}

// configure sets the limits for writes that wait until the peer accepts bytes.
func (w *stallWriter) configure(set *settings) {
	w.stallTimeout = set.BodyIdle
	w.stall.MinRate, w.stall.Grace = set.MinBodyRate, set.BodyGrace
}

// setMayStall makes writes ignore their limits while f returns true.
func (w *stallWriter) setMayStall(f func() bool) { w.stall.MayStall = f }

// setDeadline sets a deadline for all writes.
func (w *stallWriter) setDeadline(deadline time.Time) { w.conn.SetWriteDeadline(deadline) }

// Write implements io.Writer.
func (w *stallWriter) Write(p []byte) (int, error) {
	n, err := w.conn.Write(p)
	w.stall.Stop()
	w.count(int64(n))
	return n, err
}

// spliceSource returns src as a source for splice. It returns nil if src or the writer's connection
// is not plain TCP.
func (w *stallWriter) spliceSource(src net.Conn) *socket.Conn {
	from, _ := src.(*socket.Conn)
	if _, plain := w.conn.(*socket.Conn); !plain {
		return nil
	}
	return from
}

// splice moves at most limit bytes from src to the connection inside the kernel, and returns the number of moved
// bytes. It returns earlier if src has ended or has only small pieces left. A write error is a *socket.WriteError.
func (w *stallWriter) splice(pipes *socket.Pipes, src *socket.Conn, limit int64) (n int64, err error) {
	n, err = pipes.Move(w.tcp, src, limit)
	w.stall.Stop()
	w.count(n)
	return n, err
}

func (w *stallWriter) count(n int64) {
	w.bytesSent += n
	if w.user != nil {
		w.user.Usage.AddBytes(n)
	}
}
