package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// The limits of rules.
const (
	MaxRules = 1000
	MaxRest  = 24 * time.Hour
	MaxBan   = 30 * 24 * time.Hour

	maxFields  = 64   // names of header fields in all rules together
	maxPattern = 253  // bytes of a host (RFC 1035 section 3.1)
	maxText    = 1024 // bytes of a body's text, of a path, or of the pattern of a header field

	minAttempt, maxAttempt = 0.01, 3600.0 // limits of Policy.AttemptTimeout in seconds, as of timeouts.attempt
)

// Plugins returns scorers and backoffs by name.
type Plugins interface {
	Scorer(name string) (core.Scorer, error)
	Backoff(name string) (core.Backoff, error)
}

// Error is an error in a rule.
type Error struct {
	Index int    // index of the rule
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

// Compile checks the rules and returns them as a Set; nil if there are none. If plugins is nil, names of scorers and
// backoffs are not checked, and the Set must not be used for requests. The error joins an *Error for each error in the
// rules.
func Compile(list []Rule, plugins Plugins) (*Set, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > MaxRules {
		return nil, errors.Join(&Error{Index: MaxRules, Msg: fmt.Sprintf(
			"there are %d rules; at most %d are allowed; a rule may have a list of hosts", len(list), MaxRules)})
	}
	s := &Set{rules: make([]rule, len(list))}
	c := compiler{plugins: plugins, labels: map[string]int{}}
	for i := range list {
		c.index = i
		r := &s.rules[i]
		c.compileRule(&list[i], r)
		if r.way.isEmpty() {
			s.responses = append(s.responses, r)
		} else {
			s.routing = append(s.routing, r)
		}
		for _, h := range r.headers {
			if !slices.Contains(s.headerSpec.Fields, h.name) {
				s.headerSpec.Fields = append(s.headerSpec.Fields, h.name)
			}
		}
		if len(s.headerSpec.Fields) > maxFields && len(c.errs) == 0 {
			c.addError("when.header", nil, fmt.Sprintf("the rules name more than %d different header fields",
				maxFields))
		}
	}
	s.bodySpec = core.ExcerptSpec{Body: core.MaxExcerptBody, Fields: s.headerSpec.Fields}
	return s, errors.Join(c.errs...)
}

// compiler compiles rules and collects their errors.
type compiler struct {
	plugins Plugins        // nil for none
	labels  map[string]int // index of the rule by name
	index   int
	errs    []error
}

func (c *compiler) addError(key string, value any, msg string) {
	c.errs = append(c.errs, &Error{c.index, key, value, msg})
}

func (c *compiler) compileRule(configured *Rule, r *rule) {
	if configured.Preset != "" && configured.Preset != PresetBanLike {
		c.addError("preset", configured.Preset, "there is no such preset; there is "+PresetBanLike)
	}
	if configured.When.isEmpty() && configured.Preset == "" {
		c.addError("when", nil,
			"is empty, so the rule would hold for every request and response; set host, port, path, "+
				"method, user, status, header, body or error (host = \"*\" for every host)")
	}
	expanded := configured.withPreset()
	if configured.Preset != "" && !configured.Then.Routing.isEmpty() {
		c.addError("preset", configured.Preset,
			"is for responses, the action of this rule is for requests; make two rules")
		expanded = *configured
	}
	w := &expanded.When
	r.index, r.label, r.when = c.index, c.checkLabel(configured.Name), *w
	r.setCounter(&atomic.Uint64{})
	c.compileRequest(w, r)
	c.compileResponse(w, r)
	if expanded.Then.Routing.isEmpty() {
		r.action = c.compileAction(&expanded.Then)
		r.action.Label = r.label
		return
	}
	c.compileRouting(&expanded, &r.way)
	r.way.Label = r.label
}

// checkLabel checks the name of a rule and returns the rule's label.
func (c *compiler) checkLabel(name string) string {
	if name == "" {
		return "rules[" + strconv.Itoa(c.index) + "]"
	}
	if err := core.CheckTag(name); err != nil { // a tag has the same form
		c.addError("name", name, err.Error())
	}
	if first, twice := c.labels[name]; twice {
		c.addError("name", name, fmt.Sprintf("is also the name of rules[%d]", first))
	}
	c.labels[name] = c.index
	return name
}

// compileRequest compiles the conditions on the request.
func (c *compiler) compileRequest(w *Conditions, r *rule) {
	for i, host := range w.Hosts {
		pattern, err := ParseHost(host)
		if err != nil {
			c.addError(elementKey("when.host", i, len(w.Hosts)), host, err.Error())
		}
		r.hosts.add(pattern)
	}
	for i, port := range w.Ports {
		parsed, err := ParsePort(port)
		if err != nil {
			c.addError(elementKey("when.port", i, len(w.Ports)), port, err.Error())
		}
		r.ports = append(r.ports, parsed)
	}
	for i, path := range w.Paths {
		if err := checkPath(path); err != nil {
			c.addError(elementKey("when.path", i, len(w.Paths)), path, err.Error())
		}
		r.paths = append(r.paths, path)
	}
	for i, method := range w.Methods {
		switch upper := strings.ToUpper(method); {
		case method == "" || strings.ContainsFunc(upper, func(c rune) bool { return c < 'A' || c > 'Z' }):
			c.addError(elementKey("when.method", i, len(w.Methods)), method,
				"must be a method in upper case, such as GET")
		case method != upper:
			c.addError(elementKey("when.method", i, len(w.Methods)), method,
				"must be in upper case; did you mean "+upper+"?")
		}
		r.methods = append(r.methods, method)
	}
	if len(w.Paths) > 0 && len(w.Methods) == 1 && w.Methods[0] == "CONNECT" {
		c.addError("when.path", nil, "is set beside method = \"CONNECT\", but the path of a request in a tunnel is "+
			"encrypted; remove one of them")
	}
	for i, user := range w.Users {
		if user == "" || len(user) > maxText {
			c.addError(elementKey("when.user", i, len(w.Users)), user,
				"must be the name of a user, or a pattern such as crawler*")
		}
		r.users.add(user)
	}
}

// compileResponse compiles the conditions on the response.
func (c *compiler) compileResponse(w *Conditions, r *rule) {
	for i, status := range w.Statuses {
		parsed, err := ParseStatus(status)
		if err != nil {
			c.addError(elementKey("when.status", i, len(w.Statuses)), status, err.Error())
		}
		r.statuses = append(r.statuses, parsed)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		pattern := w.Headers[name]
		switch {
		case !isToken(name):
			c.addError("when.header", name, "must be the name of a header field, such as Server")
		case len(pattern) > maxText:
			c.addError("when.header."+name, nil, fmt.Sprintf("must have at most %d bytes", maxText))
		}
		r.headers = append(r.headers, header{strings.ToLower(name), pattern})
	}
	if r.body = []byte(w.Body); len(w.Body) > maxText {
		c.addError("when.body", nil, fmt.Sprintf("must have at most %d bytes", maxText))
	}
	if w.Error != "" {
		var known bool
		r.failedOnly = true
		if r.cause, known = verdict.RuleFailure(w.Error); !known {
			c.addError("when.error", w.Error,
				"must be the cause of a failed attempt: "+strings.Join(verdict.RuleFailures(),
					", ")+
					" (docs/verdicts.md)"+strict.DidYouMean(w.Error, verdict.RuleFailures()))
		}
		if w.Body != "" || len(w.Headers) > 0 {
			c.addError("when.error", w.Error, "is set beside header or body, which only responses of targets have; "+
				"make two rules")
		}
	}
}

func (c *compiler) compileRouting(expanded *Rule, compiled *RoutingRule) {
	t, w := &expanded.Then, &expanded.When
	compiled.Rule, compiled.Routing = c.index, t.Routing
	c.checkRouting(t, w)
	set := make([]string, 0, 4)
	for _, way := range []struct {
		key string
		set bool
	}{{"pool", t.Pool}, {"tag", t.Tag != "" || t.Region != ""}, {"direct", t.Direct}, {"deny", t.Deny}} {
		if way.set {
			set = append(set, way.key)
		}
	}
	if len(set) > 0 && set[0] == "tag" && t.Tag == "" {
		set[0] = "region"
	}
	if len(set) > 1 {
		c.addError("then."+set[1], nil, "contradicts "+set[0]+": a request takes one way; remove one of them")
	}
	if t.Prefer && t.Tag == "" && t.Region == "" {
		c.addError("then.prefer", nil, "is for tag and region; add one of them, or remove prefer")
	}
	if t.Deny && (t.Policy != nil || t.Scorer != "" || t.Intercept || t.Interim) {
		c.addError("then.deny", nil, "refuses the request, so policy, scorer, intercept and interim have no effect; "+
			"remove them")
	}
	c.checkInterception(t, w)
	if t.Direct && t.Scorer != "" {
		c.addError("then.scorer", t.Scorer, "chooses among proxies, but direct uses none; remove one of them")
	}
	if t.Tag != "" {
		if err := core.CheckTag(t.Tag); err != nil {
			c.addError("then.tag", t.Tag, err.Error())
		}
		compiled.TagHash = core.Hash53(t.Tag)
	}
	if len(t.Region) > maxText {
		c.addError("then.region", nil, fmt.Sprintf("must have at most %d bytes", maxText))
	}
	if t.Policy != nil {
		c.checkPolicy(t.Policy)
	}
	if t.Scorer != "" && c.plugins != nil {
		var err error
		if compiled.scorer, err = c.plugins.Scorer(t.Scorer); err != nil {
			c.addError("then.scorer", t.Scorer, err.Error())
		}
	}
}

// checkInterception adds an error for each condition that keeps a rule with Intercept from taking effect: a tunnel has
// no path, for example.
func (c *compiler) checkInterception(t *Actions, w *Conditions) {
	const remedy = " of a request in it is known; put intercept = true into a rule of its own, with host, port and " +
		"user as its conditions"
	if t.Intercept && len(w.Paths) > 0 {
		c.addError("when.path", nil, "is set beside intercept = true, which then never takes effect: a tunnel is "+
			"intercepted before the path"+remedy)
	}
	if t.Intercept && len(w.Methods) > 0 && !slices.Contains(w.Methods, "CONNECT") {
		c.addError("when.method", nil,
			"without CONNECT is set beside intercept = true, which then never takes effect: a "+
				"tunnel is intercepted before the method"+remedy)
	}
}

// checkRouting checks that a routing rule has no condition and no action of a response rule.
func (c *compiler) checkRouting(t *Actions, w *Conditions) {
	for _, k := range []struct {
		key string
		set bool
	}{
		{"status", len(w.Statuses) > 0}, {"header", len(w.Headers) > 0}, {"body", w.Body != ""},
		{"error", w.Error != ""},
	} {
		if k.set {
			c.addError("when."+k.key, nil,
				"is unknown when the way of the request is chosen; remove it, or replace the "+
					"action by retry, other_proxy, rest, ban or final")
		}
	}
	if key := t.responseAction(); key != "" {
		c.addError("then."+key, nil,
			"is for responses, the other actions of this rule are for requests; make two rules")
	} else if t.Blame != "" {
		c.addError("then.blame", t.Blame, "is for rules about responses; remove it")
	} else if t.MaxAttempts != 0 {
		c.addError("then.max_attempts", t.MaxAttempts,
			fmt.Sprintf("is for rules about responses; write policy = { max_attempts = %d }", t.MaxAttempts))
	}
}

func (c *compiler) checkPolicy(p *Policy) {
	if p.AttemptTimeout != 0 && !(p.AttemptTimeout >= minAttempt && p.AttemptTimeout <= maxAttempt) {
		c.addError("then.policy.attempt_timeout", p.AttemptTimeout, fmt.Sprintf("must be %v to %v seconds", minAttempt,
			maxAttempt))
	}
	if p.AttemptTimeout == 0 && p.Override == (retry.Override{}) {
		c.addError("then.policy", nil,
			"is empty; set max_attempts, timeout or another key of [retry], or attempt_timeout")
	}
	policy := retry.DefaultPolicy()
	policy = policy.Merge(p.Override)
	known := func(name string) bool {
		if c.plugins == nil || p.Override.BackoffStrategy == nil {
			return true
		}
		_, err := c.plugins.Backoff(name)
		return err == nil
	}
	var wrong *retry.FieldError
	if errors.As(policy.Validate(known), &wrong) {
		c.addError("then.policy."+wrong.Field, nil, wrong.Msg)
	}
}

// compileAction compiles the action of a response rule.
func (c *compiler) compileAction(t *Actions) Action {
	a := Action{Rule: c.index, Rest: t.Rest, Ban: t.Ban, MaxAttempts: t.MaxAttempts}
	for _, d := range []struct {
		key     string
		value   time.Duration
		longest time.Duration
	}{{"then.rest", t.Rest, MaxRest}, {"then.ban", t.Ban, MaxBan}} {
		if d.value != 0 && (d.value < time.Second || d.value > d.longest) {
			c.addError(d.key, d.value.String(), "must be 1s to "+d.longest.String())
		}
	}
	otherProxy := t.OtherProxy || t.Rest != 0 || t.Ban != 0
	in := &a.Instruction
	switch {
	case t.Final && (t.Retry || otherProxy):
		c.addError("then.final", nil, "contradicts retry, other_proxy, rest and ban, which lead to another attempt; "+
			"remove final or the others")
	case t.Rest != 0 || t.Ban != 0:
		in.Next = verdict.NextBan
	case otherProxy:
		in.Next = verdict.NextOtherProxy
	case t.Retry:
		in.Next = verdict.NextRetry
	case t.Final:
		in.Next = verdict.NextNothing
	default:
		c.addError("then", nil, "has no action; set retry, other_proxy, rest, ban or final, or for requests pool, "+
			"tag, region, direct, deny, policy, scorer, intercept or interim")
	}
	switch {
	case t.MaxAttempts == 0:
	case t.MaxAttempts < 2 || t.MaxAttempts > retry.MaxAttempts:
		c.addError("then.max_attempts", t.MaxAttempts, fmt.Sprintf("must be 2 to %d", retry.MaxAttempts))
	case !otherProxy:
		c.addError("then.max_attempts", t.MaxAttempts, "has no effect without other_proxy, rest or ban; set one of "+
			"them, or max_attempts of policy in a rule about requests")
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
		c.addError("then.blame", t.Blame, "must be proxy, target or nobody")
	}
	return a
}

// elementKey returns the key of element i of a list of n elements. The key of a single element has no index, because
// the configuration may have a single value in place of a list.
func elementKey(key string, i, n int) string {
	if n == 1 {
		return key
	}
	return key + "[" + strconv.Itoa(i) + "]"
}

// ParseHost checks the pattern of a host, and returns it in the form of NormalHost.
func ParseHost(s string) (string, error) {
	pattern := NormalHost(s)
	switch {
	case strings.ContainsAny(pattern, "[]") || strings.HasPrefix(s, "[") != strings.HasSuffix(s, "]"):
		return "", errors.New("has a bracket that does not enclose the whole host; an IPv6 address is written " +
			"without brackets and port, such as 2001:db8::1")
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
	r := core.Range{First: parseStatusNumber(first), Last: parseStatusNumber(last)}
	if r.First == 0 || r.Last == 0 {
		return core.Range{}, errStatus
	}
	if r.First > r.Last {
		return core.Range{}, reversedRangeError(r.Last, r.First)
	}
	return r, nil
}

func reversedRangeError[T int | uint64](first, last T) error {
	return fmt.Errorf("the range begins after its end; did you mean %d-%d?", first, last)
}

var errPort = errors.New(`must be a port or a range of ports, such as 443 or "8000-8999", from 1 to 65535`)

func checkPath(s string) error {
	switch {
	case s == "" || s[0] != '/' && s[0] != '*':
		return errors.New("must be a path that begins with / or *, such as /api/*")
	case len(s) > maxText:
		return fmt.Errorf("must have at most %d bytes", maxText)
	case strings.ContainsAny(s, "?#"):
		return errors.New("must be a path without query; a path is compared without its query")
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return errors.New("must be written as in a URL, with %20 for a space")
	}
	if normal := string(normalPath([]byte(s))); normal != s {
		return fmt.Errorf("never matches, because paths are compared in another form; did you mean %s?", normal)
	}
	return nil
}

// parseStatusNumber returns 0 if s is not a status from 100 to 599.
func parseStatusNumber(s string) int {
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
