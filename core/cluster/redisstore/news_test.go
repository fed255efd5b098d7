package redisstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// listener is a gateway at which every attempt fails. It notes when it learns the failures of another gateway.
type listener struct {
	cluster.Local
	learnt chan cluster.Failures
	mu     sync.Mutex
	failed map[string]time.Time
}

func (l *listener) View(proxy string) (cluster.View, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := cluster.View{Threshold: 5, Needed: 13.5, Served: -1, OpenFor: time.Minute}
	if at, failed := l.failed[proxy]; failed {
		v.InARow, v.Streak, v.LastFailed = 1, 1, time.Since(at)
	}
	return v, true
}

func (l *listener) Learn(_ string, f cluster.Failures)         { l.learnt <- f }
func (l *listener) Why(string) string                          { return "" }
func (l *listener) Open(string, time.Duration, string)         {}
func (l *listener) Load() cluster.Load                         { return cluster.Load{Tried: 1000} }
func (l *listener) Suspects(int) []string                      { return nil }
func (l *listener) EachStats(int, func(string, cluster.Stats)) {}
func (l *listener) SetStoreTime(time.Time, time.Time)          {}
func (l *listener) ProbeTime() time.Duration                   { return time.Second }

// A failure of a gateway is known to another one within a few round trips, not after the interval of the exchanges.
func TestNewsOfFailures(t *testing.T) {
	url := startRedis(t)
	var nodes []*cluster.Node
	var locals []*listener
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	first := newStore(t, url)
	for i := range 2 {
		store := first
		if i > 0 {
			stores--
			store = newStore(t, url)
		}
		l := &listener{learnt: make(chan cluster.Failures, 1000), failed: map[string]time.Time{}}
		n := cluster.New(cluster.Config{Name: "test", Node: fmt.Sprint("node", i), ID: fmt.Sprint("node", i),
			Store: store, Timeout: patience, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		n.Attach(l)
		wg.Go(func() { n.Run(ctx) })
		nodes, locals = append(nodes, n), append(locals, l)
	}
	require.Eventually(t, func() bool { return nodes[0].Live() == 2 && nodes[1].Live() == 2 }, patience,
		10*time.Millisecond)
	var took []time.Duration
	for i := range 50 {
		time.Sleep(time.Duration(60+i) * time.Millisecond)
		proxy := fmt.Sprint("proxy", i)
		locals[0].mu.Lock()
		locals[0].failed[proxy] = time.Now()
		locals[0].mu.Unlock()
		begin := time.Now()
		nodes[0].Failed(proxy)
		select {
		case f := <-locals[1].learnt:
			require.Equal(t, 1, f.Number)
		case <-time.After(patience):
			t.Fatal("the other gateway has not learnt the failure")
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("known after %v (median), %v (90th percentile), %v at most", took[25], took[45], took[49])
	require.Less(t, took[25], 50*time.Millisecond)
}
