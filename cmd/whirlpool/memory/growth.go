package memory

import "sync"

// Growth decides by how much the heap grows until the next garbage collection, as GOGC does: by this percentage of the
// objects in use. The zero value decides nothing.
//
// With 100 %, the default of Go, a long list of proxies would take its memory twice: once for the proxies, and once for
// garbage. So the heap grows only by as much as if the proxies took no memory and the other objects took baseHeap.
// While a configuration is loaded, which makes much garbage, it grows by even less.
type Growth struct {
	setPercent func(percent int) int // nil to decide nothing

	mu        sync.Mutex
	proxies   int
	loadCount int // calls of BeginLoading whose result has not been called
	percent   int // the last argument of set; 0 before the first call
}

const (
	baseHeap      = 32 << 20
	proxySize     = 700    // bytes that a proxy takes
	longListSize  = 10_000 // proxies whose memory matters
	startPercent  = 50     // while the first configuration is loaded
	reloadPercent = 20     // while another one is loaded and the list is long
	minPercent    = 20     // because the collections of a very long list would take much CPU time
)

// NewGrowth returns a Growth that calls set (debug.SetGCPercent). If gogc, the environment variable GOGC, is not "",
// the Growth decides nothing.
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
	g.apply()
}

// BeginLoading states that a configuration is loaded, until end is called. If the list of proxies is long, the function
// end calls free, so that the garbage does not stay in memory.
func (g *Growth) BeginLoading(free func()) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loadCount++
	g.apply()
	return func() {
		g.mu.Lock()
		g.loadCount--
		g.apply()
		isLong := g.proxies >= longListSize
		g.mu.Unlock()
		if isLong {
			free()
		}
	}
}

// apply calls the function set if the percentage has changed. The caller holds mu.
func (g *Growth) apply() {
	percent := max(100*baseHeap/(baseHeap+g.proxies*proxySize), minPercent)
	switch {
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
