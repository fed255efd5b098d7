package gateway

import (
	"errors"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// leaveWatch finds out that the client has left while its request waits: for a slow
// proxy, or for a retry. It reads ahead on the client's connection in a goroutine that
// exists only during such waits; what it reads stays in the connection's buffer.
type leaveWatch struct {
	conn     *connection
	disabled bool // the request's body still streams: its reader finds out
	running  bool
	done     chan struct{}
}

// start begins to watch; a second start does nothing.
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
	// Without an error a pipelined request has come. Until that has been read, a client
	// that leaves looks like one that waits.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.conn.cancel(executor.ErrClientLeft)
	}
	w.done <- struct{}{}
}

// stop ends the watch; afterwards the connection may be read again.
func (w *leaveWatch) stop() {
	if !w.running {
		return
	}
	w.conn.read.interrupt()
	<-w.done
	w.running = false
	w.conn.read.await(time.Time{})
}
