package integration

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// confWaste has no probes of open breakers while a test counts attempts. Its scorer uses each proxy: the default one
// may avoid a proxy whose first latencies are by chance much higher than the others.
const confWaste = `[breaker]
timeout_duration = "1m"
max_timeout = "1m"
[timeouts]
attempt = "2s"
[health]
reachability = false
` + roundRobin

// pour sends requests to the gateways in turn, rate of them a second, and does not wait for the responses. The result
// ends that, and waits for the last response.
func (g *gateways) pour(rate int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-tick.C
			wg.Go(func() { g.nodes[n%len(g.nodes)].get() })
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// usesOf returns the number of attempts of all gateways through a proxy.
func (g *gateways) usesOf(id string) (n int) {
	for _, w := range g.nodes {
		n += int(w.getJSON("/proxies/" + id)["uses"].(float64))
	}
	return n
}

// waste makes a proxy fail, and returns the attempts through it until its breaker is open on all gateways.
func (g *gateways) waste(number int, fail func(f *lab.Proxy)) int {
	f := g.fakes[number]
	before := g.usesOf(f.Name)
	fail(f)
	g.everywhere("open on all", func(w *whirl) bool { return w.breakerState(f.Name) != "closed" })
	return g.usesOf(f.Name) - before
}

// TestS272WasteAtManyRates: proxies die in several ways, at several rates. Five gateways together make at most 1.3
// times the attempts through them that one gateway without a cluster makes, which gets as many requests. What a late
// machine adds is allowed for.
func TestS272WasteAtManyRates(t *testing.T) {
	t.Parallel()
	const proxies = 8
	faults := []struct {
		name string
		fail func(f *lab.Proxy)
	}{
		{"refuse", (*lab.Proxy).Refuse},
		{"status 503", func(f *lab.Proxy) { f.SetBehaviour(lab.Status(503)) }},
		{"no response", func(f *lab.Proxy) { f.SetBehaviour(lab.Behaviour{NoResponse: true}) }},
	}
	five := startGateways(t, 5, proxies, confWaste)
	one := &gateways{t: t, nodes: []*whirl{start(t, proxies, confWaste)}}
	one.fakes = one.nodes[0].fakes
	number := 0
	for _, rate := range []int{20, 100} {
		stopFive, stopOne := five.pour(rate), one.pour(rate)
		time.Sleep(3 * time.Second) // each gateway uses each proxy
		begin, tries, alone, usable := time.Now(), 0, 0, proxies-number
		for _, f := range faults {
			var a, b int
			var wg sync.WaitGroup
			wg.Go(func() { a = five.waste(number, f.fail) })
			wg.Go(func() { b = one.waste(number, f.fail) })
			wg.Wait()
			t.Logf("%d requests a second, %s: %d attempts of five gateways, %d of one", rate, f.name, a, b)
			tries, alone, number = tries+a, alone+b, number+1
		}
		stopFive()
		stopOne()
		late := tolerance(begin).Seconds() * float64(rate) / float64(usable-len(faults)+1)
		require.LessOrEqual(t, float64(tries), 1.3*float64(alone)+late)
	}
	for _, w := range five.nodes {
		require.NotContains(t, w.log.String(), "isolated")
	}
}
