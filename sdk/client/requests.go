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
	CurrentAttempt int        `json:"current_attempt"` // number of the attempt, from 0
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
	Attempt      int       `json:"attempt"` // number of the attempt, from 0
	Hedge        bool      `json:"hedge"`
	ProxyID      string    `json:"proxy_id"`
	Outcome      string    `json:"outcome"`
	StatusCode   int       `json:"status_code"`
	DelayBefore  Seconds   `json:"delay_before"`
	Latency      Seconds   `json:"latency"`
	ErrorMessage string    `json:"error_message"`
	Cause        string    `json:"cause"` // one of the causes in docs/verdicts.md
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

// RequestInput is a request that the gateway sends through its proxies.
type RequestInput struct {
	Method       string            `json:"method,omitempty"` // "" for GET
	URL          string            `json:"url"`
	Headers      map[string]string `json:"headers,omitempty"`
	Body         []byte            `json:"body_base64,omitempty"`
	Retry        map[string]any    `json:"retry,omitempty"` // changes of the policy, as in ChangePolicy
	Region       string            `json:"region,omitempty"`
	RegionStrict bool              `json:"region_strict,omitempty"`
	Priority     string            `json:"priority,omitempty"` // high, normal or low; "" for normal
	Session      string            `json:"session,omitempty"`  // value for X-Whirlpool-Session
}

// SubmittedRequest is a request of SubmitRequest that has not ended.
type SubmittedRequest struct {
	ID        string    `json:"id"`
	StartedAt time.Time `json:"started_at"`
}

// RequestOutput is the response to a RequestInput.
type RequestOutput struct {
	RequestID  string              `json:"request_id"`
	Outcome    string              `json:"outcome"`
	Status     int                 `json:"status"`
	Headers    map[string][]string `json:"headers"`
	Trailers   map[string][]string `json:"trailers"`
	Body       string              `json:"body"`        // the body, if it is UTF-8
	BodyBase64 []byte              `json:"body_base64"` // the body, if it is not UTF-8
	Truncated  bool                `json:"truncated"`   // the response is not complete
	Attempts   []Attempt           `json:"attempts"`
}

// SendRequest sends a request through the proxies and waits for its response. If there is no response, the error is an
// *Error with a status from 502 to 504, with 403 if the gateway denies the request, or with 508 if the proxy leads back
// to the gateway.
func (c *Client) SendRequest(ctx context.Context, in RequestInput) (out *RequestOutput, err error) {
	return out, c.Do(ctx, "POST", "/request", nil, in, &out)
}

// SubmitRequest sends a request through the proxies without waiting for its response, which Response returns.
func (c *Client) SubmitRequest(ctx context.Context, in RequestInput) (r *SubmittedRequest, err error) {
	return r, c.Do(ctx, "POST", "/requests", nil, in, &r)
}

// Response returns the response to a submitted request, or nil if the request has not ended after 30 seconds. If the
// request got no response, the error is an *Error as in SendRequest. The gateway keeps a response for ten minutes. If
// it does not have the request, the error is an *Error with the status 404.
func (c *Client) Response(ctx context.Context, id string) (out *RequestOutput, err error) {
	err = c.Do(ctx, "GET", "/requests/"+url.PathEscape(id)+"/response", nil, nil, &out)
	if err != nil || out.RequestID == "" { // a SubmittedRequest
		return nil, err
	}
	return out, nil
}

// CancelRequest cancels a submitted request or, if the request has ended, makes the gateway discard its response.
func (c *Client) CancelRequest(ctx context.Context, id string) error {
	return c.Do(ctx, "DELETE", "/requests/"+url.PathEscape(id), nil, nil, nil)
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
