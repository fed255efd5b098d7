package metrics

import "github.com/prometheus/client_golang/prometheus"

// SetRuleSource sets a function that is called at each scrape. This function must call the callback that it receives
// once for each rule, with the number of requests and attempts to which the rule was applied.
func (r *Recorder) SetRuleSource(rules func(count func(rule string, applied uint64))) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.rules = rules
}

var rulesDesc = newDesc("rule_applied_total", "requests and attempts to which a rule was applied", "rule")

func collectRules(out chan<- prometheus.Metric, rules func(func(string, uint64))) {
	if rules != nil {
		rules(func(rule string, applied uint64) {
			emit(out, rulesDesc, prometheus.CounterValue, float64(applied), rule)
		})
	}
}
