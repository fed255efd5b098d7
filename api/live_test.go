package api

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/eventstream"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
)

// A client that asks for live events gets the whole state first, and then the changes. While nothing changes, it gets
// only heartbeats.
func TestLiveEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := r.listen(t, "?type=policy,views,status,totals")
		require.Equal(t, "event: views\ndata: "+`{"changed":["proxies","requests","targets","transitions","history",`+
			`"plugins","policy","config","cluster","audit"]}`, c.block())
		require.Contains(t, c.block(), "event: status\ndata: {\"summary\":\"both proxies work; ")
		require.Regexp(t, `^event: totals\ndata: {"at":"2000-01-01T00:00:0[^"]*Z","total_requests":0,`, c.block())
		begun := time.Now()
		require.Equal(t, ": heartbeat", c.block())
		require.Equal(t, heartbeatInterval, time.Since(begun))

		change := func(make func(), want string) {
			t.Helper()
			synctest.Wait()
			make()
			r.cfg.Events.PluginLine("mine", output.Line{}) // wakes the server after the change
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
		change(func() { r.check(t, call("PUT", "/retry/policy", `{"max_attempts":2}`, 200)) }, `"policy","audit"`)
		change(func() { r.cfg.Events.ConfigReloaded(r.reload) }, `"history","config"`)
		c.conn.Close()
		<-c.ended
	})
}

// Clients share a state, and a client that does not read delays no other client.
func TestClientsOfLiveEventsShareAState(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		l := r.newLive()
		all := func(string) bool { return true }
		first := l.nextState(all, liveState{})
		require.Equal(t, first, l.nextState(all, first))
		require.Same(t, first.versions, l.nextState(all, first).versions)
		time.Sleep(liveMaxAge)
		second := l.nextState(all, first)
		require.NotSame(t, first.versions, second.versions)
		require.Equal(t, first.versions.value, second.versions.value)

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

// A client that misses events stays connected if it also gets the state. Other clients that miss events are
// disconnected.
func TestAClientOfLiveEventsMissesEvents(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, nil)
		// The server waits until a client has read its first live event or, without live events, its first event.
		both, state := r.listen(t, "?type=activation,views"), r.listen(t, "?type=views")
		neither := r.listen(t, "?type=activation")
		synctest.Wait()
		r.activate("begin")
		synctest.Wait()
		for range 3 * eventstream.MaxEvents {
			r.activate("x")
		}
		require.Contains(t, neither.block(), `"begin"`)
		require.Equal(t, "EOF", neither.block())
		<-neither.ended
		for _, c := range []*eventClient{both, state} {
			require.Contains(t, c.block(), "event: views")
		}
		require.Equal(t, "event: lost\ndata: {\"events\":2001}", both.block())
		for range eventstream.MaxEvents {
			require.Contains(t, both.block(), `"x"`)
		}
		for _, c := range []*eventClient{both, state} {
			require.Equal(t, "event: views\ndata: {\"changed\":[\"history\"]}", c.block())
			c.conn.Close()
			<-c.ended
		}
	})
}

// The server computes only those parts of the state that clients ask for.
func TestOnlyWantedLiveEventsAreComputed(t *testing.T) {
	l := newRig(t, nil).newLive()
	for _, wanted := range []string{eventStatus, eventTotals} {
		l.nextState(func(eventType string) bool { return eventType == wanted }, liveState{})
	}
	require.Nil(t, l.versions.latest.Load())
	l.nextState(func(eventType string) bool { return eventType == eventViews }, liveState{})
	require.NotNil(t, l.versions.latest.Load())
}

// While a value is computed, clients that have an earlier value do not wait; new clients wait.
func TestClientsDoNotWaitForASlowView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var values int
		slow := make(chan struct{})
		s := sharedValue[int]{compute: func() int {
			if values++; values == 2 {
				<-slow
			}
			return values
		}}
		first := s.next(nil)
		time.Sleep(liveMaxAge)
		go s.next(first)
		synctest.Wait()
		require.Same(t, first, s.next(first))
		newcomer := make(chan *computedValue[int])
		go func() { newcomer <- s.next(nil) }()
		for range 1000 { // synctest.Wait does not wait for a goroutine that waits for a mutex
			runtime.Gosched()
		}
		select {
		case c := <-newcomer:
			require.Fail(t, "a new client has not waited", "it has the value %d", c.value)
		default:
		}
		close(slow)
		require.Equal(t, 2, (<-newcomer).value)
		require.Equal(t, 2, s.next(first).value)
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
		l.versions.get(0)
	}
}

func (r *rig) newLive() *live {
	lists := &poolLists{pool: r.pool, bannedUntil: r.engine.BannedUntil, metrics: r.metrics}
	status := &statusHandler{lists: lists, metrics: r.metrics, tracker: r.tracker, now: r.cfg.Now}
	return newLive(&r.cfg, status, &metricsHandler{metrics: r.metrics},
		&pluginHandler{registry: r.plugins, uses: &pluginUses{engine: r.engine, policies: r.policies}},
		&clusterHandler{}, r.audit)
}
