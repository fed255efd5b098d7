package retry

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/dunglas/httpsfv"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// ParseHeader parses the value of X-Whirlpool-Retry. The value is a dictionary of RFC 9651 whose keys are the fields
// of the policy, for example
//
//	max_attempts=5, backoff_strategy=linear, retry_status_codes=(429 503), retry_non_idempotent
//
// or the JSON object of PUT /retry/policy. In a dictionary, fields that may be null accept the token null,
// booleans accept true and false, and the key strategy stands for backoff_strategy. Ranges are checked after
// merging, by Policy.Validate. The error is a *FieldError.
func ParseHeader(value string) (Override, error) {
	if strings.HasPrefix(value, "{") { // a dictionary cannot begin with {
		return parseJSON(value)
	}
	var o Override
	dict, err := httpsfv.UnmarshalDictionary([]string{value})
	if err != nil {
		return o, fieldError("X-Whirlpool-Retry",
			"is neither a dictionary of RFC 9651, such as max_attempts=5, base_delay=0.2, nor a JSON object")
	}
	if len(dict.Names()) == 0 {
		return o, errNoFields()
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
	o, err := decodeOverride([]byte(value))
	var field *strict.FieldError
	switch {
	case errors.As(err, &field):
		return o, fieldError(clip(field.Field), field.Msg)
	case err != nil:
		return o, fieldError("X-Whirlpool-Retry", "is not JSON: "+err.Error())
	case o == (Override{}):
		return o, errNoFields()
	}
	return o, nil
}

func errNoFields() error { return fieldError("X-Whirlpool-Retry", "names no field") }

// The method set changes the field that a member of the dictionary names.
func (o *Override) set(key string, member httpsfv.Member) error {
	switch m := member.(type) {
	case httpsfv.Item:
		if len(m.Params.Names()) > 0 {
			return fieldError(key, "takes no parameters")
		}
		return o.setItem(key, m.Value)
	case httpsfv.InnerList:
		if key != "retry_status_codes" {
			return fieldError(key, "does not take a list")
		}
		return o.setCodes(key, m)
	}
	return nil
}

func (o *Override) setCodes(key string, list httpsfv.InnerList) error {
	if len(list.Params.Names()) > 0 {
		return fieldError(key, "takes no parameters")
	}
	codes := make([]int, 0, len(list.Items))
	for _, item := range list.Items {
		n, ok := item.Value.(int64)
		if !ok || n < math.MinInt32 || n > math.MaxInt32 || len(item.Params.Names()) > 0 {
			return fieldError(key, "must be a list of integers, such as (429 503)")
		}
		codes = append(codes, int(n))
	}
	o.RetryStatusCodes = &codes
	return nil
}

func (o *Override) setItem(key string, value any) error {
	switch key {
	case "max_attempts":
		f, ok := asNumber(value)
		if !ok || f != math.Trunc(f) {
			return fieldError(key, "must be an integer")
		}
		n := int(f)
		o.MaxAttempts = &n
		return nil
	case "backoff_strategy", "strategy":
		s, ok := asText(value)
		if !ok {
			return fieldError(key, "must be a name")
		}
		o.BackoffStrategy = &s
		return nil
	case "base_delay":
		return setNumber(&o.BaseDelay, key, value)
	case "multiplier":
		return setNumber(&o.Multiplier, key, value)
	case "max_backoff_delay":
		return setNumber(&o.MaxBackoffDelay, key, value)
	case "timeout":
		return setNullable(&o.Timeout, key, value)
	case "failover_delay":
		return setNullable(&o.FailoverDelay, key, value)
	case "jitter":
		return setBool(&o.Jitter, key, value)
	case "retry_non_idempotent":
		return setBool(&o.RetryNonIdempotent, key, value)
	case "hedge_budget":
		return setNumber(&o.HedgeBudget, key, value)
	case "hedge":
		return o.setHedge(value)
	case "retry_status_codes":
		return fieldError(key, "must be a list of integers, such as (429 503)")
	}
	return fieldError("X-Whirlpool-Retry", fmt.Sprintf(
		"has the unknown field %q; its fields are those of GET /api/v1/retry/policy", clip(key)))
}

func (o *Override) setHedge(value any) error {
	if s, ok := asText(value); ok {
		value = s
	}
	var h Hedge
	if err := h.DecodeValue(value); err != nil {
		return fieldError("hedge", err.Error())
	}
	o.Hedge = &h
	return nil
}

func setNumber(to **float64, key string, value any) error {
	f, ok := asNumber(value)
	if !ok {
		return fieldError(key, "must be a number")
	}
	*to = &f
	return nil
}

func setNullable(to *strict.Nullable, key string, value any) error {
	*to = strict.Nullable{Set: true}
	if s, ok := asText(value); ok && s == "null" {
		return nil
	}
	f, ok := asNumber(value)
	if !ok {
		return fieldError(key, "must be a number or null")
	}
	to.Value = &f
	return nil
}

func setBool(to **bool, key string, value any) error {
	b, ok := asBool(value)
	if !ok {
		return fieldError(key, "must be ?1 or ?0")
	}
	*to = &b
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
