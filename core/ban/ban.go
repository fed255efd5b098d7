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
// case, Pair.Until is the time of End. The function must return soon, and must not call the table. OnChange must be
// called before the first Begin.
func (t *Table) OnChange(f func(Pair)) { t.onChange = f }

// Begin bans the pair p until p.Until, unless the pair is already banned for longer. The caller also passes the hashes
// of p.ProxyID and p.Host. If the table is full, the pair whose ban ends first is removed.
func (t *Table) Begin(proxy, host uint64, p Pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, extended := t.begin(proxy, host, p); extended && t.onChange != nil {
		t.onChange(p)
	}
}

// Restore is like Begin, for a pair whose ban began in an earlier process. It does not call the function set by
// OnChange.
func (t *Table) Restore(proxy, host uint64, p Pair, now time.Duration) {
	if p.Until <= now {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin(proxy, host, p)
}

// begin bans a pair, and returns the stored pair. The second result is false if the pair was already banned until
// p.Until or longer. The caller holds mu.
func (t *Table) begin(proxy, host uint64, p Pair) (_ Pair, extended bool) {
	t.removeEnded(p.Since)
	list := t.bansOf(host)
	i, found := list.find(proxy)
	if found {
		e := list[i]
		if p.Until <= e.Until {
			return e.Pair, false
		}
		p.Since = e.Since
		heap.Remove(&t.byEnd, e.heapIndex)
		list = slices.Delete(slices.Clone(list), i, i+1)
	} else {
		if len(t.byEnd) == t.max {
			first := heap.Pop(&t.byEnd).(*entry)
			t.remove(first)
			list = t.bansOf(host) // the removed pair may belong to the same host
			i, _ = list.find(proxy)
		}
		list = slices.Clone(list)
	}
	e := &entry{Pair: p, proxy: proxy, host: host}
	t.setBans(host, slices.Insert(list, i, e))
	heap.Push(&t.byEnd, e)
	t.count.Store(int64(len(t.byEnd)))
	return p, true
}

// End ends the ban of a pair, given by its hashes. It returns false if the pair is not banned.
func (t *Table) End(proxy, host uint64, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeEnded(now)
	list := t.bansOf(host)
	i, found := list.find(proxy)
	if found {
		e := list[i]
		heap.Remove(&t.byEnd, e.heapIndex)
		t.remove(e)
		t.count.Store(int64(len(t.byEnd)))
		if t.onChange != nil {
			p := e.Pair
			p.Until = now
			t.onChange(p)
		}
	}
	return found
}

// EndProxy ends the bans of a proxy for all hosts.
func (t *Table) EndProxy(proxy uint64, now time.Duration) {
	if t.count.Load() == 0 {
		return
	}
	for _, e := range t.all() {
		if e.proxy == proxy {
			t.End(proxy, e.host, now)
		}
	}
}

// EndHost ends the bans of all proxies for a host.
func (t *Table) EndHost(host uint64, now time.Duration) {
	for _, e := range t.BansOf(host) {
		t.End(e.proxy, host, now)
	}
}

// EndAll ends the bans of all pairs.
func (t *Table) EndAll(now time.Duration) {
	for _, p := range t.all() {
		t.End(p.proxy, p.host, now)
	}
}

// all returns the stored pairs, in no particular order.
func (t *Table) all() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.byEnd)
}

// BansOf returns the banned pairs of a host; nil for none. Some of the bans may already have ended.
func (t *Table) BansOf(host uint64) HostBans {
	if t.count.Load() == 0 {
		return nil
	}
	return t.bansOf(host)
}

// EndOf returns the time until which a proxy is banned for the host; ok is false if the proxy is not banned.
func (b HostBans) EndOf(proxy uint64, now time.Duration) (until time.Duration, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	if i, found := b.find(proxy); found && now < b[i].Until {
		return b[i].Until, true
	}
	return 0, false
}

// HasBan reports whether any proxy is banned for the host now.
func (b HostBans) HasBan(now time.Duration) bool {
	return slices.ContainsFunc(b, func(e *entry) bool { return now < e.Until })
}

// Get returns the pair of the host and a proxy; ok is false if the proxy is not banned for the host.
func (b HostBans) Get(proxy uint64, now time.Duration) (p Pair, ok bool) {
	if i, found := b.find(proxy); found && now < b[i].Until {
		return b[i].Pair, true
	}
	return Pair{}, false
}

// Count returns the number of banned pairs.
func (t *Table) Count(now time.Duration) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeEnded(now)
	return len(t.byEnd)
}

// All returns the banned pairs, sorted by host and proxy.
func (t *Table) All(now time.Duration) []Pair {
	t.mu.Lock()
	t.removeEnded(now)
	all := make([]Pair, len(t.byEnd))
	for i, e := range t.byEnd {
		all[i] = e.Pair
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.ProxyID, b.ProxyID))
	})
	return all
}

// removeEnded removes the pairs whose ban has ended. The caller holds mu.
func (t *Table) removeEnded(now time.Duration) {
	for len(t.byEnd) > 0 && t.byEnd[0].Until <= now {
		t.remove(heap.Pop(&t.byEnd).(*entry))
	}
	t.count.Store(int64(len(t.byEnd)))
}

// The caller of remove holds mu.
func (t *Table) remove(e *entry) {
	list := t.bansOf(e.host)
	if i, found := list.find(e.proxy); found {
		t.setBans(e.host, slices.Delete(slices.Clone(list), i, i+1))
	}
}

// The caller of setBans holds mu.
func (t *Table) setBans(host uint64, list HostBans) {
	if len(list) == 0 {
		t.hosts.Delete(host)
		return
	}
	stored, _ := t.hosts.LoadOrStore(host, &hostEntry{})
	stored.(*hostEntry).pairs.Store(&list)
}

func (t *Table) bansOf(host uint64) HostBans {
	stored, ok := t.hosts.Load(host)
	if !ok {
		return nil
	}
	if pairs := stored.(*hostEntry).pairs.Load(); pairs != nil {
		return *pairs
	}
	return nil
}

func (b HostBans) find(proxy uint64) (int, bool) {
	return slices.BinarySearchFunc(b, proxy, func(e *entry, proxy uint64) int { return cmp.Compare(e.proxy, proxy) })
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
