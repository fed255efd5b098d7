// Package spool buffers a log. A Write stores its record in memory, and a goroutine writes the stored records to the
// sink in few large writes. A sink that is slow or blocked delays no Write.
package spool

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// flushInterval is the minimum time between two writes to the sink. A record is written immediately if the last
	// write was longer ago.
	flushInterval = 10 * time.Millisecond
	// maxPending is the maximum number of bytes that wait for the sink.
	maxPending = 4 << 20
	// maxKeptBuffer is the maximum size of a buffer that is kept for reuse.
	maxKeptBuffer = 256 << 10
	// closeTimeout is the longest time for which Close waits for the sink.
	closeTimeout = time.Second
)

// Writer is an io.Writer that does not wait for its sink. Each Write is one record: one line. The sink gets the
// records in order. Each record is written once and completely, or counted as lost. A Writer is safe for concurrent
// use.
type Writer struct {
	sink       io.Writer
	onLost     func(records int, err error)
	interval   time.Duration // between two calls of onLost while the sink fails; 0 for no calls meanwhile
	brokenLine bool          // the sink's last line is incomplete; only flush uses this field

	mu           sync.Mutex // guards the fields from pending to flushOnWrite
	pending      []byte
	writing      []byte // being written to the sink
	spare        []byte
	lostRecords  int       // records lost and not yet reported
	lastReport   time.Time // time of the last call of onLost
	sinkError    error     // error of the last write to the sink; nil if it succeeded
	lastError    error     // error of the last write that failed since the last call of onLost
	flushOnWrite bool      // the method run has ended, so Write must flush

	wake chan struct{} // holds a value if there is something to flush
	once sync.Once     // for quit
	quit chan struct{}
	done chan struct{}
}

// Unwritten is the number of records that were not written to the sink before Close returned.
type Unwritten int

func (u Unwritten) Error() string {
	return fmt.Sprintf("%d records were not written: the sink fails or blocks", int(u))
}

// New returns a Writer for sink. The caller must Close it. If the sink blocks or fails, records are lost. After the
// next successful write, the Writer calls onLost with the number of lost records, and the error of the sink (nil if
// the sink was only too slow). The function onLost may be nil, and may write to the Writer.
func New(sink io.Writer, onLost func(records int, err error)) *Writer {
	return newWriter(&Writer{sink: sink, onLost: onLost})
}

// NewReported is like New, but the Writer calls onLost also while the sink fails: after the first failure, and then at
// most once in an interval. The function onLost must not write to the Writer.
func NewReported(sink io.Writer, interval time.Duration, onLost func(records int, err error)) *Writer {
	return newWriter(&Writer{sink: sink, onLost: onLost, interval: interval})
}

func newWriter(w *Writer) *Writer {
	w.wake, w.quit, w.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go w.run()
	return w
}

// Write stores p for the sink. It neither waits nor fails: if p does not fit into maxPending, it counts as lost. After
// Close, Write itself writes p to the sink. If another goroutine is writing to the sink at that time, that goroutine
// writes p, too.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		w.requestFlush()
	}
	if len(w.pending)+len(p) > maxPending {
		w.lostRecords++
	} else {
		w.pending = append(w.pending, p...)
	}
	if w.flushOnWrite {
		w.drain()
	}
	return len(p), nil
}

// Close writes the stored records to the sink and reports lost ones. It waits for at most a second. If records remain,
// the error is an Unwritten.
func (w *Writer) Close() error {
	w.once.Do(func() { close(w.quit) })
	select {
	case <-w.done:
	case <-time.After(closeTimeout):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.lostRecords + countRecords(w.writing) + countRecords(w.pending); n > 0 {
		return Unwritten(n)
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for closing := false; !closing; {
		select {
		case <-w.wake:
		case <-w.quit:
		}
		w.mu.Lock()
		w.flush()
		w.mu.Unlock()
		timer.Reset(flushInterval)
		select {
		case <-timer.C:
		case <-w.quit:
			closing = true
		}
	}
	w.mu.Lock()
	w.drain()
	w.mu.Unlock()
}

// requestFlush makes the method run call flush soon.
func (w *Writer) requestFlush() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// drain calls flush until no record is pending, even after a failed write. From then on, each Write calls drain itself.
// The caller holds mu.
func (w *Writer) drain() {
	w.flushOnWrite, w.sinkError = false, nil
	for len(w.pending) > 0 || w.lostRecords > 0 && w.sinkError == nil {
		w.flush()
	}
	w.flushOnWrite = true
}

// flush first reports lost records (onLost), if mayReport permits it. Then it writes to the sink the records that were
// pending when flush was called. The caller holds mu; flush releases mu while it reports and writes.
func (w *Writer) flush() {
	out, lost, cause := w.pending, 0, w.lastError
	w.pending, w.writing, w.spare = w.spare[:0], out, nil
	if w.mayReport() {
		lost, w.lostRecords, w.lastError, w.lastReport = w.lostRecords, 0, nil, time.Now()
	}
	w.mu.Unlock()
	if lost > 0 && w.onLost != nil {
		w.onLost(lost, cause)
	}
	unwritten, err := w.write(out)
	w.mu.Lock()
	w.writing = nil
	if cap(out) <= maxKeptBuffer {
		w.spare = out[:0]
	}
	if len(out) > 0 {
		w.sinkError = err
	}
	if err != nil {
		w.lastError = err
	}
	if w.lostRecords += unwritten; w.mayReport() {
		w.requestFlush()
	}
}

// mayReport reports whether there are lost records to report, and whether they may be reported now. The caller holds
// mu.
func (w *Writer) mayReport() bool {
	return w.lostRecords > 0 && (w.sinkError == nil || w.interval > 0 && time.Since(w.lastReport) >= w.interval)
}

// The method write writes records to the sink. It returns the number of records that were not written, and the error if
// there are any. If a record was written only in part, this part becomes a separate line.
func (w *Writer) write(out []byte) (unwritten int, err error) {
	if len(out) == 0 {
		return 0, nil
	}
	if w.brokenLine {
		if _, err := w.sink.Write([]byte{'\n'}); err != nil {
			return countRecords(out), err
		}
	}
	n, err := w.sink.Write(out)
	w.brokenLine = n > 0 && out[n-1] != '\n'
	rest := out[n:]
	if w.brokenLine {
		// only the newline of this record is missing; the next write adds it
		rest = bytes.TrimPrefix(rest, []byte{'\n'})
	}
	if unwritten = countRecords(rest); unwritten == 0 {
		err = nil
	}
	return unwritten, err
}

func countRecords(lines []byte) int { return bytes.Count(lines, []byte{'\n'}) }
