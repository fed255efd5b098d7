// Package eventstream keeps the last events of the gateway in a list of limited size, and passes new events
// to readers. Publishing never waits for a reader: a reader that is too slow is dropped.
package eventstream

import (
	"context"
	"errors"
	"sync"
)

// Event is one event of a stream.
type Event struct {
	ID   uint64 // 1 for the first event of the stream
	Type string
	Data []byte // must not be changed
}

// The limits of a stream.
const (
	MaxEvents  = 1000    // events that are kept; older events are dropped
	MaxBytes   = 1 << 20 // bytes of the data of the events that are kept
	MaxReaders = 64      // readers at the same time
)

// Errors of Subscribe and of Reader.Next.
var (
	ErrTooManyReaders = errors.New("the maximum number of clients already read the events")
	ErrSlow           = errors.New("the reader has not read events before they were dropped")
	ErrClosed         = errors.New("the stream is closed")
)

// Stream is a list of the last events. The zero Stream is empty and ready for use. It is safe for concurrent use.
type Stream struct {
	mu      sync.Mutex // guards the fields below
	events  []Event    // the events that are kept; their ids are consecutive
	bytes   int        // bytes of the data of events
	last    uint64     // id of the last event published
	readers map[*Reader]struct{}
	closed  bool
}

// Publish appends an event. The stream keeps a reference to data, which must have at most MaxBytes.
func (s *Stream) Publish(eventType string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.events = append(s.events, Event{s.last, eventType, data})
	s.bytes += len(data)
	for len(s.events) > MaxEvents || s.bytes > MaxBytes {
		s.bytes -= len(s.events[0].Data)
		s.events[0] = Event{} // frees the data, because the array keeps this element until append moves the list
		s.events = s.events[1:]
	}
	for r := range s.readers {
		r.wakeUp()
	}
}

// Last returns the id of the last event, or 0 if there has been none.
func (s *Stream) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Subscribe returns a reader of the events whose id is greater than the parameter after. wanted selects
// events by type; nil selects all. lost is the number of such events, of all types, that are not kept any
// more. If after is greater than Last, the reader begins with the oldest event that is kept. The caller must
// close the reader.
func (s *Stream) Subscribe(after uint64, wanted func(eventType string) bool) (r *Reader, lost uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, 0, ErrClosed
	case len(s.readers) == MaxReaders:
		return nil, 0, ErrTooManyReaders
	}
	oldest := s.last - uint64(len(s.events)) + 1
	next := after + 1
	if next < oldest {
		lost = oldest - next
	}
	if after > s.last || next < oldest {
		next = oldest
	}
	r = &Reader{stream: s, wanted: wanted, next: next, wake: make(chan struct{}, 1)}
	if s.readers == nil {
		s.readers = map[*Reader]struct{}{}
	}
	s.readers[r] = struct{}{}
	return r, lost, nil
}

// Close ends all readers after they have read the remaining events. It admits no more readers.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for r := range s.readers {
		r.wakeUp()
	}
}

// Reader reads a stream. Only one goroutine may use it.
type Reader struct {
	stream *Stream
	wanted func(string) bool // nil selects all types
	next   uint64            // the id of the next event to read; guarded by Stream.mu
	wake   chan struct{}     // capacity 1; receives a value after a change of the stream
}

func (r *Reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next waits for selected events, and returns all that were published since the last call. at is the id up
// to which the stream has been read, including events that are not selected. The error is ErrSlow if the
// stream dropped events before they were read, ErrClosed if the stream is closed and has no more events, or
// the error of ctx, which is returned with a valid at.
func (r *Reader) Next(ctx context.Context) (events []Event, at uint64, err error) {
	for {
		events, at, err = r.read()
		if len(events) > 0 || err != nil {
			return events, at, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, at, ctx.Err()
		}
	}
}

func (r *Reader) read() (events []Event, at uint64, err error) {
	s := r.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.last - uint64(len(s.events)) + 1
	if r.next < oldest {
		return nil, r.next - 1, ErrSlow
	}
	for _, e := range s.events[r.next-oldest:] {
		if r.wanted == nil || r.wanted(e.Type) {
			events = append(events, e)
		}
	}
	r.next = s.last + 1
	if len(events) == 0 && s.closed {
		err = ErrClosed
	}
	return events, s.last, err
}

// Close frees the reader's place for another reader.
func (r *Reader) Close() {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	delete(r.stream.readers, r)
}
