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
// adds an event of type exhaustion if no proxy was left for the request.
func (e *Events) Request(r *metrics.Request) {
	switch r.Final {
	case core.FinalExhausted, core.FinalAllBreakersOpen, core.FinalAllBanned, core.FinalAllBannedHere,
		core.FinalPoolEmpty:
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

// exhaustions publishes events about requests for which no proxy was left, but at most one of an outcome in each
// exhaustionInterval. The first request with an outcome causes an event and begins an interval. If more requests have
// this outcome in an interval, one event at its end describes the first of them, and has the number of the others.
type exhaustions struct {
	publish func(*exhaustionView)

	mu        sync.Mutex                         // guards intervals
	intervals [core.LastFinal + 1]*exhaustionSum // intervals by outcome; nil for an outcome without an interval
}

// exhaustionSum is the state of an interval.
type exhaustionSum struct {
	pending *exhaustionView // event for the end of the interval; nil for no request since the last event
}

// exhaustionView is the JSON of an event of type exhaustion. It never has a path or a query string.
type exhaustionView struct {
	At        time.Time      `json:"at"`
	RequestID string         `json:"request_id"`
	Method    string         `json:"method"`
	Host      string         `json:"host"`
	Outcome   string         `json:"outcome"`  // as in X-Whirlpool-Outcome
	Status    int            `json:"status"`   // status of the response to the client; 0 if there was none
	Attempts  int            `json:"attempts"` // including replays
	Causes    map[string]int `json:"causes"`   // attempts by cause
	Folded    int            `json:"folded"`   // number of other requests that the event stands for
}

func viewOfExhaustion(r *metrics.Request) *exhaustionView {
	v := &exhaustionView{
		At: r.Ended.UTC(), RequestID: r.ID.String(), Method: r.Method, Host: r.Host, Outcome: r.Final.String(),
		Status: r.Status, Attempts: len(r.Attempts), Causes: map[string]int{},
	}
	for i := range r.Attempts {
		v.Causes[verdict.CauseName(r.Attempts[i].Outcome.Cause)]++
	}
	return v
}

func (e *exhaustions) add(r *metrics.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := e.intervals[r.Final]
	switch {
	case sum == nil:
		outcome := r.Final // the caller may use r again
		e.intervals[outcome] = &exhaustionSum{}
		time.AfterFunc(exhaustionInterval, func() { e.endInterval(outcome) })
		e.publish(viewOfExhaustion(r))
	case sum.pending == nil:
		sum.pending = viewOfExhaustion(r)
	default:
		sum.pending.Folded++
	}
}

// endInterval ends an interval of an outcome. If an event is pending, it publishes the event and begins the next
// interval.
func (e *exhaustions) endInterval(outcome core.Final) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := e.intervals[outcome]
	if sum.pending == nil {
		e.intervals[outcome] = nil
		return
	}
	time.AfterFunc(exhaustionInterval, func() { e.endInterval(outcome) })
	e.publish(sum.pending)
	sum.pending = nil
}
