package memory

import (
	"context"
	"sync"
	"time"
)

// Growth decides how much the heap may grow before the next garbage collection. Like GOGC, it sets the growth as a
// percentage of the memory that live objects take. The zero value leaves the decision to the Go runtime.
//
// With 100 %, the default of Go, a long list of proxies would need twice its memory: once for the proxies, and once
// for garbage. For this reason, the percentage falls with the number of proxies, but not below minPercent. It is set
// so that the heap grows by about baseHeap if all other objects take baseHeap. The percentage is lower in two cases:
// while the first configuration or a long list is loaded, which makes much garbage; and while the list is long and
// collections are rare, for example without much traffic, because more frequent collections then do no harm.
type Growth struct {
	setPercent func(percent int) int // nil to decide nothing

	mu        sync.Mutex // guards the fields below
	proxies   int
	loadCount int // calls of BeginLoading whose result has not been called
	percent   int // the last argument of setPercent; 0 before the first call
	isQuiet   bool
}

const (
	baseHeap      = 32 << 20
	proxySize     = 660    // bytes that a proxy takes (TestAProxyWithoutAttemptsIsSmall)
	longListSize  = 10_000 // proxies whose memory matters
	startPercent  = 50     // percentage while the first configuration is loaded
	reloadPercent = 5      // percentage while a later configuration is loaded, if the list is long
	minPercent    = 20     // minimum at other times: collections of a very long list take much CPU time
	quietPercent  = 10     // percentage while the list is long and collections are rare
)

// Collections become rare when at most rareCycles of them start within followTick. They stay rare until at least
// manyCycles of them start within followTick. A collection takes 0.1 to 0.2 s of CPU time with 100,000 proxies.
const (
	followTick = 10 * time.Second
	rareCycles = 2
	manyCycles = 6
)

// maxUnused is the unused memory in bytes that the process may hold while the list is long and collections are rare.
const maxUnused = 8 << 20

// NewGrowth returns a Growth that sets the percentage with the function set (debug.SetGCPercent). If gogc, the
// environment variable GOGC, is not "", the Growth leaves the decision to the Go runtime.
func NewGrowth(gogc string, set func(percent int) int) *Growth {
	if gogc != "" {
		return &Growth{}
	}
	return &Growth{setPercent: set}
}

// SetProxies sets the number of proxies.
func (g *Growth) SetProxies(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proxies = n
	g.updatePercent()
}

// BeginLoading must be called before a configuration is loaded. It returns a function that must be called when the
// configuration has been loaded. If the list of proxies is long, the returned function calls the function free, so that
// the garbage does not stay in memory.
func (g *Growth) BeginLoading(free func()) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loadCount++
	g.updatePercent()
	return func() {
		g.mu.Lock()
		g.loadCount--
		g.updatePercent()
		isLong := g.proxies >= longListSize
		g.mu.Unlock()
		if isLong {
			free()
		}
	}
}

// Follow observes how frequent garbage collections are, until ctx ends. While the list of proxies is long and
// collections are rare, it calls the function free if the process holds much unused memory. Release is not enough for
// this, because it waits until the process is idle. With a long list of dead proxies the process is never idle, because
// the proxies are checked again and again.
func (g *Growth) Follow(ctx context.Context, read func() Usage, free func()) {
	ticker := time.NewTicker(followTick)
	defer ticker.Stop()
	last := read().Cycles
	for {
		select {
		case <-ticker.C:
			u := read()
			if g.observeCycles(u.Cycles-last) && u.Unused > maxUnused {
				free()
			}
			last = u.Cycles
		case <-ctx.Done():
			return
		}
	}
}

// observeCycles gets the number of garbage collections within the last followTick. It decides by this number whether
// collections are rare, and sets the percentage. It returns whether the list is long and collections are rare.
func (g *Growth) observeCycles(cycles uint64) (isQuiet bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case cycles <= rareCycles:
		g.isQuiet = true
	case cycles >= manyCycles:
		g.isQuiet = false
	}
	g.updatePercent()
	return g.setPercent != nil && g.isQuiet && g.proxies >= longListSize
}

// updatePercent computes the percentage and, if it has changed, calls setPercent. The caller holds mu.
func (g *Growth) updatePercent() {
	percent := max(100*baseHeap/(baseHeap+g.proxies*proxySize), minPercent)
	switch {
	case g.loadCount == 0 && g.isQuiet && g.proxies >= longListSize:
		percent = quietPercent
	case g.loadCount == 0:
	case g.proxies >= longListSize:
		percent = min(percent, reloadPercent)
	case g.percent == 0:
		percent = min(percent, startPercent)
	}
	if g.setPercent != nil && percent != g.percent {
		g.percent = percent
		g.setPercent(percent)
	}
}
