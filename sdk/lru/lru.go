// Package lru remembers a bounded number of things by their hash, the most
// recently used ones: what a plugin that learns keeps of proxies and hosts. It
// allocates when it is made and never again.
package lru

// Map is a map from hashes, such as abi.Candidate.IDHash, to values. It belongs
// to one goroutine, as a plugin does.
type Map[V any] struct {
	entries        []entry[V]
	buckets        []int32 // the first entry of each, or none
	used           int
	newest, oldest int32 // or none
}

type entry[V any] struct {
	key          float64
	next         int32 // in its bucket, or none
	newer, older int32 // or none
	value        V
}

const none = -1

// New returns a map of at most capacity entries, which is at least 1.
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

// Len is the number of entries.
func (m *Map[V]) Len() int { return m.used }

// Get returns the value of a key, nil if it has none. It does not count as a
// use. The pointer is good until the next Put.
func (m *Map[V]) Get(key float64) *V {
	for i := *m.bucket(key); i != none; i = m.entries[i].next {
		if m.entries[i].key == key {
			return &m.entries[i].value
		}
	}
	return nil
}

// Put returns the value of a key, a zero one if it had none; where the map is
// full, that takes the place of the one used longest ago. The pointer is good
// until the next Put.
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

// bucket is where a key is looked for. Hashes are spread evenly already.
func (m *Map[V]) bucket(key float64) *int32 {
	return &m.buckets[uint64(key)&uint64(len(m.buckets)-1)]
}

// link makes an entry the newest.
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

// unlink takes an entry out of the order.
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
