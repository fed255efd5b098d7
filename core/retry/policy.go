// Package retry defines the retry policy, checks its ranges, merges the override of a request into it, and
// limits retries and hedges by budgets.
package retry

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Policy is the retry policy of a request. Times are in seconds, as in the API. A Policy does not change while requests
// use it: each change of the settings creates another Policy.
type Policy struct {
	MaxAttempts      int     `json:"max_attempts"`       // including the first attempt, 1 to 10
	BackoffStrategy  string  `json:"backoff_strategy"`   // name of a backoff
	BaseDelay        float64 `json:"base_delay"`         // 0.1 to 60
	Multiplier       float64 `json:"multiplier"`         // 1.1 to 10
	MaxBackoffDelay  float64 `json:"max_backoff_delay"`  // 1 to 300
	Jitter           bool    `json:"jitter"`             //
	RetryStatusCodes []int   `json:"retry_status_codes"` // 400 to 599
	// Timeout is the total timeout, from the request to the head of the response: at least 0.1; nil
	// for none.
	Timeout            *float64 `json:"timeout"`
	RetryNonIdempotent bool     `json:"retry_non_idempotent"`
	FailoverDelay      *float64 `json:"failover_delay"` // before a failover, 0 to 300; nil: the backoff decides
	Hedge              Hedge    `json:"hedge"`
	HedgeBudget        float64  `json:"hedge_budget"` // hedges per first attempt that may be hedged, 0 to 1

	codes codeSet
	hash  string
	// requestedAttempts is set if an override of the request has set MaxAttempts.
	requestedAttempts bool
}

// MaxAttempts is the maximum of Policy.MaxAttempts.
const MaxAttempts = 10

// codeSet is a set of status codes from 400 to 599.
type codeSet [4]uint64

func (s *codeSet) add(code int) { s[(code-400)>>6] |= 1 << ((code - 400) & 63) }
func (s *codeSet) has(code int) bool {
	return code >= 400 && code <= 599 && s[(code-400)>>6]&(1<<((code-400)&63)) != 0
}

// DefaultPolicy returns the policy with the default values.
func DefaultPolicy() Policy {
	p := Policy{
		MaxAttempts: 3, BackoffStrategy: "exponential", BaseDelay: 1, Multiplier: 2, MaxBackoffDelay: 30,
		RetryStatusCodes: []int{502, 503, 504}, HedgeBudget: DefaultHedgeBudget,
	}
	p.computeFields()
	return p
}

// computeFields computes the fields that depend on other fields. Every constructor calls it at its end.
func (p *Policy) computeFields() {
	p.codes = codeSet{}
	for _, code := range p.RetryStatusCodes {
		if code >= 400 && code <= 599 {
			p.codes.add(code)
		}
	}
	h := fnv.New64a()
	sorted := slices.Clone(p.RetryStatusCodes)
	slices.Sort(sorted)
	fmt.Fprint(h, p.MaxAttempts, p.BackoffStrategy, p.BaseDelay, p.Multiplier, p.MaxBackoffDelay, p.Jitter, sorted,
		formatNumber(p.Timeout), p.RetryNonIdempotent, formatNumber(p.FailoverDelay))
	if !p.Hedge.Off() { // a policy without hedges keeps the hash that it had in earlier versions
		fmt.Fprint(h, p.Hedge, p.HedgeBudget)
	}
	p.hash = fmt.Sprintf("%012x", h.Sum64()>>16)
}

func formatNumber(f *float64) string {
	if f == nil {
		return "null"
	}
	return strconv.FormatFloat(*f, 'g', -1, 64)
}

// RequestedAttempts reports whether the request itself has asked for MaxAttempts.
func (p *Policy) RequestedAttempts() bool { return p.requestedAttempts }

// RetriesStatus reports whether the policy retries a response with the given status.
func (p *Policy) RetriesStatus(status int) bool { return p.codes.has(status) }

// Hash identifies the policy in metrics. Equal policies have equal hashes.
func (p *Policy) Hash() string { return p.hash }

// FieldError is an error in one field of a policy or override.
type FieldError struct {
	Field string
	Msg   string
	Limit string // the permitted range, such as "1 to 10"; "" if there is none
}

func (e *FieldError) Error() string { return e.Field + " " + e.Msg }

func fieldError(field, msg string) error { return &FieldError{Field: field, Msg: msg} }

func outOfRange(limit, field string, value any) error {
	return &FieldError{field, fmt.Sprintf("must be %s, not %v", limit, value), limit}
}

// builtinStrategies are the names of the built-in backoffs. An error message about an unknown name suggests one of
// them.
var builtinStrategies = []string{"exponential", "linear", "fixed", "decorrelated_jitter", "adaptive"}

// Validate checks every range and prepares the policy for use. The function strategyExists reports whether a backoff
// with a given name exists. The error is a *FieldError.
func (p *Policy) Validate(strategyExists func(string) bool) error {
	if p.MaxAttempts < 1 || p.MaxAttempts > MaxAttempts {
		return outOfRange("1 to 10", "max_attempts", p.MaxAttempts)
	}
	if !strategyExists(p.BackoffStrategy) {
		return fieldError("backoff_strategy", fmt.Sprintf(
			"%q is not a backoff plugin%s; exponential, linear, fixed, decorrelated_jitter and adaptive are built in",
			clip(p.BackoffStrategy), strict.DidYouMean(p.BackoffStrategy, builtinStrategies)))
	}
	for _, r := range []struct {
		field    string
		value    *float64
		min, max float64
	}{
		{"base_delay", &p.BaseDelay, 0.1, 60},
		{"multiplier", &p.Multiplier, 1.1, 10},
		{"max_backoff_delay", &p.MaxBackoffDelay, 1, 300},
		{"timeout", p.Timeout, 0.1, math.MaxFloat64},
		{"failover_delay", p.FailoverDelay, 0, 300},
		{"hedge_budget", &p.HedgeBudget, 0, 1},
	} {
		if r.value != nil && !(*r.value >= r.min && *r.value <= r.max) {
			limit := fmt.Sprintf("%v to %.0f", r.min, r.max)
			if r.max == math.MaxFloat64 {
				limit = fmt.Sprintf("at least %v", r.min)
			}
			return outOfRange(limit, r.field, *r.value)
		}
	}
	if err := p.Hedge.validate(); err != nil {
		return err
	}
	if p.RetryStatusCodes == nil {
		p.RetryStatusCodes = []int{}
	}
	for i, code := range p.RetryStatusCodes {
		if !retryableStatus(code) {
			return fieldError("retry_status_codes", fmt.Sprintf("has %d; 400 to 599 can be retried", code))
		}
		if slices.Contains(p.RetryStatusCodes[:i], code) {
			p.RetryStatusCodes = withoutDuplicates(p.RetryStatusCodes)
			break
		}
	}
	p.computeFields()
	return nil
}

// retryableStatus reports whether retry_status_codes may contain code.
func retryableStatus(code int) bool {
	return code >= 400 && code <= 599
}

func withoutDuplicates(codes []int) []int {
	out := make([]int, 0, len(codes))
	for _, code := range codes {
		if !slices.Contains(out, code) {
			out = append(out, code)
		}
	}
	return out
}

// Override is a set of changes to a policy. A field that is nil, or whose Set is false, changes nothing.
type Override struct {
	MaxAttempts        *int            `json:"max_attempts"`
	BackoffStrategy    *string         `json:"backoff_strategy"`
	BaseDelay          *float64        `json:"base_delay"`
	Multiplier         *float64        `json:"multiplier"`
	MaxBackoffDelay    *float64        `json:"max_backoff_delay"`
	Jitter             *bool           `json:"jitter"`
	RetryStatusCodes   *[]int          `json:"retry_status_codes"`
	Timeout            strict.Nullable `json:"timeout"`
	RetryNonIdempotent *bool           `json:"retry_non_idempotent"`
	FailoverDelay      strict.Nullable `json:"failover_delay"`
	Hedge              *Hedge          `json:"hedge"`
	HedgeBudget        *float64        `json:"hedge_budget"`
}

// Merge returns p with the changes of o. The result is not validated.
func (p *Policy) Merge(o Override) Policy {
	q := *p
	set(&q.MaxAttempts, o.MaxAttempts)
	set(&q.BackoffStrategy, o.BackoffStrategy)
	set(&q.BaseDelay, o.BaseDelay)
	set(&q.Multiplier, o.Multiplier)
	set(&q.MaxBackoffDelay, o.MaxBackoffDelay)
	set(&q.Jitter, o.Jitter)
	set(&q.RetryStatusCodes, o.RetryStatusCodes)
	set(&q.RetryNonIdempotent, o.RetryNonIdempotent)
	set(&q.Hedge, o.Hedge)
	set(&q.HedgeBudget, o.HedgeBudget)
	if o.Timeout.Set {
		q.Timeout = o.Timeout.Value
	}
	if o.FailoverDelay.Set {
		q.FailoverDelay = o.FailoverDelay.Value
	}
	return q
}

// Overridden returns the policy of a request that overrides fields of p, the global policy. If mode is
// OverrideCapped, fields of the override that exceed p are replaced by the fields of p. The error is a *FieldError:
// an error of Validate, or a hedge_budget larger than p.HedgeBudget.
func (p *Policy) Overridden(o Override, mode OverrideMode, strategyExists func(string) bool) (Policy, error) {
	q := p.Merge(o)
	q.requestedAttempts = o.MaxAttempts != nil
	if err := q.Validate(strategyExists); err != nil {
		return Policy{}, err
	}
	if mode == OverrideCapped {
		q = p.capPolicy(q)
		q.computeFields()
	}
	if q.HedgeBudget > p.HedgeBudget {
		limit := fmt.Sprintf("0 to %v", p.HedgeBudget)
		return Policy{}, &FieldError{"hedge_budget", fmt.Sprintf("must be %s, the global policy's, not %v", limit,
			q.HedgeBudget), limit}
	}
	return q, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// decodeOverride parses an override from a JSON object, strictly. Its errors are those of strict.DecodeJSON.
func decodeOverride(data []byte) (Override, error) {
	var o Override
	err := strict.DecodeJSON(data, &o)
	return o, err
}

// Equal reports whether two policies have the same fields.
func (p *Policy) Equal(q *Policy) bool {
	return p.hash == q.hash && slices.Equal(p.RetryStatusCodes, q.RetryStatusCodes) && p.HedgeBudget == q.HedgeBudget
}

// IsIdempotent reports whether a request with the given method may be repeated without
// retry_non_idempotent. It returns true for the idempotent methods of RFC 9110 section 9.2.2 except PUT.
func IsIdempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "DELETE":
		return true
	}
	return false
}

// IsSafe reports whether a method is safe (RFC 9110 section 9.2.1). Only requests of such methods are hedged: a second
// DELETE may get a 404 before the first DELETE has its response.
func IsSafe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// clip shortens a text that is quoted in an error.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
