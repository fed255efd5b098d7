package client

import (
	"context"
	"net/url"
	"time"
)

// Reasons counts the attempts within a time window by cause and by status.
type Reasons struct {
	Reasons []Reason `json:"reasons"` // the most frequent first
	Traffic Traffic  `json:"traffic"`
}

// Reason counts the attempts with one cause.
type Reason struct {
	Cause string    `json:"cause"` // one of the causes in docs/verdicts.md
	Count uint64    `json:"count"`
	Share float64   `json:"share"` // share of all attempts of the window, 0 to 1
	Last  time.Time `json:"last"`  // time of the last attempt, to the minute
}

// Traffic has figures on the attempts within a time window: their number, statuses, latencies and bytes.
type Traffic struct {
	Window   Seconds           `json:"window"`
	Attempts uint64            `json:"attempts"`
	Statuses map[string]uint64 `json:"statuses"` // by class (4xx) and by status (403)
	P50      Seconds           `json:"latency_p50"`
	P95      Seconds           `json:"latency_p95"`
	Bytes    uint64            `json:"bytes"`
}

// Status is the state of the gateway in one sentence and a few figures.
type Status struct {
	Summary string `json:"summary"`
	Proxies struct {
		Total     int `json:"total"`
		InService int `json:"in_service"` // breaker closed, and neither draining nor banned nor unreached
		Closed    int `json:"closed"`
		Open      int `json:"open"`
		HalfOpen  int `json:"half_open"`
		Draining  int `json:"draining"`
		Banned    int `json:"banned"`
		Unreached int `json:"unreached"`
		Failing   int `json:"failing"`
	} `json:"proxies"`
	Failures []FailureGroup `json:"failures"`
	Requests LatestRequests `json:"requests"`
	Losses   []LossGroup    `json:"losses"`
	Cluster  *ClusterStatus `json:"cluster"` // nil without a cluster
}

// ClusterStatus describes the cluster and this gateway's state in it.
type ClusterStatus struct {
	Name      string         `json:"name"`
	Node      string         `json:"node"`  // name of this gateway
	State     string         `json:"state"` // state of this gateway: live, isolated or alone
	LiveNodes int            `json:"live_nodes"`
	Requests  LatestRequests `json:"requests"` // sums over all live nodes
}

// FailureGroup describes failing proxies whose latest failures are similar.
type FailureGroup struct {
	Proxies int    `json:"proxies"`
	Cause   string `json:"cause"`  // "" if it is not known
	Status  int    `json:"status"` // 0 without a response
	Host    string `json:"host"`   // "" if the proxy alone is the cause
	Reason  string `json:"reason"` // cause, status and host as a text, such as "403 at shop.example"
	Example string `json:"example"`
}

// LossGroup describes requests that were lost: they were not delivered, or got a 403 or 429. The last attempts of these
// requests are similar.
type LossGroup struct {
	Requests int    `json:"requests"`
	Proxies  int    `json:"proxies"`
	Proxy    string `json:"proxy"`  // "" if there are several, or none
	Cause    string `json:"cause"`  // cause of the last attempt; without an attempt, the outcome of the request
	Status   int    `json:"status"` // 0 without a response
	Host     string `json:"host"`   // "" if the proxy alone is the cause
	Reason   string `json:"reason"` // cause, status and host as a text, such as "403 at shop.example"
}

// Status returns the state of the gateway.
func (c *Client) Status(ctx context.Context) (s *Status, err error) {
	return s, c.Do(ctx, "GET", "/status", nil, nil, &s)
}

// HistoryPoint has the attempts of one step of a history.
type HistoryPoint struct {
	Timestamp time.Time         `json:"timestamp"` // beginning of the step
	Attempts  uint64            `json:"attempts"`
	Causes    map[string]uint64 `json:"causes"`
	Statuses  map[string]uint64 `json:"statuses"`
	P50       Seconds           `json:"latency_p50"`
	P95       Seconds           `json:"latency_p95"`
	Bytes     uint64            `json:"bytes"`

	// The following fields are 0 in the history of one proxy.
	Requests  uint64 `json:"requests"`
	Delivered uint64 `json:"delivered"`
	Refused   uint64 `json:"target_refused"`
	Retries   uint64 `json:"retries"`

	Banned uint64  `json:"banned_responses"` // attempts whose response is a ban by the rules or the judge
	Cost   float64 `json:"cost"`
}

// History returns the attempts within a window that ends now, with one point for each step. Both durations are whole
// minutes; if the step is 0, the gateway divides the window into about 288 steps. If proxyID is not "", only the
// attempts of this proxy count.
func (c *Client) History(
	ctx context.Context, window, step time.Duration, proxyID string,
) (points []HistoryPoint, err error) {
	q := url.Values{"window": {window.String()}}
	if step > 0 {
		q.Set("step", step.String())
	}
	if proxyID != "" {
		q.Set("proxy_id", proxyID)
	}
	var v struct {
		Points []HistoryPoint `json:"points"`
	}
	err = c.Do(ctx, "GET", "/metrics/history", q, nil, &v)
	return v.Points, err
}
