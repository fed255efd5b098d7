package api

import (
	"errors"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Policies is the store of the global policy.
type Policies interface {
	Current() *retry.Policy
	View() retry.View
}

var _ Policies = (*retry.Store)(nil)

// policyHandler serves the endpoints under /retry/policy.
type policyHandler struct {
	policies Policies
	plugins  *pluginUses
}

func (h *policyHandler) routes(r fiber.Router) {
	r.Get("/retry/policy", h.get)
	r.Put("/retry/policy", h.put)
	r.Delete("/retry/policy", h.reset)
}

// policyView is the JSON of a policy. Times are seconds.
type policyView struct {
	policyFields
	*hedgeView // nil if both fields have their defaults; the JSON then lacks both
}

// policyFields has the fields of a policy, without the fields of hedges.
type policyFields struct {
	MaxAttempts        int      `json:"max_attempts"`
	BackoffStrategy    string   `json:"backoff_strategy"`
	BaseDelay          float64  `json:"base_delay"`
	Multiplier         float64  `json:"multiplier"`
	MaxBackoffDelay    float64  `json:"max_backoff_delay"`
	Jitter             bool     `json:"jitter"`
	RetryStatusCodes   []int    `json:"retry_status_codes"`
	Timeout            *float64 `json:"timeout"`
	RetryNonIdempotent bool     `json:"retry_non_idempotent"`
	FailoverDelay      *float64 `json:"failover_delay"`
}

// hedgeView has the fields of a policy that concern hedges.
type hedgeView struct {
	Hedge       any     `json:"hedge"` // "off", "p95" or a number of seconds
	HedgeBudget float64 `json:"hedge_budget"`
}

func viewOfPolicy(p *retry.Policy) policyView {
	v := policyView{policyFields: fieldsOfPolicy(p)}
	if !p.Hedge.Off() || p.HedgeBudget != retry.DefaultHedgeBudget {
		h := viewOfHedge(p)
		v.hedgeView = &h
	}
	return v
}

func fieldsOfPolicy(p *retry.Policy) policyFields {
	return policyFields{
		MaxAttempts: p.MaxAttempts, BackoffStrategy: p.BackoffStrategy, BaseDelay: p.BaseDelay,
		Multiplier: p.Multiplier, MaxBackoffDelay: p.MaxBackoffDelay, Jitter: p.Jitter,
		RetryStatusCodes: p.RetryStatusCodes, Timeout: p.Timeout,
		RetryNonIdempotent: p.RetryNonIdempotent, FailoverDelay: p.FailoverDelay,
	}
}

func viewOfHedge(p *retry.Policy) hedgeView {
	if p.Hedge.P95 || p.Hedge.Off() {
		return hedgeView{p.Hedge.String(), p.HedgeBudget}
	}
	return hedgeView{p.Hedge.After, p.HedgeBudget}
}

// globalPolicyView is the JSON of the global policy.
type globalPolicyView struct {
	policyView
	UpdatedAt time.Time `json:"updated_at"`
	Source    string    `json:"source"`
}

func viewOfGlobalPolicy(v retry.View) globalPolicyView {
	return globalPolicyView{viewOfPolicy(&v.Policy), v.UpdatedAt.UTC(), v.Source}
}

func sendPolicy(c *fiber.Ctx, v retry.View) error { return send(c, viewOfGlobalPolicy(v)) }

func (h *policyHandler) get(c *fiber.Ctx) error { return sendPolicy(c, h.policies.View()) }

func (h *policyHandler) put(c *fiber.Ctx) error {
	var o retry.Override
	persist, err := decodeChange(c, &o)
	if err != nil {
		return err
	}
	view, err := h.plugins.changePolicy(o, persist)
	if err != nil {
		return policyProblem("", err)
	}
	return sendPolicy(c, view)
}

// reset serves DELETE /retry/policy. While the policy of the configuration is in force, there is nothing to delete, and
// the resource does not accept DELETE (RFC 9110 section 10.2.1).
func (h *policyHandler) reset(c *fiber.Ctx) error {
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	if h.policies.View().Source == retry.SourceFile {
		c.Set(fiber.HeaderAllow, "GET, HEAD, PUT")
		return fiber.ErrMethodNotAllowed
	}
	view, err := h.plugins.resetPolicy(persist)
	if err != nil {
		return policyProblem("", err)
	}
	return sendPolicy(c, view)
}

// policyProblem returns the problem for an invalid policy. It puts the prefix ("" or "retry.") before the name of the
// wrong field.
func policyProblem(prefix string, err error) error {
	var f *retry.FieldError
	if errors.As(err, &f) {
		return outOfRange(prefix+f.Field, f.Limit, prefix+err.Error())
	}
	return err
}
