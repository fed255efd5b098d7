package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

type fakeCluster struct {
	reports cluster.Reports
	status  cluster.Status
	problem string
	resets  []string
	trail   []cluster.AuditEntry
}

func (f *fakeCluster) Status() cluster.Status          { return f.status }
func (f *fakeCluster) Reports() cluster.Reports        { return f.reports }
func (f *fakeCluster) Alone() (bool, string)           { return f.problem != "", f.problem }
func (f *fakeCluster) ResetProxy(u *upstream.Upstream) { f.resets = append(f.resets, u.ID()) }
func (f *fakeCluster) Name() string                    { return f.status.Node }

func (f *fakeCluster) Audit(e cluster.AuditEntry) {
	e.Node = f.status.Node
	f.trail = append([]cluster.AuditEntry{e}, f.trail...)
}

func (f *fakeCluster) AuditTrail() []cluster.AuditEntry { return f.trail }
func (f *fakeCluster) AuditVersion() uint64             { return uint64(len(f.trail)) }

func TestClusterEndpoint(t *testing.T) {
	f := &fakeCluster{status: cluster.Status{
		Name: "whirlpool", Node: "a", Since: noon, Lag: 50 * time.Millisecond, Took: 2 * time.Millisecond, Open: 1,
		Nodes: []cluster.NodeStatus{
			{Node: "a", Version: "v1", Address: "127.0.0.1:8889", Self: true, Live: true, Started: noon,
				Host: "m1",
				Load: cluster.Load{Tried: 2, Requests: 10, Delivered: 8, Refused: 1, Attempts: 12, Retries: 2,
					Proxies: 3, InService: 2}},
			{Node: "b", Version: "v1", Address: "127.0.0.2:8889", Live: true, Isolated: true, Started: noon, Twin: true,
				Load: cluster.Load{Requests: 5, Delivered: 5, Attempts: 6, Retries: 1}},
			{Node: "c", Version: "v1", Started: noon, Seen: 6 * time.Second, Alone: 3,
				Load: cluster.Load{Requests: 100, Uploads: 1}},
		},
		Suspects: []cluster.SuspectStatus{{Target: "shop.test:443", Nodes: []string{"a", "b"}}},
		Breakers: []cluster.BreakerStatus{{Proxy: "F@1@0000abcd", Due: noon, Why: "fails", Nodes: []string{"a", "c"}}},
		Changes:  []cluster.ChangeStatus{{Key: "policy", Revision: 7, At: noon, Node: "b"}},
		Uploads: []cluster.UploadStatus{{Name: "mine", SHA256: "ab", Size: 9, State: "ready"},
			{Name: "other", Deleted: true, State: "failed", Problem: "in use"}},
		SharesLimits: true, Limits: []cluster.LimitStatus{
			{Key: "proxy/rate/F/1@0000abcd", Kind: share.Rate, Limit: 10_500_000_000, Share: 500_000_000,
				NeedsMore: true},
			{Key: "user/requests_per_day/a/b", Kind: share.Daily, Limit: 100, Used: 40, UsedHere: 10, Share: 16},
		},
	}}
	r := newRig(t, func(_ *rig, c *Config) { c.Cluster, c.Store = f, "redis://h:6379" })
	r.check(t, get("/cluster", 200, `{"enabled":true,"name":"whirlpool","node":"a",`+
		`"store":{"url":"redis://h:6379","state":"connected","since":"2026-11-28T12:00:00Z","lag":0.05,`+
		`"last_exchange":0.002,"waiting":0,"dropped":0},`+
		`"nodes":[{"node":"a","self":true,"state":"live","version":"v1","address":"127.0.0.1:8889",`+
		`"host":"m1","same_name":false,`+
		`"started":"2026-11-28T12:00:00Z","seen":0,"tried_proxies":2,"times_alone":0,"failed_uploads":0,`+
		`"requests":{"window":300,"total":10,"delivered":8,"target_refused":1,"attempts":12,"retries":2},`+
		`"proxies":{"total":3,"in_service":2}},`+
		`{"node":"b","self":false,"state":"isolated","version":"v1","address":"127.0.0.2:8889",`+
		`"host":"","same_name":true,`+
		`"started":"2026-11-28T12:00:00Z","seen":0,"tried_proxies":0,"times_alone":0,"failed_uploads":0,`+
		`"requests":{"window":300,"total":5,"delivered":5,"target_refused":0,"attempts":6,"retries":1},`+
		`"proxies":{"total":0,"in_service":0}},`+
		`{"node":"c","self":false,"state":"gone","version":"v1","address":"",`+
		`"host":"","same_name":false,`+
		`"started":"2026-11-28T12:00:00Z",`+
		`"seen":6,"tried_proxies":0,"times_alone":3,"failed_uploads":1,`+
		`"requests":{"window":300,"total":100,"delivered":0,"target_refused":0,"attempts":0,"retries":0},`+
		`"proxies":{"total":0,"in_service":0}}],"open_breakers":1,`+
		`"breakers":[{"proxy_id":"F@1","next_test_time":"2026-11-28T12:00:00Z","why":"fails","nodes":["a","c"],`+
		`"probing":false}],"changes":[{"key":"policy","revision":7,"at":"2026-11-28T12:00:00Z","node":"b",`+
		`"shared":true}],`+
		`"requests":{"window":300,"total":15,"delivered":13,"target_refused":1,"attempts":18,"retries":3},`+
		`"suspect_targets":[{"target":"shop.test:443","nodes":["a","b"]}],`+
		`"uploads":[{"name":"mine","sha256":"ab","size":9,"deleted":false,"state":"ready"},`+
		`{"name":"other","size":0,"deleted":true,"state":"failed","error":"in use"}],"limits_state":"shared",`+
		`"limits":[{"of":"proxy","id":"F/1","limit":"rate","amount":10.5,"part":0.5,"short":true},`+
		`{"of":"user","id":"a/b","limit":"requests_per_day","amount":100,"used":40,"used_here":10,"part":16,`+
		`"short":false}]}`))
	var raw string
	client := r.clientOf(t, &raw)
	v, err := client.Cluster(t.Context())
	require.NoError(t, err)
	requireSameFields(t, raw, v, "Cluster")
	require.Equal(t, "b", v.Nodes[1].Name)
	s, err := client.Status(t.Context())
	require.NoError(t, err)
	requireSameFields(t, raw, s, "Status")
	require.Equal(t, 2, s.Cluster.LiveNodes)
	status := func(state, more string) {
		t.Helper()
		var v struct {
			Summary string
			Cluster json.RawMessage
		}
		_, body := r.send(t, "GET", "/api/v1/status", "")
		require.NoError(t, json.Unmarshal(body, &v))
		require.JSONEq(t, `{"name":"whirlpool","node":"a","state":"`+state+`","live_nodes":2,`+
			`"requests":{"window":300,"total":15,"delivered":13,"target_refused":1,`+
			`"attempts":18,"retries":3}}`, string(v.Cluster))
		require.True(t, strings.HasSuffix(v.Summary, "minutes"+more), v.Summary)
	}
	status("live", "")
	f.status.Nodes[0].Twin = true
	status("live", "; another gateway of the cluster has the name a, too")
	f.status.Nodes[0].Twin = false
	f.status.Nodes[0].Isolated = true
	status("isolated", "; this gateway is isolated: it fails at proxies that serve the other nodes of the cluster")
	r.check(t, get("/readyz", 200, `{"status":"ready"}`))
	f.problem, f.status.Alone, f.status.Lag = "connection refused", true, -1
	r.check(t, get("/readyz", 200, `{"note":"the cluster's store cannot be reached, so this gateway is alone: `+
		`see GET /cluster","status":"ready"}`))
	status("alone", "; the cluster's store cannot be reached, so this gateway is alone")
	r.check(t, call("POST", "/circuit-breakers/F1/reset", "", 200))
	require.Equal(t, []string{"F1"}, f.resets)
}

// The lists of the cluster have the rows of all nodes.
func TestClusterLists(t *testing.T) {
	empty := `{"breakers":[],"missing_nodes":[],"total":0,"next_cursor":null}`
	newRig(t, nil).check(t, get("/cluster/breakers", 200, empty),
		get("/cluster/targets", 200, strings.Replace(empty, "breakers", "targets", 1)))
	f := &fakeCluster{
		status: cluster.Status{Breakers: []cluster.BreakerStatus{{Proxy: "F2@0000abcd", Why: "fails"},
			{Proxy: "F9@0000abcd", Why: "fails for 2 nodes"}}},
		reports: cluster.Reports{Missing: []string{"c"}, Nodes: []cluster.NodeReport{
			{Node: "a", Report: cluster.Report{
				Breakers: []cluster.BreakerReport{{Proxy: "F1", State: "open", Failures: 5, Due: noon},
					{Proxy: "F2", State: "half_open"}},
				Targets: []cluster.TargetReport{{Target: "a.test:80", Attempts: 10, Failures: 9, LastFailure: noon},
					{Target: "b.test:80", Attempts: 4, Failures: 1, Proxies: 1, LastFailure: noon}},
			}},
			{Node: "b", Report: cluster.Report{
				Breakers: []cluster.BreakerReport{{Proxy: "F1", State: "half_open", Failures: 7},
					{Proxy: "F3", State: "half_open", Failures: 1}},
				Targets: []cluster.TargetReport{{Target: "b.test:80", Attempts: 4, Failures: 3, Proxies: 2,
					Suspect: true, LastFailure: noon.Add(time.Second)}},
			}},
		}},
	}
	r := newRig(t, func(_ *rig, c *Config) { c.Cluster = f })
	row := func(id, state, cluster, why, nodes string) string {
		return `{"proxy_id":"` + id + `","state":"` + state + `","cluster":` + cluster + `,"why":"` + why +
			`","nodes":[` + nodes + `]}`
	}
	f1 := row("F1", "open", "false", "", `{"node":"a","state":"open","failure_count":5,`+
		`"next_test_time":"2026-11-28T12:00:00Z"},`+
		`{"node":"b","state":"half_open","failure_count":7,"next_test_time":null}`)
	f2 := row("F2", "open", "true", "fails", `{"node":"a","state":"half_open","failure_count":0,"next_test_time":null}`)
	f3 := row("F3", "half_open", "false", "",
		`{"node":"b","state":"half_open","failure_count":1,"next_test_time":null}`)
	f9 := row("F9", "open", "true", "fails for 2 nodes", "")
	breakers := func(list, total, next string) string {
		return `{"breakers":[` + list + `],"missing_nodes":["c"],"total":` + total + `,"next_cursor":` + next + `}`
	}
	r.check(t,
		get("/cluster/breakers", 200, breakers(f1+","+f2+","+f3+","+f9, "4", "null")),
		get("/cluster/breakers?q=FAILS+for", 200, breakers(f9, "1", "null")),
		get("/cluster/breakers?sort=-proxy_id&limit=1", 200, breakers(f9, "4", `"1"`)),
		get("/cluster/breakers?limit=2&cursor=2", 200, breakers(f3+","+f9, "4", "null")),
		call("GET", "/cluster/breakers?sort=nope", "", 400),
	)
	b := `{"target":"b.test:80","attempts":8,"failures":4,"failure_rate":0.5,"proxies_failing":2,"suspect":true,` +
		`"last_failure":"2026-11-28T12:00:01Z","nodes":[` +
		`{"node":"a","attempts":4,"failures":1,"proxies_failing":1,"suspect":false,` +
		`"last_failure":"2026-11-28T12:00:00Z"},` +
		`{"node":"b","attempts":4,"failures":3,"proxies_failing":2,"suspect":true,` +
		`"last_failure":"2026-11-28T12:00:01Z"}]}`
	a := `{"target":"a.test:80","attempts":10,"failures":9,"failure_rate":0.9,"proxies_failing":0,"suspect":false,` +
		`"last_failure":"2026-11-28T12:00:00Z","nodes":[` +
		`{"node":"a","attempts":10,"failures":9,"proxies_failing":0,"suspect":false,` +
		`"last_failure":"2026-11-28T12:00:00Z"}]}`
	targets := func(list, total, next string) string {
		return strings.Replace(breakers(list, total, next), "breakers", "targets", 1)
	}
	r.check(t,
		get("/cluster/targets", 200, targets(b+","+a, "2", "null")),
		get("/cluster/targets?sort=-failure_rate&limit=1", 200, targets(a, "2", `"1"`)),
		get("/cluster/targets?q=B.t", 200, targets(b, "1", "null")),
	)
	var raw string
	c := r.clientOf(t, &raw)
	byProxy, err := c.ClusterBreakers(t.Context(), client.List{})
	require.NoError(t, err)
	requireSameFields(t, raw, byProxy, "ClusterBreakers")
	byTarget, err := c.ClusterTargets(t.Context(), client.List{})
	require.NoError(t, err)
	requireSameFields(t, raw, byTarget, "ClusterTargets")
}
