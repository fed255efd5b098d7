// Package rest holds the resting pairs. A pair consists of a proxy and the host of a target that refuses the proxy.
// The pairs of upstream.Pool.Avoided and Uncompared have the target itself (host:port) in place of its host. While a
// pair rests, requests for the host are sent through other proxies. The proxy still serves all other hosts.
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

// Pair is a resting pair. Times count from the pool's epoch (upstream.Pool.Elapsed).
type Pair struct {
	ProxyID string
	Host    string        // host of the target, without port, in lower case; host:port in upstream.Pool.Avoided
	Since   time.Duration // beginning of the rest
	Until   time.Duration // end of the rest
}

// Rests holds a limited number of resting pairs. It is safe for concurrent use. Readers take no lock.
type Rests struct {
	max   int
	hosts sync.Map     // hash of the host -> *hostRests
	count atomic.Int64 // number of stored pairs, including pairs whose rest has ended

	mu   sync.Mutex // guards ends and all changes of hosts
	ends queue

	changed func(Pair) // see OnChange; nil for none
}

// hostRests holds the pairs of one host.
type hostRests struct{ pairs atomic.Pointer[Resting] }

// Resting holds the pairs of one host, ordered by the hash of their proxy. It is immutable.
type Resting []*entry

type entry struct {
	Pair
	proxy, host uint64 // core.Hash53 of the proxy's id and of the host
	at          int    // index in Rests.ends
}

// New returns an empty Rests of at most max pairs.
func New(max int) *Rests { return &Rests{max: max} }

// OnChange sets a function that receives each pair whose rest begins, gets a later end, or is ended by End. If End has
// ended the rest, Pair.Until is the time of that call of End. The function must return soon and not call r. OnChange
// must be called before the first Begin.
func (r *Rests) OnChange(f func(Pair)) { r.changed = f }

// Begin makes a pair rest until p.Until. The parameters proxy and host are the hashes of p.ProxyID and p.Host. If the
// pair rests already, the later end applies. If the maximum number of pairs rest already, the pair whose rest ends
// first is removed.
func (r *Rests) Begin(proxy, host uint64, p Pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, later := r.begin(proxy, host, p); later && r.changed != nil {
		r.changed(p)
	}
}

// Restore is like Begin for a rest that began in an earlier process. It does not call the function of OnChange. The
// parameter now is the current time.
func (r *Rests) Restore(proxy, host uint64, p Pair, now time.Duration) {
	if p.Until <= now {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(proxy, host, p)
}

// begin does the work of Begin. It returns the pair with its present end. The result later is false if the pair already
// rested until p.Until or longer. The caller holds mu.
func (r *Rests) begin(proxy, host uint64, p Pair) (_ Pair, later bool) {
	r.drop(p.Since)
	of := r.of(host)
	i, found := of.find(proxy)
	if found {
		e := of[i]
		if p.Until <= e.Until {
			return e.Pair, false
		}
		p.Since = e.Since
		heap.Remove(&r.ends, e.at)
		of = slices.Delete(slices.Clone(of), i, i+1)
	} else {
		if len(r.ends) == r.max {
			first := heap.Pop(&r.ends).(*entry)
			r.remove(first)
			of = r.of(host) // the removed pair may belong to the same host
			i, _ = of.find(proxy)
		}
		of = slices.Clone(of)
	}
	e := &entry{Pair: p, proxy: proxy, host: host}
	r.set(host, slices.Insert(of, i, e))
	heap.Push(&r.ends, e)
	r.count.Store(int64(len(r.ends)))
	return p, true
}

// End ends the rest of a pair. The parameters proxy and host are as in Begin, and now is the current time. The result
// is false if the pair does not rest.
func (r *Rests) End(proxy, host uint64, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(now)
	of := r.of(host)
	i, found := of.find(proxy)
	if found {
		e := of[i]
		heap.Remove(&r.ends, e.at)
		r.remove(e)
		r.count.Store(int64(len(r.ends)))
		if r.changed != nil {
			p := e.Pair
			p.Until = now
			r.changed(p)
		}
	}
	return found
}

// EndProxy ends the rests of all pairs of a proxy.
func (r *Rests) EndProxy(proxy uint64, now time.Duration) {
	if r.count.Load() == 0 {
		return
	}
	for _, e := range r.all() {
		if e.proxy == proxy {
			r.End(proxy, e.host, now)
		}
	}
}

// EndHost ends the rests of all pairs of a host.
func (r *Rests) EndHost(host uint64, now time.Duration) {
	for _, e := range r.Of(host) {
		r.End(e.proxy, host, now)
	}
}

// Clear ends the rests of all pairs.
func (r *Rests) Clear(now time.Duration) {
	for _, p := range r.all() {
		r.End(p.proxy, p.host, now)
	}
}

// all returns the stored pairs, in no particular order.
func (r *Rests) all() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ends)
}

// Of returns the pairs of a host, or nil if there are none. Some of the rests may already have
// ended.
func (r *Rests) Of(host uint64) Resting {
	if r.count.Load() == 0 {
		return nil
	}
	return r.of(host)
}

// Until returns the end of a proxy's rest. The result ok is false if the proxy does not rest at the time now.
func (r Resting) Until(proxy uint64, now time.Duration) (until time.Duration, ok bool) {
	if len(r) == 0 {
		return 0, false
	}
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Until, true
	}
	return 0, false
}

// Any reports whether a pair rests at the time now.
func (r Resting) Any(now time.Duration) bool {
	return slices.ContainsFunc(r, func(e *entry) bool { return now < e.Until })
}

// Get returns the rest of a proxy. The result ok is false if the proxy does not rest at the time now.
func (r Resting) Get(proxy uint64, now time.Duration) (p Pair, ok bool) {
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Pair, true
	}
	return Pair{}, false
}

// Count returns the number of pairs that rest at the time now.
func (r *Rests) Count(now time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(now)
	return len(r.ends)
}

// All returns the pairs that rest at the time now, sorted by host and proxy.
func (r *Rests) All(now time.Duration) []Pair {
	r.mu.Lock()
	r.drop(now)
	all := make([]Pair, len(r.ends))
	for i, e := range r.ends {
		all[i] = e.Pair
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.ProxyID, b.ProxyID))
	})
	return all
}

// drop removes the pairs whose rest has ended. The caller holds mu.
func (r *Rests) drop(now time.Duration) {
	for len(r.ends) > 0 && r.ends[0].Until <= now {
		r.remove(heap.Pop(&r.ends).(*entry))
	}
	r.count.Store(int64(len(r.ends)))
}

// remove removes a pair from the pairs of its host. The caller holds mu.
func (r *Rests) remove(e *entry) {
	of := r.of(e.host)
	if i, found := of.find(e.proxy); found {
		r.set(e.host, slices.Delete(slices.Clone(of), i, i+1))
	}
}

// set replaces the pairs of a host. The caller holds mu.
func (r *Rests) set(host uint64, of Resting) {
	if len(of) == 0 {
		r.hosts.Delete(host)
		return
	}
	held, _ := r.hosts.LoadOrStore(host, &hostRests{})
	held.(*hostRests).pairs.Store(&of)
}

func (r *Rests) of(host uint64) Resting {
	held, ok := r.hosts.Load(host)
	if !ok {
		return nil
	}
	if pairs := held.(*hostRests).pairs.Load(); pairs != nil {
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
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(e any) {
	e.(*entry).at = len(*q)
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
