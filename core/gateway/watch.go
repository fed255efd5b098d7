package gateway

import (
	"errors"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// leaveWatch detects a client that leaves while its request waits for a slow proxy or for a retry. A socket.Watch
// detects it without a goroutine. Where that is not possible, as with TLS, a goroutine reads from the client
// connection into the connection's buffer during such a wait.
type leaveWatch struct {
	conn     *connection
	watcher  *socket.Watcher // nil for none
	disabled bool            // set while the body is streamed: its reader then detects that the client leaves
	running  bool
	watch    *socket.Watch // nil before the first start
	done     chan struct{} // receives a value when the goroutine ends; nil without a goroutine
}

// start starts the watch if it is not running.
func (w *leaveWatch) start() {
	if w.running || w.disabled {
		return
	}
	w.running = true
	if tcp, plain := w.conn.raw.(*socket.Conn); plain && w.watcher != nil && w.done == nil {
		if w.watch == nil {
			w.watch = w.watcher.NewWatch(tcp, w.left)
		}
		if w.watch.Start() {
			return
		}
	}
	if w.done == nil {
		w.done = make(chan struct{}, 1)
	}
	w.conn.read.await(time.Time{})
	go w.read()
}

func (w *leaveWatch) left() { w.conn.cancel(executor.ErrClientLeft) }

func (w *leaveWatch) read() {
	err := w.conn.reader.ReadAhead()
	// Without an error, the client has sent a pipelined request. Until the gateway reads this request, it cannot
	// detect that the client leaves.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.left()
	}
	w.done <- struct{}{}
}

// stop stops the watch. If a goroutine reads, stop waits until it has ended. After that the caller may read from the
// connection.
func (w *leaveWatch) stop() {
	if !w.running {
		return
	}
	if w.done == nil {
		w.watch.Stop()
	} else {
		w.conn.read.interrupt()
		<-w.done
	}
	w.running = false
	w.conn.read.await(time.Time{})
}
