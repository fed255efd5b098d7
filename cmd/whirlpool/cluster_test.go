package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// turns is a set of plugins that use the proxies in turn.
type turns struct{ coretest.Rotation }

func (turns) Scorer(string, string) (core.Scorer, error)  { return turns{}, nil }
func (turns) Backoff(string) (core.Backoff, error)        { return turns{}, nil }
func (turns) Delay(*core.BackoffRequest) (float64, error) { return 0.001, nil }

// startNode returns a node of a cluster that makes exchanges only by its method Step.
func startNode(t *testing.T, store cluster.Store, name string) sharedChanges {
	return startNodeWith(t, store, name, turns{})
}

func startNodeWith(t *testing.T, store cluster.Store, name string, plugins engine.Plugins) sharedChanges {
	log := slog.New(slog.DiscardHandler)
	cfg := engine.DefaultConfig()
	cfg.Reachability = false // a check would soon find that none of the proxies can be reached
	e, err := engine.New(cfg, engine.Options{Plugins: plugins, Log: log})
	require.NoError(t, err)
	c := changes.New(changes.Options{Now: time.Now, Log: log})
	err = c.Configure(changes.Configuration{Policy: retry.DefaultPolicy()}, func([]upstream.Spec) error { return nil })
	require.NoError(t, err)
	c.Attach(changes.Parts{Engine: e, Pool: e.Pool(), Policies: e.Policies()})
	m := &clusterNode{log: log, blobs: store.(cluster.Blobs), changes: c, samples: map[string]float64{}}
	m.engine.Store(e)
	m.node = cluster.New(cluster.Config{
		Name: "test", Node: name, ID: name, Store: store, Timeout: time.Minute, Now: time.Now, Log: log,
	})
	m.node.Attach(m)
	for range 2 {
		m.node.Step(t.Context())
	}
	require.False(t, m.node.Status().Alone)
	return sharedChanges{c, m}
}

// specs returns n proxies.
func specs(t *testing.T, n int) (list []upstream.Spec) {
	for i := range n {
		a, err := upstream.ParseAddress(fmt.Sprintf("http://u:secret@p%d.test:1", i))
		require.NoError(t, err)
		list = append(list, upstream.Spec{ID: fmt.Sprint("p", i), Address: a, Source: upstream.SourceAPI})
	}
	return list
}

// stepDuring calls step again and again while f runs.
func stepDuring(f, step func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond):
			step()
		}
	}
}

// sharing runs f, which makes changes at s, and makes exchanges until f has returned.
func sharing(t *testing.T, s sharedChanges, f func()) {
	stepDuring(f, func() { s.node.node.Step(t.Context()) })
}

// If a change is made again after its response, because another node has changed the same thing, the response is not
// affected.
func TestChangeIsMadeAgainAfterTheResponse(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startNode(t, store, "a"), startNode(t, store, "b")
	sharing(t, a, func() {
		_, err := a.AddProxies(specs(t, 1), false)
		require.NoError(t, err)
	})
	b.node.node.Step(t.Context())
	attempts, delay := 7, 0.3
	sharing(t, a, func() {
		_, err := a.ChangeProxy("p0", func(s *upstream.Spec) error { s.Weight = 3; return nil }, false)
		require.NoError(t, err)
		_, err = a.ChangePolicy(retry.Override{MaxAttempts: &attempts}, false)
		require.NoError(t, err)
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		u, err := b.ChangeProxy("p0", func(s *upstream.Spec) error { s.Cost = 7; return nil }, false)
		require.NoError(t, err)
		require.Equal(t, "p0", u.ID())
	})
	wg.Go(func() {
		_, err := b.ChangePolicy(retry.Override{BaseDelay: &delay}, false)
		require.NoError(t, err)
	})
	require.Eventually(t, func() bool { return b.node.node.Status().Waiting == 2 }, time.Minute, time.Millisecond)
	for b.node.engine.Load().Policies().Current().MaxAttempts != attempts {
		b.node.node.Step(t.Context()) // b applies the changes of a, and then its own changes again
	}
	wg.Wait() // ends when shareTimeout has passed
	spec, policy := b.node.proxyByID("p0").Spec(), b.node.engine.Load().Policies().Current()
	require.Equal(t, []float64{3, 7}, []float64{spec.Weight, spec.Cost})
	require.Equal(t, attempts, policy.MaxAttempts)
	require.InDelta(t, delay, policy.BaseDelay, 0)
	require.Equal(t, 2, b.node.node.Status().Waiting)
}

// A change that equals the previous change of the same proxy or policy is also applied on the other nodes, because a
// reload may have undone the previous change there.
func TestAnEqualChangeIsMadeAgain(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startNode(t, store, "a"), startNode(t, store, "b")
	attempts, fileAttempts := 7, 4
	for range 2 {
		for _, s := range []sharedChanges{a, b} { // as a reload does, on each node
			_, err := s.node.changes.AddProxies(specs(t, 2), false)
			require.NoError(t, err)
			_, err = s.node.changes.ChangePolicy(retry.Override{MaxAttempts: &fileAttempts}, false)
			require.NoError(t, err)
		}
		sharing(t, a, func() {
			require.NoError(t, a.RemoveProxy("p0", true, false))
			_, err := a.ChangePolicy(retry.Override{MaxAttempts: &attempts}, false)
			require.NoError(t, err)
		})
		b.node.node.Step(t.Context())
		require.Nil(t, b.node.proxyByID("p0"))
		require.NotNil(t, b.node.proxyByID("p1"))
		require.Equal(t, attempts, b.node.engine.Load().Policies().Current().MaxAttempts)
		for _, s := range []sharedChanges{a, b} {
			require.NoError(t, s.node.changes.RemoveProxy("p1", true, false))
		}
	}
}

// A node has a slow link, so at each exchange another node has already made a newer change. The change of the slow
// node never replaces a newer change.
func TestManyConflictsLoseNoChange(t *testing.T) {
	store := cluster.NewMemory(time.Now)
	a, b := startNode(t, store, "a"), startNode(t, store, "b")
	attempts := 7
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.ChangePolicy(retry.Override{MaxAttempts: &attempts}, false)
		require.NoError(t, err)
	})
	require.Eventually(t, func() bool { return a.node.node.Status().Waiting == 1 }, time.Minute, time.Millisecond)
	var delay float64
	for i := range 30 {
		delay = 1 + float64(i)/8
		sharing(t, b, func() {
			_, err := b.ChangePolicy(retry.Override{BaseDelay: &delay}, false)
			require.NoError(t, err)
		})
		a.node.node.Step(t.Context())
		b.node.node.Step(t.Context())
		require.InDelta(t, delay, b.node.engine.Load().Policies().Current().BaseDelay, 0)
	}
	for range 3 {
		a.node.node.Step(t.Context())
		b.node.node.Step(t.Context())
	}
	wg.Wait()
	for _, s := range []sharedChanges{a, b} {
		p := s.node.engine.Load().Policies().Current()
		require.Equal(t, attempts, p.MaxAttempts, s.node.node.Name())
		require.InDelta(t, delay, p.BaseDelay, 0, s.node.node.Name())
	}
}

// exchanges counts the exchanges.
type exchanges struct {
	*cluster.Memory
	n atomic.Int64
}

func (s *exchanges) Exchange(ctx context.Context, b cluster.Batch) (cluster.Reply, error) {
	s.n.Add(1)
	return s.Memory.Exchange(ctx, b)
}

// One request adds a thousand proxies. They are shared in a few exchanges, and another node adds them.
func TestManyProxiesAreShared(t *testing.T) {
	memory := cluster.NewMemory(time.Now)
	store := &exchanges{Memory: memory}
	a, b := startNode(t, store, "a"), startNode(t, memory, "b")
	list := specs(t, 1000)
	before := store.n.Load()
	added := make(chan []*upstream.Upstream, 1)
	go func() {
		got, err := a.AddProxies(list, false)
		require.NoError(t, err)
		added <- got
	}()
	require.Eventually(t, func() bool { return a.node.node.Status().Waiting == 1000 }, time.Minute, time.Millisecond)
	for a.node.node.Status().Waiting > 0 {
		a.node.node.Step(t.Context())
	}
	require.Len(t, <-added, 1000)
	require.LessOrEqual(t, store.n.Load()-before, int64(3))
	for len(b.node.engine.Load().Pool().Snapshot().All) < 1000 {
		b.node.node.Step(t.Context())
	}
	sharing(t, b, func() { require.NoError(t, b.RemoveProxy("p7", false, false)) })
	sharing(t, b, func() {
		_, err := b.ChangeProxy("p8", func(s *upstream.Spec) error { s.Weight = 3; return nil }, false)
		require.NoError(t, err)
	})
	for b.node.node.Status().Waiting > 0 { // a response waits for the store for at most shareTimeout
		b.node.node.Step(t.Context())
	}
	for a.node.proxyByID("p7") != nil || a.node.proxyByID("p8").Spec().Weight != 3 {
		a.node.node.Step(t.Context())
	}
}

// Changes of different proxies are applied together. Changes of the same proxy are applied in their order.
func TestOrderOfAppliedChanges(t *testing.T) {
	s := startNode(t, cluster.NewMemory(time.Now), "a")
	pool := s.node.engine.Load().Pool()
	change := func(id string, weight float64, persist bool) cluster.Change {
		spec := specs(t, 1)[0]
		spec.Weight = weight
		proxy, err := changes.ProxyValue(&spec)
		require.NoError(t, err)
		value, err := s.encode(sharedChange{Proxy: proxy, Removed: weight == 0, Persist: persist})
		require.NoError(t, err)
		return cluster.Change{Key: sharedProxy + id, Value: value}
	}
	for i, test := range []struct {
		made []cluster.Change
		cost uint64
		want map[string]float64
	}{
		{[]cluster.Change{change("a", 1, true), change("gone", 0, true), change("b", 2, false), change("c", 3, true)},
			2, map[string]float64{"a": 1, "b": 2, "c": 3}},
		{[]cluster.Change{change("a", 4, true), change("a", 5, false), change("b", 0, true), change("c", 0, true),
			change("c", 6, true)}, 5, map[string]float64{"a": 5, "c": 6}},
		{[]cluster.Change{change("d", 7, true), change("d", 0, true)}, 2, map[string]float64{"a": 5, "c": 6}},
		{[]cluster.Change{{Key: sharedProxy + "e", Value: "x"}, change("e", 8, true)}, 1,
			map[string]float64{"a": 5, "c": 6, "e": 8}},
	} {
		before := pool.Changes()
		errs := s.node.Apply(test.made)
		require.Equal(t, i == 3, errs[0] != nil)
		for _, err := range errs[1:] {
			require.NoError(t, err)
		}
		require.Equal(t, test.cost, pool.Changes()-before, i)
		weights := map[string]float64{}
		for _, u := range pool.Snapshot().All {
			weights[u.ID()] = u.Weight()
		}
		require.Equal(t, test.want, weights)
	}
}

// The load has the proxies that are in service.
func TestLoadOfANode(t *testing.T) {
	s := startNode(t, cluster.NewMemory(time.Now), "a")
	_, err := s.Changes.AddProxies(specs(t, 5), false)
	require.NoError(t, err)
	s.node.proxyByID("p0").Breaker().OpenForCluster(time.Hour, "")
	s.node.Ban(proxyKey(s.node.proxyByID("p1")), "", time.Hour)
	s.node.Ban(proxyKey(s.node.proxyByID("p2")), "shop.test", time.Hour)
	s.node.loadAt = time.Time{} // older than loadMaxAge
	require.Equal(t, cluster.Load{Proxies: 5, InService: 3}, s.node.Load())
}

// The counts of proxies that were removed are removed.
func TestCountsOfRemovedProxies(t *testing.T) {
	s := startNode(t, cluster.NewMemory(time.Now), "a")
	_, err := s.Changes.AddProxies(specs(t, 10), false)
	require.NoError(t, err)
	for _, u := range s.node.engine.Load().Pool().Snapshot().All {
		u.Seed(1, 5, time.Second)
		s.node.samples[proxyKey(u)] = -1
	}
	for i := range 8 {
		require.NoError(t, s.Changes.RemoveProxy(fmt.Sprint("p", i), false, false))
	}
	shared := 0
	s.node.EachStats(100, func(string, cluster.Stats) { shared++ })
	require.Equal(t, 2, shared)
	require.Len(t, s.node.samples, 2)
}
