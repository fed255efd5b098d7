package engine

import (
	"errors"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// rulePlugins implements rules.Plugins.
type rulePlugins struct{ Plugins }

// Scorer returns the scorer with the given name. The scorer is for the first attempts of requests.
func (p rulePlugins) Scorer(name string) (core.Scorer, error) {
	return p.Plugins.Scorer(name, fallbackFirst)
}

// compileRules compiles cfg.Rules. The new rules continue the counts of the previous Set, which may be nil. The error
// joins a *core.KeyError for each error in the rules.
func compileRules(list []rules.Rule, plugins Plugins, before *rules.Set) (*rules.Set, error) {
	set, err := rules.Compile(list, rulePlugins{plugins})
	if err == nil {
		set.KeepCounts(before)
		return set, nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, err
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

// Rules returns the rules in force; nil if there are none.
func (e *Engine) Rules() *rules.Set { return e.executor.Rules() }

// countRules calls the function count for each rule, with the number of requests and attempts to which the rule was
// applied.
func (e *Engine) countRules(count func(rule string, applied uint64)) {
	for _, c := range e.Rules().Counts() {
		count(c.Label, c.N)
	}
}
