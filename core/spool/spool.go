// Package spool writes a log without making anybody wait for it: a record is put
// down in memory, and a goroutine passes what has gathered on to the sink, in few
// large writes. A sink that is slow, or stuck, delays nobody.
package spool

import (
	"bytes"
	"fmt"
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
// record, that is a line. Records come out in order, each once and whole, or
// are counted as lost. It is safe for concurrent use.
type Writer struct {
	sink io.Writer
	lost func(records int)
	cut  bool // the sink's last line is half a record; of whoever flushes

	mu      sync.Mutex
	pending []byte // guarded by mu, as are the others up to idle
	passing []byte // what the sink is being given
	spare   []byte
	dropped int  // records that nobody has been told of
	failing bool // the sink did not take all it was given last
	idle    bool // run has ended and nobody flushes: whoever writes does

	wake chan struct{} // has a token when there is something to flush
	once sync.Once     // for quit
	quit chan struct{}
	done chan struct{}
}

// Unwritten is how many records the sink has not taken when Close gives up.
type Unwritten int

func (n Unwritten) Error() string {
	return fmt.Sprintf("%d records were not written: the sink fails, or takes nothing", int(n))
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

// Write puts p down for the sink. It never fails: what cannot be kept is counted
// as lost. After Close it passes p on itself, unless another Write is doing so.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		w.nudge()
	}
	if len(w.pending)+len(p) > limit {
		w.dropped++
	} else {
		w.pending = append(w.pending, p...)
	}
	if w.idle {
		w.drain()
	}
	return len(p), nil
}

// Close passes on what has been written and tells of what was lost. It gives
// up on a sink that takes nothing for a second; its error is an Unwritten.
func (w *Writer) Close() error {
	w.once.Do(func() { close(w.quit) })
	select {
	case <-w.done:
	case <-time.After(patience):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.dropped + records(w.passing) + records(w.pending); n > 0 {
		return Unwritten(n)
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for closing := false; !closing; {
		select {
		case <-w.wake:
		case <-w.quit:
		}
		w.mu.Lock()
		w.flush()
		w.mu.Unlock()
		rest.Reset(pause)
		select {
		case <-rest.C:
		case <-w.quit:
			closing = true
		}
	}
	w.mu.Lock()
	w.drain()
	w.mu.Unlock()
}

// nudge makes run flush soon.
func (w *Writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// drain flushes until there is no more to do, for a sink that failed before
// too; what is written after that is for its writer to flush. It requires mu,
// as flush does.
func (w *Writer) drain() {
	w.idle, w.failing = false, false
	for len(w.pending) > 0 || w.dropped > 0 && !w.failing {
		w.flush()
	}
	w.idle = true
}

// flush tells of what was lost, so that a record about it stands behind what is
// pending, and passes that on. It lets go of mu for both.
func (w *Writer) flush() {
	out, lost := w.pending, 0
	w.pending, w.passing, w.spare = w.spare[:0], out, nil
	if !w.failing {
		lost, w.dropped = w.dropped, 0
	}
	w.mu.Unlock()
	if lost > 0 && w.lost != nil {
		w.lost(lost)
	}
	missed := w.put(out)
	w.mu.Lock()
	w.passing = nil
	if cap(out) <= kept {
		w.spare = out[:0]
	}
	if len(out) > 0 {
		w.failing = missed > 0
	}
	if w.dropped += missed; w.dropped > 0 && !w.failing {
		w.nudge()
	}
}

// put gives the sink records and returns how many it did not take. One that it
// took half of stays a line of its own.
func (w *Writer) put(out []byte) (missed int) {
	if len(out) == 0 {
		return 0
	}
	if w.cut {
		if _, err := w.sink.Write([]byte{'\n'}); err != nil {
			return records(out)
		}
	}
	n, _ := w.sink.Write(out)
	w.cut = n > 0 && out[n-1] != '\n'
	rest := out[n:]
	if w.cut {
		rest = bytes.TrimPrefix(rest, []byte{'\n'}) // that record is there, and its line ends with what comes next
	}
	return records(rest)
}

func records(lines []byte) int { return bytes.Count(lines, []byte{'\n'}) }
