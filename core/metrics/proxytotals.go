package metrics

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// DefaultMaxProxies is the default number of proxies that have their own time series in the scrapes of Prometheus.
const DefaultMaxProxies = 100

// otherProxies is the value of the label proxy_id in the time series that all other proxies share.
const otherProxies = "other"

// proxyTotals counts attempts since the start of the process, of one proxy or of several.
type proxyTotals struct {
	causes      []causeCount // in the order of the first attempt with each cause
	durations   [len(bucketBounds) + 1]uint64
	attemptTime time.Duration
	up, down    int64   // bytes, as of the last scrape
	cost        float64 // as of the last scrape, in the currency of the prices
}

type causeCount struct {
	cause core.Cause
	n     uint64
}

func (t *proxyTotals) count(c core.Cause, n uint64) {
	i := slices.IndexFunc(t.causes, func(x causeCount) bool { return x.cause == c })
	if i < 0 {
		t.causes, i = append(t.causes, causeCount{cause: c}), len(t.causes)
	}
	t.causes[i].n += n
}

func (t *proxyTotals) addAttempt(c core.Cause, duration time.Duration) {
	t.count(c, 1)
	t.durations[bucketIndex(duration)]++
	t.attemptTime += duration
}

func (t *proxyTotals) add(o *proxyTotals) {
	for _, c := range o.causes {
		t.count(c.cause, c.n)
	}
	for i, n := range o.durations {
		t.durations[i] += n
	}
	t.attemptTime += o.attemptTime
	t.up += o.up
	t.down += o.down
	t.cost += o.cost
}

func (t *proxyTotals) subtract(o *proxyTotals) {
	for _, c := range o.causes {
		t.count(c.cause, -c.n) // modulo 2^64
	}
	for i, n := range o.durations {
		t.durations[i] -= n
	}
	t.attemptTime -= o.attemptTime
	t.up -= o.up
	t.down -= o.down
	t.cost -= o.cost
}

func (t *proxyTotals) clone() *proxyTotals {
	c := *t
	c.causes = slices.Clone(t.causes)
	return &c
}

var (
	proxyAttemptsDesc = newDesc("proxy_attempts_total", "attempts by proxy and cause", "proxy_id", "cause")
	proxyTimeDesc     = newDesc("proxy_attempt_duration_seconds", "time of the attempts of a proxy", "proxy_id")
	proxyBytesDesc    = newDesc("proxy_bytes_total", "bytes to (up) and from (down) a proxy", "proxy_id", "direction")
	proxyCostDesc     = newDesc("proxy_cost_total", "cost of a proxy, by its prices", "proxy_id")
)

func (t *proxyTotals) collect(out chan<- prometheus.Metric, id string) {
	for _, c := range t.causes {
		if c.n > 0 {
			emit(out, proxyAttemptsDesc, prometheus.CounterValue, float64(c.n), id, verdict.CauseName(c.cause))
		}
	}
	buckets, total := make(map[float64]uint64, len(bucketBounds)), uint64(0)
	for i, bound := range bucketBounds {
		total += t.durations[i]
		buckets[bound.Seconds()] = total
	}
	total += t.durations[len(bucketBounds)]
	out <- prometheus.MustNewConstHistogram(proxyTimeDesc, total, t.attemptTime.Seconds(), buckets, id)
	emit(out, proxyBytesDesc, prometheus.CounterValue, float64(t.up), id, "up")
	emit(out, proxyBytesDesc, prometheus.CounterValue, float64(t.down), id, "down")
	if t.cost > 0 {
		emit(out, proxyCostDesc, prometheus.CounterValue, t.cost, id)
	}
}

// namedProxies are the proxies that have their own time series of metrics. All other proxies share the time series
// "other". No counter may go down. Therefore "other" keeps the attempts that a proxy had before it was named, and does
// not get the attempts of a time series that has ended.
type namedProxies struct {
	mu sync.Mutex // held during a scrape; guards all fields

	max              int
	baselines        map[string]*proxyTotals // by id: totals that "other" had included before
	endedSeries      proxyTotals             // of series that have ended
	forgottenProxies proxyTotals             // of proxies that the recorder has forgotten
}

// SetMaxProxies sets the number of proxies that have their own time series in the scrapes of Prometheus: the busiest
// ones. If n is 0, no proxy has its own time series.
func (r *Recorder) SetMaxProxies(n int) {
	r.namedProxies.mu.Lock()
	defer r.namedProxies.mu.Unlock()
	r.namedProxies.max = n
}

// A proxy replaces a named proxy if it has had more than replaceRatio times as many attempts. At a ratio near 1, two
// similar proxies would replace each other again and again.
const replaceRatio = 2

// The busiest proxies are the proxies with the most attempts in the last busyHours hours.
const busyHours = 1

// chooseProxies decides which proxies of the pool have their own time series: those with the most attempts in the last
// busyHours hours. It calls endSeries for each proxy that loses its time series, and then beginSeries for each proxy
// that gets one.
func (n *namedProxies) chooseProxies(
	pool []ProxyState, attempts map[string]uint64, beginSeries, endSeries func(id string),
) {
	inPool := make(map[string]bool, len(pool))
	var others []string
	for i := range pool {
		inPool[pool[i].ID] = true
		if n.baselines[pool[i].ID] == nil {
			others = append(others, pool[i].ID)
		}
	}
	var named []string
	for id := range n.baselines {
		if inPool[id] {
			named = append(named, id)
		} else {
			endSeries(id)
		}
	}
	busiest := func(a, b string) int { return cmp.Or(cmp.Compare(attempts[b], attempts[a]), cmp.Compare(a, b)) }
	slices.SortFunc(named, busiest)
	for len(named) > n.max {
		endSeries(named[len(named)-1])
		named = named[:len(named)-1]
	}
	slices.SortFunc(others, busiest)
	for _, id := range others {
		if len(named) < n.max {
			named = append(named, id)
			beginSeries(id)
			continue
		}
		last := len(named) - 1
		if last < 0 || attempts[id] <= replaceRatio*attempts[named[last]] {
			return
		}
		endSeries(named[last])
		beginSeries(id)
		named = slices.Insert(named[:last], 0, id)
	}
}

// collectNamedProxies sends the series of the named proxies and of "other". It returns the ids of the named proxies.
func (r *Recorder) collectNamedProxies(out chan<- prometheus.Metric, pool []ProxyState) map[string]bool {
	n := &r.namedProxies
	n.mu.Lock()
	defer n.mu.Unlock()
	attempts := map[string]uint64{}
	for id, s := range r.ByProxy(busyHours) {
		attempts[id] = s.Attempts()
	}
	for i := range pool {
		if s := &pool[i]; s.Up+s.Down > 0 || s.Cost > 0 {
			r.proxyCounters(s.ID).updateTraffic(s)
		}
	}
	n.chooseProxies(pool, attempts, func(id string) { n.baselines[id] = r.findProxy(id).totalInOther() }, r.endSeries)
	sum := n.forgottenProxies.clone()
	named := make(map[string]*proxyTotals, len(n.baselines))
	r.proxies.Range(func(id, v any) bool {
		t := v.(*proxy).total()
		sum.add(t)
		if before := n.baselines[id.(string)]; before != nil {
			t.subtract(before)
			named[id.(string)] = t
		} else {
			v.(*proxy).markInOther()
		}
		return true
	})
	sum.subtract(&n.endedSeries)
	hasSeries := make(map[string]bool, len(n.baselines))
	for id := range n.baselines {
		t := named[id]
		if t == nil { // the proxy has not been used
			t = &proxyTotals{}
		}
		t.collect(out, id)
		sum.subtract(t)
		hasSeries[id] = true
	}
	if len(pool) > len(hasSeries) {
		sum.collect(out, otherProxies)
	}
	return hasSeries
}

// endSeries ends the series of a named proxy. The caller holds the mutex of r.namedProxies.
func (r *Recorder) endSeries(id string) {
	value := r.findProxy(id).total()
	value.subtract(r.namedProxies.baselines[id])
	r.namedProxies.endedSeries.add(value)
	delete(r.namedProxies.baselines, id)
}

// findProxy returns the counters of a proxy; nil if it has not been used.
func (r *Recorder) findProxy(id string) *proxy {
	if p, ok := r.proxies.Load(id); ok {
		return p.(*proxy)
	}
	return nil
}

// total returns a copy of the totals of a proxy. The receiver p may be nil.
func (p *proxy) total() *proxyTotals {
	if p == nil {
		return &proxyTotals{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.totals.clone()
}

// totalInOther returns the totals of a proxy if a scrape has included them in the time series "other". Otherwise, and
// for nil, it returns empty totals.
func (p *proxy) totalInOther() *proxyTotals {
	if p == nil {
		return &proxyTotals{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.inOther {
		return &proxyTotals{}
	}
	return p.totals.clone()
}

// markInOther records that a scrape has included the proxy in the time series "other".
func (p *proxy) markInOther() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inOther = true
}

// updateTraffic updates the bytes and the cost of the totals.
func (p *proxy) updateTraffic(s *ProxyState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Up < p.up || s.Down < p.down { // another proxy has the id now
		p.up, p.down, p.cost = 0, 0, 0
	}
	p.totals.up += s.Up - p.up
	p.totals.down += s.Down - p.down
	p.totals.cost += s.Cost - p.cost
	p.up, p.down, p.cost = s.Up, s.Down, s.Cost
}

// forgetProxy deletes the counters of a proxy that is not in the pool. The series "other" keeps the attempts of the
// proxy.
func (r *Recorder) forgetProxy(id string) {
	n := &r.namedProxies
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.baselines[id] != nil {
		r.endSeries(id)
	}
	if p, found := r.proxies.LoadAndDelete(id); found {
		p.(*proxy).isForgotten.Store(true)
		n.forgottenProxies.add(p.(*proxy).total())
	}
	r.failingProxies.remove(id)
}
