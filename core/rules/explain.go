package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Explanation shows why a rule is applied to a request, or why it is not applied.
type Explanation struct {
	Rule       int
	Label      string
	Response   bool        // a response rule; its conditions on responses are not in Conditions
	Conditions []Condition // the conditions on the request
	AllHold    bool        // all Conditions hold
	Kinds      []Kind      // the kinds of actions for which the rule is applied
	Routing    *Routing    // the actions of a routing rule; nil for a response rule
}

// Condition shows whether a request meets one of the Conditions of a rule.
type Condition struct {
	Key   string   // host, port, path, method or user
	Want  []string // the permitted values, as they are configured
	Got   string   // value of the request; "" if it has none
	Holds bool
}

// Explain returns an Explanation for each rule, in the order of the rules. It also returns the routing rules that are
// applied to q.
func (s *Set) Explain(q *Request) (Route, []Explanation) {
	if s == nil {
		return Route{}, nil
	}
	route, all := s.Route(q), make([]Explanation, len(s.rules))
	for i := range s.rules {
		r, e := &s.rules[i], &all[i]
		*e = Explanation{Rule: r.index, Label: r.label, Response: r.way.isEmpty(), AllHold: true}
		if !e.Response {
			e.Routing = &r.way.Routing
		}
		for k := range NumKinds {
			if route.byKind[k] == &r.way {
				e.Kinds = append(e.Kinds, k)
			}
		}
		e.Conditions = r.explainRequest(q)
		for _, c := range e.Conditions {
			e.AllHold = e.AllHold && c.Holds
		}
	}
	return route, all
}

// explainRequest compares q with the rule's conditions on the request.
func (r *rule) explainRequest(q *Request) (all []Condition) {
	add := func(key string, want []string, got string, holds bool) {
		if len(want) > 0 {
			all = append(all, Condition{key, want, got, holds})
		}
	}
	add("host", r.when.Hosts, q.Host, r.hosts.matches(q.Host))
	add("port", r.when.Ports, strconv.Itoa(int(q.Port)), inRanges(r.ports, int(q.Port)))
	add("path", r.when.Paths, string(normalPath(q.Path)), r.matchesPath(q.Path))
	add("method", r.when.Methods, q.Method, slices.Contains(r.methods, q.Method))
	add("user", r.when.Users, q.User, r.matchesUser(q.User))
	return all
}

// ResponseConditions returns the keys of those conditions of a rule that concern responses and failed attempts.
func (s *Set) ResponseConditions(rule int) (keys []string) {
	w := &s.rules[rule].when
	for _, c := range []struct {
		key string
		set bool
	}{
		{"status", len(w.Statuses) > 0}, {"header", len(w.Headers) > 0}, {"body", w.Body != ""},
		{"error", w.Error != ""},
	} {
		if c.set {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// ParsePort parses a port, such as 443, or a range of ports, such as 8000-8999. Ports are from 1 to 65535.
func ParsePort(s string) (core.Range, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	f, err := strconv.ParseUint(first, 10, 16)
	l, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || f == 0 || l == 0 {
		return core.Range{}, errPort
	}
	if f > l {
		return core.Range{}, reversedRangeError(l, f)
	}
	return core.Range{First: int(f), Last: int(l)}, nil
}
