package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// heard returns the last failures of other nodes that the gateway has learnt.
func (g *gateway) heard(key string) Failures {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.learnt[key]
}

// Five gateways make at most one attempt more than one gateway through a proxy that dies, at any rate.
func TestWasteAtManyRates(t *testing.T) {
	for _, rate := range []int{5, 20, 50, 100} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 5)
			defer r.end()
			attempt := 0
			each := time.Second / time.Duration(rate)
			next := func() bool { // an attempt of the next node, unless it avoids the proxy
				g := r.nodes[attempt%5]
				attempt++
				return !g.heard("p").Avoid && g.try("p", 0)
			}
			every(each, 20*second, func() bool { return next() || true })
			r.setDead("p", true)
			tries := 0
			every(each, 10*second, func() bool {
				if next() {
					tries++
				}
				return true
			})
			for _, g := range r.nodes {
				require.Equal(t, core.Open, g.state("p"), g.name)
			}
			require.LessOrEqual(t, tries, 6, "%d attempts a second", rate)
			require.GreaterOrEqual(t, tries, 5)
		})
	}
}

// What one node learns counts at another one until an attempt succeeds there.
func TestFailuresElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		for _, key := range []string{"p", "q", "s", "u"} {
			for _, g := range r.nodes {
				g.try(key, 0)
			}
		}
		time.Sleep(2 * second) // the nodes report how many proxies they use
		a.broken.Store(true)
		a.try("p", 0)
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 1, b.heard("p").Number)
		require.LessOrEqual(t, b.heard("p").Since, 10*time.Millisecond)
		require.False(t, b.heard("p").Avoid)
		require.Zero(t, b.heard("q").Number)
		a.try("p", 0)
		a.try("p", 0)
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, 1, b.heard("p").Number, "the proxy has just served b, and only one node fails")
		b.try("p", 0)
		time.Sleep(200 * time.Millisecond)
		require.Zero(t, b.heard("p").Number, "it serves b")
		require.Zero(t, c.heard("p").Number, "b contradicts a")
		c.broken.Store(true)
		c.try("q", 0)
		a.try("q", 0)
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 2, b.heard("q").Number)
		a.try("q", 0)
		c.try("q", 0)
		time.Sleep(110 * time.Millisecond)
		require.Equal(t, 4, b.heard("q").Number)
		require.False(t, b.heard("q").Avoid)
		a.store.set(errCut, false)
		a.try("s", 0)
		time.Sleep(second)
		require.Zero(t, b.heard("s").Number, "a cannot reach the store")
		require.Zero(t, a.heard("s").Number)
	})
}

// The failures of a node that fails at most of its proxies are no news for the others: the node is at fault.
func TestNoNewsOfABrokenNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		proxies := []string{"p", "q", "s", "u", "v", "w"}
		for _, key := range proxies {
			for _, g := range r.nodes {
				g.try(key, 0)
			}
		}
		time.Sleep(2 * second)
		r.nodes[0].broken.Store(true)
		most := 0
		every(50*time.Millisecond, 30*second, func() bool {
			for _, key := range proxies {
				r.nodes[0].try(key, 0)
				most = max(most, r.nodes[1].heard(key).Number) // node1 has no traffic, node2 little
			}
			if time.Now().Second()%5 == 0 {
				r.nodes[2].try("p", 0)
			}
			return true
		})
		require.LessOrEqual(t, most, 1)
		for _, key := range proxies {
			require.Zero(t, r.nodes[1].heard(key).Number)
			require.Equal(t, core.Closed, r.nodes[1].state(key))
		}
	})
}

// counted counts the exchanges with operations.
type counted struct {
	Store
	mu    sync.Mutex
	times []time.Time
}

func (c *counted) Exchange(ctx context.Context, b Batch) (Reply, error) {
	if len(b.Ops) > 0 {
		c.mu.Lock()
		c.times = append(c.times, time.Now())
		c.mu.Unlock()
	}
	return c.Store.Exchange(ctx, b)
}

// However many attempts fail, a node sends what it learns at most once in minExchange.
func TestNewsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		r.nodes[0].stop()
		<-r.nodes[0].done
		c := &counted{Store: r.store}
		r.nodes[0].store.Store = c
		r.nodes[0].start()
		time.Sleep(5 * second)
		c.mu.Lock()
		c.times = nil
		c.mu.Unlock()
		for i := range 1000 {
			r.nodes[0].node().Failed(string(rune('a' + i%20)))
			r.nodes[0].breaker(string(rune('a' + i%20)))
			r.setDead(string(rune('a'+i%20)), true)
			go r.nodes[0].try(string(rune('a'+i%20)), 0)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(second)
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Greater(t, len(c.times), 2)
		for i, at := range c.times[1:] {
			require.GreaterOrEqual(t, at.Sub(c.times[i]), minExchange)
		}
	})
}

// deaf is a store that does not permit to listen.
type deaf struct{ Store }

func (d deaf) Listen(context.Context, func(News)) error { return errors.Join(ErrNoNews, errCut) }

// Without the permission to listen, all news arrive with the exchanges.
func TestWithoutNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		defer r.end()
		for range 2 {
			g := r.add()
			g.stop()
			<-g.done
			g.store.Store = deaf{r.store}
			g.start()
		}
		time.Sleep(5 * second)
		for _, key := range []string{"p", "q", "s"} {
			for _, g := range r.nodes {
				g.try(key, 0)
			}
		}
		time.Sleep(2 * second)
		r.setDead("p", true)
		r.nodes[0].try("p", 0)
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, 1, r.nodes[1].heard("p").Number)
	})
}
