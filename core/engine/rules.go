package engine

import (
	"errors"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// compileRules compiles cfg.Rules. The error joins a *core.KeyError for each fault.
func compileRules(list []rules.Rule) (*rules.Set, error) {
	set, err := rules.Compile(list)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return set, err
	}
	errs := joined.Unwrap()
	for i, err := range errs {
		var wrong *rules.Error
		if errors.As(err, &wrong) {
			errs[i] = &core.KeyError{Key: wrong.Path(), Value: wrong.Value, Err: errors.New(wrong.Msg)}
		}
	}
	return nil, errors.Join(errs...)
}
