package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// The limits of rules.
const (
	MaxRules = 1000
	MaxRest  = 24 * time.Hour
	MaxBan   = 30 * 24 * time.Hour

	maxFields  = 64   // names of header fields in all rules together
	maxPattern = 253  // bytes of a host (RFC 1035 section 3.1)
	maxText    = 1024 // bytes of a body's text, or of the pattern of a header field
)

// Error is an error in a rule.
type Error struct {
	Index int    // of the rule
	Key   string // such as when.status; "" for the rule as a whole
	Value any    // nil if it does not help to explain the error
	Msg   string
}

func (e *Error) Error() string { return e.Path() + ": " + e.Msg }

// Path returns the key of the configuration, such as rules[2].when.status.
func (e *Error) Path() string {
	path := "rules[" + strconv.Itoa(e.Index) + "]"
	if e.Key != "" {
		path += "." + e.Key
	}
	return path
}

// Compile checks the rules and returns them as a Set; nil if there are none. The error joins an *Error for each fault.
func Compile(list []Rule) (*Set, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > MaxRules {
		return nil, errors.Join(&Error{Index: MaxRules, Msg: fmt.Sprintf(
			"there are %d rules; at most %d are allowed; a rule may have a list of hosts", len(list), MaxRules)})
	}
	s := &Set{rules: make([]rule, len(list))}
	c := compiler{}
	for i := range list {
		c.index = i
		s.rules[i] = c.rule(&list[i])
		for _, h := range s.rules[i].headers {
			if !slices.Contains(s.fields.Fields, h.name) {
				s.fields.Fields = append(s.fields.Fields, h.name)
			}
		}
		if len(s.fields.Fields) > maxFields && len(c.faults) == 0 {
			c.fault("when.header", nil, fmt.Sprintf("the rules name more than %d different header fields", maxFields))
		}
	}
	s.bodies = core.Wants{Body: core.MaxExcerptBody, Fields: s.fields.Fields}
	return s, errors.Join(c.faults...)
}

// compiler collects the faults of rules.
type compiler struct {
	index  int
	faults []error
}

func (c *compiler) fault(key string, value any, msg string) {
	c.faults = append(c.faults, &Error{c.index, key, value, msg})
}

func (c *compiler) rule(from *Rule) (r rule) {
	if from.Preset != "" && from.Preset != PresetBanLike {
		c.fault("preset", from.Preset, "there is no such preset; there is "+PresetBanLike)
	}
	if from.When.empty() && from.Preset == "" {
		c.fault("when", nil, "is empty, so the rule would hold for every response; set host, method, status, header, "+
			"body or error (host = \"*\" for every host)")
	}
	full := from.applied()
	w := &full.When
	for i, host := range w.Hosts {
		pattern, err := ParseHost(host)
		if err != nil {
			c.fault(element("when.host", i, len(w.Hosts)), host, err.Error())
		}
		r.hosts = append(r.hosts, pattern)
	}
	for i, method := range w.Methods {
		if method == "" || strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' }) {
			c.fault(element("when.method", i, len(w.Methods)), method, "must be a method in upper case, such as GET")
		}
		r.methods = append(r.methods, method)
	}
	for i, status := range w.Statuses {
		parsed, err := ParseStatus(status)
		if err != nil {
			c.fault(element("when.status", i, len(w.Statuses)), status, err.Error())
		}
		r.statuses = append(r.statuses, parsed)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		pattern := w.Headers[name]
		switch {
		case !isToken(name):
			c.fault("when.header", name, "must be the name of a header field, such as Server")
		case len(pattern) > maxText:
			c.fault("when.header."+name, nil, fmt.Sprintf("must have at most %d bytes", maxText))
		}
		r.headers = append(r.headers, header{strings.ToLower(name), pattern})
	}
	if r.body = []byte(w.Body); len(w.Body) > maxText {
		c.fault("when.body", nil, fmt.Sprintf("must have at most %d bytes", maxText))
	}
	if w.Error != "" {
		var known bool
		r.failure = true
		if r.cause, known = verdict.FailureOf(w.Error); !known {
			c.fault("when.error", w.Error, "must be the cause of a failed attempt: "+strings.Join(verdict.Failures(),
				", ")+
				" (docs/verdicts.md)")
		}
		if w.Body != "" || len(w.Headers) > 0 {
			c.fault("when.error", w.Error, "is set beside header or body, which only responses of targets have; "+
				"make two rules")
		}
	}
	r.action = c.action(&full.Then)
	return r
}

// action compiles the action of a rule.
func (c *compiler) action(t *Then) Action {
	a := Action{Rule: c.index, Rest: t.Rest, Ban: t.Ban}
	for _, d := range []struct {
		key   string
		value time.Duration
		most  time.Duration
	}{{"then.rest", t.Rest, MaxRest}, {"then.ban", t.Ban, MaxBan}} {
		if d.value != 0 && (d.value < time.Second || d.value > d.most) {
			c.fault(d.key, d.value.String(), "must be 1s to "+d.most.String())
		}
	}
	elsewhere := t.OtherProxy || t.Rest != 0 || t.Ban != 0
	in := &a.Instruction
	switch {
	case t.Final && (t.Retry || elsewhere):
		c.fault("then.final", nil, "contradicts retry, other_proxy, rest and ban, which lead to another attempt; "+
			"remove final or the others")
	case t.Retry && elsewhere:
		c.fault("then.retry", nil,
			"waits for the backoff and contradicts other_proxy, rest and ban, which retry at once; "+
				"remove one of them")
	case t.Retry:
		in.Follow = verdict.FollowRetry
	case t.Rest != 0 || t.Ban != 0:
		in.Follow = verdict.FollowBan
	case elsewhere:
		in.Follow = verdict.FollowOtherProxy
	case t.Final:
		in.Follow = verdict.FollowNothing
	default:
		c.fault("then", nil, "has no action; set retry, other_proxy, rest, ban or final")
	}
	switch t.Blame {
	case "":
	case "proxy":
		in.Blame = verdict.BlameProxy
	case "target":
		in.Blame = verdict.BlameTarget
	case "nobody":
		in.Blame = verdict.BlameNobody
	default:
		c.fault("then.blame", t.Blame, "must be proxy, target or nobody")
	}
	return a
}

// element returns the key of the element i of n of a list. A single value has no index.
func element(key string, i, n int) string {
	if n == 1 {
		return key
	}
	return key + "[" + strconv.Itoa(i) + "]"
}

// ParseHost checks the pattern of a host and returns it in the form of Host.
func ParseHost(s string) (string, error) {
	pattern := Host(s)
	switch {
	case pattern == "" || len(pattern) > maxPattern:
		return "", fmt.Errorf("must have 1 to %d characters", maxPattern)
	case strings.HasSuffix(pattern, "."):
		return "", errors.New("ends with an empty part between dots")
	case strings.Contains(s, "/"):
		return "", errors.New("must be a host without scheme and path, such as *.shop.example")
	case strings.Count(pattern, ":") == 1:
		return "", errors.New("must be a host without port, such as *.shop.example")
	case strings.ContainsFunc(pattern, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.*:", c))
	}):
		return "", errors.New("only letters, digits, '-', '_', '.', ':' and '*' are allowed " +
			"(write an international name in its form xn--)")
	}
	return pattern, nil
}

var errStatus = errors.New(`must be a status or a range of them, such as 403 or "400-499", from 100 to 599`)

// ParseStatus parses a status, such as 403, or a range of statuses, such as 400-499. Statuses are from 100 to 599.
func ParseStatus(s string) (core.Range, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	r := core.Range{First: number(first), Last: number(last)}
	if r.First == 0 || r.Last == 0 {
		return core.Range{}, errStatus
	}
	if r.First > r.Last {
		return core.Range{}, fmt.Errorf("the range begins after its end; did you mean %d-%d?", r.Last, r.First)
	}
	return r, nil
}

// number returns the status with three digits; 0 if s is no status.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || len(s) != 3 || n < 100 || n > 599 {
		return 0
	}
	return n
}

// isToken reports whether s may be the name of a header field (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= maxText
}
