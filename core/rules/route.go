package rules

import (
	"strings"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Routing is the part of a Then for requests. A rule may have actions of several kinds. The actions of the kind
// KindWay exclude each other, with one exception: Tag and Region may both be set.
type Routing struct {
	// The following actions are of the kind KindWay.
	Pool   bool   // all proxies, as without rules
	Tag    string // only proxies with this tag; "" for none
	Region string // only proxies of this region; "" for none
	// Prefer means that Tag and Region are only preferred: first attempts use other proxies if no proxy of Tag and
	// Region is admissible.
	Prefer bool
	Direct bool // no proxy: the gateway connects to the target
	Deny   bool // the request is refused

	Policy    *Policy // KindPolicy; nil for none
	Scorer    string  // KindScorer: name of the scorer of first attempts; "" for none
	Intercept bool    // KindIntercept: the TLS of tunnels is terminated
	Interim   bool    // KindInterim: interim responses are relayed
}

// Policy is the policy of a rule: its differences from the global policy.
type Policy struct {
	Override       retry.Override // changes to the global policy
	AttemptTimeout float64        // limits the attempt timeout, in seconds: 0.01 to 3600; 0 for no limit by the rule
}

// Kind is a kind of actions of routing rules. For each kind, the first rule that holds and has an action of this kind
// is applied.
type Kind uint8

// The kinds, in the order in which a Route lists the rules.
const (
	KindWay Kind = iota
	KindPolicy
	KindScorer
	KindIntercept
	KindInterim

	NumKinds
)

// String returns the name in the API.
func (k Kind) String() string {
	return [...]string{"way", "policy", "scorer", "intercept", "interim"}[k]
}

// The result of has is true if r has an action of the given kind.
func (r *Routing) has(k Kind) bool {
	switch k {
	case KindWay:
		return r.Pool || r.Tag != "" || r.Region != "" || r.Direct || r.Deny
	case KindPolicy:
		return r.Policy != nil
	case KindScorer:
		return r.Scorer != ""
	case KindIntercept:
		return r.Intercept
	}
	return r.Interim
}

func (r *Routing) empty() bool { return *r == Routing{} }

// RoutingRule is a compiled routing rule.
type RoutingRule struct {
	Rule  int    // index of the rule
	Label string // name of the rule, as Action.Label
	Routing
	TagHash float64 // core.Hash53 of Tag; 0 without a tag

	scorer  core.Scorer // the plugin that Scorer names
	merged  atomic.Pointer[mergedPolicy]
	applied *atomic.Uint64
}

// mergedPolicy is the policy of a rule, merged over a global policy.
type mergedPolicy struct {
	global *retry.Policy
	policy retry.Policy
}

// policyOver returns the rule's policy, merged over the global policy.
func (r *RoutingRule) policyOver(global *retry.Policy) *retry.Policy {
	if m := r.merged.Load(); m != nil && m.global == global {
		return &m.policy
	}
	m := &mergedPolicy{global, global.Merge(r.Policy.Override)}
	// Each field of both policies is valid, and Validate has no check that concerns two fields, so no error is
	// expected.
	if err := m.policy.Validate(func(string) bool { return true }); err != nil {
		return global
	}
	r.merged.Store(m)
	return &m.policy
}

// Route has the routing rules that are applied to a request, by Kind; nil for none. The zero value has none.
type Route struct{ ways [NumKinds]*RoutingRule }

// Count counts the request once for each rule of the route.
func (r *Route) Count() {
	for k, w := range r.ways {
		if w != nil && r.first(Kind(k)) {
			w.applied.Add(1)
		}
	}
}

// first reports whether no kind before k has the same rule as k.
func (r *Route) first(k Kind) bool {
	for earlier := range k {
		if r.ways[earlier] == r.ways[k] {
			return false
		}
	}
	return true
}

// Route returns the routing rules that are applied to q. It allocates nothing, unless normalPath allocates for the
// path of q.
func (s *Set) Route(q *Request) (found Route) {
	if s == nil {
		return found
	}
	open := int(NumKinds)
	for _, r := range s.routing {
		if !r.decidesMore(&found) || !r.holdsForRequest(q) {
			continue
		}
		for k := range NumKinds {
			if found.ways[k] == nil && r.way.has(k) {
				found.ways[k] = &r.way
				open--
			}
		}
		if open == 0 {
			break
		}
	}
	return found
}

// decidesMore reports whether the rule has an action of a kind for which no rule has been found.
func (r *rule) decidesMore(found *Route) bool {
	for k := range NumKinds {
		if found.ways[k] == nil && r.way.has(k) {
			return true
		}
	}
	return false
}

// Of returns the rule that is applied for a kind; nil for none.
func (r *Route) Of(k Kind) *RoutingRule { return r.ways[k] }

// Way returns the rule that decides the way of the request. It returns nil if no rule does: the request may then use
// all proxies.
func (r *Route) Way() *RoutingRule { return r.ways[KindWay] }

// Direct reports whether the request goes to its target without a proxy.
func (r *Route) Direct() bool { w := r.Way(); return w != nil && w.Direct }

// Denied returns the rule that denies the request; nil if it is not denied.
func (r *Route) Denied() *RoutingRule {
	if w := r.Way(); w != nil && w.Deny {
		return w
	}
	return nil
}

// DeniedError is the error of a request that a rule denies.
type DeniedError struct{ Label string } // label of the rule

func (e *DeniedError) Error() string { return "the rule " + e.Label + " denies the request" }

// Intercepted reports whether the TLS of the tunnel is terminated. It is false for a denied request.
func (r *Route) Intercepted() bool { return r.ways[KindIntercept] != nil && r.Denied() == nil }

// Interim reports whether interim responses (1xx) are relayed to the client.
func (r *Route) Interim() bool { return r.ways[KindInterim] != nil }

// Scorer returns the scorer of first attempts; nil for the scorer of the configuration.
func (r *Route) Scorer() core.Scorer {
	if w := r.ways[KindScorer]; w != nil {
		return w.scorer
	}
	return nil
}

// Policy returns the policy of the request before its own override: the rule's policy, merged over the global policy.
func (r *Route) Policy(global *retry.Policy) *retry.Policy {
	if w := r.ways[KindPolicy]; w != nil {
		return w.policyOver(global)
	}
	return global
}

// AttemptTimeout returns the rule's limit of the attempt timeout in seconds; 0 for none.
func (r *Route) AttemptTimeout() float64 {
	if w := r.ways[KindPolicy]; w != nil {
		return w.Policy.AttemptTimeout
	}
	return 0
}

// This compiles only if a core.RuleLabels has room for the label of one rule for each kind.
const _ = uint(len(core.RuleLabels{}) - int(NumKinds))

// Labels returns the labels of the rules of the route, each label once.
func (r *Route) Labels() (labels core.RuleLabels) {
	n := 0
	for k, w := range r.ways {
		if w != nil && r.first(Kind(k)) {
			labels[n] = w.Label
			n++
		}
	}
	return labels
}

// Empty reports whether no rule is applied.
func (r *Route) Empty() bool { return *r == Route{} }

// Scope returns a part of the key that identifies a session. This part depends on the way and on the region that the
// client wants. So a session has a proxy of its own for each way. The case of region has no effect (core.RegionHash).
func (r *Route) Scope(region string) string {
	if w := r.Way(); w != nil && (w.Tag != "" || w.Region != "") {
		return strings.ToLower(region) + "\x00" + w.Tag + "\x00" + w.Region
	}
	return strings.ToLower(region)
}

// Routes reports whether there are routing rules.
func (s *Set) Routes() bool { return s != nil && len(s.routing) > 0 }

// Responds reports whether there are response rules.
func (s *Set) Responds() bool { return s != nil && len(s.responses) > 0 }

// Count is the number of requests and attempts to which a rule was applied.
type Count struct {
	Label string
	N     uint64
}

// Counts returns the counts of all rules, in their order.
func (s *Set) Counts() []Count {
	if s == nil {
		return nil
	}
	counts := make([]Count, len(s.rules))
	for i := range s.rules {
		counts[i] = Count{s.rules[i].label, s.rules[i].applied.Load()}
	}
	return counts
}

// KeepCounts makes each rule continue the count of the rule with the same label in the previous Set, the parameter
// before. KeepCounts must be called before s is used.
func (s *Set) KeepCounts(before *Set) {
	if s == nil || before == nil {
		return
	}
	old := map[string]*atomic.Uint64{}
	for i := range before.rules {
		old[before.rules[i].label] = before.rules[i].applied
	}
	for i := range s.rules {
		if n := old[s.rules[i].label]; n != nil {
			s.rules[i].count(n)
		}
	}
}

func (r *rule) count(n *atomic.Uint64) { r.applied, r.way.applied = n, n }

// UsesScorer reports whether a rule names the scorer.
func (s *Set) UsesScorer(name string) bool {
	return s.uses(func(w *RoutingRule) bool { return w.Scorer == name })
}

// UsesBackoff reports whether the policy of a rule names the backoff.
func (s *Set) UsesBackoff(name string) bool {
	return s.uses(func(w *RoutingRule) bool {
		return w.Policy != nil && w.Policy.Override.BackoffStrategy != nil && *w.Policy.Override.BackoffStrategy == name
	})
}

func (s *Set) uses(match func(*RoutingRule) bool) bool {
	if s != nil {
		for _, r := range s.routing {
			if match(&r.way) {
				return true
			}
		}
	}
	return false
}
