package api

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
)

// A client that asks for live events gets the whole state first, and then what has changed. While nothing changes, it
// gets only heartbeats.
func TestLiveEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.listen(t, "?type=policy,views,status,totals")
		require.Equal(t, "event: views\ndata: "+`{"changed":["proxies","requests","targets","transitions","history",`+
			`"plugins","policy","config","cluster"]}`, c.block())
		require.Contains(t, c.block(), "event: status\ndata: {\"summary\":\"all 2 proxies work; ")
		require.Regexp(t, `^event: totals\ndata: {"at":"2000-01-01T00:00:0[^"]*Z","total_requests":0,`, c.block())
		begun := time.Now()
		require.Equal(t, ": heartbeat", c.block())
		require.Equal(t, heartbeatInterval, time.Since(begun))

		change := func(make func(), want string) {
			t.Helper()
			synctest.Wait()
			make()
			r.cfg.Events.PluginLine("mine", output.Line{}) // orders the change before the server's next look
			begun := time.Now()
			require.Equal(t, "event: views\ndata: {\"changed\":["+want+"]}", c.block())
			require.LessOrEqual(t, time.Since(begun), liveInterval+liveMaxAge)
		}
		change(func() { require.NoError(t, r.pool.Remove("F2", false)) }, `"proxies"`)
		require.Contains(t, c.block(), "event: status\ndata: {\"summary\":\"the proxy works; ")
		change(func() { r.trip("F1") }, `"proxies"`)
		require.Contains(t, c.block(), `"open":1`)
		change(func() { r.tracker.list = []metrics.Request{{ID: 1, State: metrics.StateAttempting}} },
			`"proxies","requests"`)
		change(func() { r.tracker.list[0].State = metrics.StateWaiting }, `"proxies","requests"`)
		change(func() { r.metrics.summary.Requests++ }, `"proxies","requests","history"`)
		require.Contains(t, c.block(), `Z","total_requests":1,`)
		change(func() { r.activate("random") }, `"history"`)
		change(func() { r.check(t, call("PUT", "/retry/policy", `{"max_attempts":2}`, 200)) }, `"policy"`)
		change(func() { r.cfg.Events.ConfigReloaded(r.reload) }, `"history","config"`)
		c.conn.Close()
		<-c.ended
	})
}

// Clients share a state, and a client that does not read holds nobody up.
func TestClientsOfLiveEventsShareAState(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		l := r.newLive()
		first := l.state()
		require.Same(t, first, l.state())
		time.Sleep(liveMaxAge)
		require.NotSame(t, first, l.state())
		require.Equal(t, first.versions, l.state().versions)

		stalled := r.listen(t, "?type=views")
		c := r.listen(t, "?type=views")
		require.Contains(t, c.block(), "event: views")
		begun := time.Now()
		require.NoError(t, r.pool.Remove("F2", false))
		require.Contains(t, c.block(), `{"changed":["proxies"]}`)
		require.LessOrEqual(t, time.Since(begun), liveInterval+liveMaxAge)
		require.Error(t, <-stalled.ended, "it has not read for eventWriteTimeout")
		c.conn.Close()
		<-c.ended
	})
}

// BenchmarkLive computes the state for live events, with 50,000 proxies.
func BenchmarkLive(b *testing.B) {
	r := newRig(b, nil)
	specs := make([]upstream.Spec, 50_000)
	for i := range specs {
		specs[i] = proxySpec(b, fmt.Sprint("p", i), fmt.Sprintf("http://p%d.test:8080", i))
	}
	require.NoError(b, r.pool.Apply(specs))
	l := r.newLive()
	b.ReportAllocs()
	for b.Loop() {
		l.latest = nil
		l.state()
	}
}

func (r *rig) newLive() *live {
	lists := &poolLists{pool: r.pool, bannedUntil: r.engine.BannedUntil, metrics: r.metrics}
	return newLive(&r.cfg, &statusHandler{lists: lists, metrics: r.metrics}, &metricsHandler{metrics: r.metrics},
		&pluginHandler{registry: r.plugins, uses: &pluginUses{engine: r.engine, policies: r.policies}},
		&clusterHandler{})
}
