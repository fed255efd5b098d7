package rules

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

func way(r Routing) Actions { return Actions{Routing: r} }

func TestConditionsOnRequests(t *testing.T) {
	get := Request{Host: "www.shop.test", Port: 8080, Method: "GET", Path: []byte("/api/v1?q=1"), User: "crawler-1"}
	tunnel := Request{Host: "www.shop.test", Port: 443, Method: "CONNECT"}
	for name, c := range map[string]struct {
		when    Conditions
		request Request
		holds   bool
	}{
		"host":                   {Conditions{Hosts: []string{"*.shop.test"}}, get, true},
		"a host without *":       {Conditions{Hosts: []string{"a.test", "www.shop.test"}}, get, true},
		"other host":             {Conditions{Hosts: []string{"shop.test"}}, get, false},
		"port":                   {Conditions{Ports: []string{"443", "8000-8999"}}, get, true},
		"other port":             {Conditions{Ports: []string{"443"}}, get, false},
		"path":                   {Conditions{Paths: []string{"/api/*"}}, get, true},
		"path without the query": {Conditions{Paths: []string{"*/v1"}}, get, true},
		"other path":             {Conditions{Paths: []string{"/API/*"}}, get, false},
		"path of a tunnel":       {Conditions{Paths: []string{"*"}}, tunnel, false},
		"method":                 {Conditions{Methods: []string{"GET"}}, get, true},
		"method of a tunnel":     {Conditions{Methods: []string{"CONNECT"}}, tunnel, true},
		"user":                   {Conditions{Users: []string{"crawler-*"}}, get, true},
		"other user":             {Conditions{Users: []string{"crawler"}}, get, false},
		"no user":                {Conditions{Users: []string{"*"}}, tunnel, false},
		"two of three parts": {Conditions{Hosts: []string{"*"}, Ports: []string{"8080"}, Methods: []string{"PUT"}}, get,
			false},
	} {
		t.Run(name, func(t *testing.T) {
			s := compile(t, Rule{When: c.when, Then: way(Routing{Direct: true})})
			route := s.Route(&c.request)
			require.Equal(t, c.holds, route.IsDirect())
			_, all := s.Explain(&c.request)
			require.Equal(t, c.holds, all[0].AllHold)

			s = compile(t, Rule{When: c.when, Then: Actions{Retry: true}}) // the same conditions hold for responses
			require.Equal(t, c.holds, s.Match(&Attempt{Request: c.request, Status: 200}, nil) != nil)
		})
	}
}

// A rule about a path also holds for another spelling of the path.
func TestSpellingsOfAPath(t *testing.T) {
	for spelling, normal := range map[string]string{
		"/admin": "/admin", "/%61dmin": "/admin", "/a/../admin": "/admin", "/./admin": "/admin", "/%2e/admin": "/admin",
		"/a/%2E%2e/admin": "/admin", "/admin?/../x": "/admin", "/../admin": "/admin", "/admin/.": "/admin/",
		"/admin/x/..": "/admin/", "/a%2fb": "/a%2Fb", "/%zz": "/%zz", "/%6": "/%6", "*": "*", "/..": "/",
		"/...": "/...",
		"/.a":  "/.a",
	} {
		require.Equal(t, normal, string(normalPath([]byte(spelling))), spelling)
	}
}

func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{"/a/%2e%2E/b/.", "/%", "*", "", "/a%2fb?x", "/..//.././%41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.HasPrefix(s, "%") {
			return // no request target begins so
		}
		once := string(normalPath([]byte(s)))
		require.NotContains(t, once, "?")
		require.LessOrEqual(t, len(once), len(s)+1)
		if strings.HasPrefix(s, "/") {
			require.NotContains(t, once+"/", "/../")
			require.NotContains(t, once+"/", "/./")
			// Without empty segments and encoded characters, it is the path of package path.
			if before, _, _ := strings.Cut(s, "?"); !strings.Contains(before, "//") && !strings.Contains(before, "%") {
				require.Equal(t, path.Clean(before), strings.TrimSuffix(path.Clean(once), "?"), s)
			}
		}
		if u, err := url.ParseRequestURI(s); err == nil && strings.HasPrefix(s, "/") && u.Path != "" {
			decoded, err := url.PathUnescape(once)
			require.NoError(t, err)
			require.Equal(t, path.Clean(u.Path), path.Clean(decoded), s)
		}
	})
}

// For each kind, the first rule that holds and has an action of the kind is applied.
func TestFirstRuleOfEachKind(t *testing.T) {
	s := compile(t,
		Rule{When: Conditions{Hosts: []string{"a.test"}}, Then: way(Routing{Scorer: "first"})},
		Rule{Name: "exit", When: Conditions{Hosts: []string{"*.test"}}, Then: way(Routing{Tag: "dc",
			Scorer: "second"})},
		Rule{When: Conditions{Statuses: []string{"403"}}, Then: Actions{Rest: 1e9}},
		Rule{When: Conditions{Hosts: []string{"a.test"}}, Then: way(Routing{Deny: true})},
		Rule{When: Conditions{Hosts: []string{"*"}}, Then: way(Routing{Intercept: true, Interim: true, Pool: true})})
	route, all := s.Explain(&Request{Host: "a.test", Method: "CONNECT"})
	require.Equal(t, "dc", route.WayRule().Tag)
	require.Equal(t, core.Hash53("dc"), route.WayRule().TagHash)
	require.Equal(t, "first", route.RuleOf(KindScorer).Routing.Scorer)
	require.True(t, route.IsIntercepted())
	require.True(t, route.RelaysInterim())
	require.Nil(t, route.DenyingRule())
	require.Equal(t, core.RuleLabels{"exit", "rules[0]", "rules[4]"}, route.Labels())
	require.Equal(t, [][]Kind{{KindScorer}, {KindWay}, nil, nil, {KindIntercept, KindInterim}},
		[][]Kind{all[0].Kinds, all[1].Kinds, all[2].Kinds, all[3].Kinds, all[4].Kinds})
	require.True(t, all[2].Response)
	require.Equal(t, []string{"status"}, s.ResponseConditions(2))
	require.True(t, all[3].AllHold, "it holds, but an earlier rule decides")

	route, all = s.Explain(&Request{Host: "a.test", Method: "GET"})
	require.False(t, route.IsIntercepted(), "it is not a tunnel")
	require.Equal(t, []Kind{KindInterim}, all[4].Kinds)

	denied := compile(t, Rule{When: Conditions{Hosts: []string{"*"}}, Then: way(Routing{Deny: true})},
		Rule{When: Conditions{Hosts: []string{"*"}}, Then: way(Routing{Intercept: true})})
	route = denied.Route(&Request{Host: "a.test", Method: "CONNECT"})
	require.Equal(t, "rules[0]", route.DenyingRule().Label)
	require.False(t, route.IsIntercepted(), "the tunnel of a denied request is not opened")

	var none *Set
	route = none.Route(&Request{Host: "a.test"})
	require.True(t, route.IsEmpty())
	require.Equal(t, core.RuleLabels{}, route.Labels())
}

// The matcher agrees with a simple model for any rules and requests.
func TestRouteModel(t *testing.T) {
	hosts := []string{"a.test", "b.test", "x.a.test"}
	methods := []string{"GET", "POST", "CONNECT"}
	paths := []string{"/", "/api", "/api/x"}
	users := []string{"", "ann", "bob"}
	rapid.Check(t, func(t *rapid.T) {
		var list []Rule
		for range rapid.IntRange(1, 6).Draw(t, "rules") {
			some := func(name string, values ...string) []string {
				if rapid.Bool().Draw(t, name+" set") {
					return rapid.SliceOfN(rapid.SampledFrom(values), 1, 2).Draw(t, name)
				}
				return nil
			}
			r := Rule{When: Conditions{Hosts: some("host", "a.test", "*.test", "*.a.test", "*"),
				Ports: some("port", "80", "443-999"),
				Paths: some("path", "/*", "/api*", "/"), Methods: some("method", "GET", "POST"),
				Users: some("user", "ann", "*b", "*")}}
			if r.When.isEmpty() {
				r.When.Hosts = []string{"*"}
			}
			switch rapid.IntRange(0, 4).Draw(t, "action") {
			case 0:
				r.Then.Tag = fmt.Sprint("t", len(list))
			case 1:
				r.Then.Deny = true
			case 2:
				r.Then.Scorer = fmt.Sprint("s", len(list))
				r.Then.Intercept = len(r.When.Paths) == 0 && len(r.When.Methods) == 0 &&
					rapid.Bool().Draw(t, "intercept")
			case 3:
				r.Then.Policy = &Policy{AttemptTimeout: float64(len(list) + 1)}
			case 4:
				r.Then.Interim = true
			}
			list = append(list, r)
		}
		q := Request{Host: rapid.SampledFrom(hosts).Draw(t, "q.host"),
			Method: rapid.SampledFrom(methods).Draw(t, "q.method"),
			Port:   rapid.SampledFrom([]uint16{80, 443, 999, 1000}).Draw(t, "q.port"),
			User:   rapid.SampledFrom(users).Draw(t, "q.user")}
		if q.Method != "CONNECT" {
			q.Path = []byte(rapid.SampledFrom(paths).Draw(t, "q.path"))
		}
		var want [NumKinds]int
		for k := range want {
			want[k] = -1
			for i, r := range list {
				if Kind(k) == KindIntercept && q.Method != "CONNECT" {
					continue
				}
				if want[k] < 0 && r.Then.Routing.hasKind(Kind(k)) && modelHolds(&r.When, &q) {
					want[k] = i
				}
			}
		}
		s, err := Compile(list, nil)
		require.NoError(t, err)
		route := s.Route(&q)
		explained, all := s.Explain(&q)
		require.Equal(t, route, explained)
		for k := range NumKinds {
			got := -1
			if w := route.RuleOf(k); w != nil {
				got = w.Rule
				require.Contains(t, all[w.Rule].Kinds, k)
			}
			require.Equal(t, want[k], got, "%v", k)
		}
		for i := range list {
			require.Equal(t, modelHolds(&list[i].When, &q), all[i].AllHold)
		}
	})
}

func modelHolds(w *Conditions, q *Request) bool {
	any := func(values []string, match func(string) bool) bool {
		for _, v := range values {
			if match(v) {
				return true
			}
		}
		return len(values) == 0
	}
	glob := func(s string) func(string) bool {
		return func(pattern string) bool {
			before, after, star := strings.Cut(pattern, "*")
			return pattern == s || star && strings.HasPrefix(s, before) && strings.HasSuffix(s, after) &&
				len(s) >= len(before)+len(after)
		}
	}
	return any(w.Hosts, glob(q.Host)) && any(w.Methods, glob(q.Method)) &&
		any(w.Ports, func(s string) bool {
			return s == "80" && q.Port == 80 || s == "443-999" && q.Port >= 443 && q.Port <= 999
		}) &&
		any(w.Paths, func(s string) bool { return q.Path != nil && glob(string(q.Path))(s) }) &&
		any(w.Users, func(s string) bool { return q.User != "" && glob(q.User)(s) })
}

// The policy of a rule is merged over the global policy, also after the global policy has changed.
func TestPolicyOfARule(t *testing.T) {
	five, fixed := 5, "fixed"
	s := compile(t, Rule{When: Conditions{Hosts: []string{"*"}}, Then: way(Routing{Policy: &Policy{AttemptTimeout: 2,
		Override: retry.Override{MaxAttempts: &five, BackoffStrategy: &fixed}}})})
	route := s.Route(&Request{Host: "a.test"})
	require.EqualValues(t, 2, route.AttemptTimeout())
	global := retry.DefaultPolicy()
	p := route.Policy(&global)
	require.Equal(t, 5, p.MaxAttempts)
	require.Equal(t, "fixed", p.BackoffStrategy)
	require.True(t, p.RetriesStatus(503))
	require.NotEqual(t, global.Hash(), p.Hash())
	require.Same(t, p, route.Policy(&global))
	changed := global.Merge(retry.Override{RetryStatusCodes: &[]int{500}})
	require.NoError(t, changed.Validate(func(string) bool { return true }))
	p = route.Policy(&changed)
	require.False(t, p.RetriesStatus(503))
	require.Equal(t, 5, p.MaxAttempts)
	require.True(t, s.UsesBackoff("fixed"))
	require.False(t, s.UsesBackoff("linear"))
}

type plugins struct{}

func (plugins) Scorer(name string) (core.Scorer, error) {
	if name != "known" {
		return nil, errors.New("there is no such scorer")
	}
	return nil, nil
}

func (plugins) Backoff(name string) (core.Backoff, error) {
	if name != "fixed" {
		return nil, errors.New("there is no such backoff")
	}
	return nil, nil
}

func TestFaultsOfRoutingRules(t *testing.T) {
	host := Conditions{Hosts: []string{"*"}}
	fast, zero := "fast", 0
	for name, c := range map[string]struct {
		rule Rule
		want map[string]string // message by key
	}{
		"a condition on the response": {Rule{When: Conditions{Statuses: []string{"403"}}, Then: way(Routing{Tag: "a"})},
			map[string]string{"when.status": "when the way"}},
		"two kinds of actions": {Rule{When: host, Then: Actions{Rest: 1e9, Routing: Routing{Tag: "a"}}},
			map[string]string{"then.rest": "two rules"}},
		"blame": {Rule{When: host, Then: Actions{Blame: "proxy", Routing: Routing{Tag: "a"}}},
			map[string]string{"then.blame": ""}},
		"two ways": {Rule{When: host, Then: way(Routing{Region: "a", Direct: true})},
			map[string]string{"then.direct": "region"}},
		"a bad tag": {Rule{When: host, Then: way(Routing{Tag: "a b"})}, map[string]string{"then.tag": "word"}},
		"prefer": {Rule{When: host, Then: way(Routing{Prefer: true, Pool: true})},
			map[string]string{"then.prefer": ""}},
		"deny": {Rule{When: host, Then: way(Routing{Deny: true, Scorer: "known"})},
			map[string]string{"then.deny": ""}},
		"direct": {Rule{When: host, Then: way(Routing{Direct: true, Scorer: "known"})},
			map[string]string{"then.scorer": ""}},
		"scorer": {Rule{When: host, Then: way(Routing{Scorer: "fast"})},
			map[string]string{"then.scorer": "no such"}},
		"backoff": {Rule{When: host, Then: way(Routing{
			Policy: &Policy{Override: retry.Override{BackoffStrategy: &fast}}})},
			map[string]string{"then.policy.backoff_strategy": "fast"}},
		"policy": {Rule{When: host, Then: way(Routing{Policy: &Policy{AttemptTimeout: -1,
			Override: retry.Override{MaxAttempts: &zero}}})},
			map[string]string{"then.policy.max_attempts": "1 to 10", "then.policy.attempt_timeout": "seconds"}},
		"an empty policy": {Rule{When: host, Then: way(Routing{Policy: &Policy{}})},
			map[string]string{"then.policy": "empty"}},
		"conditions": {Rule{When: Conditions{Hosts: []string{"a/b"}, Ports: []string{"0", "9-8", "70000"},
			Paths:   []string{"x", "/?a", "/%61*"},
			Methods: []string{"get", "G 1"}, Users: []string{""}}, Then: way(Routing{Direct: true})},
			map[string]string{"when.host": "", "when.port[0]": "", "when.port[1]": "did you mean 8-9?",
				"when.port[2]": "",
				"when.path[0]": "/", "when.path[1]": "query", "when.path[2]": "did you mean /a*?",
				"when.method[0]": "did you mean GET?",
				"when.method[1]": "",
				"when.user":      ""}},
		"a path of tunnels": {Rule{When: Conditions{Methods: []string{"CONNECT"}, Paths: []string{"/"}},
			Then: way(Routing{Direct: true})}, map[string]string{"when.path": "encrypted"}},
		"a path of intercepted tunnels": {Rule{When: Conditions{Hosts: host.Hosts, Paths: []string{"/api/*"}},
			Then: way(Routing{Intercept: true, Region: "de"})}, map[string]string{"when.path": "never takes effect"}},
		"a method of intercepted tunnels": {Rule{When: Conditions{Methods: []string{"GET", "POST"}},
			Then: way(Routing{Intercept: true})}, map[string]string{"when.method": "without CONNECT"}},
		"a preset": {Rule{Preset: PresetBanLike, When: host, Then: way(Routing{Direct: true})},
			map[string]string{"preset": "two rules"}},
		"a name": {Rule{Name: "a b", When: host, Then: way(Routing{Direct: true})}, map[string]string{"name": "64"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile([]Rule{c.rule}, plugins{})
			require.Error(t, err)
			faults := map[string]string{}
			for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
				fault := err.(*Error)
				require.NotContains(t, faults, fault.Key, "one fault per key")
				faults[fault.Key] = fault.Msg
			}
			require.Len(t, faults, len(c.want), "%v", faults)
			for key, part := range c.want {
				require.Contains(t, faults, key)
				require.Contains(t, faults[key], part)
			}
		})
	}
	twice := Rule{Name: "a", When: host, Then: way(Routing{Direct: true})}
	_, err := Compile([]Rule{twice, twice}, nil)
	require.ErrorContains(t, err, "rules[1].name: is also the name of rules[0]")
}

// The counts of a rule continue after a reload, even if its place has changed.
func TestCounts(t *testing.T) {
	all := Conditions{Hosts: []string{"*"}}
	direct := Rule{Name: "direct", When: all, Then: way(Routing{Direct: true, Intercept: true})}
	final := Rule{When: Conditions{Statuses: []string{"403"}}, Then: Actions{Final: true}}
	s := compile(t, final, direct)
	for range 3 {
		route := s.Route(&Request{})
		route.Count()
	}
	require.NotNil(t, s.Match(&Attempt{Status: 403}, nil))
	require.Equal(t, []Count{{"rules[0]", 1}, {"direct", 3}}, s.Counts())
	next := compile(t, direct, final)
	next.KeepCounts(s)
	require.Equal(t, []Count{{"direct", 3}, {"rules[1]", 0}}, next.Counts())
	route := next.Route(&Request{})
	route.Count()
	require.EqualValues(t, 4, next.Counts()[0].N)
}

// A session has one proxy, in whatever case its requests name the region.
func TestScopeIgnoresTheCaseOfARegion(t *testing.T) {
	require.Equal(t, (&Route{}).SessionScope("us"), (&Route{}).SessionScope("US"))
	s := compile(t, Rule{When: Conditions{Hosts: []string{"*"}}, Then: Actions{Routing: Routing{Tag: "dc"}}})
	r := s.Route(&Request{Host: "a.test"})
	require.Equal(t, r.SessionScope("us"), r.SessionScope("US"))
	require.NotEqual(t, r.SessionScope("us"), r.SessionScope("eu"))
}
