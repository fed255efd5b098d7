package rules

import (
	"strings"
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Routing has the actions of a routing rule. The rule may have actions of several kinds, but only one action of the
// kind KindWay. As an exception, Tag and Region may both be set.
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
	Intercept bool    // KindIntercept: the TLS of tunnels is terminated; applied to requests with the method CONNECT
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

// hasKind reports whether r has an action of the kind.
func (r *Routing) hasKind(k Kind) bool {
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

func (r *Routing) isEmpty() bool { return *r == Routing{} }

// RoutingRule is a compiled routing rule.
type RoutingRule struct {
	Rule  int    // index of the rule
	Label string // name of the rule, as Action.Label
	Routing
	TagHash float64 // core.Hash53 of Tag; 0 without a tag

	scorer  core.Scorer // the plugin that Scorer names
	merged  atomic.Pointer[mergedPolicy]
	counter *atomic.Uint64
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
	// No error is expected: each field is valid, and Validate has no check that concerns two fields.
	if err := m.policy.Validate(func(string) bool { return true }); err != nil {
		return global
	}
	r.merged.Store(m)
	return &m.policy
}

// Route has the routing rules that are applied to a request, by Kind. The zero value has none.
type Route struct{ byKind [NumKinds]*RoutingRule }

// Count counts the request once for each rule of the route.
func (r *Route) Count() {
	for k, w := range r.byKind {
		if w != nil && r.isFirstKindOfRule(Kind(k)) {
			w.counter.Add(1)
		}
	}
}

// isFirstKindOfRule reports whether no earlier kind has the same rule as k.
func (r *Route) isFirstKindOfRule(k Kind) bool {
	for earlier := range k {
		if r.byKind[earlier] == r.byKind[k] {
			return false
		}
	}
	return true
}

// Route returns the routing rules that are applied to q. It allocates nothing, unless normalPath allocates for the
// path of q.
func (s *Set) Route(q *Request) (route Route) {
	if s == nil {
		return route
	}
	undecided := int(NumKinds)
	for _, r := range s.routing {
		if !r.decidesAny(q, &route) || !r.holdsForRequest(q) {
			continue
		}
		for k := range NumKinds {
			if r.decides(k, q, &route) {
				route.byKind[k] = &r.way
				undecided--
			}
		}
		if undecided == 0 {
			break
		}
	}
	return route
}

// decides reports whether a rule that holds for q is to be applied for the kind k: the rule has an action of this kind,
// and route has no earlier rule for it. A rule with Intercept is applied only to tunnels.
func (r *rule) decides(k Kind, q *Request, route *Route) bool {
	return route.byKind[k] == nil && r.way.hasKind(k) && (k != KindIntercept || q.Method == "CONNECT")
}

// decidesAny reports whether the rule, if it holds for q, decides one of the kinds.
func (r *rule) decidesAny(q *Request, route *Route) bool {
	for k := range NumKinds {
		if r.decides(k, q, route) {
			return true
		}
	}
	return false
}

// RuleOf returns the rule for a kind; nil for none.
func (r *Route) RuleOf(k Kind) *RoutingRule { return r.byKind[k] }

// WayRule returns the rule that decides the way of the request; nil for none: the request may then use all proxies.
func (r *Route) WayRule() *RoutingRule { return r.byKind[KindWay] }

// IsDirect reports whether the request goes to its target without a proxy.
func (r *Route) IsDirect() bool { w := r.WayRule(); return w != nil && w.Direct }

// DenyingRule returns the rule that denies the request; nil if it is not denied.
func (r *Route) DenyingRule() *RoutingRule {
	if w := r.WayRule(); w != nil && w.Deny {
		return w
	}
	return nil
}

// DeniedError is the error of a request that a rule denies.
type DeniedError struct{ Label string } // label of the rule

func (e *DeniedError) Error() string { return "the rule " + e.Label + " denies the request" }

// IsIntercepted reports whether the TLS of the tunnel is terminated. It is false for a denied request.
func (r *Route) IsIntercepted() bool { return r.byKind[KindIntercept] != nil && r.DenyingRule() == nil }

// RelaysInterim reports whether interim responses (1xx) are relayed to the client.
func (r *Route) RelaysInterim() bool { return r.byKind[KindInterim] != nil }

// Scorer returns the scorer of first attempts; nil for the scorer of the configuration.
func (r *Route) Scorer() core.Scorer {
	if w := r.byKind[KindScorer]; w != nil {
		return w.scorer
	}
	return nil
}

// Policy returns the rule's policy, merged over the global policy. The request's own override is not merged.
func (r *Route) Policy(global *retry.Policy) *retry.Policy {
	if w := r.byKind[KindPolicy]; w != nil {
		return w.policyOver(global)
	}
	return global
}

// AttemptTimeout returns the rule's limit of the attempt timeout in seconds; 0 for none.
func (r *Route) AttemptTimeout() float64 {
	if w := r.byKind[KindPolicy]; w != nil {
		return w.Policy.AttemptTimeout
	}
	return 0
}

// This compiles only if core.RuleLabels has room for one label per kind.
const _ = uint(len(core.RuleLabels{}) - int(NumKinds))

// Labels returns the labels of the rules of the route, each label once.
func (r *Route) Labels() (labels core.RuleLabels) {
	n := 0
	for k, w := range r.byKind {
		if w != nil && r.isFirstKindOfRule(Kind(k)) {
			labels[n] = w.Label
			n++
		}
	}
	return labels
}

// IsEmpty reports whether no rule is applied.
func (r *Route) IsEmpty() bool { return *r == Route{} }

// SessionScope returns the part of a session's key that depends on the way and on the wanted region. So a session has a
// separate proxy for each way.
func (r *Route) SessionScope(region string) string {
	if w := r.WayRule(); w != nil && (w.Tag != "" || w.Region != "") {
		return strings.ToLower(region) + "\x00" + w.Tag + "\x00" + w.Region
	}
	return strings.ToLower(region)
}

// HasRoutingRules reports whether there are routing rules.
func (s *Set) HasRoutingRules() bool { return s != nil && len(s.routing) > 0 }

// HasResponseRules reports whether there are response rules.
func (s *Set) HasResponseRules() bool { return s != nil && len(s.responses) > 0 }

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
		counts[i] = Count{s.rules[i].label, s.rules[i].counter.Load()}
	}
	return counts
}

// KeepCounts makes each rule continue the count of the rule with the same label in the previous Set. It must be called
// before s is used.
func (s *Set) KeepCounts(previous *Set) {
	if s == nil || previous == nil {
		return
	}
	counters := map[string]*atomic.Uint64{}
	for i := range previous.rules {
		counters[previous.rules[i].label] = previous.rules[i].counter
	}
	for i := range s.rules {
		if counter := counters[s.rules[i].label]; counter != nil {
			s.rules[i].setCounter(counter)
		}
	}
}

func (r *rule) setCounter(n *atomic.Uint64) { r.counter, r.way.counter = n, n }

// UsesScorer reports whether a rule names the scorer.
func (s *Set) UsesScorer(name string) bool {
	return s.anyRoutingRule(func(w *RoutingRule) bool { return w.Scorer == name })
}

// UsesBackoff reports whether the retry policy of any rule uses the backoff strategy with the given name.
func (s *Set) UsesBackoff(name string) bool {
	return s.anyRoutingRule(func(w *RoutingRule) bool {
		return w.Policy != nil && w.Policy.Override.BackoffStrategy != nil && *w.Policy.Override.BackoffStrategy == name
	})
}

func (s *Set) anyRoutingRule(match func(*RoutingRule) bool) bool {
	if s != nil {
		for _, r := range s.routing {
			if match(&r.way) {
				return true
			}
		}
	}
	return false
}
