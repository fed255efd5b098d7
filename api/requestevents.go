package api

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Attempt implements metrics.Observer.
func (e *Events) Attempt(a *core.AttemptEvent) {
	if !e.stream.HasSamplers() || !e.stream.IsWanted(eventAttempt, uint64(a.Request)) {
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
	if e.stream.HasSamplers() && e.stream.IsWanted(eventRequest, uint64(r.ID)) {
		e.send(eventRequest, r.ID, viewOfRequest(r))
	}
}

func (e *Events) send(eventType string, id core.RequestID, view any) {
	data, err := json.Marshal(view)
	if err != nil {
		return // cannot happen: all views can be encoded as JSON
	}
	e.stream.SendSampled(eventType, uint64(id), data)
}

const exhaustionInterval = time.Second

// exhaustions publishes events about exhausted requests, but at most one in each exhaustionInterval. The first
// exhausted request causes an event and begins an interval. If more requests are exhausted in an interval, one event
// at its end describes the first of them, and has the number of the others.
type exhaustions struct {
	publish func(*exhaustionView)

	mu         sync.Mutex // guards the fields below
	inInterval bool
	pending    *exhaustionView // event for the end of the interval; nil if no request was exhausted in it
}

// exhaustionView is the JSON of an event of type exhaustion. It never has a path or a query string.
type exhaustionView struct {
	At        time.Time      `json:"at"`
	RequestID string         `json:"request_id"`
	Method    string         `json:"method"`
	Host      string         `json:"host"`
	Status    int            `json:"status"`   // status of the response to the client; 0 if there was none
	Attempts  int            `json:"attempts"` // including replays
	Causes    map[string]int `json:"causes"`   // attempts by cause
	Folded    int            `json:"folded"`   // number of other requests that the event stands for
}

func viewOfExhaustion(r *metrics.Request) *exhaustionView {
	v := &exhaustionView{
		At: r.Ended.UTC(), RequestID: r.ID.String(), Method: r.Method, Host: r.Host, Status: r.Status,
		Attempts: len(r.Attempts), Causes: map[string]int{},
	}
	for i := range r.Attempts {
		v.Causes[verdict.CauseName(r.Attempts[i].Outcome.Cause)]++
	}
	return v
}

func (e *exhaustions) add(r *metrics.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.inInterval:
		e.inInterval = true
		time.AfterFunc(exhaustionInterval, e.endInterval)
		e.publish(viewOfExhaustion(r))
	case e.pending == nil:
		e.pending = viewOfExhaustion(r)
	default:
		e.pending.Folded++
	}
}

// endInterval ends an interval. If an event is pending, it publishes the event and begins the next interval.
func (e *exhaustions) endInterval() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending == nil {
		e.inInterval = false
		return
	}
	time.AfterFunc(exhaustionInterval, e.endInterval)
	e.publish(e.pending)
	e.pending = nil
}
