package gateway

import (
	"errors"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// clientWatch detects a client that leaves while its request waits for a slow proxy, for a retry, or for the next bytes
// of a response's body. A socket.Watch detects such a client without a goroutine. If a socket.Watch is not possible,
// for example with TLS, a goroutine reads from the client connection into the connection's buffer during the wait.
// During a long wait, the connection may leave the runtime's poller (leavePoller).
type clientWatch struct {
	conn     *connection
	watcher  *socket.Watcher // makes the socket.Watch; nil if only a goroutine can watch
	disabled bool            // no watch is needed: the reader of a body or a tunnel detects that the client leaves
	running  bool
	watch    *socket.Watch // nil before the first start
	done     chan struct{} // receives a value when the goroutine ends; nil without a goroutine
}

// start starts the watch if it is not running.
func (w *clientWatch) start() {
	if w.running || w.disabled {
		return
	}
	w.running = true
	if tcp, plain := w.conn.netConn.(*socket.Conn); plain && w.watcher != nil && w.done == nil {
		if w.watch == nil {
			w.watch = w.watcher.NewWatch(tcp, w.cancelRequest)
		}
		if w.watch.Start() {
			return
		}
	}
	if w.done == nil {
		w.done = make(chan struct{}, 1)
	}
	w.conn.readControl.setDeadline(time.Time{})
	go w.readAhead()
}

// leavePoller takes the connection off the runtime's poller. It has no effect if the watch is not running, or if a
// goroutine watches the client.
func (w *clientWatch) leavePoller() {
	if !w.running || w.done != nil {
		return
	}
	w.watch.Stop()
	w.conn.leavePoller()
	w.watch.Start() // if the watch cannot start again, the client is not watched for the rest of the wait
}

// rejoinPoller returns the connection to the poller. The caller can then write to the connection.
// The watch goes on.
func (w *clientWatch) rejoinPoller() {
	if !w.running || w.done != nil {
		return
	}
	w.watch.Stop()
	w.conn.rejoinPoller()
	w.watch.Start() // if it cannot start, see leavePoller
}

func (w *clientWatch) cancelRequest() { w.conn.cancel(executor.ErrClientLeft) }

func (w *clientWatch) readAhead() {
	err := w.conn.reader.ReadAhead()
	// If there is no error, the client has sent a pipelined request. Until the gateway reads that request, it cannot
	// detect that the client leaves.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.cancelRequest()
	}
	w.done <- struct{}{}
}

// stop ends the watch. If a goroutine watches the client, it waits until the goroutine has ended. After
// that, the caller may read from the connection.
func (w *clientWatch) stop() {
	if !w.running {
		return
	}
	if w.done == nil {
		w.watch.Stop()
		w.conn.rejoinPoller()
	} else {
		w.conn.readControl.interruptRead()
		<-w.done
	}
	w.running = false
	w.conn.readControl.setDeadline(time.Time{})
}
