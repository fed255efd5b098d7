package transport

import (
	"net"
	"sync"
	"time"
)

// Interrupt ends the attempt in flight from another goroutine: the client has
// left, or the gateway stops. The zero value is ready; it is safe for
// concurrent use and reused from attempt to attempt.
type Interrupt struct {
	mu    sync.Mutex
	conn  net.Conn // whose reads and writes are to be ended
	fired bool
}

// Fire ends the attempt in flight, and every later one at its beginning.
func (i *Interrupt) Fire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fired = true
	if i.conn != nil {
		i.conn.SetDeadline(aLongTimeAgo)
	}
}

// watch makes c the connection that Fire ends; false if it has fired.
func (i *Interrupt) watch(c net.Conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = c
	return !i.fired
}

// release lets go of the connection; false if Fire has touched it.
func (i *Interrupt) release() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = nil
	return !i.fired
}

// The three below set c's deadlines unless Fire has.

func (i *Interrupt) setReadDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.fired {
		c.SetReadDeadline(t)
	}
}

func (i *Interrupt) setDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.fired {
		c.SetDeadline(t)
	}
}

func (i *Interrupt) setWriteDeadline(c net.Conn, t time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.fired {
		c.SetWriteDeadline(t)
	}
}

var aLongTimeAgo = time.Unix(1, 0)

// Fired reports whether Fire has been called.
func (i *Interrupt) Fired() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fired
}
