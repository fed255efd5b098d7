package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// countingStore counts the accesses to blobs.
type countingStore struct {
	*cluster.Memory
	writes, reads int
}

func (s *countingStore) WriteBlob(ctx context.Context, name string, data []byte, ttl time.Duration) error {
	s.writes++
	return s.Memory.WriteBlob(ctx, name, data, ttl)
}

func (s *countingStore) ReadBlobs(ctx context.Context, names []string, limit int) ([][]byte, []error) {
	s.reads++
	return s.Memory.ReadBlobs(ctx, names, limit)
}

// A node writes its report if another node can read it and the report has changed, or if the last report is old. The
// reports of all nodes are read in one round trip.
func TestReportsAreWrittenIfTheyChange(t *testing.T) {
	store := &countingStore{Memory: cluster.NewMemory(time.Now)}
	a := startNode(t, store, "a")
	sharing(t, a, func() {
		_, err := a.AddProxies(specs(t, 1), false)
		require.NoError(t, err)
	})
	open := func(u *upstream.Upstream) { u.Breaker().OpenForCluster(time.Hour, "test") }
	open(a.node.engine.Load().Pool().Snapshot().Get("p0"))
	var w writtenReport
	now := time.Now()
	a.node.renewReport(t.Context(), &w, now)
	require.Zero(t, store.writes, "nobody can read it")
	b, c := startNode(t, store, "b"), startNode(t, store, "c")
	together := func() {
		for _, n := range []sharedChanges{c, b, a, b} {
			n.node.node.Step(t.Context())
		}
	}
	for range 3 {
		together()
		a.node.renewReport(t.Context(), &w, now)
		now = now.Add(reportInterval)
	}
	require.Equal(t, 1, store.writes)
	together()
	a.node.renewReport(t.Context(), &w, now.Add(reportRenewal))
	require.Equal(t, 2, store.writes)
	c.node.renewReport(t.Context(), &writtenReport{}, now)
	require.Equal(t, 2, store.writes, "it has seen nothing")

	together()
	shown := b.node.Reports()
	require.Empty(t, shown.Missing)
	require.Len(t, shown.Nodes, 3)
	for _, n := range shown.Nodes {
		if n.Node == "a" {
			require.Equal(t, "p0", n.Breakers[0].Proxy)
		}
	}
	require.Equal(t, 1, store.reads)

	at := time.Now()
	r := cluster.Report{Breakers: []cluster.BreakerReport{{Proxy: "p", State: "open", Due: at}},
		Targets: []cluster.TargetReport{{Target: "t", Failures: 1, LastFailure: at}}}
	jitter := r.Shifted(time.Microsecond)
	require.True(t, r.Like(&jitter))
	later := r.Shifted(time.Second)
	require.False(t, r.Like(&later))
	jitter.Targets[0].Failures++
	require.False(t, r.Like(&jitter))
}
