package api

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// routeEngine is the part of the engine that has the rules and the scorers.
type routeEngine interface {
	Rules() *rules.Set
	Scorers() (first, retry string)
}

var _ routeEngine = (*engine.Engine)(nil)

// routeHandler serves /route.
type routeHandler struct {
	engine   routeEngine
	policies Policies
}

func (h *routeHandler) routes(r fiber.Router) { r.Get("/route", h.get) }

func (h *routeHandler) get(c *fiber.Ctx) error {
	target, _ := queryValue(c, "url")
	method, _ := queryValue(c, "method")
	user, _ := queryValue(c, "user")
	q, err := RouteRequest(target, method, user)
	if err != nil {
		var field *routeError
		if errors.As(err, &field) {
			return badField(field.field, err.Error())
		}
		return err
	}
	first, _ := h.engine.Scorers()
	return send(c, RouteOf(h.engine.Rules(), q, h.policies.Current(), first))
}

// routeError is an error in a parameter of RouteRequest.
type routeError struct{ field, msg string }

func (e *routeError) Error() string { return e.field + " " + e.msg }

// RouteRequest returns the request that a client would send for a URL. If method is "", the method is CONNECT for
// https:// and for host:port, and GET for http://. A CONNECT has no path. If user is "", the request has no user.
func RouteRequest(target, method, user string) (q rules.Request, err error) {
	if target == "" {
		return q, &routeError{"url", "is missing; it must be an http:// or https:// URL, or host:port"}
	}
	if !strings.Contains(target, "://") {
		target = "https://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return q, &routeError{"url", "must be an http:// or https:// URL without user information, or host:port"}
	}
	if strings.ContainsFunc(u.Hostname(), func(r rune) bool { return r > '~' }) {
		return q, &routeError{"url", "must have a host in ASCII; an international name has a form with xn--"}
	}
	port := map[string]uint64{"http": 80, "https": 443}[u.Scheme]
	if text := u.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return q, &routeError{"url", "must have a port from 1 to 65535"}
		}
	}
	q = rules.Request{Host: rules.NormalHost(u.Hostname()), Port: uint16(port), Method: strings.ToUpper(method),
		User: user}
	switch {
	case q.Method == "" && u.Scheme == "https":
		q.Method = http.MethodConnect
	case q.Method == "":
		q.Method = http.MethodGet
	}
	if q.Method != http.MethodConnect {
		q.Path = []byte(u.EscapedPath())
		if len(q.Path) == 0 {
			q.Path = []byte("/")
		}
	}
	return q, nil
}

// RouteView is the JSON of a route: the rules that are applied to a request, and the reason.
type RouteView struct {
	Request        RouteRequestView `json:"request"`
	Way            string           `json:"way"` // pool, direct or deny
	Tag            string           `json:"tag,omitempty"`
	Region         string           `json:"region,omitempty"`
	Prefer         bool             `json:"prefer,omitempty"`
	Policy         RoutePolicy      `json:"policy"`
	AttemptTimeout float64          `json:"attempt_timeout,omitempty"` // the limit set by a rule, in seconds
	Scorer         string           `json:"scorer"`
	Intercept      bool             `json:"intercept"`
	Interim        bool             `json:"interim,omitempty"`
	Rules          []RouteRule      `json:"rules"`
}

// RoutePolicy is the JSON of the policy of a route.
type RoutePolicy struct {
	policyFields
	hedgeView
}

func routePolicyOf(p *retry.Policy) RoutePolicy {
	return RoutePolicy{fieldsOfPolicy(p), viewOfHedge(p)}
}

// RouteRequestView is the JSON of the request.
type RouteRequestView struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	Port   uint16 `json:"port"`
	Path   string `json:"path,omitempty"` // absent for a tunnel
	User   string `json:"user,omitempty"`
}

// RouteRule is the JSON of a rule and of its conditions.
type RouteRule struct {
	Rule       int              `json:"rule"` // the rule's index
	Label      string           `json:"label"`
	Kind       string           `json:"kind"` // request or response
	Holds      bool             `json:"holds"`
	Applied    []string         `json:"applied"` // the kinds of actions for which the rule is applied to this request
	Conditions []RouteCondition `json:"conditions"`
	// Pending has the keys of the conditions that cannot be checked yet, because they depend on the response.
	Pending []string `json:"pending,omitempty"`
}

// RouteCondition is the JSON of a condition on the request.
type RouteCondition struct {
	Key   string   `json:"key"`
	Want  []string `json:"want"`
	Got   string   `json:"got"`
	Holds bool     `json:"holds"`
}

// RouteOf returns the JSON of a request's route. The global policy and the given scorer for first attempts apply unless
// a rule names others.
func RouteOf(set *rules.Set, q rules.Request, global *retry.Policy, scorer string) RouteView {
	route, explanations := set.Explain(&q)
	v := RouteView{
		Request: RouteRequestView{q.Method, q.Host, q.Port, string(q.Path), q.User}, Way: "pool", Scorer: scorer,
		Policy:         routePolicyOf(route.Policy(global)),
		AttemptTimeout: route.AttemptTimeout(), Intercept: route.IsIntercepted(),
		Interim: route.RelaysInterim(),
		Rules:   make([]RouteRule, len(explanations)),
	}
	if w := route.WayRule(); w != nil {
		v.Tag, v.Region, v.Prefer = w.Tag, w.Region, w.Prefer
		switch {
		case w.Direct:
			v.Way = "direct"
		case w.Deny:
			v.Way = "deny"
		}
	}
	if w := route.RuleOf(rules.KindScorer); w != nil {
		v.Scorer = w.Routing.Scorer
	}
	for i := range explanations {
		v.Rules[i] = viewOfRule(set, &explanations[i])
	}
	return v
}

func viewOfRule(set *rules.Set, e *rules.Explanation) RouteRule {
	v := RouteRule{
		Rule: e.Rule, Label: e.Label, Kind: "request", Holds: e.AllHold, Applied: []string{},
		Conditions: make([]RouteCondition, len(e.Conditions)),
	}
	if e.Response {
		v.Kind, v.Pending = "response", set.ResponseConditions(e.Rule)
	}
	for _, k := range e.Kinds {
		v.Applied = append(v.Applied, k.String())
	}
	for i, c := range e.Conditions {
		v.Conditions[i] = RouteCondition(c)
	}
	return v
}
