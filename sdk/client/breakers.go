package client

import (
	"context"
	"net/url"
	"time"
)

// Breaker is the circuit breaker of a proxy.
type Breaker struct {
	ProxyID          string     `json:"proxy_id"`
	State            string     `json:"state"` // closed, open, half_open
	FailureCount     int        `json:"failure_count"`
	FailureThreshold int        `json:"failure_threshold"`
	WindowDuration   Seconds    `json:"window_duration"`
	TimeoutDuration  Seconds    `json:"timeout_duration"`
	NextTestTime     *time.Time `json:"next_test_time"` // nil unless the breaker is open
	RetryIn          *Seconds   `json:"retry_in_seconds"`
	LastStateChange  time.Time  `json:"last_state_change"`
	Why              *Why       `json:"why"` // like Failure and Reasons, set only by the method Breaker
	Failure          *Failure   `json:"failure"`
	*Reasons
}

// Failure describes why the requests through a proxy fail or, if there are no requests, why its checks fail.
type Failure struct {
	Cause  string `json:"cause"`  // one of the causes in docs/verdicts.md; "" if it is unknown
	Status int    `json:"status"` // status of the response; 0 without one
	Host   string `json:"host"`   // "" if only the proxy can be the cause
	Reason string `json:"reason"` // the other fields as a text
}

// Why is the evidence that explains the state of a breaker.
type Why struct {
	Summary     string           `json:"summary"`
	Since       *time.Time       `json:"since"`
	Failures    int              `json:"failures"`
	Successes   int              `json:"successes"`
	Evidence    float64          `json:"evidence"` // evidence in nats
	Needed      float64          `json:"needed"`   // evidence, in nats, at which the breaker opens
	OwnFailures int              `json:"own_failures"`
	OwnCauses   map[string]int   `json:"own_causes"`
	Targets     []TargetEvidence `json:"targets"`
}

// TargetEvidence compares a proxy with the other proxies at one target.
type TargetEvidence struct {
	Target       string         `json:"target"`
	Failures     int            `json:"failures"`
	Attempts     int            `json:"attempts"`
	Causes       map[string]int `json:"causes"`
	RestFailures int            `json:"rest_failures"`
	RestAttempts int            `json:"rest_attempts"`
	Noise        float64        `json:"noise"`
	Evidence     float64        `json:"evidence"`
}

// BreakerPage is one page of the breakers.
type BreakerPage struct {
	Breakers []Breaker `json:"circuit_breakers"`
	Page
}

// Breakers lists the circuit breakers. It takes the same parameters as Proxies.
func (c *Client) Breakers(ctx context.Context, l List) (p *BreakerPage, err error) {
	return p, c.Do(ctx, "GET", "/circuit-breakers", l.Query(), nil, &p)
}

// Breaker returns the circuit breaker of a proxy with the reasons for its state.
func (c *Client) Breaker(ctx context.Context, id string) (b *Breaker, err error) {
	return b, c.Do(ctx, "GET", "/circuit-breakers/"+url.PathEscape(id), nil, nil, &b)
}

// ResetBreaker closes the circuit breaker of a proxy and clears its failures.
func (c *Client) ResetBreaker(ctx context.Context, id string) (b *Breaker, err error) {
	return b, c.Do(ctx, "POST", "/circuit-breakers/"+url.PathEscape(id)+"/reset", nil, nil, &b)
}

// Target is a target at which attempts have failed.
type Target struct {
	Target         string     `json:"target"` // host:port; a host if it has no recent failure
	Attempts       int        `json:"attempts"`
	Failures       int        `json:"failures"`
	Refused        int        `json:"refused"` // attempts that got a 403 or 429, and no ban
	FailureRate    float64    `json:"failure_rate"`
	ProxiesFailing int        `json:"proxies_failing"`
	Suspect        bool       `json:"suspect"`
	LastFailure    time.Time  `json:"last_failure"`
	LastSuccess    *time.Time `json:"last_success"`
	*Reasons                  // reasons of the attempts within the window
}

// TargetPage is one page of the targets.
type TargetPage struct {
	Targets []Target `json:"targets"`
	Page
}

// Targets lists the targets with failures in the last hour, the worst first. l.State may hold "suspect" or be empty.
func (c *Client) Targets(ctx context.Context, l List) (p *TargetPage, err error) {
	return p, c.Do(ctx, "GET", "/targets", l.Query(), nil, &p)
}
