package retry

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/dunglas/httpsfv"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// ParseHeader reads the value of X-Whirlpool-Retry: a dictionary of RFC 9651
// whose keys are the policy's fields, e.g.
//
//	max_attempts=5, backoff_strategy=linear, retry_status_codes=(429 503), retry_non_idempotent
//
// or the JSON object that PUT /retry/policy takes. Numbers that may be absent
// take the token null too, booleans true and false, and strategy is short for
// backoff_strategy. Ranges are checked when the merged policy is. Errors are
// *FieldError.
func ParseHeader(value string) (Override, error) {
	if strings.HasPrefix(value, "{") { // no dictionary begins so
		return parseJSON(value)
	}
	var o Override
	dict, err := httpsfv.UnmarshalDictionary([]string{value})
	if err != nil {
		return o, wrong("X-Whirlpool-Retry", "is neither a dictionary of RFC 9651, such as max_attempts=5, base_delay=0.2, nor a JSON object")
	}
	if len(dict.Names()) == 0 {
		return o, namesNothing()
	}
	for _, key := range dict.Names() {
		member, _ := dict.Get(key)
		if err := o.set(key, member); err != nil {
			return o, err
		}
	}
	return o, nil
}

func parseJSON(value string) (Override, error) {
	o, err := DecodeOverride([]byte(value))
	var field *strict.FieldError
	switch {
	case errors.As(err, &field):
		return o, wrong(clip(field.Field), field.Msg)
	case err != nil:
		return o, wrong("X-Whirlpool-Retry", "is not JSON: "+err.Error())
	case o == (Override{}):
		return o, namesNothing()
	}
	return o, nil
}

func namesNothing() error { return wrong("X-Whirlpool-Retry", "names no field") }

func (o *Override) set(key string, member httpsfv.Member) error {
	var value any
	switch m := member.(type) {
	case httpsfv.Item:
		if len(m.Params.Names()) > 0 {
			return wrong(key, "takes no parameters")
		}
		value = m.Value
	case httpsfv.InnerList:
		if key != "retry_status_codes" {
			return wrong(key, "does not take a list")
		}
		if len(m.Params.Names()) > 0 {
			return wrong(key, "takes no parameters")
		}
		codes := make([]int, 0, len(m.Items))
		for _, item := range m.Items {
			n, ok := item.Value.(int64)
			if !ok || n < math.MinInt32 || n > math.MaxInt32 || len(item.Params.Names()) > 0 {
				return wrong(key, "must be a list of integers, such as (429 503)")
			}
			codes = append(codes, int(n))
		}
		o.RetryStatusCodes = &codes
		return nil
	}
	switch key {
	case "max_attempts":
		f, ok := asNumber(value)
		if !ok || f != math.Trunc(f) {
			return wrong(key, "must be an integer")
		}
		n := int(f)
		o.MaxAttempts = &n
	case "backoff_strategy", "strategy":
		s, ok := asText(value)
		if !ok {
			return wrong(key, "must be a name")
		}
		o.BackoffStrategy = &s
	case "base_delay", "multiplier", "max_backoff_delay":
		f, ok := asNumber(value)
		if !ok {
			return wrong(key, "must be a number")
		}
		switch key {
		case "base_delay":
			o.BaseDelay = &f
		case "multiplier":
			o.Multiplier = &f
		default:
			o.MaxBackoffDelay = &f
		}
	case "timeout", "failover_delay":
		n := strict.Nullable{Set: true}
		if s, ok := asText(value); !ok || s != "null" {
			f, ok := asNumber(value)
			if !ok {
				return wrong(key, "must be a number or null")
			}
			n.Value = &f
		}
		if key == "timeout" {
			o.Timeout = n
		} else {
			o.FailoverDelay = n
		}
	case "jitter", "retry_non_idempotent":
		b, ok := asBool(value)
		if !ok {
			return wrong(key, "must be ?1 or ?0")
		}
		if key == "jitter" {
			o.Jitter = &b
		} else {
			o.RetryNonIdempotent = &b
		}
	case "retry_status_codes":
		return wrong(key, "must be a list of integers, such as (429 503)")
	default:
		return wrong("X-Whirlpool-Retry", fmt.Sprintf("has the unknown field %q; its fields are those of GET /api/v1/retry/policy", clip(key)))
	}
	return nil
}

func asNumber(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func asBool(v any) (value, ok bool) {
	switch b := v.(type) {
	case bool:
		return b, true
	case httpsfv.Token:
		return b == "true", b == "true" || b == "false"
	}
	return false, false
}

func asText(v any) (string, bool) {
	switch s := v.(type) {
	case httpsfv.Token:
		return string(s), true
	case string:
		return s, true
	}
	return "", false
}
