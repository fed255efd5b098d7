// Package rules applies the configured rules. A rule has a condition (When) and an action (Then). The action of a
// routing rule is for requests, for example the way that they take (to which proxies). The action of a response rule
// is for responses and failed attempts. No rule has actions of both sorts. The first response rule whose condition
// holds is applied. Routing rules have several kinds of actions (Kind). For each kind, the first routing rule that
// has such an action and whose condition holds is applied.
package rules

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Rule is one rule as it is configured.
type Rule struct {
	Name   string // for logs and metrics; "" for none
	Preset string // PresetBanLike, or "" for none
	When   When
	Then   Then
}

// PresetBanLike is a preset: defaults for a rule. A rule with this preset and without a condition on responses holds
// for the statuses 403 and 429. A rule with this preset and without an action makes the pair of proxy and host rest
// for 10 minutes.
const PresetBanLike = "ban_like"

// A When is the condition of a rule: all parts that are set must hold. A response rule without Error holds only for
// responses of targets. Statuses, Headers, Body and Error are for response rules.
type When struct {
	Hosts    []string          // patterns of the target's host; * stands for any characters
	Ports    []string          // ports of the target and ranges of them: 443, 8000-8999
	Paths    []string          // patterns of the URL's path, without the query; * stands for any characters
	Methods  []string          // such as GET; a tunnel has CONNECT
	Users    []string          // patterns of the user's name; no pattern matches a request without a user
	Statuses []string          // statuses and ranges of them: 403, 400-499
	Headers  map[string]string // patterns of values, by the name of the response's header field
	Body     string            // text in the first 8 KiB of the body
	Error    string            // cause of a failed attempt (verdict.Word)
}

// A Then is the action of a rule.
type Then struct {
	Routing

	Retry      bool          // retry after the backoff; without effect if OtherProxy, Rest or Ban is set
	OtherProxy bool          // retry without backoff, through another proxy
	Rest       time.Duration // like OtherProxy, and the pair of proxy and host rests: 1 s to MaxRest; 0 for no rest
	Ban        time.Duration // like OtherProxy, and the proxy is banned: 1 s to MaxBan; 0 for no ban
	Final      bool          // no retry
	Blame      string        // proxy, target or nobody; "" for the default of the action
}

// Action is a compiled Then.
type Action struct {
	Rule        int    // index of the rule
	Label       string // Name of the rule or, without a name, its place such as rules[2]
	Instruction verdict.Instruction
	Rest, Ban   time.Duration // 0 for none
}

// Set is a compiled list of rules. It is immutable, except for the counts of the rules.
type Set struct {
	rules     []rule
	routing   []*rule    // the routing rules
	responses []*rule    // the response rules
	fields    core.Wants // the header fields of all rules
	bodies    core.Wants // the header fields of all rules, and the beginning of the body
}

type rule struct {
	when     When // as it is configured
	index    int
	label    string
	hosts    names
	ports    []core.Range
	paths    []string
	methods  []string
	users    names
	statuses []core.Range
	headers  []header
	body     []byte
	failure  bool // the rule holds for failed attempts only, with the cause in the next field
	cause    core.Cause
	action   Action
	way      RoutingRule
	applied  *atomic.Uint64 // number of requests and attempts to which the rule was applied
}

type header struct{ name, pattern string } // name in lower case

// names is a list of names and patterns.
type names struct {
	all      []string            // all names and patterns of the condition
	exact    map[string]struct{} // names without *
	suffixes []string            // the X of each pattern *X that has no second *
	patterns []string            // all other patterns
}

func (n *names) add(s string) {
	n.all = append(n.all, s)
	switch suffix, found := strings.CutPrefix(s, "*"); {
	case found && !strings.Contains(suffix, "*"):
		n.suffixes = append(n.suffixes, suffix)
	case strings.Contains(s, "*"):
		n.patterns = append(n.patterns, s)
	default:
		if n.exact == nil {
			n.exact = map[string]struct{}{}
		}
		n.exact[s] = struct{}{}
	}
}

// The result of has is true if the list is empty, contains the name s, or contains a pattern that matches s.
func (n *names) has(s string) bool {
	if len(n.all) == 0 {
		return true
	}
	if _, ok := n.exact[s]; ok {
		return true
	}
	for _, suffix := range n.suffixes {
		if strings.HasSuffix(s, suffix) {
			return true
		}
	}
	for _, pattern := range n.patterns {
		if egress.GlobMatches(pattern, s) {
			return true
		}
	}
	return false
}

// Request describes a request to a Set.
type Request struct {
	Host   string // host of the target, without port, in lower case
	Port   uint16
	Method string // CONNECT for a tunnel
	Path   []byte // path of the URL, with or without query; nil for a tunnel, whose requests are encrypted
	User   string // name of the user; "" for none
}

// Attempt describes a finished attempt to a Set.
type Attempt struct {
	Request
	Status int // status of the response; 0 without a response
	Cause  core.Cause
}

// Wants returns the parts of the response that Match needs for the attempt; nil if Match needs no part.
func (s *Set) Wants(a *Attempt) *core.Wants {
	var wants *core.Wants
	for _, r := range s.responses {
		switch {
		case !r.holds(a):
		case len(r.body) > 0:
			return &s.bodies
		case len(r.headers) > 0:
			wants = &s.fields
		default:
			return wants // no rule after r can be the first
		}
	}
	return wants
}

// Match returns the action of the first response rule that holds for the attempt, and counts the rule's application.
// It returns nil if no rule holds. The parameter e has the parts of the response that Wants returned; e may be nil if
// Wants returned nil.
func (s *Set) Match(a *Attempt, e *core.Excerpt) *Action {
	for _, r := range s.responses {
		if r.holds(a) && r.holdsFor(e) {
			r.applied.Add(1)
			return &r.action
		}
	}
	return nil
}

// The result of holds is true if all parts of the condition hold that need no excerpt.
func (r *rule) holds(a *Attempt) bool {
	if r.failure {
		if a.Cause != r.cause {
			return false
		}
	} else if !verdict.Reviewable(a.Cause) {
		return false
	}
	return contains(r.statuses, a.Status) && r.holdsForRequest(&a.Request)
}

// holdsForRequest reports whether the parts of the condition that concern the request hold.
func (r *rule) holdsForRequest(q *Request) bool {
	return (len(r.methods) == 0 || slices.Contains(r.methods, q.Method)) && contains(r.ports, int(q.Port)) &&
		r.hosts.has(q.Host) && r.namesUser(q.User) && (len(r.paths) == 0 || r.namesPath(q.Path))
}

// The result of contains is true if one of the ranges contains n, or if there are no ranges.
func contains(ranges []core.Range, n int) bool {
	for _, r := range ranges {
		if r.First <= n && n <= r.Last {
			return true
		}
	}
	return len(ranges) == 0
}

// namesUser reports whether the rule holds for a user; "" stands for no user.
func (r *rule) namesUser(user string) bool {
	return len(r.users.all) == 0 || user != "" && r.users.has(user)
}

// namesPath reports whether a pattern of the rule matches a path.
func (r *rule) namesPath(path []byte) bool {
	if path == nil {
		return false
	}
	path = normalPath(path)
	for _, pattern := range r.paths {
		if egress.GlobMatches(pattern, path) {
			return true
		}
	}
	return false
}

// The result of holdsFor is true if all parts of the condition hold that need an excerpt.
func (r *rule) holdsFor(e *core.Excerpt) bool {
	for i := range r.headers {
		if !r.headers[i].isIn(e) {
			return false
		}
	}
	return len(r.body) == 0 || bytes.Contains(e.Body, r.body)
}

func (h *header) isIn(e *core.Excerpt) bool {
	for i := range e.Fields {
		if f := &e.Fields[i]; f.Name == h.name && egress.GlobMatches(h.pattern, f.Value) {
			return true
		}
	}
	return false
}

// applied returns the rule with its preset applied: the preset sets parts that the rule does not set itself.
func (r Rule) applied() Rule {
	if r.Preset == PresetBanLike {
		if len(r.When.Statuses) == 0 && r.When.Body == "" && len(r.When.Headers) == 0 && r.When.Error == "" {
			r.When.Statuses = []string{"403", "429"}
		}
		if r.Then.empty() {
			r.Then.Rest = 10 * time.Minute
		}
	}
	return r
}

func (w *When) empty() bool {
	return len(w.Hosts) == 0 && len(w.Ports) == 0 && len(w.Paths) == 0 && len(w.Methods) == 0 && len(w.Users) == 0 &&
		len(w.Statuses) == 0 && len(w.Headers) == 0 && w.Body == "" && w.Error == ""
}

func (t *Then) empty() bool { return t.Routing.empty() && t.response() == "" && t.Blame == "" }

// response returns the key of an action of a response rule; "" if t has none.
func (t *Then) response() string {
	switch {
	case t.Retry:
		return "retry"
	case t.OtherProxy:
		return "other_proxy"
	case t.Rest != 0:
		return "rest"
	case t.Ban != 0:
		return "ban"
	case t.Final:
		return "final"
	}
	return ""
}

// Host returns the form in which a host is compared with patterns: in lower case, without a dot at the end and without
// the brackets of an IPv6 address.
func Host(s string) string {
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	return s
}
