package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
)

// The states of a request.
const (
	StateSelecting  = "selecting"
	StateQueued     = "queued" // in a queue, for a place in flight or for a retry of the retry budget
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

// maxEnded is the number of ended requests that a tracker keeps.
const maxEnded = 1_000

// Request is the state of one request. It never contains a path or a query string.
type Request struct {
	ID             core.RequestID
	ClientID       string // the client's X-Request-Id; "" without a valid one
	Method         string
	Host           string
	State          string
	Started        time.Time
	CurrentAttempt int           // 0 for the first attempt
	ProxyID        string        // proxy of the latest attempt; "" before the first attempt
	NextRetry      time.Time     // only in StateWaiting
	Priority       core.Priority // priority of a request that has waited in a queue; otherwise AnyPriority
	QueuedSince    time.Time     // only in StateQueued
	Queued         time.Duration // sum of the waits in queues that have ended
	Ended          time.Time     // set only in StateDone, like Final and Status
	Final          core.Final
	Status         int                 // of the response to the client; 0 if the client left before it
	Rules          core.RuleLabels     // labels of the routing rules that are applied
	Attempts       []core.AttemptEvent // finished attempts
}

func (r *Request) copy() Request {
	c := *r
	c.Attempts = slices.Clone(r.Attempts)
	return c
}

// Tracker is the list of the requests in flight and of the requests that ended lately. It is safe for concurrent use.
type Tracker struct {
	mu      sync.Mutex // guards all fields; locked after Entry.mu
	entries []*Entry
	ended   []Request // a ring of up to maxEnded requests
	oldest  int       // index of the oldest request when the ring is full; the next request replaces it

	maxEnded int      // never changes
	observer Observer // nil for none; never changes after SetObserver
}

// Observer receives the requests and the attempts of a tracker when they have ended. Its methods must return soon and
// must not keep or change their argument.
type Observer interface {
	Attempt(*core.AttemptEvent)
	Request(*Request)
}

// SetObserver sets the observer. It must be called before Track.
func (t *Tracker) SetObserver(o Observer) { t.observer = o }

// NewTracker returns an empty tracker.
func NewTracker() *Tracker {
	return &Tracker{maxEnded: maxEnded}
}

// Entry holds the request in flight of one client connection, which has one request at a time. The goroutine of the
// connection and the goroutine of a hedge write to the entry; other goroutines read it.
type Entry struct {
	tracker *Tracker
	index   int // index of the entry in tracker.entries; guarded by tracker.mu

	mu       sync.Mutex // guards the fields below
	inFlight bool
	request  Request
}

// Track returns a new entry. The caller must call Release when the connection ends.
func (t *Tracker) Track() *Entry {
	e := &Entry{tracker: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.index = len(t.entries)
	t.entries = append(t.entries, e)
	return e
}

// minEntries is the minimum capacity of the list of entries.
const minEntries = 1024

// Release removes the entry from its tracker. It must be called once.
func (e *Entry) Release() {
	t := e.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.entries) - 1
	last := t.entries[n]
	t.entries[e.index], t.entries[n], last.index = last, nil, e.index
	if t.entries = t.entries[:n]; cap(t.entries) > minEntries && n < cap(t.entries)/4 {
		t.entries = append(make([]*Entry, 0, cap(t.entries)/2), t.entries...) // the memory of a burst is not kept
	}
}

// Begin begins a request.
func (e *Entry) Begin(id core.RequestID, method, host string, started time.Time) {
	e.mu.Lock() // without defer, because every request calls Begin, BeginAttempt and keepEnded
	e.inFlight = true
	r, attempts := &e.request, e.request.Attempts[:0]
	*r = Request{} // field by field: a composite literal would be copied on the stack
	r.ID, r.Method, r.Host, r.Started, r.State, r.Attempts = id, method, host, started, StateSelecting, attempts
	e.mu.Unlock()
}

// SetClientID sets the id that the client has given the request.
func (e *Entry) SetClientID(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.ClientID = id
}

// BeginAttempt begins an attempt. The first attempt has the number 0.
func (e *Entry) BeginAttempt(number int, proxyID string) {
	e.mu.Lock()
	e.request.State, e.request.CurrentAttempt, e.request.ProxyID = StateAttempting, number, proxyID
	e.mu.Unlock()
}

// BeginQueueWait begins a wait in a queue.
func (e *Entry) BeginQueueWait(p core.Priority, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State, e.request.Priority, e.request.QueuedSince = StateQueued, p, at
}

// EndQueueWait ends a wait in a queue.
func (e *Entry) EndQueueWait(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.Queued += at.Sub(e.request.QueuedSince)
	e.request.State = StateSelecting
}

// BeginBackoff begins the backoff before a retry.
func (e *Entry) BeginBackoff(until time.Time, retry int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.State, e.request.NextRetry, e.request.CurrentAttempt = StateWaiting, until, retry
}

// SetRules sets the routing rules that are applied to the request.
func (e *Entry) SetRules(labels core.RuleLabels) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.request.Rules = labels
}

// EndAttempt ends an attempt.
func (e *Entry) EndAttempt(ev *core.AttemptEvent) {
	e.mu.Lock()
	n := len(e.request.Attempts)
	e.request.Attempts = slices.Grow(e.request.Attempts, 1)[:n+1]
	e.request.Attempts[n] = *ev // append would copy the event twice
	e.mu.Unlock()
	if o := e.tracker.observer; o != nil {
		o.Attempt(ev)
	}
}

// BeginStreaming reports that the response is being relayed to the client.
func (e *Entry) BeginStreaming() { e.setState(StateStreaming) }

// BeginTunnel reports that the tunnel is open.
func (e *Entry) BeginTunnel() { e.setState(StateTunnel) }

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
	if o := e.tracker.observer; o != nil {
		o.Request(r)
	}
	r.Attempts = e.tracker.keepEnded(r)
}

// keepEnded adds an ended request to the ring. A full ring loses its oldest request: keepEnded then returns the memory
// of that request's attempts, for the entry's next request.
func (t *Tracker) keepEnded(r *Request) (spare []core.AttemptEvent) {
	t.mu.Lock()
	if len(t.ended) < t.maxEnded {
		t.ended = append(t.ended, *r)
	} else {
		oldest := &t.ended[t.oldest]
		t.oldest = (t.oldest + 1) % t.maxEnded
		spare = oldest.Attempts[:0]
		*oldest = *r
	}
	t.mu.Unlock()
	return spare
}

// List returns up to limit requests in the given state, or in any state if the argument is "". The requests in flight
// come first, followed by those that have ended. In both groups, the newest is first.
func (t *Tracker) List(state string, limit int) []Request {
	out := []Request{}
	listed := map[core.RequestID]struct{}{}
	for _, e := range t.allEntries() {
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
	for i := len(t.ended) - 1; i >= 0 && len(out) < limit; i-- {
		r := &t.ended[(t.oldest+i)%len(t.ended)]
		if _, twice := listed[r.ID]; !twice { // the request has ended since its entry was read
			out = append(out, r.copy())
		}
	}
	return out
}

// Loss is an ended request that was not delivered, or that its target refused.
type Loss struct {
	Key     minutes.Key // of the last attempt; zero without one
	ProxyID string      // of the last attempt; "" without one
	Host    string
	Final   core.Final
}

// Losses returns the losses among the ended requests that are still in the ring. It leaves out requests that ended at
// or before the given time, and requests whose client left.
func (t *Tracker) Losses(since time.Time) (list []Loss) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.ended {
		r := &t.ended[i]
		served := r.Final == core.FinalSuccess && !isTargetRefusal(r.Status)
		if served || r.Final == core.FinalCancelled || !r.Ended.After(since) {
			continue
		}
		l := Loss{Host: r.Host, Final: r.Final}
		if n := len(r.Attempts); n > 0 {
			last := &r.Attempts[n-1]
			l.Key, l.ProxyID = minutes.KeyOf(last.Outcome.Cause, last.Outcome.Status), last.ProxyID
		}
		list = append(list, l)
	}
	return list
}

// allEntries returns all entries. A caller that also reads the ring of ended requests must call allEntries first,
// because a request that ends moves from its entry to the ring.
func (t *Tracker) allEntries() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.entries)
}

// current returns the request in flight, if there is one.
func (e *Entry) current() (r Request, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inFlight {
		r = e.request.copy()
	}
	return r, e.inFlight
}

// currentID returns the id of the request in flight, if there is one.
func (e *Entry) currentID() (id core.RequestID, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.request.ID, e.inFlight
}

// Get returns the request with the given id, if the tracker has it.
func (t *Tracker) Get(id core.RequestID) (Request, bool) {
	for _, e := range t.allEntries() {
		if at, ok := e.currentID(); !ok || at != id {
			continue
		}
		if r, ok := e.current(); ok && r.ID == id {
			return r, true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.ended {
		if t.ended[i].ID == id {
			return t.ended[i].copy(), true
		}
	}
	return Request{}, false
}

// InFlight returns the number of requests in flight.
func (t *Tracker) InFlight() int {
	n := 0
	for _, e := range t.allEntries() {
		if _, ok := e.currentID(); ok {
			n++
		}
	}
	return n
}
