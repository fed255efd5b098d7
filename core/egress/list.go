package egress

import (
	"fmt"
	"net/netip"
)

// List is an immutable list of rules. The zero value has no rules and matches nothing. A match takes
// time proportional to the number of rules, and allocates nothing unless the host is an address.
type List struct{ rules []rule }

// RuleError is an error in one rule of a list.
type RuleError struct {
	Index int    // index in the list, from 0
	Rule  string // the text of the rule, as it was written
	Err   error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %q: %v", e.Rule, e.Err) }

// Unwrap returns the error without the rule.
func (e *RuleError) Unwrap() error { return e.Err }

// ParseList parses rules such as "*.example.com:443", "10.0.0.0/8" and ":25". An error is a *RuleError.
func ParseList(rules []string) (List, error) {
	l := List{rules: make([]rule, 0, len(rules))}
	for i, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			return List{}, &RuleError{i, text, err}
		}
		l.rules = append(l.rules, r)
	}
	return l, nil
}

// Empty reports whether the list has no rules.
func (l *List) Empty() bool { return len(l.rules) == 0 }

// Match returns the text of the first rule that holds for a target. The target's name may be an address, in any
// spelling without brackets. Match does not resolve names, so rules with networks hold only for addresses.
func (l *List) Match(name string, port uint16) (rule string, ok bool) {
	if l.Empty() {
		return "", false
	}
	h := parseHost(name)
	return l.match(&h, port)
}

func (l *List) match(h *host, port uint16) (string, bool) {
	for i := range l.rules {
		if r := &l.rules[i]; r.matches(h, port) {
			return r.text, true
		}
	}
	return "", false
}

// MatchAddr returns the first rule with a network or an address that holds for addr and port. It ignores
// rules with names.
func (l *List) MatchAddr(addr netip.Addr, port uint16) (rule string, ok bool) {
	h := hostOf(addr)
	for i := range l.rules {
		if r := &l.rules[i]; r.prefix.IsValid() && r.matches(&h, port) {
			return r.text, true
		}
	}
	return "", false
}
