package gateway

import (
	"errors"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// leaveWatch detects a client that leaves while its request waits for a slow proxy or for a retry. During
// such a wait a goroutine reads from the client connection into the connection's buffer.
type leaveWatch struct {
	conn     *connection
	disabled bool // set while the body is streamed, because the reader of the body detects that the client leaves
	running  bool
	done     chan struct{}
}

// start starts the watch if it is not running.
func (w *leaveWatch) start() {
	if w.running || w.disabled {
		return
	}
	w.running = true
	if w.done == nil {
		w.done = make(chan struct{}, 1)
	}
	w.conn.read.await(time.Time{})
	go w.watch()
}

func (w *leaveWatch) watch() {
	err := w.conn.reader.ReadAhead()
	// No error means that the client has sent a pipelined request. Until the gateway reads this request, it
	// cannot detect that the client leaves.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.conn.cancel(executor.ErrClientLeft)
	}
	w.done <- struct{}{}
}

// stop stops the watch, and waits until its goroutine has ended. After that the caller may read
// from the connection.
func (w *leaveWatch) stop() {
	if !w.running {
		return
	}
	w.conn.read.interrupt()
	<-w.done
	w.running = false
	w.conn.read.await(time.Time{})
}
