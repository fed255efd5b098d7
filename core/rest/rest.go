// Package rest holds the resting pairs. A pair consists of a proxy and the host of a target that refuses the
// proxy. While a pair rests, requests for the host are sent through other proxies. The proxy still serves all
// other hosts.
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
	Host    string        // host of the target, without port, in lower case
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

// Resting are the pairs of one host, ordered by the hash of their proxy. It is immutable.
type Resting []*entry

type entry struct {
	Pair
	proxy, host uint64 // core.Hash53 of the proxy's id and of the host
	at          int    // index in queue
}

// New returns an empty Rests of at most max pairs.
func New(max int) *Rests { return &Rests{max: max} }

// OnChange sets a function that gets each pair whose rest begins or gets a later end, and each pair that End ends;
// Until is then the time of End. The function must return soon and not call r. OnChange must be called before the
// first Begin.
func (r *Rests) OnChange(f func(Pair)) { r.changed = f }

// Begin makes a pair rest until p.Until. proxy and host are the hashes of p.ProxyID and p.Host. If the
// pair rests already, the later end applies. If there are too many pairs, the one whose rest ends first is
// removed.
func (r *Rests) Begin(proxy, host uint64, p Pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(p.Since)
	of := r.of(host)
	i, found := of.find(proxy)
	if found {
		e := of[i]
		if p.Until <= e.Until {
			return
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
	if r.changed != nil {
		r.changed(p)
	}
}

// End ends the rest of a pair. proxy and host are as in Begin. It returns false if the pair does not rest at time now.
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

// Of returns the pairs of a host, or nil if there are none. Some of the rests may already have
// ended.
func (r *Rests) Of(host uint64) Resting {
	if r.count.Load() == 0 {
		return nil
	}
	return r.of(host)
}

// Until returns the end of a proxy's rest. ok is false if the proxy does not rest at the time now.
func (of Resting) Until(proxy uint64, now time.Duration) (until time.Duration, ok bool) {
	if len(of) == 0 {
		return 0, false
	}
	if i, found := of.find(proxy); found && now < of[i].Until {
		return of[i].Until, true
	}
	return 0, false
}

// Count returns the number of pairs that rest at the time now.
func (r *Rests) Count(now time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(now)
	return len(r.ends)
}

// All returns the pairs that rest at time now, sorted by host and proxy.
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

func (of Resting) find(proxy uint64) (int, bool) {
	return slices.BinarySearchFunc(of, proxy, func(e *entry, proxy uint64) int { return cmp.Compare(e.proxy, proxy) })
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
