// Package rest records which proxies rest for which hosts. A proxy rests for a host if a target on the host refuses the
// proxy. Meanwhile, requests for the host are sent through other proxies. The proxy still serves all other hosts. A
// Pair consists of the proxy and the host. In upstream.Pool.Avoided and Uncompared, it consists of a proxy and a target
// (host:port).
package rest

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMax is the default maximum number of resting pairs.
const DefaultMax = 16_384

// Pair is a pair of a proxy and a host for which the proxy rests. Times count from the pool's epoch
// (upstream.Pool.Elapsed).
type Pair struct {
	ProxyID string
	Host    string        // host of the target, without port, in lower case; host:port in upstream.Pool.Avoided
	Since   time.Duration // beginning of the rest
	Until   time.Duration // end of the rest
}

// Rests holds a limited number of pairs of a proxy and a host for which the proxy rests. It is safe for concurrent use.
// Readers take no lock.
type Rests struct {
	max   int
	hosts sync.Map     // hash of the host -> *hostRests
	count atomic.Int64 // number of stored pairs, including pairs whose rest has ended

	mu    sync.Mutex // guards byEnd and all changes of hosts
	byEnd queue

	onChange func(Pair) // see OnChange; nil for none
}

// hostRests holds the pairs of one host with each proxy that rests for it.
type hostRests struct{ pairs atomic.Pointer[Resting] }

// Resting holds the pairs of one host with each proxy that rests for it, ordered by the hash of the proxy. It is
// immutable.
type Resting []*entry

type entry struct {
	Pair
	proxy, host uint64 // core.Hash53 of the proxy's id and of the host
	heapIndex   int    // index in Rests.byEnd
}

// New returns an empty Rests of at most max pairs.
func New(max int) *Rests { return &Rests{max: max} }

// OnChange sets a function that receives each pair whose rest begins, gets a later end, or is ended by EndRest. In the
// last case, Pair.Until is the time of EndRest. The function must return soon and not call r. OnChange must be called
// before the first BeginRest.
func (r *Rests) OnChange(f func(Pair)) { r.onChange = f }

// BeginRest makes a pair rest until p.Until, unless it already rests longer. proxy and host are the hashes of p.ProxyID
// and p.Host. If the maximum number of pairs rest already, the pair whose rest ends first is removed.
func (r *Rests) BeginRest(proxy, host uint64, p Pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, extended := r.beginRest(proxy, host, p); extended && r.onChange != nil {
		r.onChange(p)
	}
}

// Restore is like BeginRest, for a pair whose rest began in an earlier process. It does not call the function set by
// OnChange.
func (r *Rests) Restore(proxy, host uint64, p Pair, now time.Duration) {
	if p.Until <= now {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beginRest(proxy, host, p)
}

// beginRest makes a pair rest, and returns the pair as it is stored then. extended is false if the pair already rested
// until p.Until or longer. The caller holds mu.
func (r *Rests) beginRest(proxy, host uint64, p Pair) (_ Pair, extended bool) {
	r.removeEnded(p.Since)
	resting := r.restingAt(host)
	i, found := resting.find(proxy)
	if found {
		e := resting[i]
		if p.Until <= e.Until {
			return e.Pair, false
		}
		p.Since = e.Since
		heap.Remove(&r.byEnd, e.heapIndex)
		resting = slices.Delete(slices.Clone(resting), i, i+1)
	} else {
		if len(r.byEnd) == r.max {
			first := heap.Pop(&r.byEnd).(*entry)
			r.remove(first)
			resting = r.restingAt(host) // the removed pair may belong to the same host
			i, _ = resting.find(proxy)
		}
		resting = slices.Clone(resting)
	}
	e := &entry{Pair: p, proxy: proxy, host: host}
	r.setResting(host, slices.Insert(resting, i, e))
	heap.Push(&r.byEnd, e)
	r.count.Store(int64(len(r.byEnd)))
	return p, true
}

// EndRest ends the rest of a pair, given by its hashes. It returns false if the pair does not rest.
func (r *Rests) EndRest(proxy, host uint64, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeEnded(now)
	resting := r.restingAt(host)
	i, found := resting.find(proxy)
	if found {
		e := resting[i]
		heap.Remove(&r.byEnd, e.heapIndex)
		r.remove(e)
		r.count.Store(int64(len(r.byEnd)))
		if r.onChange != nil {
			p := e.Pair
			p.Until = now
			r.onChange(p)
		}
	}
	return found
}

// EndProxy ends the rests of a proxy for all hosts.
func (r *Rests) EndProxy(proxy uint64, now time.Duration) {
	if r.count.Load() == 0 {
		return
	}
	for _, e := range r.all() {
		if e.proxy == proxy {
			r.EndRest(proxy, e.host, now)
		}
	}
}

// EndHost ends the rests of all proxies for a host.
func (r *Rests) EndHost(host uint64, now time.Duration) {
	for _, e := range r.RestingAt(host) {
		r.EndRest(e.proxy, host, now)
	}
}

// Clear ends the rests of all pairs.
func (r *Rests) Clear(now time.Duration) {
	for _, p := range r.all() {
		r.EndRest(p.proxy, p.host, now)
	}
}

// all returns the stored pairs, in no particular order.
func (r *Rests) all() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.byEnd)
}

// RestingAt returns the pairs of a host with each proxy that rests for it; nil for none. Some of the rests may already
// have ended.
func (r *Rests) RestingAt(host uint64) Resting {
	if r.count.Load() == 0 {
		return nil
	}
	return r.restingAt(host)
}

// EndOf returns the time until which a proxy rests for the host; ok is false if the proxy does not rest.
func (r Resting) EndOf(proxy uint64, now time.Duration) (until time.Duration, ok bool) {
	if len(r) == 0 {
		return 0, false
	}
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Until, true
	}
	return 0, false
}

// AnyRests reports whether any proxy rests for the host now.
func (r Resting) AnyRests(now time.Duration) bool {
	return slices.ContainsFunc(r, func(e *entry) bool { return now < e.Until })
}

// Get returns the pair of the host and a proxy; ok is false if the proxy does not rest for the host.
func (r Resting) Get(proxy uint64, now time.Duration) (p Pair, ok bool) {
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Pair, true
	}
	return Pair{}, false
}

// Count returns the number of pairs that rest.
func (r *Rests) Count(now time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeEnded(now)
	return len(r.byEnd)
}

// All returns the pairs that rest, sorted by host and proxy.
func (r *Rests) All(now time.Duration) []Pair {
	r.mu.Lock()
	r.removeEnded(now)
	all := make([]Pair, len(r.byEnd))
	for i, e := range r.byEnd {
		all[i] = e.Pair
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.ProxyID, b.ProxyID))
	})
	return all
}

// removeEnded removes the pairs whose rest has ended. The caller holds mu.
func (r *Rests) removeEnded(now time.Duration) {
	for len(r.byEnd) > 0 && r.byEnd[0].Until <= now {
		r.remove(heap.Pop(&r.byEnd).(*entry))
	}
	r.count.Store(int64(len(r.byEnd)))
}

// The caller of remove holds mu.
func (r *Rests) remove(e *entry) {
	resting := r.restingAt(e.host)
	if i, found := resting.find(e.proxy); found {
		r.setResting(e.host, slices.Delete(slices.Clone(resting), i, i+1))
	}
}

// The caller of setResting holds mu.
func (r *Rests) setResting(host uint64, resting Resting) {
	if len(resting) == 0 {
		r.hosts.Delete(host)
		return
	}
	stored, _ := r.hosts.LoadOrStore(host, &hostRests{})
	stored.(*hostRests).pairs.Store(&resting)
}

func (r *Rests) restingAt(host uint64) Resting {
	stored, ok := r.hosts.Load(host)
	if !ok {
		return nil
	}
	if pairs := stored.(*hostRests).pairs.Load(); pairs != nil {
		return *pairs
	}
	return nil
}

func (r Resting) find(proxy uint64) (int, bool) {
	return slices.BinarySearchFunc(r, proxy, func(e *entry, proxy uint64) int { return cmp.Compare(e.proxy, proxy) })
}

// queue orders the pairs by the end of their rest. It implements heap.Interface.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].Until < q[j].Until }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].heapIndex, q[j].heapIndex = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(e any) {
	e.(*entry).heapIndex = len(*q)
	*q = append(*q, e.(*entry))
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
