package retry

import (
	"errors"
	"slices"
)

// OverrideMode limits the values of an override.
type OverrideMode uint8

// The modes of overrides.
const (
	// OverrideDefault has two meanings. For a user, it stands for the mode of the gateway. For the gateway, it stands
	// for OverrideCapped if there are users, otherwise for OverrideAny.
	OverrideDefault OverrideMode = iota
	OverrideAny                  // everything in the ranges of Policy
	OverrideCapped               // everything in these ranges, reduced to the values of the global policy
	OverrideNone                 // nothing: requests with an override are refused
)

var overrideModes = map[string]OverrideMode{
	"": OverrideDefault, "any": OverrideAny, "capped": OverrideCapped, "none": OverrideNone,
}

// ParseOverrideMode parses any, capped or none; "" is OverrideDefault.
func ParseOverrideMode(name string) (OverrideMode, error) {
	mode, ok := overrideModes[name]
	if !ok {
		return OverrideDefault, errors.New("must be any, capped or none")
	}
	return mode, nil
}

// String returns the name that ParseOverrideMode parses.
func (m OverrideMode) String() string {
	for name, mode := range overrideModes {
		if mode == m {
			return name
		}
	}
	return "unknown"
}

// capPolicy returns the policy q, limited by the global policy p. The limits concern attempts, waits, hedges, and the
// statuses and methods that are retried. If a field of q would put more load on proxies and targets than the same field
// of p, the field of p replaces it. The caller must validate q before the call, and call computeFields on the result.
func (p *Policy) capPolicy(q Policy) Policy {
	q.MaxAttempts = min(q.MaxAttempts, p.MaxAttempts)
	q.RetryStatusCodes = slices.DeleteFunc(slices.Clone(q.RetryStatusCodes), func(code int) bool {
		return !p.RetriesStatus(code)
	})
	q.RetryNonIdempotent = q.RetryNonIdempotent && p.RetryNonIdempotent
	q.BackoffStrategy, q.Jitter = p.BackoffStrategy, q.Jitter && p.Jitter
	q.BaseDelay = max(q.BaseDelay, p.BaseDelay)
	q.MaxBackoffDelay = max(q.MaxBackoffDelay, p.MaxBackoffDelay)
	q.Multiplier = max(q.Multiplier, p.Multiplier)
	if p.FailoverDelay == nil {
		q.FailoverDelay = nil
	} else if q.FailoverDelay != nil {
		delay := max(*q.FailoverDelay, *p.FailoverDelay)
		q.FailoverDelay = &delay
	}
	if p.Timeout != nil && (q.Timeout == nil || *q.Timeout > *p.Timeout) {
		q.Timeout = p.Timeout
	}
	if q.Hedge.soonerThan(p.Hedge) {
		q.Hedge = p.Hedge
	}
	q.HedgeBudget = min(q.HedgeBudget, p.HedgeBudget)
	return q
}

// soonerThan reports whether the setting h may start a hedge earlier than the setting limit.
func (h Hedge) soonerThan(limit Hedge) bool {
	switch {
	case h.Off() || h == limit:
		return false
	case limit.Off() || h.P95 || limit.P95: // a percentile cannot be compared with a time
		return true
	}
	return h.After < limit.After
}
