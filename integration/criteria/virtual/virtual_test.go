package virtual

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

var (
	out   = flag.String("out", "", "run the jobs of the criteria and write their outcomes to this file")
	file  = flag.String("koanf", "../../../koanf.toml", "the gateway's configuration")
	seed  = flag.Uint64("seed", 1, "of the workloads")
	scale = flag.Float64("scale", 1, "multiplies the number of requests")
)

// shipped returns the configuration in koanf.toml.
func shipped(t *testing.T) engine.Config {
	cfg, err := config.Load(config.Source{File: *file})
	require.NoError(t, err)
	return cfg.Engine()
}

// TestJobs is the part of `make criteria` that runs in virtual time. The command criteria starts it. Each
// line "done: ..." of its output reports a finished run.
func TestJobs(t *testing.T) {
	if *out == "" {
		t.Skip("run by integration/criteria")
	}
	f, err := os.Create(*out)
	require.NoError(t, err)
	defer f.Close()
	var mu sync.Mutex // guards f
	cache, cfg := t.TempDir(), shipped(t)
	t.Run("all", func(t *testing.T) {
		for _, job := range workload.Jobs(workload.New(*seed, *scale)) {
			for _, variant := range job.Variants {
				t.Run(job.Workload.Name+", "+variant, func(t *testing.T) {
					t.Parallel()
					o := play(t, cfg, cache, job.Workload, variant)
					mu.Lock()
					defer mu.Unlock()
					require.NoError(t, json.NewEncoder(f).Encode(o))
					fmt.Printf("done: %s, %s\n", job.Workload.Name, variant)
				})
			}
		}
	})
}

// play runs a workload with a variant, with the observer or with the oracle.
func play(t *testing.T, cfg engine.Config, cache string, w *workload.Workload, variant string) *workload.Outcome {
	switch variant {
	case workload.ObserverName:
		return w.Observer(cfg.Retry.MaxAttempts)
	case workload.OracleName:
		return w.Oracle(cfg.Retry.MaxAttempts)
	}
	all := workload.Variants()
	v := all[slices.IndexFunc(all, func(v workload.Variant) bool { return v.Name == variant })]
	v.Change(&cfg)
	o := Run(t, cfg, cache, w)
	o.Variant = variant
	return o
}

var catalog = workload.New(1, 0.1)

func TestAHealthyPoolServesAll(t *testing.T) {
	w := catalog.Noise(0, 100)
	o := Run(t, shipped(t), t.TempDir(), w)
	require.Equal(t, w.Requests, o.ServedCount())
	require.Equal(t, w.Requests, o.AttemptCount())
	require.Zero(t, o.BadAttempts+o.LateAttempts+o.Openings)
	require.Zero(t, o.HealthyExcluded)
	require.True(t, o.Reconciled)
}

// Without retries, the number of failed requests depends only on the workload's luck, and not on the choice
// of proxies.
func TestASingleAttemptHasTheWorkloadsLuck(t *testing.T) {
	w := catalog.Noise(0.3, 100)
	lucky := 0
	for id := range w.Requests {
		if w.Luck(id, 0) >= 0.3 {
			lucky++
		}
	}
	require.Equal(t, lucky, play(t, shipped(t), t.TempDir(), w, workload.Single).ServedCount())
	require.Equal(t, lucky, w.Oracle(1).ServedCount())
}

func TestADeadProxyIsExcluded(t *testing.T) {
	w := catalog.Noise(0, 50)
	w.Requests = 1500
	w.Pool = slices.Clone(w.Pool)
	w.Pool[3] = faults.SwitchingProxy(faults.State{}, faults.State{Fails: 1}, w.Duration()/3)
	o := Run(t, shipped(t), t.TempDir(), w)
	require.Equal(t, w.Requests, o.ServedCount())
	require.Len(t, o.ExclusionTimes, 1)
	require.Positive(t, o.ExclusionTimes[0])
	require.Less(t, o.BreachDelays[0], o.ExclusionTimes[0])
	require.GreaterOrEqual(t, o.BadAttempts, 5, "the breaker's threshold")
	require.Positive(t, o.Openings)
	require.Zero(t, o.LateAttempts)
	require.True(t, o.Reconciled)
}

// Proxies that hang or refuse connections cost time, but every request that may be retried is served.
func TestRefusingAndHangingProxies(t *testing.T) {
	for _, w := range catalog.WaitWorkloads() {
		o := Run(t, shipped(t), t.TempDir(), w)
		require.Greater(t, o.ServedCount(), w.Requests*99/100, w.Name)
		require.True(t, o.Reconciled, w.Name)
	}
}

// A target bans five of eight proxies, and later the other three instead. Until the gateway has found that the five
// are served again, few requests are lost. A request is lost only if the target refuses it through all three banned
// proxies.
func TestATargetThatBansOtherProxies(t *testing.T) {
	w := catalog.Noise(0, 50)
	w.Requests = 3000
	w.Pool = slices.Clone(w.Pool)
	const second = time.Second
	for i := range w.Pool {
		span := faults.Span{From: 10 * second, To: 30 * second}
		if i >= 5 {
			span = faults.Span{From: 30 * second, To: 50 * second}
		}
		w.Pool[i].Bans = map[int][]faults.Span{0: {span}}
	}
	o := Run(t, shipped(t), t.TempDir(), w)
	require.GreaterOrEqual(t, o.ServedCount(), w.Requests-10)
	require.True(t, o.Reconciled)
}

// A target bans 90 of 100 proxies, and is down for 0.4 s several times. When it is back, requests go to the ten proxies
// that it serves, and few are lost. (200 were lost when a first attempt could use every proxy.)
func TestATargetThatBansMostProxiesFailsForAShortTime(t *testing.T) {
	w := catalog.Noise(0, 50)
	w.Requests = 6000
	const second = time.Second
	var down []faults.Span
	for at := 70 * second; at < 115*second; at += 5 * second {
		down = append(down, faults.Span{From: at, To: at + 400*time.Millisecond})
	}
	model := w.Pool[0]
	w.Pool = nil
	for i := range 100 {
		p := model
		p.Bans = map[int][]faults.Span{0: down}
		if i >= 10 {
			p.Bans = map[int][]faults.Span{0: {{From: 10 * second, To: 200 * second}}}
		}
		w.Pool = append(w.Pool, p)
	}
	o := Run(t, shipped(t), t.TempDir(), w)
	require.GreaterOrEqual(t, o.ServedCount(), w.Requests-140, "about 30 arrive while the target is down")
	require.True(t, o.Reconciled)
}

// A proxy fails for a short time, so its breaker opens. Then a target bans all other proxies, one after the other. Few
// requests are lost, because a retry soon probes the open breaker. (125 were lost before.)
func TestATargetThatServesOnlyAProxyWithAnOpenBreaker(t *testing.T) {
	w := catalog.Noise(0, 50)
	w.Requests = 2000
	w.Pool = slices.Clone(w.Pool)
	const second = time.Second
	for i := range w.Pool {
		from := 14*second + time.Duration(i)*second
		w.Pool[i].Bans = map[int][]faults.Span{0: {{From: from, To: 35 * second}}}
	}
	outage := faults.Span{From: 10 * second, To: 14 * second}
	w.Pool[7] = faults.BurstyProxy(faults.State{}, faults.State{Fails: 1}, []faults.Span{outage})
	o := Run(t, shipped(t), t.TempDir(), w)
	require.Positive(t, o.Openings)
	require.GreaterOrEqual(t, o.ServedCount(), w.Requests-20)
	require.True(t, o.Reconciled)
}

// In every variant, the gateway, the proxies and the clients count the same.
func TestVariants(t *testing.T) {
	w, cache := catalog.DeadProxies(), t.TempDir()
	for _, v := range workload.Variants() {
		o := play(t, shipped(t), cache, w, v.Name)
		require.True(t, o.Reconciled, v.Name)
		require.Greater(t, o.ServedCount(), w.Requests*6/10, v.Name)
		require.GreaterOrEqual(t, o.AttemptCount(), w.Requests, v.Name)
	}
}

func TestTheSameSeedGivesTheSameOutcome(t *testing.T) {
	w := workload.Kinds()[1].Make(catalog, 0.2)
	require.Equal(t, Run(t, shipped(t), t.TempDir(), w), Run(t, shipped(t), t.TempDir(), w))
}

// A target is down for half a second several times. Retries wait for it, except those of the first request of each
// outage: just before, the target served all proxies. (46 were lost when no retry waited.)
func TestATargetThatIsDownForAShortTime(t *testing.T) {
	w := catalog.Noise(0, 10)
	w.Requests, w.Targets = 1200, 2
	w.Pool = slices.Clone(w.Pool)
	const second = time.Second
	var down []faults.Span
	for at := 10 * second; at < 110*second; at += 5 * second {
		down = append(down, faults.Span{From: at, To: at + second/2})
	}
	for i := range w.Pool {
		w.Pool[i].Bans = map[int][]faults.Span{0: down}
	}
	o := Run(t, shipped(t), t.TempDir(), w)
	require.GreaterOrEqual(t, o.ServedCount(), w.Requests-len(down))
	require.True(t, o.Reconciled)
}
