package api

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Requests lists the requests in flight and the requests that have just ended.
type Requests interface {
	// List returns up to limit requests in the given state ("" for any state), the newest first.
	List(state string, limit int) []metrics.Request
	Get(id core.RequestID) (r metrics.Request, ok bool)
	// Losses returns the lost requests among the latest ones, as far as they ended after the given time. A request is
	// lost if no response was relayed, or if the target refused the request.
	Losses(since time.Time) []metrics.Loss
}

var _ Requests = (*metrics.Tracker)(nil)

// requestHandler serves the endpoints under /requests.
type requestHandler struct {
	tracker Requests
}

func (h *requestHandler) routes(r fiber.Router) {
	r.Get("/requests", h.list)
	r.Get("/requests/:id", h.get)
}

// requestView is the JSON of one request. It never has a path or a query string.
type requestView struct {
	ID             string        `json:"id"`
	ClientID       string        `json:"client_request_id,omitempty"` // X-Request-Id
	Method         string        `json:"method"`
	Host           string        `json:"host"`
	State          string        `json:"state"`
	CurrentAttempt int           `json:"current_attempt"` // number of the last attempt, from 0
	ProxyID        string        `json:"proxy_id"`
	NextRetryTime  *time.Time    `json:"next_retry_time"` // null unless the state is waiting
	StartedAt      time.Time     `json:"started_at"`
	FinishedAt     *time.Time    `json:"finished_at"` // null unless the state is done
	Outcome        string        `json:"outcome,omitempty"`
	Status         int           `json:"status,omitempty"`
	Attempts       []attemptView `json:"attempts"`
	Queue          *queueView    `json:"queue,omitempty"` // absent if the request has not waited in a queue
	Rules          []string      `json:"rules,omitempty"` // labels of the routing rules that are applied
}

// queueView is the JSON of a request's waits in queues.
type queueView struct {
	Priority string  `json:"priority"`
	Waited   float64 `json:"waited"` // sum of all ended waits in seconds
}

// attemptView is the JSON of one finished attempt.
type attemptView struct {
	Attempt      int       `json:"attempt"`
	Hedge        bool      `json:"hedge,omitempty"` // the attempt began while the attempt before it was in flight
	ProxyID      string    `json:"proxy_id"`
	Outcome      string    `json:"outcome"`
	StatusCode   int       `json:"status_code,omitempty"`
	DelayBefore  float64   `json:"delay_before"` // s
	Latency      float64   `json:"latency"`      // s
	ErrorMessage string    `json:"error_message,omitempty"`
	Cause        string    `json:"cause"`
	Rule         string    `json:"rule,omitempty"` // label of the rule that was applied to the attempt's outcome
	StartedAt    time.Time `json:"started_at"`
}

func viewOfRequest(r *metrics.Request) requestView {
	v := requestView{
		ID: r.ID.String(), ClientID: r.ClientID, Method: r.Method, Host: r.Host, State: r.State,
		CurrentAttempt: r.CurrentAttempt, ProxyID: r.ProxyID, StartedAt: r.Started.UTC(),
		Attempts: viewsOfAttempts(r.Attempts),
	}
	if r.Priority != core.AnyPriority {
		v.Queue = &queueView{r.Priority.String(), seconds(r.Queued)}
	}
	for _, label := range r.Rules {
		if label != "" {
			v.Rules = append(v.Rules, label)
		}
	}
	switch r.State {
	case metrics.StateWaiting:
		until := r.NextRetry.UTC()
		v.NextRetryTime = &until
	case metrics.StateDone:
		ended := r.Ended.UTC()
		v.FinishedAt, v.Outcome, v.Status = &ended, r.Final.String(), r.Status
	}
	return v
}

func viewsOfAttempts(events []core.AttemptEvent) []attemptView {
	out := make([]attemptView, len(events))
	for i := range events {
		out[i] = viewOfAttempt(&events[i])
	}
	return out
}

func viewOfAttempt(e *core.AttemptEvent) attemptView {
	v := attemptView{
		Attempt: e.Attempt, Hedge: e.Hedge, ProxyID: e.ProxyID, Outcome: e.Outcome.Result.String(),
		StatusCode:  e.Outcome.Status,
		DelayBefore: seconds(e.Delay), Latency: seconds(e.Ended.Sub(e.Started)),
		Cause: verdict.CauseName(e.Outcome.Cause), StartedAt: e.Started.UTC(), Rule: e.Rule,
	}
	if e.Outcome.Err != nil {
		v.ErrorMessage = e.Outcome.Err.Error()
	}
	return v
}

const (
	maxRequests     = 10_000
	defaultRequests = 200
)

func (h *requestHandler) list(c *fiber.Ctx) error {
	p, err := parsePage(c, requestOrders, requestKey, maxRequests, defaultRequests)
	if err != nil {
		return err
	}
	state, given := queryValue(c, "state")
	if given && !slices.Contains(metrics.States(), state) {
		return badField("state", "state must be one of "+strings.Join(metrics.States(), ", ")+
			strict.DidYouMean(state, metrics.States()))
	}
	filter, err := parseRequestFilter(c)
	if err != nil {
		return err
	}
	most := p.limit
	if p.hasTotal {
		most = math.MaxInt // all requests, because the response has their total number
	}
	for _, r := range h.tracker.List(state, most) {
		if filter.matches(&r) && containsText(p.text, r.ID.String(), r.ClientID, r.Method+" "+r.Host, r.ProxyID) {
			p.elements = append(p.elements, &r)
		}
	}
	list, fields := p.takePage()
	out := make([]requestView, len(list))
	for i, r := range list {
		out[i] = viewOfRequest(r)
	}
	return send(c, struct {
		Requests []requestView `json:"requests"`
		*pageView
	}{out, fields})
}

// requestFilter is the condition of a query on requests. Its zero value matches all requests.
type requestFilter struct {
	proxyID string // the proxy of an attempt, which may be in flight; "" for any proxy
	host    string // the target's host; "" for any host
}

// parseRequestFilter reads the parameters proxy_id and host.
func parseRequestFilter(c *fiber.Ctx) (f requestFilter, err error) {
	id, ofProxy := queryValue(c, "proxy_id")
	if ofProxy && id == "" {
		return f, badField("proxy_id", "proxy_id must be one id")
	}
	host, ofTarget := queryValue(c, "host")
	if ofTarget {
		if host, err = hostField(host); err != nil {
			return f, err
		}
	}
	return requestFilter{id, host}, nil
}

func (f *requestFilter) matches(r *metrics.Request) bool {
	if f.host != "" && f.host != r.Host {
		return false
	}
	return f.proxyID == "" || f.proxyID == r.ProxyID || slices.ContainsFunc(r.Attempts,
		func(a core.AttemptEvent) bool { return a.ProxyID == f.proxyID })
}

func requestKey(r *metrics.Request) string { return r.ID.String() }

var requestOrders = []order[*metrics.Request]{
	numberOrder("started_at", func(r *metrics.Request) float64 { return float64(r.Started.UnixNano()) }),
	numberOrder("attempts", func(r *metrics.Request) float64 { return float64(len(r.Attempts)) }),
	numberOrder("status", func(r *metrics.Request) float64 { return float64(r.Status) }),
}

func (h *requestHandler) get(c *fiber.Ctx) error {
	text, err := pathParam(c, "id")
	if err != nil {
		return err
	}
	if id, err := core.ParseRequestID(text); err == nil {
		if r, ok := h.tracker.Get(id); ok {
			return send(c, viewOfRequest(&r))
		}
	}
	return notFound(fmt.Sprintf("no request %q is in flight or among the latest that have ended", clipText(text)))
}
