package gateway

import (
	"errors"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
)

// watcher notices that the client has left while its request waits: for a slow
// upstream, or for a retry. It reads ahead on the client's connection in a
// goroutine of its own, which exists only during such waits; what it reads
// stays in the connection's buffer for the next request.
type watcher struct {
	conn     *conn
	disabled bool // the request's body still streams: its reader will notice
	running  bool
	done     chan struct{}
}

// start begins to watch; a second start does nothing.
func (w *watcher) start() {
	if w.running || w.disabled {
		return
	}
	w.running = true
	if w.done == nil {
		w.done = make(chan struct{}, 1)
	}
	w.conn.raw.SetReadDeadline(time.Time{})
	go w.read()
}

func (w *watcher) read() {
	err := w.conn.reader.ReadAhead()
	// Without an error a pipelined request has come. Until it has been read, the
	// client's leaving would not show.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.conn.cancel(executor.ErrClientLeft)
	}
	w.done <- struct{}{}
}

// stop ends the watch; afterwards the connection may be read again.
func (w *watcher) stop() {
	if !w.running {
		return
	}
	w.conn.raw.SetReadDeadline(aLongTimeAgo)
	<-w.done
	w.running = false
	w.conn.armed = time.Time{}
	w.conn.raw.SetReadDeadline(time.Time{})
}
