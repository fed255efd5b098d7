package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The states of a request.
const (
	StateSelecting  = "selecting"
	StateQueued     = "queued" // in a queue, for a place in flight or for a retry of the budget
	StateAttempting = "attempting"
	StateWaiting    = "waiting" // in the backoff before a retry
	StateStreaming  = "streaming"
	StateTunnel     = "tunnel"
	StateDone       = "done"
)

// States returns all states, in the order in which a request goes through them.
func States() []string {
	return []string{StateSelecting, StateQueued, StateAttempting, StateWaiting, StateStreaming, StateTunnel, StateDone}
}

// keepDone is the number of ended requests that are kept.
const keepDone = 1_000

// Request is the state of one request. It never contains a path or a query string.
type Request struct {
	ID             core.RequestID
	Method         string
	Host           string
	State          string
	Started        time.Time
	CurrentAttempt int           // 0 is the first
	ProxyID        string        // proxy of the latest attempt; "" before the first
	NextRetry      time.Time     // only in StateWaiting
	Priority       core.Priority // priority of a request that has waited in a queue; otherwise AnyPriority
	QueuedSince    time.Time     // only in StateQueued
	Queued         time.Duration // time in queues until QueuedSince
	Ended          time.Time     // only in StateDone, as are the next two fields
	Final          core.Final
	Status         int                 // status of the response to the client; 0 if the client left before it
	Attempts       []core.AttemptEvent // finished attempts
}

func (r *Request) copy() Request {
	c := *r
	c.Attempts = slices.Clone(r.Attempts)
	return c
}

// Tracker is the list of the requests in flight and of those that ended lately. It is
// safe for concurrent use.
type Tracker struct {
	mu      sync.Mutex // guards all fields; locked after the mu of an Entry
	entries map[*Entry]struct{}
	done    []Request // a ring of keepDone
	next    int       // index of the next request when the ring is full

	keepDone int // never changes
}

// NewTracker returns an empty tracker.
func NewTracker() *Tracker {
	return &Tracker{entries: map[*Entry]struct{}{}, keepDone: keepDone}
}

// Entry is the tracker's row of one client connection, which has one request at a time. One goroutine writes
// to the entry; others read it.
type Entry struct {
	tracker *Tracker

	mu       sync.Mutex // guards the fields below
	inFlight bool
	request  Request
}

// Track returns a new entry. Release it when the connection ends.
func (t *Tracker) Track() *Entry {
	e := &Entry{tracker: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[e] = struct{}{}
	return e
}

// Release removes the entry from its tracker.
func (e *Entry) Release() {
	e.tracker.mu.Lock()
	defer e.tracker.mu.Unlock()
	delete(e.tracker.entries, e)
}

// Begin begins a request.
func (e *Entry) Begin(id core.RequestID, method, host string, started time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inFlight = true
	e.request = Request{
		ID: id, Method: method, Host: host, Started: started, State: StateSelecting, Attempts: e.request.Attempts[:0],
	}
}

// Attempt begins an attempt. Number 0 is the first.
func (e *Entry) Attempt(number int, proxyID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State, e.request.CurrentAttempt, e.request.ProxyID = StateAttempting, number, proxyID
}

// Queued begins a wait in a queue.
func (e *Entry) Queued(p core.Priority, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State, e.request.Priority, e.request.QueuedSince = StateQueued, p, at
}

// Dequeued ends a wait in a queue.
func (e *Entry) Dequeued(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.Queued += at.Sub(e.request.QueuedSince)
	e.request.State = StateSelecting
}

// Waiting begins the backoff before a retry.
func (e *Entry) Waiting(until time.Time, retry int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State, e.request.NextRetry, e.request.CurrentAttempt = StateWaiting, until, retry
}

// Finished ends an attempt.
func (e *Entry) Finished(ev *core.AttemptEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.Attempts = append(e.request.Attempts, *ev)
}

// Streaming reports that the response is being relayed to the client.
func (e *Entry) Streaming() { e.setState(StateStreaming) }

// Tunnel reports that the tunnel is open.
func (e *Entry) Tunnel() { e.setState(StateTunnel) }

func (e *Entry) setState(state string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State = state
}

// End ends the request. It has no effect after the first call.
func (e *Entry) End(final core.Final, status int, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.inFlight {
		return
	}
	e.inFlight = false
	r := &e.request
	r.State, r.Ended, r.Final, r.Status = StateDone, at, final, status
	r.Attempts = e.tracker.keep(r)
}

// keep adds a request that has ended and, if the ring is full, removes the oldest one. It returns the
// memory of that request's attempts as an empty slice for the attempts of the next request.
func (t *Tracker) keep(r *Request) (spare []core.AttemptEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.done) < t.keepDone {
		t.done = append(t.done, *r)
		return nil
	}
	oldest := &t.done[t.next]
	t.next = (t.next + 1) % t.keepDone
	spare = oldest.Attempts[:0]
	*oldest = *r
	return spare
}

// List returns up to limit requests, the newest first: those in flight, then those that
// have ended. It returns requests in any state if state is "".
func (t *Tracker) List(state string, limit int) []Request {
	out := []Request{}
	listed := map[core.RequestID]struct{}{}
	for _, e := range t.connections() {
		if r, ok := e.current(); ok && (state == "" || r.State == state) {
			listed[r.ID] = struct{}{}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Request) int { return b.Started.Compare(a.Started) })
	if len(out) > limit {
		return out[:limit]
	}
	if state != "" && state != StateDone {
		return out
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.done) - 1; i >= 0 && len(out) < limit; i-- {
		r := &t.done[(t.next+i)%len(t.done)]
		if _, twice := listed[r.ID]; !twice { // the request has ended since its entry was read
			out = append(out, r.copy())
		}
	}
	return out
}

// connections returns all entries. A search must read entries before done, because a request that ends
// meanwhile moves from its entry to done.
func (t *Tracker) connections() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := make([]*Entry, 0, len(t.entries))
	for e := range t.entries {
		entries = append(entries, e)
	}
	return entries
}

// current returns the request in flight.
func (e *Entry) current() (r Request, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inFlight {
		r = e.request.copy()
	}
	return r, e.inFlight
}

// id returns the id of the request in flight.
func (e *Entry) id() (id core.RequestID, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.request.ID, e.inFlight
}

// Get returns one request.
func (t *Tracker) Get(id core.RequestID) (Request, bool) {
	for _, e := range t.connections() {
		if at, ok := e.id(); !ok || at != id {
			continue
		}
		if r, ok := e.current(); ok && r.ID == id {
			return r, true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.done {
		if t.done[i].ID == id {
			return t.done[i].copy(), true
		}
	}
	return Request{}, false
}

// InFlight returns the number of requests in flight.
func (t *Tracker) InFlight() int {
	n := 0
	for _, e := range t.connections() {
		if _, ok := e.id(); ok {
			n++
		}
	}
	return n
}
