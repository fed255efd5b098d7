package client

import (
	"context"
	"net/url"
	"time"
)

// Request is a request in flight, or one of the requests that have ended last.
type Request struct {
	ID             string     `json:"id"`
	ClientID       string     `json:"client_request_id"` // the client's X-Request-Id; "" without a valid one
	Method         string     `json:"method"`
	Host           string     `json:"host"`
	State          string     `json:"state"`
	CurrentAttempt int        `json:"current_attempt"` // from 0
	ProxyID        string     `json:"proxy_id"`
	NextRetryTime  *time.Time `json:"next_retry_time"`
	StartedAt      time.Time  `json:"started_at"`
	FinishedAt     *time.Time `json:"finished_at"`
	Outcome        string     `json:"outcome"`
	Status         int        `json:"status"`
	Attempts       []Attempt  `json:"attempts"`
	Rules          []string   `json:"rules"` // labels of the routing rules that were applied
	Queue          *struct {
		Priority string  `json:"priority"`
		Waited   Seconds `json:"waited"`
	} `json:"queue"`
}

// Attempt is a finished attempt of a request.
type Attempt struct {
	Attempt      int       `json:"attempt"` // from 0
	Hedge        bool      `json:"hedge"`
	ProxyID      string    `json:"proxy_id"`
	Outcome      string    `json:"outcome"`
	StatusCode   int       `json:"status_code"`
	DelayBefore  Seconds   `json:"delay_before"`
	Latency      Seconds   `json:"latency"`
	ErrorMessage string    `json:"error_message"`
	Cause        string    `json:"cause"` // a word of docs/verdicts.md
	StartedAt    time.Time `json:"started_at"`
	Rule         string    `json:"rule"` // label of the rule that was applied to the attempt; "" for none
}

// RequestPage is one page of the requests.
type RequestPage struct {
	Requests []Request `json:"requests"`
	Page
}

// Requests lists the requests in flight and the requests that have ended last, the newest first. The field State of l
// must have at most one state.
func (c *Client) Requests(ctx context.Context, l List) (p *RequestPage, err error) {
	return p, c.Do(ctx, "GET", "/requests", l.Query(), nil, &p)
}

// Request returns one request.
func (c *Client) Request(ctx context.Context, id string) (r *Request, err error) {
	return r, c.Do(ctx, "GET", "/requests/"+url.PathEscape(id), nil, nil, &r)
}

// Policy is the global retry policy.
type Policy struct {
	MaxAttempts        int       `json:"max_attempts"`
	BackoffStrategy    string    `json:"backoff_strategy"`
	BaseDelay          Seconds   `json:"base_delay"`
	Multiplier         float64   `json:"multiplier"`
	MaxBackoffDelay    Seconds   `json:"max_backoff_delay"`
	Jitter             bool      `json:"jitter"`
	RetryStatusCodes   []int     `json:"retry_status_codes"`
	Timeout            *Seconds  `json:"timeout"`
	RetryNonIdempotent bool      `json:"retry_non_idempotent"`
	FailoverDelay      *Seconds  `json:"failover_delay"`
	Hedge              any       `json:"hedge"`        // nil for the default
	HedgeBudget        *float64  `json:"hedge_budget"` // nil for the default
	UpdatedAt          time.Time `json:"updated_at"`
	Source             string    `json:"source"` // file, or api after a change
}

// Policy returns the global retry policy.
func (c *Client) Policy(ctx context.Context) (p *Policy, err error) {
	return p, c.Do(ctx, "GET", "/retry/policy", nil, nil, &p)
}

// ResetPolicy goes back to the policy of the configuration. If this policy is already in force, the error is an
// *Error with the status 405.
func (c *Client) ResetPolicy(ctx context.Context) (p *Policy, err error) {
	return p, c.Do(ctx, "DELETE", "/retry/policy", nil, nil, &p)
}

// ChangePolicy changes fields of the global retry policy. The value nil removes timeout or failover_delay.
func (c *Client) ChangePolicy(ctx context.Context, fields map[string]any) (p *Policy, err error) {
	return p, c.Do(ctx, "PUT", "/retry/policy", nil, fields, &p)
}
