// Package lru has a map of limited size. Before a full map adds an entry, it removes the entry that was used longest
// ago. Plugins that learn use the map for data about proxies and hosts. A map allocates memory only when it is
// created.
package lru

// Map is a map from hashes, such as abi.Candidate.IDHash, to values. Only one goroutine may use it.
type Map[V any] struct {
	entries        []entry[V]
	buckets        []int32 // index of the first entry of each bucket, or none
	used           int
	newest, oldest int32 // indices of entries, or none
}

type entry[V any] struct {
	key          float64
	next         int32 // index of the next entry in the same bucket, or none
	newer, older int32 // indices of entries, or none
	value        V
}

const none = -1

// New returns a map of at most capacity entries. capacity is at least 1.
func New[V any](capacity int) *Map[V] {
	size := 1
	for size < capacity {
		size *= 2
	}
	m := &Map[V]{entries: make([]entry[V], capacity), buckets: make([]int32, size), newest: none, oldest: none}
	for i := range m.buckets {
		m.buckets[i] = none
	}
	return m
}

// Len returns the number of entries.
func (m *Map[V]) Len() int { return m.used }

// Get returns the value of a key, or nil if the map does not have the key. A Get does not count as a use.
// The pointer is valid until the next Put.
func (m *Map[V]) Get(key float64) *V {
	for i := *m.bucket(key); i != none; i = m.entries[i].next {
		if m.entries[i].key == key {
			return &m.entries[i].value
		}
	}
	return nil
}

// Put returns the value of a key. If the map does not have the key, Put adds it with the zero value; in a
// full map it first removes the entry that was used longest ago. The pointer is valid until the next Put.
func (m *Map[V]) Put(key float64) *V {
	for i := *m.bucket(key); i != none; i = m.entries[i].next {
		if m.entries[i].key == key {
			m.unlink(i)
			m.link(i)
			return &m.entries[i].value
		}
	}
	i := int32(m.used)
	if m.used < len(m.entries) {
		m.used++
	} else {
		i = m.oldest
		m.unlink(i)
		at := m.bucket(m.entries[i].key)
		for *at != i {
			at = &m.entries[*at].next
		}
		*at = m.entries[i].next
	}
	bucket := m.bucket(key)
	m.entries[i] = entry[V]{key: key, next: *bucket}
	*bucket = i
	m.link(i)
	return &m.entries[i].value
}

// bucket returns the bucket of a key. Keys are hashes, so they are evenly distributed.
func (m *Map[V]) bucket(key float64) *int32 {
	return &m.buckets[uint64(key)&uint64(len(m.buckets)-1)]
}

// link makes an entry the most recently used one.
func (m *Map[V]) link(i int32) {
	e := &m.entries[i]
	e.newer, e.older = none, m.newest
	if m.newest != none {
		m.entries[m.newest].newer = i
	} else {
		m.oldest = i
	}
	m.newest = i
}

// unlink removes an entry from the order of use.
func (m *Map[V]) unlink(i int32) {
	e := &m.entries[i]
	if e.newer != none {
		m.entries[e.newer].older = e.older
	} else {
		m.newest = e.older
	}
	if e.older != none {
		m.entries[e.older].newer = e.newer
	} else {
		m.oldest = e.newer
	}
}
