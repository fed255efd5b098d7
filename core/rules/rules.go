// Package rules applies the configured rules. A rule has Conditions and Actions. The actions of a routing rule are for
// requests, for example the way that they take (to which proxies). The actions of a response rule are for responses and
// failed attempts. No rule has actions of both sorts. Of the response rules, the first one whose conditions hold is
// applied. Of the routing rules, the first one is applied for each Kind of action.
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
	When   Conditions
	Then   Actions
}

// PresetBanLike is the name of a preset, which sets defaults for a rule. If the rule has no condition on responses, it
// holds for the statuses 403 and 429. If the rule has no action, the proxy is banned for the host for 10 minutes.
const PresetBanLike = "ban_like"

// Conditions are the conditions of a rule: all that are set must hold. A response rule without Error holds only for
// responses of targets. Statuses, Headers, Body and Error are for response rules.
type Conditions struct {
	Hosts    []string          // patterns of the target's host; * stands for any characters
	Ports    []string          // ports of the target and ranges of them: 443, 8000-8999
	Paths    []string          // patterns of the URL's path, without the query; * stands for any characters
	Methods  []string          // such as GET; a tunnel has CONNECT
	Users    []string          // patterns of the user's name; no pattern matches a request without a user
	Statuses []string          // statuses and ranges of them: 403, 400-499
	Headers  map[string]string // patterns of values, by the name of the response's header field
	Body     string            // text in the first 8 KiB of the body
	Error    string            // cause of a failed attempt (verdict.CauseName)
}

// Actions are the actions of a rule.
type Actions struct {
	Routing

	Retry      bool          // retry after the backoff; without effect if OtherProxy, Rest or Ban is set
	OtherProxy bool          // retry without backoff, through another proxy
	Rest       time.Duration // like OtherProxy, and the proxy is banned for the host: 1 s to MaxRest; 0 for no ban
	Ban        time.Duration // like OtherProxy, and the proxy is banned: 1 s to MaxBan; 0 for no ban
	Final      bool          // no retry
	Blame      string        // proxy, target or nobody; "" for the default of the action
	// MaxAttempts replaces a smaller max_attempts of the policy. It requires OtherProxy, Rest or Ban. 0 leaves the
	// policy as it is.
	MaxAttempts int
}

// Action is the compiled action of a response rule.
type Action struct {
	Rule        int    // index of the rule
	Label       string // Name of the rule or, without a name, its place such as rules[2]
	Instruction verdict.Instruction
	Rest, Ban   time.Duration // 0 for none
	MaxAttempts int           // 0 for max_attempts of the policy
}

// Set is a compiled list of rules. It is immutable, except for the counts of the rules.
type Set struct {
	rules      []rule
	routing    []*rule
	responses  []*rule
	headerSpec core.ExcerptSpec // the header fields of all rules
	bodySpec   core.ExcerptSpec // the header fields of all rules, and the beginning of the body
}

type rule struct {
	when       Conditions // as it is configured
	index      int
	label      string
	hosts      namePatterns
	ports      []core.Range
	paths      []string
	methods    []string
	users      namePatterns
	statuses   []core.Range
	headers    []header
	body       []byte
	failedOnly bool // the rule holds for failed attempts only, with the cause in the next field
	cause      core.Cause
	action     Action
	way        RoutingRule
	counter    *atomic.Uint64 // number of requests and attempts to which the rule was applied
}

type header struct{ name, pattern string } // name in lower case

// namePatterns is a list of names and patterns.
type namePatterns struct {
	all      []string            // all names and patterns of the condition
	exact    map[string]struct{} // names without *
	suffixes []string            // the X of each pattern *X that has no second *
	patterns []string            // all other patterns
}

func (n *namePatterns) add(s string) {
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

// matches reports whether s is one of the names, or a pattern matches s. An empty list matches every s.
func (n *namePatterns) matches(s string) bool {
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

// ExcerptSpec returns the parts of the response that Match needs for the attempt; nil if Match needs no part.
func (s *Set) ExcerptSpec(a *Attempt) *core.ExcerptSpec {
	var spec *core.ExcerptSpec
	for _, r := range s.responses {
		switch {
		case !r.holdsForAttempt(a):
		case len(r.body) > 0:
			return &s.bodySpec
		case len(r.headers) > 0:
			spec = &s.headerSpec
		default:
			return spec // r holds, so no later rule is applied
		}
	}
	return spec
}

// Match returns the action of the first response rule that holds for the attempt, and counts the rule's application. It
// returns nil if no rule holds. e has the parts of the response that ExcerptSpec asks for; nil for none.
func (s *Set) Match(a *Attempt, e *core.Excerpt) *Action {
	for _, r := range s.responses {
		if r.holdsForAttempt(a) && r.holdsForExcerpt(e) {
			r.counter.Add(1)
			return &r.action
		}
	}
	return nil
}

// holdsForAttempt reports whether the conditions that need no excerpt hold.
func (r *rule) holdsForAttempt(a *Attempt) bool {
	if r.failedOnly {
		if a.Cause != r.cause {
			return false
		}
	} else if !verdict.IsReviewable(a.Cause) {
		return false
	}
	return inRanges(r.statuses, a.Status) && r.holdsForRequest(&a.Request)
}

// holdsForRequest reports whether the conditions on the request hold.
func (r *rule) holdsForRequest(q *Request) bool {
	return (len(r.methods) == 0 || slices.Contains(r.methods, q.Method)) && inRanges(r.ports, int(q.Port)) &&
		r.hosts.matches(q.Host) && r.matchesUser(q.User) && (len(r.paths) == 0 || r.matchesPath(q.Path))
}

// inRanges reports whether one of the ranges contains n, or there are no ranges.
func inRanges(ranges []core.Range, n int) bool {
	for _, r := range ranges {
		if r.First <= n && n <= r.Last {
			return true
		}
	}
	return len(ranges) == 0
}

func (r *rule) matchesUser(user string) bool {
	return len(r.users.all) == 0 || user != "" && r.users.matches(user)
}

func (r *rule) matchesPath(path []byte) bool {
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

// holdsForExcerpt reports whether the conditions on header fields and body hold.
func (r *rule) holdsForExcerpt(e *core.Excerpt) bool {
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

// withPreset returns the rule with the defaults of its preset.
func (r Rule) withPreset() Rule {
	if r.Preset == PresetBanLike {
		if len(r.When.Statuses) == 0 && r.When.Body == "" && len(r.When.Headers) == 0 && r.When.Error == "" {
			r.When.Statuses = []string{"403", "429"}
		}
		if r.Then.isEmpty() {
			r.Then.Rest = 10 * time.Minute
		}
	}
	return r
}

func (w *Conditions) isEmpty() bool {
	return len(w.Hosts) == 0 && len(w.Ports) == 0 && len(w.Paths) == 0 && len(w.Methods) == 0 && len(w.Users) == 0 &&
		len(w.Statuses) == 0 && len(w.Headers) == 0 && w.Body == "" && w.Error == ""
}

// isEmpty reports whether t has no action. MaxAttempts does not count as an action, because it only changes other
// actions.
func (t *Actions) isEmpty() bool {
	return t.Routing.isEmpty() && t.responseAction() == "" && t.Blame == ""
}

// responseAction returns the key of an action of a response rule; "" if t has none.
func (t *Actions) responseAction() string {
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

// NormalHost returns the form in which a host is compared with patterns: in lower case, without a dot at the end and
// without the brackets of an IPv6 address.
func NormalHost(s string) string {
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	return s
}
