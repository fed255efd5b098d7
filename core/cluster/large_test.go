package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// flatGateway is a gateway that knows the state of its proxies without breakers, for simulations of large clusters.
type flatGateway struct {
	gateway
	mu     sync.Mutex
	began  map[string]time.Time // first failure
	opened map[string]time.Time
}

// traffic counts the bytes between the nodes and the store.
type traffic struct {
	Store
	mu sync.Mutex
	counts
}

type counts struct{ exchanges, ops, records, bytesUp, bytesDown int }

func (t *traffic) Exchange(ctx context.Context, b Batch) (Reply, error) {
	r, err := t.Store.Exchange(ctx, b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exchanges++
	t.ops += len(b.Ops)
	t.records += len(r.Changed)
	up, down := 100, 60 // the keys of the script, and the numbers
	for _, op := range b.Ops {
		up += len(op.Key) + len(op.Value) + 40
	}
	for _, rec := range r.Changed {
		down += len(rec.Key) + len(rec.Value) + 60
	}
	t.bytesUp, t.bytesDown = t.bytesUp+up, t.bytesDown+down
	return r, err
}

// take returns the counts since the last call.
func (t *traffic) take() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	t.counts = counts{}
	return c
}

func (g *flatGateway) View(key string) (View, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := View{Threshold: 5, Needed: neededNats, Served: -1, OpenFor: 30 * time.Second}
	if began, failing := g.began[key]; failing {
		v.Failures, v.Evidence, v.Failing = 1, failureNats, time.Since(began)+time.Millisecond
		v.InARow, v.Streak, v.LastFailed = 1, 1, time.Since(began)
	}
	return v, true
}

func (g *flatGateway) Open(key string, _ time.Duration, _ string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened[key] = time.Now()
	delete(g.began, key)
}

func (g *flatGateway) Close(string)           {}
func (g *flatGateway) Reset(string)           {}
func (g *flatGateway) Probing(string) bool    { return false }
func (g *flatGateway) Move(Move)              {}
func (g *flatGateway) Learn(string, Failures) {}

func (g *flatGateway) Load() Load {
	return Load{100_000, 30_000, 29_000, 500, 40_000, 10_000, 100_000, 99_000, 0}
}

func (g *flatGateway) EachStats(int, func(string, Stats)) {}

// Many nodes have many proxies, some of which die within ten seconds. Some node makes an attempt through each dead
// proxy ten times a second, until the breaker of the proxy is open on all nodes. WHIRLPOOL_LARGE=1 go test -v -run
// Large prints the figures of docs/cluster.md.
func TestLargeCluster(t *testing.T) {
	nodes, proxies, dying := 20, 10_000, 100
	if large() {
		nodes, proxies, dying = 300, 100_000, 1000
	}
	synctest.Test(t, func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		store := &traffic{Store: NewMemory(time.Now)}
		all := make([]*flatGateway, nodes)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		random := rand.New(rand.NewPCG(1, 2))
		for i := range all {
			g := &flatGateway{began: map[string]time.Time{}, opened: map[string]time.Time{}}
			g.current.Store(New(Config{
				Node: fmt.Sprint("node", i), ID: fmt.Sprint(i), Store: store, Timeout: DefaultTimeout, Now: time.Now,
				Log: slog.New(slog.DiscardHandler),
			}))
			g.node().Attach(g)
			all[i] = g
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				g.node().Run(ctx)
			})
		}
		time.Sleep(10 * time.Second)
		store.take()
		time.Sleep(10 * time.Second)
		idle := store.take()
		dead, tries := map[string]bool{}, 0
		tryAll := func() { // some node makes an attempt through each dead proxy that is not open
			for key := range dead {
				g := all[random.IntN(nodes)]
				g.mu.Lock()
				_, open := g.opened[key]
				if _, fails := g.began[key]; !open && !fails {
					g.began[key] = time.Now()
					tries++
				}
				g.mu.Unlock()
				if open {
					delete(dead, key)
				} else {
					g.node().Failed(key)
				}
			}
		}
		for i := range dying {
			dead[fmt.Sprintf("proxy%d@00000000", random.IntN(proxies/dying)*dying+i)] = true
			time.Sleep(10 * time.Second / time.Duration(dying))
			if i%(dying/100) == 0 {
				tryAll()
			}
		}
		busy := store.take()
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			tryAll()
		}
		time.Sleep(2 * time.Second)
		for _, g := range all {
			require.Equal(t, dying, len(g.opened))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		show := func(what string, s counts, d float64) {
			t.Logf("%s: %.0f exchanges/s, %.0f operations/s, %.0f records/s, %.0f kB/s to and %.0f kB/s from the store",
				what, float64(s.exchanges)/d, float64(s.ops)/d, float64(s.records)/d, float64(s.bytesUp)/d/1000,
				float64(s.bytesDown)/d/1000)
		}
		t.Logf("%d nodes, %d proxies, %d of which die within 10 s", nodes, proxies, dying)
		show("idle", idle, 10)
		show("busy", busy, 10)
		t.Logf("%.1f attempts for each dead proxy until it was open everywhere; %.1f MB for all nodes and the store",
			float64(tries)/float64(dying), float64(after.HeapAlloc-before.HeapAlloc)/1e6)
		require.Less(t, float64(tries)/float64(dying), 12.0)
	})
}

func large() bool { return os.Getenv("WHIRLPOOL_LARGE") != "" }
