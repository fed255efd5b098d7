package gateway

import (
	"net"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// stallWriter writes to a connection and ends a write of which the other side takes
// nothing for patience. It is the only owner of the connection's write deadline. One
// goroutine writes.
type stallWriter struct {
	conn     net.Conn
	tcp      *socket.Conn // conn, or the connection below its TLS; nil if there is none
	stall    socket.Stall
	patience time.Duration
}

// init readies w. Without tcp no write is ended.
func (w *stallWriter) init(conn net.Conn, tcp *socket.Conn) {
	w.conn, w.tcp = conn, tcp
	if tcp != nil {
		tcp.OnFull = func() { w.stall.Start(tcp, w.patience) }
	}
}

// mayStall lets a write stand still as long as f returns true.
func (w *stallWriter) mayStall(f func() bool) { w.stall.MayStall = f }

// limit sets a deadline for everything that is written.
func (w *stallWriter) limit(deadline time.Time) { w.conn.SetWriteDeadline(deadline) }

// Write implements io.Writer.
func (w *stallWriter) Write(p []byte) (int, error) {
	n, err := w.conn.Write(p)
	w.stall.Stop()
	return n, err
}

// spliceSource returns src as a source for splice; nil if the kernel cannot move bytes
// from one connection to the other, as one of them is not plain TCP.
func (w *stallWriter) spliceSource(src net.Conn) *socket.Conn {
	from, _ := src.(*socket.Conn)
	if _, plain := w.conn.(*socket.Conn); !plain {
		return nil
	}
	return from
}

// splice moves up to limit bytes from src inside the kernel, until src ends or what
// comes is small. An error of the write is a *socket.WriteError.
func (w *stallWriter) splice(pipes *socket.Pipes, src *socket.Conn, limit int64) (n int64, err error) {
	n, err = pipes.Move(w.tcp, src, limit)
	w.stall.Stop()
	return n, err
}
