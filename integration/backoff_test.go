package integration

import (
	"encoding/json"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// retryDelays makes n simultaneous requests with POST /request. It returns the waits before all their retries, in
// seconds.
func (w *whirl) retryDelays(n int) []float64 {
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, body, _ := w.call("POST", "/request", `{"url":"http://origin.test/"}`)
			var a struct {
				Attempts []struct {
					Attempt     int
					DelayBefore float64 `json:"delay_before"`
				}
			}
			if err := json.Unmarshal(body, &a); err != nil {
				w.t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, x := range a.Attempts {
				if x.Attempt > 0 {
					all = append(all, x.DelayBefore)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

// Delays with jitter are uniform in [d/2, min(3d/2, cap)]. No delay is outside this range, and a delay equal to the
// cap is not more frequent than others.
func TestS17Jitter(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK)
	w.setAll(lab.Status(503))
	for policy, want := range map[string][2]float64{
		`{"jitter":true,"base_delay":0.2,"max_attempts":2}`:                       {0.1, 0.3},
		`{"jitter":true,"base_delay":0.8,"max_backoff_delay":1,"max_attempts":2}`: {0.4, 1},
		`{"jitter":true,"base_delay":60,"backoff_strategy":"exponential","multiplier":10,"max_backoff_delay":1,` +
			`"max_attempts":2}`: {0.5, 1},
		`{"jitter":true,"base_delay":0.5,"backoff_strategy":"linear","max_backoff_delay":1,"max_attempts":2}`: {0.25,
			0.75},
	} {
		w.putPolicy(policy)
		d := w.retryDelays(600)
		require.Len(t, d, 600)
		low, high := want[0], want[1]
		require.GreaterOrEqual(t, d[0], low, policy)
		require.LessOrEqual(t, d[599], high, policy)
		// Kolmogorov-Smirnov test: a correct implementation exceeds 3/sqrt(n) 3 times in a hundred million
		// (2*exp(-2*3*3)).
		worst := 0.0
		for i, x := range d {
			u := (x - low) / (high - low)
			worst = max(worst, math.Abs(u-float64(i)/600), math.Abs(u-float64(i+1)/600))
		}
		require.Less(t, worst, 0.123, "%s: not even between %v and %v", policy, low, high)
	}
}

// A wait that would use up the total timeout does not begin (edge case E3 of the specification). The request ends
// immediately, with the last response or a 504.
func TestS22NoWaitBeyondTheTotalTimeout(t *testing.T) {
	t.Parallel()
	w := start(t, 3, confK)
	quick := func(b lab.Behaviour, status int, policy string) {
		t.Helper()
		w.putPolicy(`{"timeout":null,"failover_delay":null,"base_delay":0.1,"backoff_strategy":"fixed"}`)
		w.putPolicy(policy)
		w.clearArrivals()
		w.setAll(b)
		a := w.get()
		require.Equal(t, status, a.status)
		require.Equal(t, "timeout", a.outcome())
		require.Equal(t, "1", a.attempts())
		require.Equal(t, 1, w.arrivals())
		require.Less(t, a.duration, 10*time.Second+tolerance(a.sentAt), "the wait would take 20 s")
	}
	quick(lab.Behaviour{Status: 503, Body: "B"}, 503, `{"timeout":30,"base_delay":30}`) // an equal wait is too long
	quick(lab.Status(503), 503, `{"timeout":20,"base_delay":60}`)
	// Without failover_delay there is no wait.
	quick(lab.Behaviour{Fin: true}, 504, `{"timeout":20,"failover_delay":20}`)
	quick(lab.Behaviour{Status: 503, Header: map[string][]string{"Retry-After": {"25"}}}, 503, `{"timeout":20}`)
	w.clearArrivals()
	w.putPolicy(`{"timeout":60,"failover_delay":null,"base_delay":0.4}`)
	w.setAll(lab.Status(503))
	a := w.get()
	require.Equal(t, "3", a.attempts(), "two waits of 0.4 s fit into 60 s")
	require.Equal(t, "exhausted", a.outcome())
	w.stop()
	w.awaitRetryRecords(2) // the log has no record of retries that were not made
}
