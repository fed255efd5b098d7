package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/parts"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

type fakeCluster struct {
	status  cluster.Status
	problem string
	resets  []string
}

func (f *fakeCluster) Status() cluster.Status          { return f.status }
func (f *fakeCluster) Alone() (bool, string)           { return f.problem != "", f.problem }
func (f *fakeCluster) ResetProxy(u *upstream.Upstream) { f.resets = append(f.resets, u.ID()) }

func TestClusterEndpoint(t *testing.T) {
	f := &fakeCluster{status: cluster.Status{
		Name: "whirlpool", Node: "a", Since: noon, Lag: 50 * time.Millisecond, Took: 2 * time.Millisecond, Open: 1,
		Nodes: []cluster.NodeStatus{
			{Node: "a", Version: "v1", Address: "127.0.0.1:8889", Self: true, Live: true, Started: noon,
				Load: cluster.Load{Tried: 2, Requests: 10, Delivered: 8, Refused: 1, Proxies: 3, InService: 2}},
			{Node: "b", Version: "v1", Address: "127.0.0.2:8889", Live: true, Isolated: true, Started: noon,
				Load: cluster.Load{Requests: 5, Delivered: 5}},
			{Node: "c", Version: "v1", Started: noon, Seen: 6 * time.Second, Alone: 3,
				Load: cluster.Load{Requests: 100, Uploads: 1}},
		},
		Suspects: []cluster.SuspectStatus{{Target: "shop.test:443", Nodes: []string{"a", "b"}}},
		Breakers: []cluster.BreakerStatus{{Proxy: "F@1@0000abcd", Due: noon, Why: "fails", Nodes: []string{"a", "c"}}},
		Changes:  []cluster.ChangeStatus{{Key: "policy", Revision: 7, At: noon}},
		Uploads: []cluster.UploadStatus{{Name: "mine", SHA256: "ab", Size: 9, State: "ready"},
			{Name: "other", Deleted: true, State: "failed", Problem: "in use"}},
		SharesLimits: true, Limits: []cluster.LimitStatus{
			{Key: "proxy/rate/F/1@0000abcd", Kind: parts.Rate, Limit: 10_500_000_000, Part: 500_000_000, Short: true},
			{Key: "user/requests_per_day/a/b", Kind: parts.Daily, Limit: 100, Used: 40, Here: 10, Part: 16},
		},
	}}
	r := newRig(t, func(_ *rig, c *Config) { c.Cluster, c.Store = f, "redis://h:6379" })
	r.check(t, get("/cluster", 200, `{"enabled":true,"name":"whirlpool","node":"a",`+
		`"store":{"url":"redis://h:6379","state":"connected","since":"2026-11-28T12:00:00Z","lag":0.05,`+
		`"last_exchange":0.002,"waiting":0,"dropped":0},`+
		`"nodes":[{"node":"a","self":true,"state":"live","version":"v1","address":"127.0.0.1:8889",`+
		`"started":"2026-11-28T12:00:00Z","seen":0,"tried_proxies":2,"times_alone":0,"failed_uploads":0,`+
		`"requests":{"window":300,"total":10,"delivered":8,"target_refused":1},"proxies":{"total":3,"in_service":2}},`+
		`{"node":"b","self":false,"state":"isolated","version":"v1","address":"127.0.0.2:8889",`+
		`"started":"2026-11-28T12:00:00Z","seen":0,"tried_proxies":0,"times_alone":0,"failed_uploads":0,`+
		`"requests":{"window":300,"total":5,"delivered":5,"target_refused":0},"proxies":{"total":0,"in_service":0}},`+
		`{"node":"c","self":false,"state":"gone","version":"v1","address":"","started":"2026-11-28T12:00:00Z",`+
		`"seen":6,"tried_proxies":0,"times_alone":3,"failed_uploads":1,`+
		`"requests":{"window":300,"total":100,"delivered":0,"target_refused":0},`+
		`"proxies":{"total":0,"in_service":0}}],"open_breakers":1,`+
		`"breakers":[{"proxy_id":"F@1","next_test_time":"2026-11-28T12:00:00Z","why":"fails","nodes":["a","c"],`+
		`"probing":false}],"changes":[{"key":"policy","revision":7,"at":"2026-11-28T12:00:00Z","shared":true}],`+
		`"requests":{"window":300,"total":15,"delivered":13,"target_refused":1},`+
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
			`"requests":{"window":300,"total":15,"delivered":13,"target_refused":1}}`, string(v.Cluster))
		require.True(t, strings.HasSuffix(v.Summary, "minutes"+more), v.Summary)
	}
	status("live", "")
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
