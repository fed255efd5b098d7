//go:build linux && (amd64 || arm64)

package socket

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher detects that peers close their connections, while nothing reads from the connections. It needs no goroutine
// for each connection: one goroutine waits for the events of an epoll instance, from the first Start to Close. The zero
// Watcher is ready for use. It is safe for concurrent use.
type Watcher struct {
	mu      sync.Mutex    // guards all fields
	epoll   *os.File      // nil before the first Start
	fd      int           // of epoll
	closed  bool          // by Close
	watches []*Watch      // by file descriptor of the watched connection
	ended   chan struct{} // closed when the goroutine has ended
}

// Watch is the watch of one connection. One goroutine uses it at a time.
type Watch struct {
	conn   *Conn
	closed func() // called when the peer has closed the connection
	of     *Watcher
	fd     int
	err    error
	start  func(fd uintptr)
	stop   func(fd uintptr)
}

// NewWatch returns a watch of c. It calls closed when the peer has shut down its writing side, closed or reset the
// connection, and all bytes that arrived before have been read. closed must not wait, and must not use the Watch.
func (w *Watcher) NewWatch(c *Conn, closed func()) *Watch {
	h := &Watch{conn: c, closed: closed, of: w}
	h.start, h.stop = h.add, h.remove
	return h
}

// Start begins the watch. It returns false if that is not possible.
func (h *Watch) Start() bool {
	w := h.of
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open() && h.conn.raw.Control(h.start) == nil && h.err == nil
}

// Stop ends the watch. Its function is not called any more when Stop has returned.
func (h *Watch) Stop() {
	w := h.of
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.fd < len(w.watches) && w.watches[h.fd] == h { // otherwise another connection has the descriptor now
		w.watches[h.fd] = nil
	}
	if !w.closed {
		h.conn.raw.Control(h.stop) // a closed connection is not in the epoll instance any more
	}
}

// add and remove are called while mu is held.
func (h *Watch) add(fd uintptr) {
	w := h.of
	h.fd = int(fd)
	if more := h.fd + 1 - len(w.watches); more > 0 {
		w.watches = append(w.watches, make([]*Watch, more)...)
	}
	w.watches[h.fd] = h
	h.err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, h.fd,
		&unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)})
}

func (h *Watch) remove(fd uintptr) { unix.EpollCtl(h.of.fd, unix.EPOLL_CTL_DEL, int(fd), nil) }

// open opens the epoll instance if necessary. The caller holds mu.
func (w *Watcher) open() bool {
	if w.epoll != nil || w.closed {
		return !w.closed
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	unix.SetNonblock(fd, true) // so that the runtime's poller waits for it
	w.fd, w.epoll, w.ended = fd, os.NewFile(uintptr(fd), "epoll"), make(chan struct{})
	raw, err := w.epoll.SyscallConn()
	if err != nil {
		w.epoll.Close()
		w.epoll = nil
		return false
	}
	go w.run(raw)
	return true
}

// run calls the functions of the watches until the epoll instance is closed.
func (w *Watcher) run(raw syscall.RawConn) {
	defer close(w.ended)
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			w.event(int(e.Fd))
		}
	}
}

// event calls the function of a watch if its peer has closed the connection. The event may be one of an earlier
// connection with the same descriptor.
func (w *Watcher) event(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.watches[fd]; h != nil && PeerClosed(h.conn) && Unread(h.conn) == 0 {
		h.closed()
	}
}

// Close ends all watches. Their functions are not called any more when Close has returned.
func (w *Watcher) Close() {
	w.mu.Lock()
	epoll, ended := w.epoll, w.ended
	w.closed = true
	w.mu.Unlock()
	if epoll != nil {
		epoll.Close()
		<-ended
	}
}
