package api

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Attempt implements metrics.Observer: it sends an event of type attempt to the clients that have asked for it.
func (e *Events) Attempt(a *core.AttemptEvent) {
	if !e.stream.Sampled() || !e.stream.Wants(eventAttempt, uint64(a.Request)) {
		return
	}
	e.send(eventAttempt, a.Request, struct {
		RequestID string `json:"request_id"`
		Host      string `json:"host"`
		attemptView
	}{a.Request.String(), a.Host, viewOfAttempt(a)})
}

// Request implements metrics.Observer: it sends an event of type request to the clients that have asked for it, and
// adds an event of type exhaustion if the request is exhausted.
func (e *Events) Request(r *metrics.Request) {
	if r.Final == core.FinalExhausted {
		e.exhaustions.add(r)
	}
	if e.stream.Sampled() && e.stream.Wants(eventRequest, uint64(r.ID)) {
		e.send(eventRequest, r.ID, viewOfRequest(r))
	}
}

func (e *Events) send(eventType string, id core.RequestID, view any) {
	data, err := json.Marshal(view)
	if err != nil {
		return // cannot happen: all views can be encoded as JSON
	}
	e.stream.Send(eventType, uint64(id), data)
}

// exhaustionsEvery is the minimum interval between two events of type exhaustion.
const exhaustionsEvery = time.Second

// exhaustions publishes events about exhausted requests. The first event is published immediately, and an interval of
// exhaustionsEvery begins. At the end of the interval, one event is published about the first request that was
// exhausted in it. The event also has the number of all other requests that were exhausted in the interval.
type exhaustions struct {
	publish func(*exhaustionView)

	mu      sync.Mutex      // guards the fields below
	running bool            // an interval has begun
	next    *exhaustionView // the event for the end of the interval; nil if no request was exhausted in it
}

// exhaustionView is the JSON of an event of type exhaustion. It never has a path or a query string.
type exhaustionView struct {
	At        time.Time      `json:"at"`
	RequestID string         `json:"request_id"`
	Method    string         `json:"method"`
	Host      string         `json:"host"`
	Status    int            `json:"status"`   // of the response to the client; 0 if there was no response
	Attempts  int            `json:"attempts"` // including replays
	Causes    map[string]int `json:"causes"`   // attempts by cause
	Folded    int            `json:"folded"`   // other requests that were exhausted in the interval, without an event
}

func viewOfExhaustion(r *metrics.Request) *exhaustionView {
	v := &exhaustionView{
		At: r.Ended.UTC(), RequestID: r.ID.String(), Method: r.Method, Host: r.Host, Status: r.Status,
		Attempts: len(r.Attempts), Causes: map[string]int{},
	}
	for i := range r.Attempts {
		v.Causes[verdict.Word(r.Attempts[i].Outcome.Cause)]++
	}
	return v
}

// add adds an exhausted request.
func (e *exhaustions) add(r *metrics.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.running:
		e.running = true
		time.AfterFunc(exhaustionsEvery, e.endInterval)
		e.publish(viewOfExhaustion(r))
	case e.next == nil:
		e.next = viewOfExhaustion(r)
	default:
		e.next.Folded++
	}
}

// endInterval publishes the event of the interval that ends, and begins the next interval. If there is no event, no
// interval begins.
func (e *exhaustions) endInterval() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next == nil {
		e.running = false
		return
	}
	time.AfterFunc(exhaustionsEvery, e.endInterval)
	e.publish(e.next)
	e.next = nil
}
