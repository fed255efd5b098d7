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
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

// DefaultMax is the default maximum number of pairs of a proxy and a host whose usage is kept.
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

// CheckEntries returns the errors in a list of entries: one for each invalid field.
func CheckEntries(entries []Entry) (list []*Error) {
	if len(entries) > MaxEntries {
		return []*Error{{MaxEntries, "",
			fmt.Sprintf("there are %d entries; at most %d are allowed", len(entries), MaxEntries)}}
	}
	for i, e := range entries {
		bad := func(field, msg string) { list = append(list, &Error{i, field, msg}) }
		if e.Host != "" {
			if _, err := rules.ParseHost(e.Host); err != nil {
				bad("host", err.Error())
			}
		}
		e.Check(bad)
		if e.Limit == (Limit{}) {
			bad("", "sets no limit; set max_in_flight, rate, min_interval or bytes_per_day")
		}
	}
	return list
}

// DefaultLimit returns the limits of every proxy. Each of them comes from the first entry that has no host and sets
// this limit.
func DefaultLimit(entries []Entry) (l Limit) {
	for _, e := range entries {
		if e.Host == "" {
			l = l.WithDefaults(e.Limit)
		}
	}
	return l
}

// Table holds the limits of pairs of a proxy and a host, and the usage of the pairs that were used last. It is safe for
// concurrent use.
type Table struct {
	max     int
	days    share.DayClock
	entries atomic.Pointer[[]Entry] // the entries that have a host; nil if there are no such entries

	mu     sync.RWMutex // guards the fields below
	pairs  map[pairKey]*list.Element
	recent *list.List               // of *pair; the pair whose last attempt began most recently is first
	saved  map[usageName]SavedUsage // restored usage of pairs that have had no attempt in this process
}

type pairKey struct{ proxy, host uint64 }

type pair struct {
	key   pairKey
	name  usageName
	bytes traffic.Meter
	usage *Usage
}

// usageName identifies a proxy or pair in a file. For a proxy, host is "".
type usageName struct{ proxy, host string }

// NewTable returns a table that keeps the usage of at most max pairs.
func NewTable(max int) *Table {
	return &Table{max: max, pairs: map[pairKey]*list.Element{}, recent: list.New(), saved: map[usageName]SavedUsage{}}
}

// SetStoreTime makes the days follow the clock of a cluster's store (share.DayClock.Set).
func (t *Table) SetStoreTime(local, store time.Time) { t.days.Set(local, store) }

// SetEntries replaces the entries. The counted usage of the pairs stays. Entries without a host have no effect here.
func (t *Table) SetEntries(entries []Entry, now time.Time) {
	var hostEntries []Entry
	for _, e := range entries {
		if e.Host != "" {
			e.Host, _ = rules.ParseHost(e.Host)
			hostEntries = append(hostEntries, e)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if hostEntries == nil {
		t.entries.Store(nil)
		return
	}
	t.entries.Store(&hostEntries)
	for _, e := range t.pairs {
		p := e.Value.(*pair)
		l, _ := limitOf(hostEntries, p.name.host)
		p.usage.SetLimit(l, now)
	}
}

// limitOf returns the limit of the first entry whose pattern matches the host.
func limitOf(entries []Entry, host string) (l Limit, found bool) {
	host = rules.NormalHost(host)
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

// HaveLimit reports whether the pairs have a limit.
func (p *Pairs) HaveLimit() bool { return p.table != nil }

// Empty reports whether no pair has a limit.
func (t *Table) Empty() bool { return t.entries.Load() == nil }

// PairsOf returns the pairs of a host, which is in lower case and without port; hash is its core.Hash53. PairsOf takes
// no lock.
func (t *Table) PairsOf(host string, hash uint64) Pairs {
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

// HasLimit reports whether the pairs of the host have a limit.
func (t *Table) HasLimit(host string) bool {
	p := t.PairsOf(host, 0)
	return p.HaveLimit()
}

// Usage returns the usage of the host's pair with one proxy, or nil if there is none. Its argument is the core.Hash53
// of the proxy's id.
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

// BeginAttempt is like Usage, but creates the usage if there is none.
func (p *Pairs) BeginAttempt(proxy uint64, id string, now time.Time) *Usage {
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
	newPair := &pair{key: key, name: usageName{id, p.name}}
	newPair.usage = NewUsage(p.limit, &newPair.bytes, &t.days, now)
	if s, found := t.saved[newPair.name]; found {
		newPair.usage.restore(s.Day, s.Bytes, now)
		delete(t.saved, newPair.name)
	}
	t.pairs[key] = t.recent.PushFront(newPair)
	return newPair.usage
}

// SavedUsage is the number of bytes of a proxy or pair on one day, in the form in which a file stores it.
type SavedUsage struct {
	Proxy string `json:"proxy"`
	Host  string `json:"host,omitempty"` // "" for a proxy
	Day   int64  `json:"day"`            // in days since the Unix epoch (UTC)
	Bytes int64  `json:"bytes"`
}

// SavedUsages returns today's bytes of each pair that has a limit on bytes per day.
func (t *Table) SavedUsages(now time.Time) (out []SavedUsage) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.recent.Front(); e != nil; e = e.Next() {
		p := e.Value.(*pair)
		if used, ok := p.usage.savedUsage(p.name, now); ok {
			out = append(out, used)
		}
	}
	today := t.days.Day(now)
	for _, s := range t.saved { // the pairs that have had no attempt in this process
		if s.Day == today {
			out = append(out, s)
		}
	}
	return out
}

// savedUsage returns the number of today's bytes. It returns false if the number is 0, or if the bytes per day are not
// limited.
func (u *Usage) savedUsage(name usageName, now time.Time) (used SavedUsage, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.limit.BytesPerDay == 0 {
		return SavedUsage{}, false
	}
	bytes := u.bytesToday(now)
	return SavedUsage{name.proxy, name.host, u.day, bytes}, bytes > 0
}

// SavedUsage returns the number of today's bytes of the proxy with the given id. It returns false if the number is 0,
// or if the bytes per day are not limited.
func (u *Usage) SavedUsage(proxy string, now time.Time) (used SavedUsage, ok bool) {
	return u.savedUsage(usageName{proxy, ""}, now)
}

// Restore adds the bytes that a proxy transmitted today in an earlier process. It ignores the bytes of another day.
func (u *Usage) Restore(s SavedUsage, now time.Time) { u.restore(s.Day, s.Bytes, now) }

// Restore sets the bytes that pairs transmitted today in an earlier process. It ignores elements of other days, and
// elements without a host, which are for Usage.Restore.
func (t *Table) Restore(used []SavedUsage, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	today := t.days.Day(now)
	for _, s := range used {
		if s.Host != "" && s.Bytes > 0 && s.Day == today && len(t.saved) < t.max {
			t.saved[usageName{s.Proxy, s.Host}] = s
		}
	}
}
