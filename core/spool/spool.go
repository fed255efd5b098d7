// Package spool takes a log off the hands of those who write it: a record is
// put down in memory, and a goroutine passes what has gathered on to the sink,
// in few large writes. A sink that is slow, or stuck, delays nobody.
package spool

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// pause lies between two writes to the sink. A record that comes after a
	// quiet time goes out at once.
	pause = 10 * time.Millisecond
	// limit is how many bytes may wait for the sink.
	limit = 4 << 20
	// kept is the size up to which a buffer is kept for what comes next.
	kept = 256 << 10
	// patience is how long Close waits for a sink that takes nothing.
	patience = time.Second
)

// Writer is an io.Writer that does not wait for its sink. Each Write is one
// record, that is whole lines; records keep their order and are never split by
// a loss. It is safe for concurrent use.
type Writer struct {
	sink io.Writer
	lost func(records int)

	mu      sync.Mutex
	pending []byte // guarded by mu, as are the next three
	spare   []byte
	dropped int
	closed  bool

	wake chan struct{} // has a token when pending is not empty
	quit chan struct{}
	done chan struct{}
}

// New returns a writer to sink; Close it. When records had to be dropped, as
// the sink took none or failed, lost is called with their number, as soon as
// the sink takes some again. It may write to the Writer; nil if nobody wants to
// know.
func New(sink io.Writer, lost func(records int)) *Writer {
	w := &Writer{sink: sink, lost: lost, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Write puts p down for the sink. It never fails: what cannot be kept is
// counted as lost. After Close it writes to the sink itself.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return w.sink.Write(p)
	case len(w.pending)+len(p) > limit:
		w.dropped++
		return len(p), nil
	}
	if len(w.pending) == 0 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	w.pending = append(w.pending, p...)
	return len(p), nil
}

// Close passes on what has been written. It gives up on a sink that takes
// nothing for a second.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	close(w.quit)
	select {
	case <-w.done:
	case <-time.After(patience):
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-w.wake:
		case <-w.quit:
			w.flush()
			return
		}
		w.flush()
		rest.Reset(pause)
		select {
		case <-rest.C:
		case <-w.quit:
			w.flush()
			return
		}
	}
}

// flush passes on what is pending, and then tells of what was lost before it.
func (w *Writer) flush() {
	w.mu.Lock()
	out, lost := w.pending, w.dropped
	w.pending, w.spare, w.dropped = w.spare[:0], nil, 0
	w.mu.Unlock()
	if len(out) == 0 {
		return
	}
	n, err := w.sink.Write(out)
	w.mu.Lock()
	if cap(out) <= kept {
		w.spare = out[:0]
	}
	if err != nil {
		w.dropped += lost + bytes.Count(out[n:], []byte{'\n'})
		lost = 0
	}
	w.mu.Unlock()
	if lost > 0 && w.lost != nil {
		w.lost(lost)
	}
}
