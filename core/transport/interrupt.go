package transport

import (
	"net"
	"sync"
	"time"
)

// Interrupt ends an attempt from another goroutine: the client has left, or the gateway shuts down.
// The zero value is ready for use. It is safe for concurrent use and is reused for the attempts of
// a client connection.
type Interrupt struct {
	mu    sync.Mutex
	conn  net.Conn // whose reads and writes Fire ends
	fired bool
}

// Fire ends the attempt in flight, and every later one when it begins.
func (i *Interrupt) Fire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fired = true
	if i.conn != nil {
		i.conn.SetDeadline(aLongTimeAgo)
	}
}

// attach sets the connection that Fire ends. It returns false if Fire has been called.
func (i *Interrupt) attach(c net.Conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = c
	return !i.fired
}

// detach removes the connection. It returns false if Fire has been called.
func (i *Interrupt) detach() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conn = nil
	return !i.fired
}

// The next three methods set deadlines of c unless Fire has been called.

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

// aLongTimeAgo is a deadline that ends reads and writes at once.
var aLongTimeAgo = time.Unix(1, 0)

// Fired reports whether Fire has been called.
func (i *Interrupt) Fired() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fired
}
