//go:build linux && (amd64 || arm64)

package socket

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher detects events of connections while no goroutine reads from them. An event is that the peer closes the
// connection (Watch), or that bytes arrive (AwaitOffPoller). A Watcher needs no goroutine for each connection. One
// goroutine waits for the events of all connections, from the first use of the Watcher to Close, by means of an epoll
// instance. The zero Watcher is ready for use. It is safe for concurrent use.
type Watcher struct {
	use    sync.RWMutex  // guards the next fields; locked for reading while fd is used
	epoll  *os.File      // nil before the first watch
	fd     int           // the descriptor of epoll
	closed bool          // Close has been called
	ended  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards the next fields; not held in system calls: thousands of goroutines may wait for it
	watches []*Watch   // by file descriptor of the watched connection; an element is nil if there is no watch
	count   int        // number of watches
}

// Watch is the watch of one connection. Only one goroutine at a time may use it.
type Watch struct {
	conn    *Conn
	closed  func() // called when the peer has closed the connection
	watcher *Watcher
	fd      int
	err     error
	start   func(fd uintptr)
	stop    func(fd uintptr)

	arrived chan struct{} // receives a value when the event of AwaitOffPoller happens; nil for other watches

	mu      sync.Mutex // held while an event is handled
	running bool       // guarded by mu
}

// NewWatch returns a watch of c. When the peer shuts down its writing side, or closes or resets the connection, the
// watch calls the function closed. It does not call the function if c still has bytes to read. The function must not
// wait, and must not use the Watch.
func (w *Watcher) NewWatch(c *Conn, closed func()) *Watch {
	h := &Watch{conn: c, closed: closed, watcher: w}
	h.start, h.stop = h.add, h.remove
	return h
}

// Start begins the watch. It returns false if the connection cannot be watched.
func (w *Watch) Start() bool {
	watcher := w.watcher
	if !watcher.acquire() {
		return false
	}
	defer watcher.use.RUnlock()
	w.setRunning(true)
	return w.conn.raw.Control(w.start) == nil && w.err == nil
}

// Stop ends the watch. After Stop has returned, the watch does not call its function (w.closed) any more.
func (w *Watch) Stop() {
	watcher := w.watcher
	w.setRunning(false)
	watcher.clear(w)
	watcher.use.RLock()
	defer watcher.use.RUnlock()
	if !watcher.closed {
		w.conn.raw.Control(w.stop) // a closed connection is not in the epoll instance any more
	}
}

func (w *Watch) setRunning(running bool) {
	w.mu.Lock()
	w.running = running
	w.mu.Unlock()
}

// The caller of add, watch or remove has locked the Watcher's mutex (Watcher.use) for reading.
func (w *Watch) add(fd uintptr) { w.watch(fd, unix.EPOLLRDHUP|unix.EPOLLET) }

func (w *Watch) watch(fd uintptr, events uint32) {
	w.fd = int(fd)
	w.watcher.set(w)
	w.err = unix.EpollCtl(w.watcher.fd, unix.EPOLL_CTL_ADD, w.fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (w *Watch) remove(fd uintptr) { unix.EpollCtl(w.watcher.fd, unix.EPOLL_CTL_DEL, int(fd), nil) }

// set stores the watch h under its descriptor.
func (w *Watcher) set(h *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if more := h.fd + 1 - len(w.watches); more > 0 {
		w.watches = append(w.watches, make([]*Watch, more)...)
	}
	if w.watches[h.fd] == nil {
		w.count++
	}
	w.watches[h.fd] = h
}

// clear removes the watch h, unless the descriptor now belongs to another connection.
func (w *Watcher) clear(h *Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.fd < len(w.watches) && w.watches[h.fd] == h {
		w.watches[h.fd] = nil
		if w.count--; w.count == 0 {
			w.watches = nil // the memory of a burst is not kept
		}
	}
}

// get returns the watch of the descriptor fd; nil if there is none.
func (w *Watcher) get(fd int) *Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if fd >= len(w.watches) {
		return nil
	}
	return w.watches[fd]
}

// acquire locks the mutex w.use for reading, and opens the epoll instance if it is not open. If acquire returns false,
// there is no epoll instance, and the mutex is not locked.
func (w *Watcher) acquire() bool {
	w.use.RLock()
	if w.epoll != nil && !w.closed {
		return true
	}
	w.use.RUnlock()
	w.use.Lock()
	opened := w.open()
	w.use.Unlock()
	if !opened {
		return false
	}
	w.use.RLock()
	if w.closed {
		w.use.RUnlock()
		return false
	}
	return true
}

// open opens the epoll instance if it is not open. It returns false if the Watcher is closed or the epoll instance
// cannot be opened. The caller has locked the mutex w.use for writing.
func (w *Watcher) open() bool {
	if w.epoll != nil || w.closed {
		return !w.closed
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	unix.SetNonblock(fd, true) // required by the runtime's poller
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

// run waits for events and handles each one (Watcher.event), until the epoll instance is closed.
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
		runtime.Gosched() // the requests of these events end before the requests of the next events use memory
	}
}

// The method event handles an event of the descriptor fd. If AwaitOffPoller waits for the event, the method ends this
// wait. Otherwise, if the peer has closed the connection, it calls the watch's function (Watch.closed). It asks the
// kernel about the peer, because the event may belong to an earlier connection with the same descriptor.
func (w *Watcher) event(fd int) {
	h := w.get(fd)
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.running:
	case h.arrived != nil:
		select {
		case h.arrived <- struct{}{}:
		default: // the channel has a value already
		}
	case PeerClosed(h.conn) && Unread(h.conn) == 0:
		h.closed()
	}
}

// Close ends all watches. After Close has returned, their functions are not called any more.
func (w *Watcher) Close() {
	w.use.Lock()
	epoll, ended := w.epoll, w.ended
	w.closed = true
	w.use.Unlock()
	if epoll != nil {
		epoll.Close()
		<-ended
	}
}
