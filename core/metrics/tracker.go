package metrics

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The states of a request.
const (
	StateSelecting  = "selecting"
	StateAttempting = "attempting"
	StateWaiting    = "waiting" // for its next retry
	StateStreaming  = "streaming"
	StateTunnel     = "tunnel"
	StateDone       = "done"
)

// States returns all of them, in the order of a request's life.
func States() []string {
	return []string{StateSelecting, StateAttempting, StateWaiting, StateStreaming, StateTunnel, StateDone}
}

// keepFinished is how many finished requests are remembered.
const keepFinished = 1_000

// Tracker knows the requests in flight and the latest finished ones. It is
// safe for concurrent use.
type Tracker struct {
	mu       sync.Mutex
	entries  map[*Entry]struct{}
	finished []followed // a ring
	next     int
}

// NewTracker returns a tracker of nothing yet.
func NewTracker() *Tracker {
	return &Tracker{entries: map[*Entry]struct{}{}}
}

// Request is one request as GET /requests shows it. It never holds a path or a
// query string.
type Request struct {
	ID             string          `json:"id"`
	Method         string          `json:"method"`
	Host           string          `json:"host"`
	State          string          `json:"state"`
	CurrentAttempt int             `json:"current_attempt"` // 0 is the first
	ProxyID        string          `json:"proxy_id"`
	NextRetryTime  *time.Time      `json:"next_retry_time"` // while waiting
	StartedAt      time.Time       `json:"started_at"`
	FinishedAt     *time.Time      `json:"finished_at"`
	Outcome        string          `json:"outcome,omitempty"`
	Status         int             `json:"status,omitempty"`
	Attempts       []AttemptRecord `json:"attempts"`
}

// AttemptRecord is one finished attempt of a Request.
type AttemptRecord struct {
	Attempt      int     `json:"attempt"`
	ProxyID      string  `json:"proxy_id"`
	Outcome      string  `json:"outcome"`
	StatusCode   int     `json:"status_code,omitempty"`
	DelayBefore  float64 `json:"delay_before"` // s
	Latency      float64 `json:"latency"`      // s
	ErrorMessage string  `json:"error_message,omitempty"`
}

// RecordOf returns an attempt as the API shows it.
func RecordOf(e *core.AttemptEvent) AttemptRecord {
	a := AttemptRecord{
		Attempt: e.Attempt, ProxyID: e.ProxyID, Outcome: e.Outcome.Result.String(), StatusCode: e.Outcome.Status,
		DelayBefore: round6(e.Delay.Seconds()), Latency: round6(e.Ended.Sub(e.Started).Seconds()),
	}
	if e.Outcome.Err != nil {
		a.ErrorMessage = e.Outcome.Err.Error()
	}
	return a
}

// followed is what is known of one request; it is put into words when somebody
// asks.
type followed struct {
	id       core.RequestID
	method   string
	host     string
	state    string
	started  time.Time
	until    time.Time // of the wait
	ended    time.Time
	current  int
	proxyID  string
	final    core.Final
	status   int
	attempts []core.AttemptEvent
}

// Entry follows the requests of one client connection, one after the other. It
// is written by one goroutine and read by others.
type Entry struct {
	tracker *Tracker

	mu     sync.Mutex
	active bool
	followed
}

// Track returns a new entry; Release it when its connection ends.
func (t *Tracker) Track() *Entry {
	e := &Entry{tracker: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[e] = struct{}{}
	return e
}

// Release ends the entry.
func (e *Entry) Release() {
	e.tracker.mu.Lock()
	defer e.tracker.mu.Unlock()
	delete(e.tracker.entries, e)
}

// Begin starts to follow a request.
func (e *Entry) Begin(id core.RequestID, method, host string, started time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.active = true
	e.followed = followed{id: id, method: method, host: host, started: started, state: StateSelecting, attempts: e.attempts[:0]}
}

// Attempt says that an attempt begins.
func (e *Entry) Attempt(number int, proxyID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state, e.current, e.proxyID = StateAttempting, number, proxyID
}

// Waiting says that a retry waits.
func (e *Entry) Waiting(until time.Time, retry int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state, e.until, e.current = StateWaiting, until, retry
}

// Finished says how an attempt went.
func (e *Entry) Finished(ev *core.AttemptEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attempts = append(e.attempts, *ev)
}

// Streaming and Tunnel say that the answer goes to the client.
func (e *Entry) Streaming() { e.set(StateStreaming) }

// Tunnel says that a tunnel stands.
func (e *Entry) Tunnel() { e.set(StateTunnel) }

func (e *Entry) set(state string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = state
}

// End says that the request is over.
func (e *Entry) End(final core.Final, status int, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.active {
		return
	}
	e.active = false
	t := e.tracker
	e.state, e.ended, e.final, e.status = StateDone, at, final, status
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.finished) < keepFinished {
		t.finished = append(t.finished, e.followed)
		e.attempts = nil
		return
	}
	// The oldest goes, and its slice is the next request's.
	slot := &t.finished[t.next]
	t.next = (t.next + 1) % keepFinished
	spare := slot.attempts
	*slot = e.followed
	e.attempts = spare[:0]
}

// request puts f into words.
func (f *followed) request() Request {
	r := Request{
		ID: f.id.String(), Method: f.method, Host: f.host, State: f.state, CurrentAttempt: f.current, ProxyID: f.proxyID,
		StartedAt: f.started.UTC(), Attempts: make([]AttemptRecord, 0, len(f.attempts)),
	}
	for i := range f.attempts {
		r.Attempts = append(r.Attempts, RecordOf(&f.attempts[i]))
	}
	switch f.state {
	case StateWaiting:
		until := f.until.UTC()
		r.NextRetryTime = &until
	case StateDone:
		ended := f.ended.UTC()
		r.FinishedAt, r.Outcome, r.Status = &ended, f.final.String(), f.status
	}
	return r
}

// List returns up to limit requests, the newest first: those in flight, then
// finished ones. state filters, "" takes all.
func (t *Tracker) List(state string, limit int) []Request {
	out := []Request{}
	running := map[string]struct{}{}
	for _, e := range t.connections() {
		if r, ok := e.now(); ok && (state == "" || r.State == state) {
			running[r.ID] = struct{}{}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Request) int { return b.StartedAt.Compare(a.StartedAt) })
	if len(out) > limit {
		return out[:limit]
	}
	if state != "" && state != StateDone {
		return out
	}
	// Whoever ends a request needs mu: only what is asked for is put into words.
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.finished) - 1; i >= 0 && len(out) < limit; i-- {
		r := t.finished[(t.next+i)%len(t.finished)].request()
		if _, twice := running[r.ID]; !twice { // it has ended since
			out = append(out, r)
		}
	}
	return out
}

// connections are the entries there are. Who looks for a request among them
// first, and then among the finished ones, misses none that ends meanwhile.
func (t *Tracker) connections() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := make([]*Entry, 0, len(t.entries))
	for e := range t.entries {
		entries = append(entries, e)
	}
	return entries
}

func (e *Entry) now() (r Request, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.active {
		r = e.request()
	}
	return r, e.active
}

// Get returns one request.
func (t *Tracker) Get(id string) (Request, bool) {
	n, err := strconv.ParseUint(id, 16, 64)
	want := core.RequestID(n)
	if err != nil || want.String() != id {
		return Request{}, false
	}
	for _, e := range t.connections() {
		e.mu.Lock()
		if e.active && e.id == want {
			defer e.mu.Unlock()
			return e.request(), true
		}
		e.mu.Unlock()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.finished {
		if f := &t.finished[i]; f.id == want {
			return f.request(), true
		}
	}
	return Request{}, false
}

// InFlight is the number of requests running.
func (t *Tracker) InFlight() int {
	n := 0
	for _, e := range t.connections() {
		e.mu.Lock()
		if e.active {
			n++
		}
		e.mu.Unlock()
	}
	return n
}
