package engine_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// All operations on a running engine happen at the same time. Each request gets its response and is counted
// once. At the end all resources are released.
func TestEverythingAtOnce(t *testing.T) {
	var arrivals atomic.Uint64
	cfg := engine.DefaultConfig()
	cfg.Retry.BaseDelay, cfg.Budget.Ratio, cfg.AttemptTimeout = 0.1, 1, 30*time.Second
	for range 3 {
		_, at := through(t, func(w http.ResponseWriter, r *http.Request) {
			arrivals.Add(1)
			echo(w, r)
		})
		address, err := upstream.ParseAddress("http://" + at.address)
		require.NoError(t, err)
		cfg.Proxies = append(cfg.Proxies, upstream.Spec{Address: address})
	}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}, Observe: func(*core.Observation) {}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())

	var requests sync.WaitGroup
	var stops []func()
	always := func(f func(i int)) {
		n := -1
		stops = append(stops, coretest.RunConcurrently(1, func(int) { n++; f(n) }))
	}
	may := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	const clients, each = 6, 150
	client := &http.Client{Transport: e.Transport()}
	for c := range clients {
		requests.Go(func() {
			for i := range each {
				want := strconv.Itoa(c*each + i)
				q, _ := http.NewRequest("PUT", "http://a.test/", strings.NewReader(want))
				if i%3 == 0 {
					q.Header.Set("X-Whirlpool-Retry", "max_attempts=4")
				}
				r, err := client.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(r.Body)
				r.Body.Close()
				if err != nil || string(got) != "PUT a.test "+want {
					t.Errorf("%q: %q, %v", want, got, err)
				}
			}
		})
	}
	always(func(i int) { // one proxy is removed and added again; the others stay
		next := cfg
		next.Proxies = cfg.Proxies[:2+i%2]
		next.Retry.MaxAttempts, next.Literal = 3+i%3, i%2 == 0
		may(e.Reload(next, rotation{}))
	})
	always(func(i int) { may(e.Activate("a", "b")) })
	always(func(i int) {
		added, err := e.Pool().Add([]upstream.Spec{{ID: "more", Address: cfg.Proxies[0].Address,
			Source: upstream.SourceAPI}})
		may(err)
		if err == nil {
			may(e.Pool().Remove(added[0].ID(), i%2 == 0))
		}
		for err == nil && e.Pool().Snapshot().Get("more") != nil { // while it drains
			time.Sleep(time.Millisecond)
		}
	})
	always(func(i int) {
		_, err := e.Policies().Put(func(p retry.Policy) (retry.Policy, error) {
			p.MaxAttempts = 2 + i%3
			return p, p.Validate(e.HasBackoff)
		})
		may(err)
	})
	always(func(i int) {
		for _, u := range e.Pool().Snapshot().All {
			u.Breaker().Reset()
			u.Stats()
		}
		e.Metrics().Summary()
		e.Metrics().ByProxy(24)
		e.Tracker().List("", 50)
		client.CloseIdleConnections()
		time.Sleep(time.Millisecond)
	})
	requests.Wait()
	for _, stop := range stops {
		stop()
	}
	s := e.Metrics().Summary()
	require.EqualValues(t, clients*each, s.Requests)
	require.EqualValues(t, clients*each, s.SuccessByAttempt["0"], "no proxy failed")
	require.EqualValues(t, clients*each+s.Replays, s.Attempts)
	require.EqualValues(t, clients*each, arrivals.Load())
	require.Zero(t, e.Tracker().InFlight())
	for _, u := range e.Pool().Snapshot().All {
		require.Zero(t, u.InFlight(), u.ID())
	}
}
