package rules

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func compile(t require.TestingT, list ...Rule) *Set {
	s, err := Compile(list, nil)
	require.NoError(t, err)
	return s
}

func TestConditions(t *testing.T) {
	page := &core.Excerpt{Body: []byte("a captcha page"), Fields: []core.ExcerptField{
		{Name: "server", Value: []byte("other")}, {Name: "server", Value: []byte("shield/2")},
	}}
	base := Attempt{Request: Request{Host: "www.shop.test", Method: "GET"}, Status: 403, Cause: verdict.Answered}
	failed := Attempt{Request: Request{Host: "www.shop.test", Method: "CONNECT"}, Status: 403,
		Cause: verdict.TunnelRefused}
	for name, c := range map[string]struct {
		when    Conditions
		attempt Attempt
		holds   bool
	}{
		"host":                 {Conditions{Hosts: []string{"*.shop.test"}}, base, true},
		"second host":          {Conditions{Hosts: []string{"a.test", "WWW.SHOP.test."}}, base, true},
		"other host":           {Conditions{Hosts: []string{"shop.test"}}, base, false},
		"method":               {Conditions{Methods: []string{"HEAD", "GET"}}, base, true},
		"other method":         {Conditions{Methods: []string{"HEAD"}}, base, false},
		"status":               {Conditions{Statuses: []string{"429", "403"}}, base, true},
		"range":                {Conditions{Statuses: []string{"400-403"}}, base, true},
		"other range":          {Conditions{Statuses: []string{"404-499"}}, base, false},
		"second field":         {Conditions{Headers: map[string]string{"Server": "shield*"}}, base, true},
		"whole value":          {Conditions{Headers: map[string]string{"Server": "shield"}}, base, false},
		"other field":          {Conditions{Headers: map[string]string{"Via": "*"}}, base, false},
		"one of two fields":    {Conditions{Headers: map[string]string{"Server": "*", "Via": "*"}}, base, false},
		"body":                 {Conditions{Body: "captcha"}, base, true},
		"body in another case": {Conditions{Body: "Captcha"}, base, false},
		"status but not body":  {Conditions{Statuses: []string{"403"}, Body: "robot"}, base, false},
		"error":                {Conditions{Error: "tunnel_refused"}, failed, true},
		"error and status":     {Conditions{Error: "tunnel_refused", Statuses: []string{"407"}}, failed, false},
		"other error":          {Conditions{Error: "tunnel_failed"}, failed, false},
		"error of a response":  {Conditions{Error: "tunnel_refused"}, base, false},
		"status of a failure":  {Conditions{Statuses: []string{"403"}}, failed, false},
		"a retryable response": {Conditions{Statuses: []string{"403"}},
			func() Attempt { a := base; a.Cause = verdict.RetryStatus; return a }(), true},
		"any host of a failure": {Conditions{Hosts: []string{"*"}}, failed, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := compile(t, Rule{When: c.when, Then: Actions{Retry: true}})
			require.Equal(t, c.holds, s.Match(&c.attempt, page) != nil)
		})
	}
}

func TestActions(t *testing.T) {
	for name, c := range map[string]struct {
		then Actions
		want Action
	}{
		"retry": {Actions{Retry: true}, Action{Instruction: verdict.Instruction{Next: verdict.NextRetry}}},
		"other proxy": {Actions{OtherProxy: true},
			Action{Instruction: verdict.Instruction{Next: verdict.NextOtherProxy}}},
		"rest": {Actions{OtherProxy: true, Rest: time.Minute},
			Action{Instruction: verdict.Instruction{Next: verdict.NextBan}, Rest: time.Minute}},
		"ban": {Actions{Ban: time.Hour, Blame: "proxy"}, Action{Ban: time.Hour,
			Instruction: verdict.Instruction{Next: verdict.NextBan, Blame: verdict.BlameProxy}}},
		"retry and other proxy": {Actions{Retry: true, OtherProxy: true},
			Action{Instruction: verdict.Instruction{Next: verdict.NextOtherProxy}}},
		"retry and rest": {Actions{Retry: true, Rest: time.Minute},
			Action{Instruction: verdict.Instruction{Next: verdict.NextBan}, Rest: time.Minute}},
		"retry and ban": {Actions{Retry: true, OtherProxy: true, Ban: time.Hour},
			Action{Instruction: verdict.Instruction{Next: verdict.NextBan}, Ban: time.Hour}},
		"final": {Actions{Final: true, Blame: "target"},
			Action{Instruction: verdict.Instruction{Blame: verdict.BlameTarget}}},
	} {
		s := compile(t, Rule{When: Conditions{Statuses: []string{"403"}}, Then: c.then})
		c.want.Label = "rules[0]"
		require.Equal(t, &c.want, s.Match(&Attempt{Status: 403}, nil), name)
	}
}

func TestPresets(t *testing.T) {
	s := compile(t, Rule{Preset: PresetBanLike, When: Conditions{Hosts: []string{"a.test"}}},
		Rule{Preset: PresetBanLike, When: Conditions{Statuses: []string{"451"}}, Then: Actions{Rest: time.Hour}},
		Rule{Preset: PresetBanLike, When: Conditions{Hosts: []string{"c.test"}}, Then: Actions{MaxAttempts: 10}})
	more := s.Match(&Attempt{Request: Request{Host: "c.test"}, Status: 403}, nil)
	require.Equal(t, 10*time.Minute, more.Rest)
	require.Equal(t, 10, more.MaxAttempts)
	for status, rest := range map[int]time.Duration{403: 10 * time.Minute, 429: 10 * time.Minute, 451: time.Hour} {
		require.Equal(t, rest, s.Match(&Attempt{Request: Request{Host: "a.test"}, Status: status}, nil).Rest)
	}
	require.Nil(t, s.Match(&Attempt{Request: Request{Host: "b.test"}, Status: 403}, nil))
	require.Nil(t, s.Match(&Attempt{Request: Request{Host: "a.test"}, Status: 404}, nil))
}

// The body of an attempt's response is needed only in one case: a rule with a text of the body may hold for the
// attempt, and no earlier rule holds.
func TestPartsThatAreNeeded(t *testing.T) {
	other := Actions{OtherProxy: true}
	s := compile(t,
		Rule{When: Conditions{Hosts: []string{"final.test"}}, Then: Actions{Final: true}},
		Rule{When: Conditions{Statuses: []string{"200"}, Hosts: []string{"*.test"}, Body: "captcha"}, Then: other},
		Rule{When: Conditions{Statuses: []string{"403"}, Headers: map[string]string{"Server": "x"}}, Then: other})
	for name, c := range map[string]struct {
		attempt Attempt
		body    int
		fields  []string
	}{
		"an earlier rule": {Attempt{Request: Request{Host: "final.test"}, Status: 200}, 0, nil},
		"the body": {Attempt{Request: Request{Host: "a.test"}, Status: 200}, core.MaxExcerptBody,
			[]string{"server"}},
		"another host":   {Attempt{Request: Request{Host: "a.example"}, Status: 200}, 0, nil},
		"another status": {Attempt{Request: Request{Host: "a.test"}, Status: 404}, 0, nil},
		"a field":        {Attempt{Request: Request{Host: "a.test"}, Status: 403}, 0, []string{"server"}},
		"a failure":      {Attempt{Request: Request{Host: "a.test"}, Cause: verdict.TunnelBroke}, 0, nil},
	} {
		wants := s.ExcerptSpec(&c.attempt)
		if c.fields == nil {
			require.Nil(t, wants, name)
			continue
		}
		require.Equal(t, c.body, wants.Body, name)
		require.Equal(t, c.fields, wants.Fields, name)
	}
}

func TestFaults(t *testing.T) {
	good, ok := Conditions{Statuses: []string{"403"}}, Actions{Retry: true}
	for name, c := range map[string]struct {
		rule     Rule
		key, msg string
	}{
		"no condition": {Rule{Then: ok}, "when", "is empty"},
		"no action":    {Rule{When: good}, "then", "has no action"},
		"blame alone":  {Rule{When: good, Then: Actions{Blame: "proxy"}}, "then", "has no action"},
		"final and ban": {Rule{When: good, Then: Actions{Final: true, Ban: time.Minute}}, "then.final",
			"contradicts"},
		"final and retry": {Rule{When: good, Then: Actions{Final: true, Retry: true}}, "then.final", "contradicts"},
		"short rest":      {Rule{When: good, Then: Actions{Rest: time.Millisecond}}, "then.rest", "1s to 24h"},
		"negative rest":   {Rule{When: good, Then: Actions{Rest: -time.Hour}}, "then.rest", "1s to 24h"},
		"long ban":        {Rule{When: good, Then: Actions{Ban: MaxBan + 1}}, "then.ban", "1s to 720h"},
		"blame":           {Rule{When: good, Then: Actions{Retry: true, Blame: "me"}}, "then.blame", "nobody"},
		"preset":          {Rule{Preset: "x", Then: ok}, "preset", "ban_like"},
		"eleven attempts": {Rule{When: good, Then: Actions{Rest: time.Minute, MaxAttempts: 11}}, "then.max_attempts",
			"2 to 10"},
		"attempts beside retry": {Rule{When: good, Then: Actions{Retry: true, MaxAttempts: 5}}, "then.max_attempts",
			"no effect without other_proxy, rest or ban"},
		"attempts alone": {Rule{When: good, Then: Actions{MaxAttempts: 5}}, "then", "has no action"},
		"attempts of a routing rule": {Rule{When: Conditions{Hosts: []string{"a"}},
			Then: Actions{Routing: Routing{Direct: true}, MaxAttempts: 5}}, "then.max_attempts",
			"policy = { max_attempts = 5 }"},
		"status": {Rule{When: Conditions{Statuses: []string{"403", "600"}}, Then: ok}, "when.status[1]",
			"100 to 599"},
		"range": {Rule{When: Conditions{Statuses: []string{"499-400"}}, Then: ok}, "when.status",
			"did you mean 400-499?"},
		"host with port": {Rule{When: Conditions{Hosts: []string{"a:80"}}, Then: ok}, "when.host", "without port"},
		"one bracket":    {Rule{When: Conditions{Hosts: []string{"["}}, Then: ok}, "when.host", "bracket"},
		"bracket and port": {Rule{When: Conditions{Hosts: []string{"[::1]:80"}}, Then: ok}, "when.host",
			"such as 2001:db8::1"},
		"URL": {Rule{When: Conditions{Hosts: []string{"http://a/"}}, Then: ok}, "when.host",
			"without scheme"},
		"empty host": {Rule{When: Conditions{Hosts: []string{"a", ""}}, Then: ok}, "when.host[1]", "1 to 253"},
		"method":     {Rule{When: Conditions{Methods: []string{"get"}}, Then: ok}, "when.method", "upper case"},
		"field name": {Rule{When: Conditions{Headers: map[string]string{"a b": "x"}}, Then: ok}, "when.header",
			"name"},
		"long value": {Rule{When: Conditions{Headers: map[string]string{"a": strings.Repeat("x", 1025)}}, Then: ok},
			"when.header.a", "1024"},
		"long body": {Rule{When: Conditions{Body: strings.Repeat("x", 1025)}, Then: ok}, "when.body", "1024"},
		"error":     {Rule{When: Conditions{Error: "client_left"}, Then: ok}, "when.error", "tunnel_refused"},
		"error beside body": {Rule{When: Conditions{Error: "tunnel_broke", Body: "x"}, Then: ok}, "when.error",
			"two rules"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile([]Rule{{When: good, Then: ok}, c.rule}, nil)
			var wrong *Error
			require.ErrorAs(t, err, &wrong)
			require.Equal(t, 1, wrong.Index)
			require.Equal(t, c.key, wrong.Key)
			require.Contains(t, wrong.Msg, c.msg)
		})
	}
	_, err := Compile(make([]Rule, MaxRules+1), nil)
	require.ErrorContains(t, err, "at most 1000")
	_, err = Compile([]Rule{{Then: ok}, {When: good}}, nil)
	require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), 2, "every fault is reported")
	s, err := Compile(nil, nil)
	require.NoError(t, err)
	require.Nil(t, s)
}

// The first rule that holds is applied: a model that checks each part of each configured rule has the same result.
func TestTheFirstRuleWins(t *testing.T) {
	names := rapid.SampledFrom([]string{"a.test", "b.test", "a.example"})
	list := func(from ...string) *rapid.Generator[[]string] {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 2, rapid.ID[string])
	}
	rapid.Check(t, func(t *rapid.T) {
		all := make([]Rule, rapid.IntRange(1, 6).Draw(t, "rules"))
		for i := range all {
			w := &all[i].When
			w.Hosts = list("a.test", "b.test", "*.test", "a.*").Draw(t, "hosts")
			w.Methods = list("GET", "POST").Draw(t, "methods")
			w.Statuses = list("200", "403", "400-499").Draw(t, "statuses")
			if w.Body = rapid.SampledFrom([]string{"", "", "x", "yz"}).Draw(t, "text"); w.Body == "" {
				w.Error = rapid.SampledFrom([]string{"", "", "tunnel_broke"}).Draw(t, "error")
			}
			if w.isEmpty() {
				w.Hosts = []string{"*"}
			}
			all[i].Then.Retry = true
		}
		s := compile(t, all...)
		a := Attempt{Request: Request{Host: names.Draw(t, "host"),
			Method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method")},
			Status: rapid.SampledFrom([]int{200, 403, 404, 500}).Draw(t, "status"),
			Cause:  rapid.SampledFrom([]core.Cause{verdict.Answered, verdict.TunnelBroke}).Draw(t, "cause")}
		e := &core.Excerpt{Body: []byte(rapid.SampledFrom([]string{"", "x", "xyz"}).Draw(t, "body"))}
		got, want := -1, -1
		for i := range all {
			if model(&all[i].When, &a, e) {
				want = i
				break
			}
		}
		action := s.Match(&a, e)
		if action != nil {
			got = action.Rule
		}
		require.Equal(t, want, got)
		if wants := s.ExcerptSpec(&a); wants == nil { // then the response is not needed
			without := s.Match(&a, nil)
			require.True(t, without == action)
		}
	})
}

// model reports whether a condition holds.
func model(w *Conditions, a *Attempt, e *core.Excerpt) bool {
	some := func(list []string, is func(string) bool) bool {
		ok := len(list) == 0
		for _, s := range list {
			ok = ok || is(s)
		}
		return ok
	}
	host := func(s string) bool {
		return s == a.Host || s == "*" || s == "*.test" && strings.HasSuffix(a.Host, ".test") ||
			s == "a.*" && strings.HasPrefix(a.Host, "a.")
	}
	status := func(s string) bool {
		return s == "400-499" && a.Status/100 == 4 || s == "200" && a.Status == 200 || s == "403" && a.Status == 403
	}
	return some(w.Hosts, host) && some(w.Methods, func(s string) bool { return s == a.Method }) &&
		some(w.Statuses, status) && strings.Contains(string(e.Body), w.Body) &&
		(w.Error == "") == (a.Cause == verdict.Answered)
}

// The parsers accept or refuse any text without a panic. What they accept stays in its limits.
func FuzzParsers(f *testing.F) {
	for _, s := range []string{"403", "400-499", "499-400", "-", "4O3", "*.shop.example", "[::1]", "a:80", "http://a",
		"*", "443", "8000-8999", "/a/*/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseStatus(s); err == nil {
			require.True(t, 100 <= r.First && r.First <= r.Last && r.Last <= 599, "%q: %v", s, r)
		}
		if r, err := ParsePort(s); err == nil {
			require.True(t, 1 <= r.First && r.First <= r.Last && r.Last <= 65535, "%q: %v", s, r)
		}
		if checkPath(s) == nil {
			set := compile(t, Rule{When: Conditions{Paths: []string{s}, Users: []string{s}},
				Then: way(Routing{Direct: true})})
			set.Route(&Request{Path: []byte(s), User: s})
		}
		if p, err := ParseHost(s); err == nil {
			again, err := ParseHost(p)
			require.NoError(t, err)
			require.Equal(t, p, again)
			compile(t, Rule{When: Conditions{Hosts: []string{s}}, Then: Actions{Retry: true}})
		}
		_, err := Compile([]Rule{{When: Conditions{Hosts: []string{s}, Methods: []string{s}, Statuses: []string{s},
			Body:    s,
			Headers: map[string]string{s: s}, Error: s}, Then: Actions{Blame: s}}}, nil)
		var wrong *Error
		require.True(t, errors.As(err, &wrong))
	})
}
