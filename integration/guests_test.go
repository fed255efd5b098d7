package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// latencies has the latencies of requests through the gateway and of its own endpoints, measured while
// something else runs.
type latencies struct {
	requests int
	p99      time.Duration // 99th percentile of the requests' latencies
	healthz  time.Duration // the longest latency of /healthz
	resident int           // resident memory at the end, MiB
}

func (l latencies) String() string {
	return fmt.Sprintf("%d requests, p99 %v, slowest /healthz %v, %d MiB", l.requests, l.p99, l.healthz, l.resident)
}

// leastMeasured is the minimum number of requests of a measurement. About 15 requests wait for a slow plugin before
// it is quarantined. On a loaded machine these are most of the requests of two seconds, but less than 1 % of
// leastMeasured.
const leastMeasured = 3000

// measureLatencies sends requests for the given time and, if these are fewer than leastMeasured, for longer. During
// that time it calls the function beside repeatedly.
func (w *whirl) measureLatencies(long time.Duration, beside func()) latencies {
	begun := time.Now()
	var mu sync.Mutex
	var all []time.Duration
	var l latencies
	var wg sync.WaitGroup
	goesOn := func() bool {
		mu.Lock()
		defer mu.Unlock()
		took := time.Since(begun)
		return took < long || len(all) < leastMeasured && took < eventTimeout
	}
	for range 4 {
		wg.Go(func() {
			for goesOn() {
				a := w.get()
				if a.status != 200 {
					w.t.Error(a.status, a.err)
				}
				mu.Lock()
				all = append(all, a.duration)
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for goesOn() {
			begin := time.Now()
			r, err := http.Get("http://" + w.api + "/healthz")
			if err != nil {
				w.t.Error(err)
				return
			}
			r.Body.Close()
			l.healthz = max(l.healthz, time.Since(begin))
			time.Sleep(5 * time.Millisecond)
		}
	})
	for beside != nil && goesOn() {
		beside()
	}
	wg.Wait()
	slices.Sort(all)
	l.requests, l.p99, l.resident = len(all), all[len(all)*99/100], w.resident()>>10
	return l
}

// The upload and the use of a module do not slow down other requests and do not need much memory, however the module
// uses its fuel.
func TestAHostileModuleDelaysNoRequest(t *testing.T) {
	upload := func(w *whirl, want int, m *wt.Module) {
		status, body := w.upload("POST", "hostile", m.Bytes())
		require.Equal(t, want, status, body)
	}
	activate := func(w *whirl) {
		status, raw, _ := w.call("POST", "/plugins/hostile/activate", `{"for":"first"}`)
		require.Equal(t, 200, status, string(raw))
	}
	for name, c := range map[string]struct {
		before func(w *whirl)
		beside func(w *whirl)
		memory int // memory that the module may use, MiB: 16 in each of 16 instances (sdk/ABI.md, 7)
	}{
		"uploads whose start is slow": {beside: func(w *whirl) { upload(w, 422, wt.SlowStart()) }},
		"a slow scorer in use": {
			before: func(w *whirl) { upload(w, 201, wt.SlowScorer()); activate(w) },
			memory: 16 * 16,
		},
		"uploads that recurse": {beside: func(w *whirl) {
			upload(w, 201, wt.DeepScorer(10_000))
			w.call("DELETE", "/plugins/hostile", "")
		}},
		"a scorer in use that recurses": {before: func(w *whirl) {
			upload(w, 201,
				wt.DeepScorer(10_000))
			activate(w)
		}},
		"uploads that are slow to compile": {beside: func(w *whirl) {
			upload(w, 201, wt.SlowToCompile())
			w.call("DELETE", "/plugins/hostile", "")
		}},
		"a slow learner that nobody uses": {
			before: func(w *whirl) { upload(w, 201, wt.SlowLearner()) },
			memory: 16,
		},
		"twenty idle modules that recursed": {before: func(w *whirl) {
			for i := range 20 {
				status, body := w.upload("POST", fmt.Sprint("hostile", i), wt.DeepScorer(10_000).Bytes())
				require.Equal(t, 201, status, body)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, 3, confK)
			w.measureLatencies(time.Second, nil) // warm-up
			alone := w.measureLatencies(2*time.Second, nil)
			if c.before != nil {
				c.before(w)
			}
			var beside func()
			if c.beside != nil {
				beside = func() { c.beside(w) }
			}
			begin := time.Now()
			attacked := w.measureLatencies(2*time.Second, beside)
			t.Logf("alone:    %v", alone)
			t.Logf("attacked: %v", attacked)
			late := tolerance(begin) // 60 ms on an idle machine
			require.Less(t, attacked.p99, 2*alone.p99+late/6)
			require.Less(t, attacked.healthz, 2*alone.healthz+40*time.Millisecond+late)
			require.Less(t, attacked.resident, alone.resident+64+c.memory)
		})
	}
}

// A module that is slow to compile does not delay other modules: a small module that is uploaded later is ready
// earlier. The state of an upload can be read, even if no client waits for it.
func TestSmallUploadsPassSlowOnes(t *testing.T) {
	w := start(t, 1, confK)
	var states []string
	for i := range 3 {
		slow := string(wt.SlowToCompile().Bytes())
		status, raw, h := w.call("POST", fmt.Sprintf("/plugins?name=slow%d", i), slow, "Content-Type",
			"application/wasm",
			"Prefer", "respond-async")
		require.Equal(t, 202, status, string(raw))
		states = append(states, strings.TrimPrefix(h.Get("Location"), "/api/v1"))
	}
	status, body := w.upload("POST", "small", wt.Scorer(wt.Scores(1)...).Bytes())
	require.Equal(t, 201, status, body)
	require.Equal(t, "checking", w.getJSON(states[2])["state"])
	for i, path := range states {
		eventually(t, "the slow ones serve as well", func() bool { return w.getJSON(path)["state"] == "done" })
		require.Equal(t, "ready", w.getJSON(fmt.Sprintf("/plugins/slow%d", i))["state"])
	}
}
