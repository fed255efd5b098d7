package api

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

func TestRouteRequest(t *testing.T) {
	for _, c := range []struct {
		url, method string
		want        rules.Request
	}{
		{"http://A.test", "", rules.Request{Host: "a.test", Port: 80, Method: "GET", Path: []byte("/")}},
		{"https://a.test/x?y", "", rules.Request{Host: "a.test", Port: 443, Method: "CONNECT"}},
		{"a.test:8443", "", rules.Request{Host: "a.test", Port: 8443, Method: "CONNECT"}},
		{"https://a.test/%61?y", "post", rules.Request{Host: "a.test", Port: 443, Method: "POST",
			Path: []byte("/%61")}},
		{"http://[::1]:8080/", "", rules.Request{Host: "::1", Port: 8080, Method: "GET", Path: []byte("/")}},
		{"http://a.test/", "connect", rules.Request{Host: "a.test", Port: 80, Method: "CONNECT"}},
	} {
		q, err := RouteRequest(c.url, c.method, "ann")
		require.NoError(t, err)
		c.want.User = "ann"
		require.Equal(t, c.want, q, c.url)
	}
	for _, bad := range []string{"", "ftp://a.test", "http://", "http://u:p@a.test/", "a.test:0", "a.test:99999",
		"http://a b/", "http://b\u00fccher.test"} {
		_, err := RouteRequest(bad, "", "")
		require.ErrorContains(t, err, "url ", bad)
	}
}

// The response names the rules that are applied and, for the others, the condition that does not hold.
func TestRoute(t *testing.T) {
	r := newRig(t, nil)
	two := 2
	all := []string{"*"}
	set, err := rules.Compile([]rules.Rule{
		{Name: "ads", When: rules.Conditions{Hosts: []string{"*.ads.test"}},
			Then: rules.Actions{Routing: rules.Routing{Deny: true}}},
		{When: rules.Conditions{Users: []string{"ann"}}, Then: rules.Actions{Routing: rules.Routing{Tag: "dc",
			Prefer: true,
			Policy: &rules.Policy{AttemptTimeout: 2, Override: retry.Override{MaxAttempts: &two}}}}},
		{When: rules.Conditions{Hosts: all, Statuses: []string{"403"}}, Then: rules.Actions{Final: true}},
		{When: rules.Conditions{Hosts: all}, Then: rules.Actions{Routing: rules.Routing{Direct: true,
			Intercept: true}}},
	}, nil)
	require.NoError(t, err)
	r.engine.rules = set
	const rest = `{"rule":2,"label":"rules[2]","kind":"response","holds":true,"applied":[],"conditions":` +
		`[{"key":"host","want":["*"],"got":"a.test","holds":true}],"pending":["status"]},` +
		`{"rule":3,"label":"rules[3]","kind":"request","holds":true,"applied":["intercept"],"conditions":` +
		`[{"key":"host","want":["*"],"got":"a.test","holds":true}]}]}`
	global := retry.DefaultPolicy()
	policy, err := json.Marshal(global.Merge(retry.Override{MaxAttempts: &two}))
	require.NoError(t, err)
	r.check(t, call("GET", "/route?url=a.test:444&user=ann", "", 200, `{"request":{"method":"CONNECT","host":"a.test",`+
		`"port":444,"user":"ann"},"way":"pool","tag":"dc","prefer":true,"policy":`+string(policy)+
		`,"attempt_timeout":2,`+
		`"scorer":"`+r.engine.first+`","intercept":true,"rules":[`+
		`{"rule":0,"label":"ads","kind":"request","holds":false,"applied":[],"conditions":`+
		`[{"key":"host","want":["*.ads.test"],"got":"a.test","holds":false}]},`+
		`{"rule":1,"label":"rules[1]","kind":"request","holds":true,"applied":["way","policy"],"conditions":`+
		`[{"key":"user","want":["ann"],"got":"ann","holds":true}]},`+rest))
	var v RouteView
	q, err := RouteRequest("http://x.ads.test/", "", "")
	require.NoError(t, err)
	v = RouteOf(set, q, &global, "exploring")
	require.Equal(t, "deny", v.Way)
	require.False(t, v.Intercept)
	require.Equal(t, routePolicyOf(&global), v.Policy)
	q.Host = "a.test"
	require.Equal(t, "direct", RouteOf(set, q, &global, "exploring").Way)
}
