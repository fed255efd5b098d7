// Package eventstream keeps the last events of the gateway in a list of limited size, and passes new events to
// readers. Publishing never waits for a reader: a reader that is too slow gets an error. Sampled events are not kept
// in the list; they go only to the readers that have asked for sampled events.
package eventstream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// Event is one event of a stream.
type Event struct {
	ID   uint64 // 1 for the first event of the stream; 0 for a sampled event
	Type string
	Data []byte // must not be changed
}

// The limits of a stream.
const (
	MaxEvents  = 1000    // events that are kept; older events are dropped
	MaxBytes   = 1 << 20 // bytes of the data of all events that are kept, together
	MaxReaders = 64      // readers at the same time
	MaxSampled = 4096    // sampled events that wait for one reader; their data together has at most MaxBytes
)

// Errors of Subscribe and of Reader.Next.
var (
	ErrTooManyReaders = errors.New("the maximum number of clients already read the events")
	ErrSlow           = errors.New("the reader is too slow: it has missed events")
	ErrClosed         = errors.New("the stream is closed")
)

// Stream is a list of the last events. The zero Stream is empty and ready for use. It is safe for concurrent use.
type Stream struct {
	mu      sync.Mutex // guards the fields below
	events  []Event    // the events that are kept; their ids are consecutive
	bytes   int        // bytes of the data of the events that are kept
	last    uint64     // id of the last published event
	readers map[*Reader]struct{}
	closed  bool

	samplers atomic.Int32 // readers that have called Sample; changed with mu held
}

// Publish appends an event. The stream keeps a reference to data. The length of data must be at most MaxBytes.
func (s *Stream) Publish(eventType string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.events = append(s.events, Event{s.last, eventType, data})
	s.bytes += len(data)
	for len(s.events) > MaxEvents || s.bytes > MaxBytes {
		s.bytes -= len(s.events[0].Data)
		s.events[0] = Event{} // frees the data: without this, the array keeps the event until append moves the list
		s.events = s.events[1:]
	}
	for r := range s.readers {
		r.wakeUp()
	}
}

// Sampled reports whether a reader has asked for sampled events. It takes no lock.
func (s *Stream) Sampled() bool { return s.samplers.Load() > 0 }

// Wants reports whether a reader wants the sampled event of the given type and request.
func (s *Stream) Wants(eventType string, request uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		if r.sample != nil && r.sample(eventType, request) {
			return true
		}
	}
	return false
}

// Send passes a sampled event to the readers that want it. These readers keep a reference to data.
func (s *Stream) Send(eventType string, request uint64, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		if r.sample == nil || r.slow || !r.sample(eventType, request) {
			continue
		}
		if len(r.sampled) == MaxSampled || r.bytes+len(data) > MaxBytes {
			r.slow, r.sampled, r.bytes = true, nil, 0
		} else {
			r.sampled, r.bytes = append(r.sampled, Event{Type: eventType, Data: data}), r.bytes+len(data)
		}
		r.wakeUp()
	}
}

// Last returns the id of the last event, or 0 if there has been none.
func (s *Stream) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Subscribe returns a reader of the events whose id is greater than the parameter after. The function wanted selects
// events by type; nil selects all types. The result lost is the number of events, of all types, that have an id
// greater than after but are not kept any more. If after is greater than the id of the last event, the reader begins
// with the oldest event that is kept. The caller must close the reader.
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

	// The following fields are guarded by Stream.mu.
	sample  func(eventType string, request uint64) bool // selects sampled events; nil selects none
	sampled []Event                                     // the sampled events that have not been read
	bytes   int                                         // bytes of the data of the events in sampled
	slow    bool                                        // there were too many unread sampled events
	closed  bool
}

// Sample makes the reader receive sampled events. The function wanted selects them by type and request. Sample must be
// called at most once, before Next.
func (r *Reader) Sample(wanted func(eventType string, request uint64) bool) {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	r.sample = wanted
	r.stream.samplers.Add(1)
}

func (r *Reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next waits until there are selected events that this reader has not read, and returns all of them; sampled events
// are last. The result at is the id of the last event that the reader has passed, selected or not. The error is
// ErrSlow if events were dropped before they were read, ErrClosed if the stream is closed and has no more events, or
// the error of ctx. The result at is valid also with the error of ctx.
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
	if r.next < oldest || r.slow {
		return nil, r.next - 1, ErrSlow
	}
	for _, e := range s.events[r.next-oldest:] {
		if r.wanted == nil || r.wanted(e.Type) {
			events = append(events, e)
		}
	}
	events = append(events, r.sampled...)
	clear(r.sampled)
	r.next, r.sampled, r.bytes = s.last+1, r.sampled[:0], 0
	if len(events) == 0 && s.closed {
		err = ErrClosed
	}
	return events, s.last, err
}

// Close ends the reader. The stream then counts it no longer, and may admit another reader.
func (r *Reader) Close() {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	delete(r.stream.readers, r)
	if r.sample != nil && !r.closed {
		r.stream.samplers.Add(-1)
	}
	r.closed = true
}
