// Package ban records which proxies are banned for which hosts. A proxy is banned for a host if a target on the host
// refuses the proxy. Until the ban ends, requests for the host are sent through other proxies. The proxy still serves
// all other hosts. A Pair consists of the proxy and the host. In upstream.Pool.Avoided and Uncompared, it consists of a
// proxy and a target (host:port).
package ban

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultMax is the default maximum number of banned pairs.
const DefaultMax = 16_384

// Pair is a pair of a proxy and a host for which the proxy is banned. Times count from the pool's epoch
// (upstream.Pool.Elapsed).
type Pair struct {
	ProxyID string
	Host    string        // host of the target, without port, in lower case; host:port in upstream.Pool.Avoided
	Since   time.Duration // beginning of the ban
	Until   time.Duration // end of the ban
}

// Table holds a limited number of banned pairs. It is safe for concurrent use.
// Readers take no lock.
type Table struct {
	max   int
	hosts sync.Map     // hash of the host -> *hostEntry
	count atomic.Int64 // number of stored pairs, including pairs whose ban has ended

	mu    sync.Mutex // guards byEnd and all changes of hosts
	byEnd queue

	onChange func(Pair) // see OnChange; nil for none
}

// hostEntry holds the banned pairs of one host.
type hostEntry struct{ pairs atomic.Pointer[HostBans] }

// HostBans holds the banned pairs of one host, ordered by the hash of the proxy. It is
// immutable.
type HostBans []*entry

type entry struct {
	Pair
	proxy, host uint64 // core.Hash53 of the proxy's id and of the host
	heapIndex   int    // index in Table.byEnd
}

// New returns an empty Table of at most max pairs.
func New(max int) *Table { return &Table{max: max} }

// OnChange sets a function that receives each pair whose ban begins, gets a later end, or is ended by End. In the last
// case, Pair.Until is the time of End. The function must return soon and not call r. OnChange must be called before the
// first Begin.
func (r *Table) OnChange(f func(Pair)) { r.onChange = f }

// Begin bans the pair p until p.Until, unless the pair is already banned for longer. The caller also passes the hashes
// of p.ProxyID and p.Host. If the table is full, the pair whose ban ends first is removed.
func (r *Table) Begin(proxy, host uint64, p Pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, extended := r.begin(proxy, host, p); extended && r.onChange != nil {
		r.onChange(p)
	}
}

// Restore is like Begin, for a pair whose ban began in an earlier process. It does not call the function set by
// OnChange.
func (r *Table) Restore(proxy, host uint64, p Pair, now time.Duration) {
	if p.Until <= now {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(proxy, host, p)
}

// begin bans a pair, and returns the pair as it is stored then. The second result is false if the pair was already
// banned until p.Until or longer. The caller holds mu.
func (r *Table) begin(proxy, host uint64, p Pair) (_ Pair, extended bool) {
	r.removeEnded(p.Since)
	list := r.bansOf(host)
	i, found := list.find(proxy)
	if found {
		e := list[i]
		if p.Until <= e.Until {
			return e.Pair, false
		}
		p.Since = e.Since
		heap.Remove(&r.byEnd, e.heapIndex)
		list = slices.Delete(slices.Clone(list), i, i+1)
	} else {
		if len(r.byEnd) == r.max {
			first := heap.Pop(&r.byEnd).(*entry)
			r.remove(first)
			list = r.bansOf(host) // the removed pair may belong to the same host
			i, _ = list.find(proxy)
		}
		list = slices.Clone(list)
	}
	e := &entry{Pair: p, proxy: proxy, host: host}
	r.setBans(host, slices.Insert(list, i, e))
	heap.Push(&r.byEnd, e)
	r.count.Store(int64(len(r.byEnd)))
	return p, true
}

// End ends the ban of a pair, given by its hashes. It returns false if the pair is not banned.
func (r *Table) End(proxy, host uint64, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeEnded(now)
	list := r.bansOf(host)
	i, found := list.find(proxy)
	if found {
		e := list[i]
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

// EndProxy ends the bans of a proxy for all hosts.
func (r *Table) EndProxy(proxy uint64, now time.Duration) {
	if r.count.Load() == 0 {
		return
	}
	for _, e := range r.all() {
		if e.proxy == proxy {
			r.End(proxy, e.host, now)
		}
	}
}

// EndHost ends the bans of all proxies for a host.
func (r *Table) EndHost(host uint64, now time.Duration) {
	for _, e := range r.BansOf(host) {
		r.End(e.proxy, host, now)
	}
}

// EndAll ends the bans of all pairs.
func (r *Table) EndAll(now time.Duration) {
	for _, p := range r.all() {
		r.End(p.proxy, p.host, now)
	}
}

// all returns the stored pairs, in no particular order.
func (r *Table) all() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.byEnd)
}

// BansOf returns the banned pairs of a host; nil for none. Some of the bans may already have ended.
func (r *Table) BansOf(host uint64) HostBans {
	if r.count.Load() == 0 {
		return nil
	}
	return r.bansOf(host)
}

// EndOf returns the time until which a proxy is banned for the host; ok is false if the proxy is not banned.
func (r HostBans) EndOf(proxy uint64, now time.Duration) (until time.Duration, ok bool) {
	if len(r) == 0 {
		return 0, false
	}
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Until, true
	}
	return 0, false
}

// HasBan reports whether any proxy is banned for the host now.
func (r HostBans) HasBan(now time.Duration) bool {
	return slices.ContainsFunc(r, func(e *entry) bool { return now < e.Until })
}

// Get returns the pair of the host and a proxy; ok is false if the proxy is not banned for the host.
func (r HostBans) Get(proxy uint64, now time.Duration) (p Pair, ok bool) {
	if i, found := r.find(proxy); found && now < r[i].Until {
		return r[i].Pair, true
	}
	return Pair{}, false
}

// Count returns the number of banned pairs.
func (r *Table) Count(now time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeEnded(now)
	return len(r.byEnd)
}

// All returns the banned pairs, sorted by host and proxy.
func (r *Table) All(now time.Duration) []Pair {
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

// removeEnded removes the pairs whose ban has ended. The caller holds mu.
func (r *Table) removeEnded(now time.Duration) {
	for len(r.byEnd) > 0 && r.byEnd[0].Until <= now {
		r.remove(heap.Pop(&r.byEnd).(*entry))
	}
	r.count.Store(int64(len(r.byEnd)))
}

// The caller of remove holds mu.
func (r *Table) remove(e *entry) {
	list := r.bansOf(e.host)
	if i, found := list.find(e.proxy); found {
		r.setBans(e.host, slices.Delete(slices.Clone(list), i, i+1))
	}
}

// The caller of setBans holds mu.
func (r *Table) setBans(host uint64, list HostBans) {
	if len(list) == 0 {
		r.hosts.Delete(host)
		return
	}
	stored, _ := r.hosts.LoadOrStore(host, &hostEntry{})
	stored.(*hostEntry).pairs.Store(&list)
}

func (r *Table) bansOf(host uint64) HostBans {
	stored, ok := r.hosts.Load(host)
	if !ok {
		return nil
	}
	if pairs := stored.(*hostEntry).pairs.Load(); pairs != nil {
		return *pairs
	}
	return nil
}

func (r HostBans) find(proxy uint64) (int, bool) {
	return slices.BinarySearchFunc(r, proxy, func(e *entry, proxy uint64) int { return cmp.Compare(e.proxy, proxy) })
}

// queue orders the pairs by the end of their bans. It implements heap.Interface.
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
