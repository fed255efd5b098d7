package api

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// fullRecorder returns a recorder with data of 24 hours and 1,000 proxies, and with 12,000 transitions.
func fullRecorder() *metrics.Recorder {
	r := metrics.New(metrics.Config{Now: func() time.Time { return noon }})
	for i := range 24 * 60 {
		at := noon.Add(time.Duration(i-24*60+1) * time.Minute)
		for p := i % 60; p < 1000; p += 60 { // each proxy once an hour
			id := fmt.Sprintf("proxy-%d.example.net:3128", p)
			r.Attempt(&core.AttemptEvent{ProxyID: id, Started: at.Add(-time.Second), Ended: at,
				Outcome: core.Outcome{Result: core.ResultSuccess, Status: 200}})
			r.Request(&core.RequestEvent{Attempts: 1, Started: at.Add(-time.Second), Ended: at,
				Final: core.FinalSuccess, Delivered: true, PolicyHash: "h"})
			if p%2 == 0 {
				r.Transition(core.Transition{ProxyID: id, To: core.Open, At: at, Reason: "threshold"})
			}
		}
	}
	return r
}

// The benchmark measures queries of a full recorder, while another goroutine records 5,000 attempts a second
// (requirement N3). The time is that of a whole request to the API.
func BenchmarkQuery(b *testing.B) {
	recorder := fullRecorder()
	r := newRig(b, func(_ *rig, cfg *Config) { cfg.Metrics = recorder })
	for _, path := range []string{
		"/metrics/retries", "/metrics/retries/timeseries", "/metrics/retries/by-proxy", "/circuit-breakers/metrics",
	} {
		b.Run(path[1:], func(b *testing.B) {
			stop := make(chan struct{})
			var writer sync.WaitGroup
			writer.Go(func() { recordUntil(stop, recorder) })
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				begin := time.Now()
				response, _ := r.send(b, "GET", "/api/v1"+path, "")
				took = append(took, time.Since(begin))
				require.Equal(b, 200, response.StatusCode)
			}
			close(stop)
			writer.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

// recordUntil records 5,000 attempts a second.
func recordUntil(stop <-chan struct{}, r *metrics.Recorder) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	a := core.AttemptEvent{ProxyID: "proxy-1.example.net:3128", Started: noon, Ended: noon,
		Outcome: core.Outcome{Result: core.ResultSuccess, Status: 200}}
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			for range 50 {
				r.Attempt(&a)
			}
		}
	}
}

// BenchmarkLists measures lists of a pool of 10,000 proxies, of which 1 in 27 fails.
func BenchmarkLists(b *testing.B) {
	const proxies = 10_000
	recorder := metrics.New(metrics.Config{Now: func() time.Time { return noon }})
	r := newRig(b, func(r *rig, cfg *Config) {
		specs := make([]upstream.Spec, proxies)
		for i := range specs {
			specs[i] = proxySpec(b, fmt.Sprintf("proxy-%d", i), fmt.Sprintf("http://proxy-%d.example.net:3128", i))
			a := core.AttemptEvent{ProxyID: specs[i].ID, Host: "shop.example", Started: noon, Ended: noon,
				Outcome: core.Outcome{Result: core.ResultSuccess, Cause: verdict.Answered, Status: 200}}
			if i%27 == 0 {
				a.Outcome.Status = 403
			}
			recorder.Attempt(&a)
		}
		require.NoError(b, r.pool.Apply(specs))
		cfg.Metrics = recorder
	})
	for _, path := range []string{
		"/proxies?limit=50", "/proxies?sort=-uses&limit=50", "/proxies?sort=-avg_latency&limit=50&cursor=200",
		"/proxies?state=failing&limit=50", "/circuit-breakers?state=failing&limit=50", "/status",
	} {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				response, _ := r.send(b, "GET", "/api/v1"+path, "")
				require.Equal(b, 200, response.StatusCode)
			}
		})
	}
}
