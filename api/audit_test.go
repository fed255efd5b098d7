package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// entries returns the changes in the response to GET /audit, without their times.
func (r *rig) entries(t *testing.T, query string, headers ...string) (out []string) {
	var v struct{ Changes []auditView }
	_, body := r.send(t, "GET", "/api/v1/audit"+query, "", headers...)
	require.NoError(t, json.Unmarshal(body, &v), "%s", body)
	for _, e := range v.Changes {
		text := fmt.Sprintf("%s/%s %s %s?%s %v %d", e.Node, e.Key, e.Method, e.Path, e.Query, e.Changed, e.Total)
		out = append(out, strings.ReplaceAll(text, "/api/v1", ""))
	}
	return out
}

// The audit trail says which key has changed what, without a secret.
func TestAudit(t *testing.T) {
	r := newRig(t, nil)
	r.check(t, get("/audit", 200, `{"changes":[],"total":0,"next_cursor":null}`))
	many := "http://u:hunter2secret@10.0.0.1:80\n"
	for i := range 30 {
		many += fmt.Sprintf("http://10.0.1.%d:80\n", i)
	}
	r.check(t,
		call("PUT", "/retry/policy", `{"max_attempts":2,"jitter":true,"persist":false}`, 200),
		call("PUT", "/retry/policy", `{"max_attempts":0}`, 400), // refused
		call("PATCH", "/proxies/F1", `{"weight":2}`, 200),
		call("POST", "/proxies", `{"id":"new","url":"http://u:hunter2secret@10.0.0.2:80"}`, 201),
		call("POST", "/plugins/random/activate", `{"for":"first"}`, 200),
		call("DELETE", "/proxies/new?drain=true", "", 204),
		call("POST", "/retry/policy/preview", `{"max_attempts":3}`, 200), // changes nothing
	)
	require.Equal(t, []string{
		"/ DELETE /proxies/new?drain=true [proxy/new] 1",
		"/ POST /plugins/random/activate? [plugin/first] 1",
		"/ POST /proxies? [proxy/new] 1",
		"/ PATCH /proxies/F1? [weight] 1",
		"/ PUT /retry/policy? [jitter max_attempts] 2",
	}, r.entries(t, ""))
	require.Equal(t, []string{"/ DELETE /proxies/new?drain=true [proxy/new] 1", "/ POST /proxies? [proxy/new] 1"},
		r.entries(t, "?q=PROXY/NEW"))
	require.Len(t, r.entries(t, "?limit=2&sort=at"), 2)

	for _, record := range []string{
		`method=DELETE path=/api/v1/proxies/new query="drain=true" changed=[proxy/new] changed_total=1`,
		`method=POST path=/api/v1/proxies changed=[proxy/new] changed_total=1`,
		`method=PUT path=/api/v1/retry/policy changed="[jitter max_attempts]" changed_total=2`,
	} {
		require.Contains(t, r.log.String(), `msg="changed through the API" `+record)
	}
	require.NotContains(t, r.log.String(), "hunter2secret")

	_, body := r.send(t, "POST", "/api/v1/proxies", many, "Content-Type: text/plain")
	require.NotContains(t, string(body), "hunter2secret")
	_, body = r.send(t, "GET", "/api/v1/audit?limit=1", "")
	require.NotContains(t, string(body), "hunter2secret")
	var page client.AuditPage
	require.NoError(t, json.Unmarshal(body, &page))
	require.Len(t, page.Changes[0].Changed, maxChanged)
	require.Equal(t, 31, page.Changes[0].Total)
	var raw string
	p, err := r.clientOf(t, &raw).Audit(t.Context(), client.List{Limit: 2})
	require.NoError(t, err)
	requireSameFields(t, raw, p, "Audit")

	for range maxAudited {
		r.send(t, "PUT", "/api/v1/retry/policy", `{"max_attempts":3}`)
	}
	require.Len(t, r.entries(t, "?limit=1000"), maxAudited)
	require.Equal(t, "/ PUT /retry/policy? [max_attempts] 1", r.entries(t, "?sort=at")[0])
}

// The audit trail names a proxy by its whole id in the pool, even if the id is long or the client has encoded it.
func TestTheAuditTrailHasWholeIDs(t *testing.T) {
	r := newRig(t, nil)
	long := strings.Repeat("x", 250) + "@end"
	r.check(t,
		call("POST", "/proxies", `{"id":"ann@192.0.2.1:80","url":"http://192.0.2.1:80"}`, 201),
		call("POST", "/proxies", `{"id":"`+long+`","url":"http://192.0.2.2:80"}`, 201),
		call("PATCH", "/proxies/ann%40192.0.2.1%3A80", `{"weight":2}`, 200),
		call("PATCH", "/proxies/"+strings.Replace(long, "@", "%40", 1), `{"weight":2}`, 200),
	)
	require.Equal(t, []string{"/ PATCH /proxies/ann@192.0.2.1:80? [weight] 1",
		"/ POST /proxies? [proxy/ann@192.0.2.1:80] 1"},
		r.entries(t, "?q=ann@192"))
	require.Equal(t, []string{"/ PATCH /proxies/" + long + "? [weight] 1", "/ POST /proxies? [proxy/" + long + "] 1"},
		r.entries(t, "?q=x@end"))
	require.Equal(t, "a?b?c", auditText("a\nb\u202ec"))
	require.Equal(t, strings.Repeat("y", maxAuditText)+"...", auditText(strings.Repeat("y", maxAuditText+1)))
}

// The entry of a ban for one host names the host.
func TestAuditOfBans(t *testing.T) {
	r := newRig(t, nil)
	r.check(t,
		call("POST", "/proxies/F1/ban", `{"for":"1m"}`, 200),
		call("POST", "/proxies/F1/ban", `{"for":"1m","host":"a.test"}`, 200),
		call("DELETE", "/proxies/F1/ban?host=a.test", "", 204),
		call("DELETE", "/proxies/F1/ban", "", 204),
	)
	require.Equal(t, []string{
		"/ DELETE /proxies/F1/ban? [proxy/F1] 1",
		"/ DELETE /proxies/F1/ban?host=a.test [host/a.test] 1",
		"/ POST /proxies/F1/ban? [host/a.test] 1",
		"/ POST /proxies/F1/ban? [proxy/F1] 1",
	}, r.entries(t, ""))
}

// If the path of a request names the changed thing, the entry also names it.
func TestAuditOfThingsInPaths(t *testing.T) {
	r := newRig(t, nil)
	r.check(t,
		call("POST", "/circuit-breakers/F1/reset", "", 200),
		call("PUT", "/retry/policy", `{"max_attempts":2}`, 200),
		call("DELETE", "/retry/policy", "", 200),
		call("DELETE", "/proxies/F1", "", 204),
		call("POST", "/proxies/F1/restore", "", 200),
	)
	require.Equal(t, []string{
		"/ POST /proxies/F1/restore? [proxy/F1] 1",
		"/ DELETE /proxies/F1? [proxy/F1] 1",
		"/ DELETE /retry/policy? [policy] 1",
		"/ PUT /retry/policy? [max_attempts] 1",
		"/ POST /circuit-breakers/F1/reset? [breaker/F1] 1",
	}, r.entries(t, ""))
}

// Each entry of the audit trail has the name of the API key. In a cluster, the audit trail has the entries of all
// nodes.
func TestAuditOfACluster(t *testing.T) {
	f := &fakeCluster{status: cluster.Status{Node: "a"}, trail: []cluster.AuditEntry{
		{At: noon.Add(-time.Hour), Node: "b", Key: "ci", Method: "DELETE", Path: "/api/v1/retry/policy"}}}
	r := newRig(t, func(_ *rig, c *Config) {
		c.Cluster, c.Keys = f, []Key{{Name: "alice", Secret: "hunter2secret", Admin: true}}
	})
	const login = "Authorization: Bearer hunter2secret"
	response, _ := r.send(t, "PUT", "/api/v1/retry/policy", `{"max_attempts":2}`, login)
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, []string{"a/alice PUT /retry/policy? [max_attempts] 1", "b/ci DELETE /retry/policy? [] 0"},
		r.entries(t, "", login))
	require.Equal(t, []string{"b/ci DELETE /retry/policy? [] 0"}, r.entries(t, "?q=ci&sort=node", login))
}
