//go:build !race

package rules

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// Matching allocates nothing.
func TestAllocOfMatching(t *testing.T) {
	then := Actions{OtherProxy: true}
	s := compile(t,
		Rule{When: Conditions{Hosts: []string{"*.other.test"}, Statuses: []string{"403"}}, Then: then},
		Rule{When: Conditions{Headers: map[string]string{"Server": "*-edge-*"}, Body: "robot"}, Then: then},
		Rule{When: Conditions{Body: "captcha"}, Then: then})
	e := &core.Excerpt{Body: make([]byte, core.MaxExcerptBody), Fields: []core.ExcerptField{
		{Name: "server", Value: []byte("a rather long value that names some -edge- server of the target")},
	}}
	copy(e.Body[8000:], "captcha")
	a := &Attempt{Request: Request{Host: "www.shop.test", Method: "GET"}, Status: 403}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if s.ExcerptSpec(a).Body == 0 || s.Match(a, e) == nil {
			t.Fatal("no rule holds")
		}
	}))
}

// Routing allocates nothing, with rules and without them.
func TestAllocOfRouting(t *testing.T) {
	five := 5
	s := compile(t,
		Rule{When: Conditions{Hosts: []string{"*.other.test", "x.test"}, Ports: []string{"1-1000"}},
			Then: way(Routing{Deny: true})},
		Rule{When: Conditions{Paths: []string{"/api/*"}, Users: []string{"crawler*"}}, Then: way(Routing{Tag: "dc"})},
		Rule{When: Conditions{Methods: []string{"GET", "CONNECT"}}, Then: way(Routing{
			Policy: &Policy{Override: retry.Override{MaxAttempts: &five}}, Intercept: true})})
	q := &Request{Host: "www.shop.test", Port: 80, Method: "GET", Path: []byte("/api/v1?x"), User: "crawler-1"}
	global := retry.DefaultPolicy()
	var none *Set
	require.Zero(t, testing.AllocsPerRun(100, func() {
		route := s.Route(q)
		route.Count()
		if route.WayRule().Tag != "dc" || route.Policy(&global).MaxAttempts != 5 || route.Labels()[2] != "" {
			t.Fatal("wrong rules")
		}
		if other := none.Route(q); !other.IsEmpty() {
			t.Fatal("no rule holds")
		}
	}))
}
