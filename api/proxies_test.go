package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

const (
	unknown = `"abilities":{"forward":{"state":"unknown","source":"","since":null,"retry_at":null},` +
		`"connect_443":{"state":"unknown","source":"","since":null,"retry_at":null},` +
		`"connect_other":{"state":"unknown","source":"","since":null,"retry_at":null}},` +
		`"last_check":null,"exit_address":""}`
	viewF1 = `{"id":"F1","url":"http://***@f1.test:8080","region":"","weight":1,"cost":0,"max_in_flight":0,` +
		`"reuse":true,"metadata":{},"own_error":[],` +
		`"source":"config","draining":false,"state":"closed","unreached":false,"in_flight":0,"short_tunnels":0,` +
		`"uses":0,` +
		`"last_used":null,` +
		`"success_rate":0.5,"samples":0,"avg_latency":0,` + unknown
	viewF2 = `{"id":"F2","url":"http://f2.test:8080","region":"","weight":1,"cost":0,"max_in_flight":0,` +
		`"reuse":true,"metadata":{},"own_error":[],` +
		`"source":"config","draining":false,"state":"closed","unreached":false,"in_flight":0,"short_tunnels":0,` +
		`"uses":0,` +
		`"last_used":null,` +
		`"success_rate":0.5,"samples":0,"avg_latency":0,` + unknown
)

func TestProxies(t *testing.T) {
	r := newRig(t, nil)
	r.check(t,
		get("/proxies", 200, `{"proxies":[`+viewF1+","+viewF2+"]}"),
		get("/proxies/F1", 200, withReasons(viewF1)),
		get("/proxies/nope", 404, `{"error":"not_found","message":"there is no proxy \"nope\""}`),
		get("/proxies/"+strings.Repeat("x", 300), 404),
	)
	u := r.pool.Snapshot().Get("F1")
	r.now = noon.Add(time.Second)
	lease, ok := u.Acquire(r.now)
	require.True(t, ok)
	lease.Settle(&core.Outcome{Result: core.ResultSuccess, Verdict: core.Success, Latency: 250 * time.Millisecond})
	var v proxyView
	_, body := r.send(t, "GET", "/api/v1/proxies/F1", "")
	require.NoError(t, json.Unmarshal(body, &v))
	require.Equal(t, noon.Add(time.Second), *v.LastUsed)
	require.Equal(t, proxyView{
		ID: "F1", URL: "http://***@f1.test:8080", Weight: 1, Reuse: true, Metadata: map[string]string{},
		OwnErrors: []ownError{}, Source: "config",
		State: "closed", InFlight: 1, Uses: 1, LastUsed: v.LastUsed, SuccessRate: 1, Samples: 1, AvgLatency: 0.25,
		Abilities: abilitiesView{abilityView{State: "unknown"}, abilityView{State: "unknown"},
			abilityView{State: "unknown"}},
	}, v)
	lease.Release()
}

// The view of a proxy has its abilities and its last health check.
func TestAbilitiesAndChecks(t *testing.T) {
	r := newRig(t, nil)
	u := r.pool.Snapshot().Get("F2")
	at := r.pool.Elapsed(noon)
	u.Abilities().RecordMissing(ability.Forward, at, 0, ability.Traffic)
	u.Abilities().RecordSuccess(ability.TunnelTLS, at, ability.Check)
	check := &upstream.CheckReport{At: at, Passed: true, Latency: 250 * time.Millisecond,
		Exit: netip.MustParseAddr("192.0.2.1")}
	u.SetLastCheck(check)
	known := `"abilities":{"forward":{"state":"no","source":"traffic","since":"2026-11-28T12:00:00Z",` +
		`"retry_at":"2026-11-28T12:10:00Z"},` +
		`"connect_443":{"state":"yes","source":"check","since":"2026-11-28T12:00:00Z","retry_at":null},` +
		`"connect_other":{"state":"unknown","source":"","since":null,"retry_at":null}},` +
		`"last_check":{"at":"2026-11-28T12:00:00Z","passed":true,"error":"","latency":0.25,"tls_intercepted":false},` +
		`"exit_address":"192.0.2.1"}`
	r.check(t, get("/proxies/F2", 200, withReasons(strings.Replace(viewF2, unknown, known, 1))))
	u.SetLastCheck(&upstream.CheckReport{At: at, Fault: "the status is 500", Intercepted: true})
	_, body := r.send(t, "GET", "/api/v1/proxies/F2", "", "")
	require.Contains(t, string(body), `"last_check":{"at":"2026-11-28T12:00:00Z","passed":false,`+
		`"error":"the status is 500","latency":0,"tls_intercepted":true},"exit_address":""`)
}

func TestAddProxies(t *testing.T) {
	full := `{"id":"F3","url":"http://bob:hunter2@f3.test:1","region":"EU","weight":2,"cost":3,` +
		`"max_in_flight":4,"reuse":false,"metadata":{"a":"b"},` +
		`"own_error":[{"status":500,"header":"X: y","body":"z"}]}`
	fullView := `{"id":"F3","url":"http://***@f3.test:1","region":"EU","weight":2,"cost":3,"max_in_flight":4,` +
		`"reuse":false,"metadata":{"a":"b"},` +
		`"own_error":[{"status":500,"header":"X: y","body":"z"}],"source":"api","draining":false,` +
		`"state":"closed","unreached":false,"in_flight":0,"short_tunnels":0,"uses":0,` +
		`"last_used":null,"success_rate":0.5,"samples":0,"avg_latency":0,` + unknown
	r := newRig(t, nil)
	r.check(t, call("POST", "/proxies", full, 201, fullView))
	require.Equal(t, proxySpec(t, "", "http://bob:hunter2@f3.test:1").Address,
		r.pool.Snapshot().Get("F3").Spec().Address)
	r.check(t, call("DELETE", "/proxies/F3", "", 204),
		call("POST", "/proxies", `{"proxies":[`+full+`]}`, 201, `{"proxies":[`+fullView+"]}"),
		apiCase{name: "its address is its id", method: "POST", path: "/proxies", body: `{"url":"http://f4.test:1"}`,
			status: 201},
		get("/proxies/f4.test:1", 200), get("/proxies/f4.test%3A1", 200),
	)
	require.Equal(t, upstream.SourceAPI, r.pool.Snapshot().Get("f4.test:1").Spec().Source)
}

// The url of a proxy may have any form of a line. A field takes precedence over an option in the url.
func TestAddProxiesInTheFormsOfLines(t *testing.T) {
	r := newRig(t, nil)
	for i, x := range []struct{ url, address, region string }{
		{"192.0.2.1:8080", "http://192.0.2.1:8080", "DE"},
		{"192.0.2.2:8080:ann:p1", "http://ann:p1@192.0.2.2:8080", "DE"},
		{"192.0.2.3:8080 ann p1", "http://ann:p1@192.0.2.3:8080", "DE"},
		{"ann:p1@192.0.2.4:8080", "http://ann:p1@192.0.2.4:8080", "DE"},
		{"socks5://192.0.2.5:1080:ann:p1", "socks5://ann:p1@192.0.2.5:1080", "DE"},
		{"http://192.0.2.6:8080#region=us&tier=2", "http://192.0.2.6:8080", "DE"},
		{"http://ann:p#1@192.0.2.7:8080", "http://ann:p%231@192.0.2.7:8080", "DE"},
	} {
		id := fmt.Sprint("n", i)
		body := fmt.Sprintf(`{"id":%q,"url":%q,"region":%q}`, id, x.url, x.region)
		r.check(t, apiCase{name: x.url, method: "POST", path: "/proxies", body: body, status: 201})
		spec := r.pool.Snapshot().Get(id).Spec()
		require.Equal(t, proxySpec(t, "", x.address).Address, spec.Address, x.url)
		require.Equal(t, "DE", spec.Region)
		require.Equal(t, upstream.SourceAPI, spec.Source)
	}
	require.Equal(t, 2, r.pool.Snapshot().Get("n5").Spec().Tier)
	r.check(t,
		call("PATCH", "/proxies/n0", `{"url":"http://192.0.2.9:1#tier=3"}`, 400,
			bad("url", "url: it has options; write them as fields")),
		call("PATCH", "/proxies/n0", `{"url":"192.0.2.9:1:bob:p2"}`, 200),
	)
	require.Equal(t, proxySpec(t, "", "http://bob:p2@192.0.2.9:1").Address, r.pool.Snapshot().Get("n0").Spec().Address)
	for _, x := range []struct{ url, address string }{ // a proxy keeps its scheme, unless the text has another one
		{"192.0.2.9:1080", "socks5://192.0.2.9:1080"},
		{"ann:p1@192.0.2.9:1080", "socks5://ann:p1@192.0.2.9:1080"},
		{"192.0.2.9 1080 ann p1", "socks5://ann:p1@192.0.2.9:1080"},
		{"192.0.2.9:1080:socks4", "socks4://192.0.2.9:1080"},
		{"192.0.2.9:1081", "socks4://192.0.2.9:1081"},
		{"http://192.0.2.9:8080", "http://192.0.2.9:8080"},
	} {
		r.check(t, call("PATCH", "/proxies/n4", fmt.Sprintf(`{"url":%q}`, x.url), 200))
		require.Equal(t, proxySpec(t, "", x.address).Address, r.pool.Snapshot().Get("n4").Spec().Address, x.url)
	}
}

// bad returns the response for an invalid field.
func bad(field, message string) string {
	return fmt.Sprintf(`{"error":"invalid_field","message":%q,"details":{"field":%q}}`, message, field)
}

// If one proxy of a list is invalid, none of the list is added.
func TestAddWrongProxies(t *testing.T) {
	for _, x := range []struct {
		fields, field, message string
		status                 int
	}{
		{`"id":"x"`, "url", "url is missing", 400},
		{`"url":""`, "url", "", 400},
		{`"url":"f3.test"`, "url", "", 400},
		{`"url":"f3.test:1:***:***"`, "url", "", 400},
		{`"url":"https://f3.test:1#insecure=true"`, "url",
			"url: ca_file, insecure, cert and key are options of the configuration only", 400},
		{`"url":"http://***@f3.test:1"`, "url",
			"url: *** stands for hidden credentials; omit url to keep them, or write them out", 400},
		{`"url":"http://f3.test:1","id":""`, "id", "id is empty", 400},
		{`"url":"http://f3.test:1","id":"metrics"`, "id", "", 400},
		{`"url":"http://f3.test:1","id":"direct"`, "id", "", 400},
		{`"url":"http://f3.test:1","id":"` + strings.Repeat("x", 257) + `"`, "id", "", 400},
		{`"url":"http://f3.test:1","id":"a\u0007"`, "id", "", 400},
		{`"url":"http://f3.test:1","weight":0`, "weight", "weight must be above 0", 400},
		{`"url":"http://f3.test:1","weight":-1`, "weight", "weight must be above 0", 400},
		{`"url":"http://f3.test:1","weight":1e7`, "weight", "", 400},
		{`"url":"http://f3.test:1","weight":1e400`, "weight", "", 400},
		{`"url":"http://f3.test:1","weight":null`, "weight", "", 400},
		{`"url":"http://f3.test:1","cost":-1`, "cost", "", 400},
		{`"url":"http://f3.test:1","max_in_flight":-1`, "max_in_flight", "", 400},
		{`"url":"http://f3.test:1","max_in_flight":1.5`, "max_in_flight", "", 400},
		{`"url":"http://f3.test:1","metadata":{"a":1}`, "metadata.a", "", 400},
		{`"url":"http://f3.test:1","own_error":[{}]`, "own_error[0]", "", 400},
		{`"url":"http://f3.test:1","own_error":[{"status":399}]`, "own_error[0].status", "", 400},
		{`"url":"http://f3.test:1","nope":1`, "nope", "", 400},
		{`"url":"http://f3.test:1","state":"open"`, "state", "", 400},
	} {
		r := newRig(t, nil)
		r.check(t, call("POST", "/proxies", "{"+x.fields+"}", x.status))
		_, body := r.send(t, "POST", "/api/v1/proxies", "{"+x.fields+"}")
		require.Contains(t, string(body), fmt.Sprintf(`"details":{"field":%q}`, x.field), x.fields)
		if x.message != "" {
			require.Equal(t, bad(x.field, x.message)+"\n", string(body))
		}
		_, body = r.send(t, "POST", "/api/v1/proxies", `{"proxies":[{"url":"http://f9.test:1"},{`+x.fields+"}]}")
		require.Contains(t, string(body), fmt.Sprintf(`"details":{"field":"proxies[1].%s"}`, x.field), x.fields)
		require.Contains(t, string(body), "proxies[1]", x.fields)
		require.Len(t, r.pool.Snapshot().All, 2)
	}
	r := newRig(t, nil)
	r.check(t,
		call("POST", "/proxies", `{"proxies":[]}`, 400, bad("proxies", "proxies is empty")),
		call("POST", "/proxies", `{"proxies":{}}`, 400),
		call("POST", "/proxies", `{"proxies":[],"url":"http://f3.test:1"}`, 400),
		call("POST", "/proxies", `{"url":"http://f3.test:1","id":"F1"}`, 409,
			`{"error":"conflict","message":"proxy \"F1\" already exists"}`),
		call("POST", "/proxies",
			`{"proxies":[{"url":"http://f3.test:1","id":"x"},{"url":"http://f4.test:1","id":"x"}]}`, 409,
			`{"error":"conflict","message":"invalid proxy: the id \"x\" is used twice"}`),
	)
	require.Len(t, r.pool.Snapshot().All, 2)
}

func TestChangeProxy(t *testing.T) {
	r := newRig(t, nil)
	change := func(body string, status int) {
		t.Helper()
		r.check(t, call("PATCH", "/proxies/F1", body, status))
	}
	spec := func() *upstream.Spec { return r.pool.Snapshot().Get("F1").Spec() }
	r.check(t, call("PATCH", "/proxies/F1", `{}`, 200, viewF1))
	change(`{"id":"F1","weight":3,"region":"EU","cost":1,"max_in_flight":5,"reuse":false,"metadata":{"k":"v"},`+
		`"auth":"digest","own_error":[{"body":"x"}]}`, 200)
	require.EqualValues(t, 3, spec().Weight)
	require.Equal(t, "EU", spec().Region)
	require.EqualValues(t, 5, spec().Extra().MaxInFlight)
	require.True(t, spec().Extra().NoReuse)
	require.Equal(t, upstream.AuthDigest, spec().Extra().Auth)
	change(`{"auth":"basic"}`, 400)
	change(`{"auth":""}`, 200)
	require.Empty(t, spec().Extra().Auth)
	require.Equal(t, []upstream.OwnError{{Body: "x"}}, spec().Extra().OwnErrors)
	require.Equal(t, proxySpec(t, "", "http://user:secret@f1.test:8080").Address, spec().Address,
		"a change without a url keeps the credentials")
	change(`{"own_error":[],"reuse":true}`, 200)
	require.False(t, spec().Extra().NoReuse)
	require.Empty(t, spec().Extra().OwnErrors)
	change(`{"url":"http://f1.test:9"}`, 200)
	require.Equal(t, proxySpec(t, "", "http://f1.test:9").Address, spec().Address)
	before := *spec()
	change(`{"id":"F9"}`, 400)
	change(`{"id":""}`, 400)
	change(`{"weight":0}`, 400)
	change(`{"cost":-1}`, 400)
	change(`{"url":"nope"}`, 400)
	change(`{"url":"http://***@f1.test:9"}`, 400)
	change(`{"own_error":[{"status":1}]}`, 400)
	require.Equal(t, before, *spec())
	r.check(t, call("PATCH", "/proxies/nope", `{}`, 404))

	lease, _ := r.pool.Snapshot().Get("F1").Acquire(r.now)
	defer lease.Release()
	require.NoError(t, r.pool.Remove("F1", true))
	r.check(t, apiCase{name: "draining", method: "PATCH", path: "/proxies/F1", body: `{"weight":4}`, status: 409,
		want: `{"error":"conflict","message":"proxy \"F1\" is being removed"}`})
}

func TestRemoveProxy(t *testing.T) {
	r := newRig(t, nil)
	lease, _ := r.pool.Snapshot().Get("F1").Acquire(r.now)
	for _, q := range []string{"maybe", "", "2", "true&drain=true"} {
		r.check(t, call("DELETE", "/proxies/F1?drain="+q, "", 400,
			bad("drain", "drain must be true or false")))
	}
	r.check(t, call("DELETE", "/proxies/F1?drain=true", "", 204))
	require.True(t, r.pool.Snapshot().Get("F1").Draining(), "an attempt is in flight")
	r.check(t, call("DELETE", "/proxies/F1?drain=false", "", 204))
	require.Nil(t, r.pool.Snapshot().Get("F1"))
	lease.Release()
	r.check(t,
		call("DELETE", "/proxies/F1", "", 404),
		call("DELETE", "/proxies/F2", "", 204),
		get("/proxies", 200, `{"proxies":[]}`),
		call("POST", "/plugins/random/test", "", 409),
	)
}

// A removed proxy can be restored, with its credentials. No response has the credentials.
func TestRestoreProxy(t *testing.T) {
	r := newRig(t, nil)
	r.check(t, call("POST", "/proxies", `{"id":"x","url":"http://bob:hunter2@x.test:1","vendor":"north"}`, 201))
	before := *r.pool.Snapshot().Get("x").Spec()
	r.check(t,
		call("POST", "/proxies/x/restore", "", 404),
		call("DELETE", "/proxies/x", "", 204),
		call("POST", "/proxies/x/restore?persist=maybe", "", 400),
	)
	r.metrics.recent = map[string]metrics.RecentAttempts{"x": {Attempts: 1, BadAttempts: 1}}
	response, body := r.send(t, "POST", "/api/v1/proxies/x/restore", "")
	require.Empty(t, r.metrics.recent)
	require.Equal(t, 200, response.StatusCode, string(body))
	require.NotContains(t, string(body), "hunter2")
	require.Equal(t, before, *r.pool.Snapshot().Get("x").Spec())
	r.check(t,
		call("POST", "/proxies/x/restore", "", 404),
		call("DELETE", "/proxies/x", "", 204),
		call("POST", "/proxies", `{"id":"x","url":"http://y.test:1"}`, 201),
		call("POST", "/proxies/x/restore", "", 409),
	)
}

func TestTheErrorSuggestsASimilarID(t *testing.T) {
	r := newRig(t, nil)
	require.NoError(t, r.pool.Apply([]upstream.Spec{proxySpec(t, "alpha", "http://a.test:1"),
		proxySpec(t, "frankfurt-1", "http://b.test:1"), proxySpec(t, "frankfurt-2", "http://c.test:1")}))
	proxies := r.pool.Snapshot().All
	require.Equal(t, "; did you mean alpha?", similarID("alph", proxies))
	require.Equal(t, "; did you mean frankfurt-2?", similarID("frankfort-2", proxies))
	require.Empty(t, similarID("frankfurt-3", proxies), "it is another proxy")
	require.Empty(t, similarID("alfa", make([]*upstream.Upstream, maxSimilar+1)))
	r.check(t, get("/proxies/alpah", 404, `{"error":"not_found","message":"there is no proxy \"alpah\"; did you mean `+
		`alpha?"}`))
}
