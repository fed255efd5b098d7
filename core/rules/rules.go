// Package rules decides by configured rules what follows an attempt. A rule has a condition (When) and an action
// (Then). The first rule whose condition holds is applied.
package rules

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Rule is one rule as it is configured.
type Rule struct {
	Preset string // PresetBanLike, or "" for none
	When   When
	Then   Then
}

// PresetBanLike is a preset. Its rule holds for the statuses 403 and 429 and lets the pair rest for 10 minutes, unless
// the rule states another status or action.
const PresetBanLike = "ban_like"

// When is the condition of a rule: all parts that are set must hold. A rule without Error holds only for responses of
// targets.
type When struct {
	Hosts    []string          // patterns of the target's host; * stands for any characters
	Methods  []string          // such as GET
	Statuses []string          // statuses and ranges of them: 403, 400-499
	Headers  map[string]string // pattern of the value by the name of a response's field
	Body     string            // text in the first 8 KiB of the body
	Error    string            // cause of a failed attempt (verdict.Word)
}

// Then is the action of a rule.
type Then struct {
	Retry      bool          // retry after the backoff
	OtherProxy bool          // retry at once, through another proxy
	Rest       time.Duration // OtherProxy, and the pair of proxy and host rests: 1 s to MaxRest; 0 for no rest
	Ban        time.Duration // OtherProxy, and the proxy is banned: 1 s to MaxBan; 0 for no ban
	Final      bool          // no retry
	Blame      string        // proxy, target or nobody; "" for the default of the action
}

// Action is a compiled Then.
type Action struct {
	Rule        int // index of the rule
	Instruction verdict.Instruction
	Rest, Ban   time.Duration // 0 for none
}

// Set is a compiled list of rules. It is immutable.
type Set struct {
	rules  []rule
	fields core.Wants // the header fields of all rules
	bodies core.Wants // the same, and the beginning of the body
}

type rule struct {
	hosts    []string
	methods  []string
	statuses []core.Range
	headers  []header
	body     []byte
	failure  bool // the rule holds for failed attempts whose cause is cause
	cause    core.Cause
	action   Action
}

type header struct{ name, pattern string } // name in lower case

// Attempt describes a finished attempt to a Set.
type Attempt struct {
	Host   string // of the target, without port, in lower case
	Method string
	Status int // of the response; 0 without one
	Cause  core.Cause
}

// Wants returns the parts of the response that Match needs for the attempt; nil if it needs none.
func (s *Set) Wants(a *Attempt) *core.Wants {
	var wants *core.Wants
	for i := range s.rules {
		r := &s.rules[i]
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

// Match returns the action of the first rule that holds for the attempt; nil if there is none. e has the parts of the
// response that Wants returned; it may be nil if that was nil.
func (s *Set) Match(a *Attempt, e *core.Excerpt) *Action {
	for i := range s.rules {
		if r := &s.rules[i]; r.holds(a) && r.holdsFor(e) {
			return &r.action
		}
	}
	return nil
}

// holds reports whether the parts of the condition hold that need no excerpt.
func (r *rule) holds(a *Attempt) bool {
	if r.failure {
		if a.Cause != r.cause {
			return false
		}
	} else if !verdict.Reviewable(a.Cause) {
		return false
	}
	if len(r.statuses) > 0 && !slices.ContainsFunc(r.statuses, func(s core.Range) bool {
		return s.First <= a.Status && a.Status <= s.Last
	}) {
		return false
	}
	return (len(r.methods) == 0 || slices.Contains(r.methods, a.Method)) && (len(r.hosts) == 0 || r.names(a.Host))
}

// names reports whether a pattern of the rule matches a host.
func (r *rule) names(host string) bool {
	for _, pattern := range r.hosts {
		if egress.GlobMatches(pattern, host) {
			return true
		}
	}
	return false
}

// holdsFor reports whether the parts of the condition hold that need an excerpt.
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

// applied returns the rule with the parts of its preset that it does not set itself.
func (r Rule) applied() Rule {
	if r.Preset == PresetBanLike {
		if len(r.When.Statuses) == 0 && r.When.Body == "" && len(r.When.Headers) == 0 && r.When.Error == "" {
			r.When.Statuses = []string{"403", "429"}
		}
		if r.Then == (Then{}) {
			r.Then.Rest = 10 * time.Minute
		}
	}
	return r
}

func (w *When) empty() bool {
	return len(w.Hosts) == 0 && len(w.Methods) == 0 && len(w.Statuses) == 0 && len(w.Headers) == 0 && w.Body == "" &&
		w.Error == ""
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
