package limit

import (
	"container/list"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// DefaultMax is the default maximum number of pairs whose usage is kept.
const DefaultMax = 65_536

// MaxEntries is the maximum number of entries.
const MaxEntries = 1000

// Entry is a limit that the configuration sets for all proxies.
type Entry struct {
	// Host is a pattern of hosts in which * stands for any characters. The limit holds for each pair of a proxy and a
	// host that matches the pattern. If Host is "", the limit holds for each proxy.
	Host string
	Limit
}

// Error is an error in an entry.
type Error struct {
	Index int
	Field string // the key in the entry; "" if the error is in the entry as a whole
	Msg   string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("limits[%d]: %s", e.Index, e.Msg)
	}
	return fmt.Sprintf("limits[%d].%s: %s", e.Index, e.Field, e.Msg)
}

// CheckEntries returns the first error in a list of entries, an *Error.
func CheckEntries(entries []Entry) error {
	if len(entries) > MaxEntries {
		return &Error{MaxEntries, "",
			fmt.Sprintf("there are %d entries; at most %d are allowed", len(entries), MaxEntries)}
	}
	for i, e := range entries {
		if e.Host != "" {
			if _, err := rules.ParseHost(e.Host); err != nil {
				return &Error{i, "host", err.Error()}
			}
		}
		if field, msg := e.Check(); field != "" {
			return &Error{i, field, msg}
		}
		if e.Limit == (Limit{}) {
			return &Error{i, "", "sets no limit; set max_in_flight, rate, min_interval or bytes_per_day"}
		}
	}
	return nil
}

// Default returns the limits that apply to every proxy. Each kind of limit is taken from the first entry without a
// host that sets it.
func Default(entries []Entry) (l Limit) {
	for _, e := range entries {
		if e.Host == "" {
			l = l.Or(e.Limit)
		}
	}
	return l
}

// Table holds the limits of pairs, and the usage of a limited number of pairs. To make room for the usage of another
// pair, it removes the usage of the pair whose last attempt began the longest time ago. It is safe for concurrent
// use.
type Table struct {
	max     int
	entries atomic.Pointer[[]Entry] // the entries that have a host; nil if there are no such entries

	mu     sync.RWMutex // guards the fields below
	pairs  map[pairKey]*list.Element
	recent *list.List           // of *pair; the pair whose last attempt began most recently is first
	saved  map[named]SavedUsage // restored usage of pairs that have had no attempt in this process
}

type pairKey struct{ proxy, host uint64 }

type pair struct {
	key   pairKey
	name  named
	bytes traffic.Meter
	usage *Usage
}

// named identifies a proxy or pair in a file. For a proxy, host is "".
type named struct{ proxy, host string }

// NewTable returns a table that keeps the usage of at most max pairs.
func NewTable(max int) *Table {
	return &Table{max: max, pairs: map[pairKey]*list.Element{}, recent: list.New(), saved: map[named]SavedUsage{}}
}

// Set replaces the entries. Entries without a host have no effect. The counted usage of the pairs does not change.
func (t *Table) Set(entries []Entry, now time.Time) {
	var own []Entry
	for _, e := range entries {
		if e.Host != "" {
			e.Host, _ = rules.ParseHost(e.Host)
			own = append(own, e)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if own == nil {
		t.entries.Store(nil)
		return
	}
	t.entries.Store(&own)
	for _, e := range t.pairs {
		p := e.Value.(*pair)
		l, _ := limitOf(own, p.name.host)
		p.usage.SetLimit(l, now)
	}
}

// limitOf returns the limit of the pairs with the given host: the limit of the first entry whose pattern matches
// host.
func limitOf(entries []Entry, host string) (l Limit, found bool) {
	host = rules.Host(host)
	i := slices.IndexFunc(entries, func(e Entry) bool { return egress.GlobMatches(e.Host, host) })
	if i < 0 {
		return Limit{}, false
	}
	return entries[i].Limit, true
}

// Pairs stands for all pairs of a proxy and one host. The pairs of the zero value have no limit.
type Pairs struct {
	table *Table
	limit Limit
	name  string
	host  uint64
}

// Limited reports whether the pairs have a limit.
func (p *Pairs) Limited() bool { return p.table != nil }

// Empty reports whether no pair has a limit.
func (t *Table) Empty() bool { return t.entries.Load() == nil }

// Of returns the pairs of a host. The parameter host is in lower case and without port, and hash is the core.Hash53 of
// host. Of takes no lock.
func (t *Table) Of(host string, hash uint64) Pairs {
	entries := t.entries.Load()
	if entries == nil {
		return Pairs{}
	}
	l, found := limitOf(*entries, host)
	if !found {
		return Pairs{}
	}
	return Pairs{table: t, limit: l, name: host, host: hash}
}

// Has reports whether pairs with the given host have a limit.
func (t *Table) Has(host string) bool {
	p := t.Of(host, 0)
	return p.Limited()
}

// Usage returns the usage of the pair with a proxy; nil if the table has no usage of this pair. The parameter proxy is
// the core.Hash53 of the proxy's id.
func (p *Pairs) Usage(proxy uint64) *Usage {
	if p.table == nil {
		return nil
	}
	p.table.mu.RLock()
	defer p.table.mu.RUnlock()
	if e := p.table.pairs[pairKey{proxy, p.host}]; e != nil {
		return e.Value.(*pair).usage
	}
	return nil
}

// Begin is like Usage, but it is called when an attempt of the pair is about to begin. If the table has no usage of
// the pair, Begin creates it. The parameter id is the proxy's id.
func (p *Pairs) Begin(proxy uint64, id string, now time.Time) *Usage {
	t := p.table
	if t == nil {
		return nil
	}
	key := pairKey{proxy, p.host}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.pairs[key]; e != nil {
		t.recent.MoveToFront(e)
		return e.Value.(*pair).usage
	}
	if len(t.pairs) >= t.max {
		last := t.recent.Back()
		delete(t.pairs, last.Value.(*pair).key)
		t.recent.Remove(last)
	}
	added := &pair{key: key, name: named{id, p.name}}
	added.usage = NewUsage(p.limit, &added.bytes, now)
	if s, found := t.saved[added.name]; found {
		added.usage.restore(s.Day, s.Bytes, now)
		delete(t.saved, added.name)
	}
	t.pairs[key] = t.recent.PushFront(added)
	return added.usage
}

// SavedUsage is the number of bytes of a proxy or pair on one day, in the form in which a file stores it.
type SavedUsage struct {
	Proxy string `json:"proxy"`
	Host  string `json:"host,omitempty"` // "" for a proxy
	Day   int64  `json:"day"`            // in days since the Unix epoch (UTC)
	Bytes int64  `json:"bytes"`
}

// IsOf reports whether s is of the day (UTC) in which the time now is.
func (s *SavedUsage) IsOf(now time.Time) bool { return s.Day == dayOf(now) }

// Used returns today's number of bytes of each pair that has a limit on bytes per day.
func (t *Table) Used(now time.Time) (out []SavedUsage) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.recent.Front(); e != nil; e = e.Next() {
		p := e.Value.(*pair)
		if used, ok := p.usage.used(p.name, now); ok {
			out = append(out, used)
		}
	}
	for _, s := range t.saved { // the pairs that have had no attempt in this process
		if s.IsOf(now) {
			out = append(out, s)
		}
	}
	return out
}

// used returns the number of bytes of today. The result ok is false if this number is 0, or if there is no
// limit on the bytes per day. The parameter of is the name of the proxy or pair.
func (u *Usage) used(of named, now time.Time) (used SavedUsage, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.limit.BytesPerDay == 0 {
		return SavedUsage{}, false
	}
	bytes := u.today(now)
	return SavedUsage{of.proxy, of.host, u.day, bytes}, bytes > 0
}

// Used is like Table.Used, for the proxy with the given id.
func (u *Usage) Used(proxy string, now time.Time) (used SavedUsage, ok bool) {
	return u.used(named{proxy, ""}, now)
}

// Restore adds the bytes that a proxy transmitted today in an earlier process. It does nothing if s is of another
// day.
func (u *Usage) Restore(s SavedUsage, now time.Time) { u.restore(s.Day, s.Bytes, now) }

// Restore sets the bytes that pairs transmitted today in an earlier process. It ignores elements of used that have no
// host (they are for Usage.Restore), and elements that are of another day.
func (t *Table) Restore(used []SavedUsage, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range used {
		if s.Host != "" && s.Bytes > 0 && s.IsOf(now) && len(t.saved) < t.max {
			t.saved[named{s.Proxy, s.Host}] = s
		}
	}
}
