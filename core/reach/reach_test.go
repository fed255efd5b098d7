package reach_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/reach"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// network is a set of proxies, some of which cannot be reached. It counts the checks.
type network struct {
	mu      sync.Mutex
	down    map[string]core.Cause
	checks  map[string]int
	running int
	most    int
	takes   time.Duration
}

func (n *network) reach(ctx context.Context, u *upstream.Upstream) *verdict.Error {
	n.mu.Lock()
	n.checks[u.ID()]++
	n.running++
	n.most = max(n.most, n.running)
	n.mu.Unlock()
	select {
	case <-time.After(n.takes):
	case <-ctx.Done():
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running--
	if cause, down := n.down[u.ID()]; down {
		return &verdict.Error{Cause: cause}
	}
	return nil
}

func (n *network) set(id string, cause core.Cause, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if delete(n.down, id); down {
		n.down[id] = cause
	}
}

// totals returns the largest number of simultaneous checks, and the number of checks by proxy.
func (n *network) totals() (most int, checks map[string]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.most, maps.Clone(n.checks)
}

func (n *network) count(id string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checks[id]
}

// specs returns n proxies named p0, p1 ...
func specs(n int) []upstream.Spec {
	list := make([]upstream.Spec, n)
	for i := range list {
		list[i] = upstream.Spec{ID: fmt.Sprint("p", i), Weight: 1, Address: upstream.Address{Scheme: upstream.HTTP,
			Host: fmt.Sprintf("10.0.0.%d:1", i)}}
	}
	return list
}

// start runs a checker in virtual time with a pool of n proxies p0, p1 and so on.
func start(t *testing.T, n, parallel int, down map[string]core.Cause) (*upstream.Pool, *network) {
	t.Helper()
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	require.NoError(t, pool.Apply(specs(n)))
	if down == nil {
		down = map[string]core.Cause{}
	}
	w := &network{down: down, checks: map[string]int{}, takes: 10 * time.Millisecond}
	c := reach.New(reach.Config{Pool: pool, Reach: w.reach, Now: time.Now, Parallel: parallel})
	c.SetEnabled(true)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return pool, w
}

func get(t *testing.T, p *upstream.Pool, id string) *upstream.Upstream {
	t.Helper()
	u := p.Snapshot().Get(id)
	require.NotNil(t, u)
	return u
}

// attempt runs one attempt through a proxy. The attempt ends with the given cause.
func attempt(t *testing.T, u *upstream.Upstream, cause core.Cause) {
	t.Helper()
	lease, ok := u.Acquire(time.Now())
	require.True(t, ok)
	o := core.Outcome{Cause: cause, Verdict: core.Success}
	if cause != verdict.Answered {
		o.Verdict, o.Charge = core.Failure, core.ChargeProxy
	}
	lease.Target = upstream.Target("t.example:80")
	lease.Settle(&o)
	lease.Release()
}

func TestNewProxiesAreCheckedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 3, 8, nil)
		time.Sleep(time.Minute)
		for i := range 3 {
			u := get(t, pool, fmt.Sprint("p", i))
			require.Equal(t, 1, n.count(u.ID()))
			require.False(t, u.IsUnreached())
			require.Equal(t, core.Closed, u.Breaker().State())
		}
	})
}

// While a proxy cannot be reached, the pool has the time of the next check. After a passed check there is no
// next check.
func TestTheNextCheckIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 1, 8, map[string]core.Cause{"p0": verdict.ProxyUnreachable})
		time.Sleep(10 * time.Second)
		for range 5 {
			at, planned := pool.NextCheck()
			for planned && time.Until(at) <= 100*time.Millisecond { // a check is in progress or about to begin
				time.Sleep(50 * time.Millisecond)
				at, planned = pool.NextCheck()
			}
			require.True(t, planned)
			require.LessOrEqual(t, time.Until(at), 3*time.Second)
			before := n.count("p0")
			time.Sleep(time.Until(at) - 10*time.Millisecond)
			require.Equal(t, before, n.count("p0"))
			time.Sleep(120 * time.Millisecond)
			require.Equal(t, before+1, n.count("p0"), "with the next tick")
		}
		n.set("p0", verdict.ProxyUnreachable, false)
		time.Sleep(5 * time.Second)
		require.Equal(t, core.HalfOpen, get(t, pool, "p0").Breaker().State())
		_, planned := pool.NextCheck()
		require.False(t, planned)
	})
}

// The breaker of a dead proxy opens without a request. The proxy is checked less and less often. When it can
// be reached again, the next request is the probe.
func TestADeadEntryCostsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 2, 8, map[string]core.Cause{"p1": verdict.ProxyUnreachable})
		u := get(t, pool, "p1")
		time.Sleep(200 * time.Millisecond)
		require.True(t, u.IsUnreached(), "chosen last from the first check on")
		time.Sleep(2 * time.Second)
		require.Equal(t, core.Open, u.Breaker().State(), "after failure_threshold checks")
		why := u.EvidenceReport()
		require.Equal(t, 5, why.OwnFailures)
		require.Zero(t, u.Stats().Samples)
		require.Zero(t, u.Stats().Uses)

		time.Sleep(10 * time.Minute)
		require.Equal(t, core.Open, u.Breaker().State(), "never half-open: no request is wasted as a probe")
		before := n.count("p1")
		time.Sleep(10 * time.Minute)
		require.InDelta(t, 20, n.count("p1")-before, 1, "every 30 s")

		n.set("p1", 0, false)
		time.Sleep(31 * time.Second)
		require.Equal(t, core.HalfOpen, u.Breaker().State())
		require.False(t, u.IsUnreached())
		attempt(t, u, verdict.Answered)
		require.Equal(t, core.Closed, u.Breaker().State())
		require.Equal(t, 1, n.count("p0"))
	})
}

// A proxy that could not be reached for a moment is used again soon, and not after 30 s.
func TestAShortOutageEndsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 2, 8, nil)
		u := get(t, pool, "p0")
		time.Sleep(time.Second)
		attempt(t, u, verdict.Answered)
		n.set("p0", verdict.ProxyUnreachable, true)
		for range 8 {
			if u.Breaker().State() == core.Closed {
				attempt(t, u, verdict.ProxyUnreachable)
			}
			time.Sleep(50 * time.Millisecond)
		}
		require.Equal(t, core.Open, u.Breaker().State())
		n.set("p0", 0, false)
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, core.HalfOpen, u.Breaker().State())
		attempt(t, u, verdict.Answered)
		require.Equal(t, core.Closed, u.Breaker().State())
	})
}

// A proxy that passes the checks but refuses requests is probed less and less often, until it serves a
// request. After that, a failure counts as the first failure.
func TestAProxyThatAcceptsChecksOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := start(t, 2, 8, nil)
		u := get(t, pool, "p0")
		time.Sleep(time.Second)
		attempts := func(d time.Duration) (n int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if u.Breaker().Admissible() {
					attempt(t, u, verdict.ProxyUnreachable)
					n++
				}
			}
			return n
		}
		require.Less(t, attempts(time.Minute), 60, "5 until the breaker opens, and probes")
		require.Less(t, attempts(10*time.Minute), 40)

		require.Eventually(t, u.Breaker().Admissible, time.Minute, 50*time.Millisecond)
		attempt(t, u, verdict.Answered)
		for u.Breaker().State() == core.Closed {
			attempt(t, u, verdict.ProxyUnreachable)
			time.Sleep(10 * time.Millisecond)
		}
		opened := time.Now()
		require.Eventually(t, u.Breaker().Admissible, time.Minute, 50*time.Millisecond)
		require.Less(t, time.Since(opened), time.Second)
	})
}

// A breaker that opened for another reason is not checked; it waits for its open time.
func TestOtherFailuresAreNotChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 2, 8, nil)
		u := get(t, pool, "p0")
		time.Sleep(time.Second)
		attempt(t, u, verdict.Answered)
		for u.Breaker().State() == core.Closed {
			attempt(t, u, verdict.CredentialsRefused)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(29 * time.Second)
		require.Equal(t, core.Open, u.Breaker().State())
		require.Equal(t, 1, n.count("p0"))
	})
}

// A check that fails because no descriptor is free shows nothing about the proxy.
func TestALocalLimitIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, n := start(t, 1, 8, map[string]core.Cause{"p0": verdict.LocalLimit})
		u := get(t, pool, "p0")
		time.Sleep(time.Minute)
		require.Equal(t, core.Closed, u.Breaker().State())
		require.False(t, u.IsUnreached())
		require.Greater(t, n.count("p0"), 10)
		n.set("p0", 0, false)
		time.Sleep(2 * time.Second)
		before := n.count("p0")
		time.Sleep(time.Minute)
		require.Equal(t, before, n.count("p0"))
	})
}

// For all changes of the pool: the number of simultaneous checks is limited, and a proxy has at most one. A
// proxy that can be reached is unavailable only for a short time. A proxy that has left the pool is not
// checked forever.
func TestChecksFollowThePool(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		parallel := rapid.IntRange(1, 4).Draw(rt, "parallel")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			pool, n := start(t, 0, parallel, nil)
			n.takes = time.Duration(rng.IntN(400)) * time.Millisecond
			for range 30 {
				var specs []upstream.Spec
				for i := range 8 {
					if rng.IntN(3) > 0 {
						specs = append(specs, upstream.Spec{ID: fmt.Sprint("p", i), Weight: 1,
							Address: upstream.Address{Scheme: upstream.HTTP, Host: "10.0.0.1:1"}})
					}
					n.set(fmt.Sprint("p", i), verdict.ProxyUnreachable, rng.IntN(2) == 0)
				}
				require.NoError(t, pool.Apply(specs))
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
			}
			for i := range 8 {
				n.set(fmt.Sprint("p", i), 0, false)
			}
			time.Sleep(2 * time.Minute)
			for _, u := range pool.Snapshot().All {
				require.False(t, u.IsUnreached(), u.ID())
				require.NotEqual(t, core.Open, u.Breaker().State(), u.ID())
			}
			most, before := n.totals()
			require.LessOrEqual(t, most, parallel)
			time.Sleep(10 * time.Minute)
			_, after := n.totals()
			require.Equal(t, before, after)
		})
	})
}

// AwaitFirst waits for the first check of each proxy, whether it passes or fails, but not longer than its limit.
func TestAwaitFirst(t *testing.T) {
	for name, c := range map[string]struct {
		proxies  int
		off      bool
		limit    time.Duration
		expected time.Duration
	}{
		"all checks at once":  {2, false, time.Second, 10 * time.Millisecond},
		"one after the other": {3, false, time.Second, 30 * time.Millisecond},
		"too slow":            {3, false, 15 * time.Millisecond, 15 * time.Millisecond},
		"no proxies":          {0, false, time.Second, 0},
		"off":                 {2, true, time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parallel := 2
				if c.proxies > 2 {
					parallel = 1
				}
				pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
				require.NoError(t, pool.Apply(specs(c.proxies)))
				w := &network{down: map[string]core.Cause{"p0": verdict.ProxyUnreachable}, checks: map[string]int{},
					takes: 10 * time.Millisecond}
				checker := reach.New(reach.Config{Pool: pool, Reach: w.reach, Now: time.Now, Parallel: parallel})
				checker.SetEnabled(!c.off)
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { checker.Run(ctx) })
				begun := time.Now()
				checker.AwaitFirst(t.Context(), c.limit)
				require.Equal(t, c.expected, time.Since(begun))
				cancel()
				running.Wait()
			})
		})
	}
}

// With few parallel checks (few file descriptors), a long list is checked as fast as its checks end.
func TestALongListIsCheckedWithFewChecksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const proxies, parallel = 200, 2
		_, n := start(t, proxies, parallel, nil)
		time.Sleep(1100 * time.Millisecond) // each check takes 10 ms
		most, checks := n.totals()
		require.Equal(t, parallel, most)
		require.Len(t, checks, proxies)
	})
}
