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
	lastID  uint64     // id of the last published event
	readers map[*Reader]struct{}
	closed  bool

	samplers atomic.Int32 // readers that have called Sample; changed with mu held
}

// Publish appends an event. The stream keeps a reference to data. The length of data must be at most MaxBytes.
func (s *Stream) Publish(eventType string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	s.events = append(s.events, Event{s.lastID, eventType, data})
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

// HasSamplers reports whether a reader has asked for sampled events. It takes no lock.
func (s *Stream) HasSamplers() bool { return s.samplers.Load() > 0 }

// IsWanted reports whether a reader wants the sampled event.
func (s *Stream) IsWanted(eventType string, request uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		if r.wantsSampled != nil && r.wantsSampled(eventType, request) {
			return true
		}
	}
	return false
}

// SendSampled passes a sampled event to the readers that want it. These readers keep a reference to data.
func (s *Stream) SendSampled(eventType string, request uint64, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		if r.wantsSampled == nil || r.isSlow || !r.wantsSampled(eventType, request) {
			continue
		}
		if len(r.sampled) == MaxSampled || r.bytes+len(data) > MaxBytes {
			r.isSlow, r.sampled, r.bytes = true, nil, 0
		} else {
			r.sampled, r.bytes = append(r.sampled, Event{Type: eventType, Data: data}), r.bytes+len(data)
		}
		r.wakeUp()
	}
}

// LastID returns the id of the last event, or 0 if there has been none.
func (s *Stream) LastID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastID
}

// oldestID returns the id of the oldest event that is kept. If no event is kept, it returns the id of the next event.
// The caller holds the mutex mu.
func (s *Stream) oldestID() uint64 { return s.lastID - uint64(len(s.events)) + 1 }

// Subscribe returns a reader that begins with the event after the one with the given id. If the id is above the last
// id, the reader begins with the oldest event that is kept. The function wantsType selects the types of events that the
// reader gets; nil selects all types. Subscribe also returns the number of events of all types that the reader has
// missed, because they are no longer kept. The caller must close the reader.
func (s *Stream) Subscribe(after uint64, wantsType func(eventType string) bool) (r *Reader, lost uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, 0, ErrClosed
	case len(s.readers) == MaxReaders:
		return nil, 0, ErrTooManyReaders
	}
	oldest := s.oldestID()
	next := after + 1
	if next < oldest {
		lost = oldest - next
	}
	if after > s.lastID || next < oldest {
		next = oldest
	}
	r = &Reader{stream: s, wantsType: wantsType, next: next, wake: make(chan struct{}, 1)}
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
	stream    *Stream
	wantsType func(string) bool // nil selects all types
	next      uint64            // the id of the next event to read; guarded by Stream.mu
	wake      chan struct{}     // capacity 1; receives a value after a change of the stream

	// The following fields are guarded by Stream.mu.
	wantsSampled func(eventType string, request uint64) bool // selects sampled events; nil selects none
	sampled      []Event                                     // the sampled events that have not been read
	bytes        int                                         // bytes of the data of the events in sampled
	isSlow       bool                                        // there were too many unread sampled events
	closed       bool
}

// SetSampler makes the reader receive the sampled events that wantsSampled selects. It must be called at most once,
// before Next.
func (r *Reader) SetSampler(wantsSampled func(eventType string, request uint64) bool) {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	r.wantsSampled = wantsSampled
	r.stream.samplers.Add(1)
}

func (r *Reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next waits until there are selected events that this reader has not read. It returns all of them, the sampled events
// last. It also returns the id of the last event that the reader has passed, selected or not, even if ctx has ended.
// The error is ErrSlow if events were dropped before they were read, ErrClosed if the stream is closed and has no more
// events, or the error of ctx.
func (r *Reader) Next(ctx context.Context) (events []Event, lastID uint64, err error) {
	for {
		events, lastID, err = r.read()
		if len(events) > 0 || err != nil {
			return events, lastID, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, lastID, ctx.Err()
		}
	}
}

// SkipLost is called if Next has returned ErrSlow. It makes the reader continue with the oldest event that is kept, and
// does not wait. It returns the number of events of all types that the reader has missed. Its other results are those
// of Next. Sampled events cannot be skipped: if the reader has missed some of them, the error is ErrSlow again.
func (r *Reader) SkipLost() (lost uint64, events []Event, lastID uint64, err error) {
	r.stream.mu.Lock() // held until the events are read, so that no further event is lost
	defer r.stream.mu.Unlock()
	if oldest := r.stream.oldestID(); r.next < oldest {
		lost, r.next = oldest-r.next, oldest
	}
	events, lastID, err = r.readLocked()
	return lost, events, lastID, err
}

func (r *Reader) read() (events []Event, lastID uint64, err error) {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	return r.readLocked()
}

// readLocked returns the results of Next without waiting for events. The caller holds Stream.mu.
func (r *Reader) readLocked() (events []Event, lastID uint64, err error) {
	s := r.stream
	oldest := s.oldestID()
	if r.next < oldest || r.isSlow {
		return nil, r.next - 1, ErrSlow
	}
	for _, e := range s.events[r.next-oldest:] {
		if r.wantsType == nil || r.wantsType(e.Type) {
			events = append(events, e)
		}
	}
	events = append(events, r.sampled...)
	clear(r.sampled)
	r.next, r.sampled, r.bytes = s.lastID+1, r.sampled[:0], 0
	if len(events) == 0 && s.closed {
		err = ErrClosed
	}
	return events, s.lastID, err
}

// Close ends the reader.
func (r *Reader) Close() {
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	delete(r.stream.readers, r)
	if r.wantsSampled != nil && !r.closed {
		r.stream.samplers.Add(-1)
	}
	r.closed = true
}
