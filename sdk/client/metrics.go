package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// Totals has the totals over the hours for which the gateway keeps metrics.
type Totals struct {
	Requests uint64 `json:"total_requests"`
	Attempts uint64 `json:"total_attempts"`
	Retries  uint64 `json:"total_retries"`
	Replays  uint64 `json:"replays"`
	// SuccessByAttempt has the numbers of delivered requests by the number of their last attempt, from "0".
	SuccessByAttempt map[string]uint64       `json:"success_by_attempt"`
	Refused          uint64                  `json:"target_refused"` // delivered with status 403 or 429
	Banned           uint64                  `json:"banned_responses"`
	Transitions      uint64                  `json:"circuit_breaker_events_count"`
	Waited           Seconds                 `json:"retry_latency_seconds_total"`
	ByPolicy         map[string]PolicyTotals `json:"by_policy"` // since the start, by the hash of the policy
	RetentionHours   int                     `json:"retention_hours"`
}

// PolicyTotals has the totals of the requests under one policy.
type PolicyTotals struct {
	Policy      *Policy `json:"policy"` // nil for the hash "other"
	Requests    uint64  `json:"requests"`
	Successes   uint64  `json:"successes"`
	SuccessRate float64 `json:"success_rate"`
}

// Totals returns the totals of requests, attempts and retries.
func (c *Client) Totals(ctx context.Context) (t *Totals, err error) {
	return t, c.Do(ctx, "GET", "/metrics/retries", nil, nil, &t)
}

// SeriesPoint has the totals of one hour or day.
type SeriesPoint struct {
	Timestamp   time.Time `json:"timestamp"` // beginning of the hour or day
	Requests    uint64    `json:"total_requests"`
	Retries     uint64    `json:"total_retries"`
	SuccessRate float64   `json:"success_rate"`
	AvgLatency  Seconds   `json:"avg_latency"`
}

// Series returns the totals of each hour or, if byDay is true, of each day, within the given number of hours before
// now.
func (c *Client) Series(ctx context.Context, hours int, byDay bool) ([]SeriesPoint, error) {
	q := url.Values{"hours": {strconv.Itoa(hours)}}
	if byDay {
		q.Set("interval", "day")
	}
	var v struct {
		Points []SeriesPoint `json:"data_points"`
	}
	err := c.Do(ctx, "GET", "/metrics/retries/timeseries", q, nil, &v)
	return v.Points, err
}

// ProxyTotals has the attempts through one proxy.
type ProxyTotals struct {
	ProxyID      string            `json:"proxy_id"`
	Attempts     uint64            `json:"total_attempts"`
	Successes    uint64            `json:"success_count"`
	Failures     uint64            `json:"failure_count"`
	Cancelled    uint64            `json:"cancelled_count"`
	AvgLatency   Seconds           `json:"avg_latency"`
	BreakerOpens uint64            `json:"circuit_breaker_opens"`
	Causes       map[string]uint64 `json:"causes"`   // like Statuses, set only for the proxies with the most failures
	Statuses     map[string]uint64 `json:"statuses"` // by class (4xx) and by status (403)
	*Reasons                       // nil unless a window was given
}

// ByProxy returns the attempts through each proxy, by id, within the given number of hours before now. If window is not
// 0, each proxy also has the Reasons of the attempts within this window, which ends now.
func (c *Client) ByProxy(ctx context.Context, hours int, window time.Duration) (map[string]ProxyTotals, error) {
	q := url.Values{"hours": {strconv.Itoa(hours)}}
	if window > 0 {
		q.Set("window", window.String())
	}
	var v struct {
		Proxies map[string]ProxyTotals `json:"proxies"`
	}
	err := c.Do(ctx, "GET", "/metrics/retries/by-proxy", q, nil, &v)
	return v.Proxies, err
}

// Transition is a transition of a breaker.
type Transition struct {
	ProxyID      string    `json:"proxy_id"`
	From         string    `json:"from_state"`
	To           string    `json:"to_state"`
	Timestamp    time.Time `json:"timestamp"`
	FailureCount int       `json:"failure_count"`
	Reason       string    `json:"reason"`
	Why          string    `json:"why"`
}

// TransitionPage is one page of the transitions.
type TransitionPage struct {
	Events         []Transition              `json:"events"`
	Counts         map[string]map[string]int `json:"counts"` // by proxy and new state
	Truncated      bool                      `json:"truncated"`
	RetentionHours int                       `json:"retention_hours"`
	Page
}

// Transitions lists the transitions of breakers within the given number of hours before now.
func (c *Client) Transitions(ctx context.Context, hours int, l List) (p *TransitionPage, err error) {
	q := l.Query()
	q.Set("hours", strconv.Itoa(hours))
	return p, c.Do(ctx, "GET", "/circuit-breakers/metrics", q, nil, &p)
}

// Cost has attempts, bytes and their cost.
type Cost struct {
	Attempts uint64  `json:"attempts"`
	Sent     uint64  `json:"bytes_sent"`
	Received uint64  `json:"bytes_received"`
	Cost     float64 `json:"cost"`
}

// ProxyCost is the cost of a proxy.
type ProxyCost struct {
	ID     string `json:"id"`
	Vendor string `json:"vendor"`
	Tier   int    `json:"tier"`
	Cost
}

// NamedCost is the cost of a vendor or of a user.
type NamedCost struct {
	Name string `json:"name"`
	Cost
}

// Costs has the costs of all proxies.
type Costs struct {
	Total   Cost        `json:"total"`
	Proxies []ProxyCost `json:"proxies"`
	Vendors []NamedCost `json:"vendors"`
	Users   []NamedCost `json:"users"`
}

// Costs returns the costs by proxy, vendor and user.
func (c *Client) Costs(ctx context.Context) (v *Costs, err error) {
	return v, c.Do(ctx, "GET", "/metrics/costs", nil, nil, &v)
}
