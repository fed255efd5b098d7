package minutes

import (
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// slots is the number of keys of the current minute that are counted without a lock. The first keys of a series
	// get the slots, and keep them.
	slots = 12
	// lateMinutes limits how late an attempt is counted. An attempt that ended at most lateMinutes minutes before the
	// current minute is counted in the current minute. An earlier end shows that the clock was set back.
	lateMinutes = 2
)

// Series holds the counts of one proxy, of one target, or of all attempts. Its zero value is empty. It is safe for
// concurrent use.
type Series struct {
	minute    atomic.Int64         // the current minute since the Unix epoch; 0 before the first attempt
	keys      [slots]atomic.Uint32 // each key + 1; 0 for a free slot
	counts    [slots]atomic.Uint32
	latencies [numBuckets]atomic.Uint32
	bytes     atomic.Uint64

	changed atomic.Bool // there are counts that save has not returned
	dropped atomic.Bool // the store has dropped the series

	mu       sync.Mutex     // guards the fields below
	others   map[Key]uint32 // attempts of the current minute whose keys have no slot; nil if there are none
	blocks   []block        // the oldest first; rows are added to the last one
	saved    int64          // minute of the last row that save has returned
	restored *Row           // last row that restore got; nil after endRestore
}

// add counts an attempt that ended in the given minute since the Unix epoch. The parameter keep is the number of
// minutes that are kept, and bucket is the bucket of the attempt's latency.
func (s *Series) add(minute, keep int64, k Key, bucket int) {
	s.advance(minute, keep)
	s.latencies[bucket].Add(1)
	for i := range s.keys {
		switch s.keys[i].Load() {
		case uint32(k) + 1:
		case 0:
			if !s.keys[i].CompareAndSwap(0, uint32(k)+1) && s.keys[i].Load() != uint32(k)+1 {
				continue
			}
		default:
			continue
		}
		s.counts[i].Add(1)
		s.change()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.others == nil {
		s.others = map[Key]uint32{}
	}
	s.others[k]++
	s.change()
}

// change sets the field changed. It is called after a count was added.
func (s *Series) change() {
	if !s.changed.Load() { // a load, unlike a store, leaves the cache line shared
		s.changed.Store(true)
	}
}

// AddBytes counts n bytes in the given minute or, if the current minute is later, in the current minute.
func (s *Series) AddBytes(minute, keep int64, n uint64) {
	s.advance(max(minute, s.minute.Load()), keep)
	s.bytes.Add(n)
	s.change()
}

// advance makes the given minute the current one. It does nothing if this minute is the current one, or is at most
// lateMinutes before it. A minute before that shows that the clock was set back, and becomes the current one.
func (s *Series) advance(minute, keep int64) {
	if at := s.minute.Load(); at == minute || at > minute && at-minute <= lateMinutes {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.minute.Load(); at == minute || at > minute && at-minute <= lateMinutes {
		return // another call has advanced
	}
	s.endMinute()
	s.minute.Store(minute)
	s.forget(minute - keep)
}

// endMinute turns the counts of the current minute into a row. The caller holds mu.
func (s *Series) endMinute() {
	row := Row{Minute: s.minute.Load()}
	for i := range s.counts {
		if n := s.counts[i].Swap(0); n > 0 {
			row.Counts = append(row.Counts, Count{Key(s.keys[i].Load() - 1), uint64(n)})
		}
	}
	for k, n := range s.others {
		row.Counts = append(row.Counts, Count{k, uint64(n)})
	}
	s.others = nil
	var l Latencies
	for i := range s.latencies {
		l[i] = float64(s.latencies[i].Swap(0))
	}
	row.P50, row.P95 = l.bucket(0.5), l.bucket(0.95)
	if len(row.Counts) > 0 && row.P50 < 0 {
		row.P50, row.P95 = 0, 0 // an attempt was counted, and its latency will be counted in the next minute
	}
	row.Bytes = s.bytes.Swap(0)
	s.append(&row)
}

// append adds the row of a minute that is over. The caller holds mu.
func (s *Series) append(r *Row) {
	if len(r.Counts) == 0 && r.Bytes == 0 {
		return
	}
	r.limit()
	n := len(s.blocks)
	if n == 0 || !s.blocks[n-1].takes(r) {
		kib := 0
		if n > 0 {
			s.blocks[n-1].close()
			kib = s.blocks[n-1].kib
		}
		s.blocks = append(s.blocks, block{start: r.Minute, last: r.Minute, kib: kib})
		n++
	}
	s.blocks[n-1].add(r)
}

// forget drops the blocks whose last row is earlier than a minute. The caller holds mu.
func (s *Series) forget(before int64) {
	s.blocks = slices.DeleteFunc(s.blocks, func(b block) bool { return b.last < before })
	if len(s.blocks) == 0 {
		s.blocks = nil
	}
}

// each calls f for every minute from first to last that has attempts or bytes. For the current minute, f
// also gets the distribution of the latencies; for other minutes, it gets nil. The row is valid until f returns. A
// minute may come twice: after a restart, or if the clock was set back. The caller holds mu.
func (s *Series) each(first, last int64, f func(*Row, *Latencies)) {
	for i := range s.blocks {
		if b := &s.blocks[i]; b.start <= last && b.last >= first {
			_ = b.each(func(r *Row) { // no error: Restore has checked the blocks from a file
				if r.Minute >= first && r.Minute <= last {
					f(r, nil)
				}
			})
		}
	}
	row, latencies := s.current()
	if row.Minute >= first && row.Minute <= last && (len(row.Counts) > 0 || row.Bytes > 0) {
		f(&row, latencies)
	}
}

// current returns the current minute. The caller holds mu.
func (s *Series) current() (Row, *Latencies) {
	row, l := Row{Minute: s.minute.Load(), Bytes: s.bytes.Load()}, &Latencies{}
	for i := range s.counts {
		if n := s.counts[i].Load(); n > 0 {
			row.Counts = append(row.Counts, Count{Key(s.keys[i].Load() - 1), uint64(n)})
		}
	}
	for k, n := range s.others {
		row.Counts = append(row.Counts, Count{k, uint64(n)})
	}
	for i := range s.latencies {
		l[i] = float64(s.latencies[i].Load())
	}
	row.P50, row.P95 = max(0, l.bucket(0.5)), max(0, l.bucket(0.95))
	return row, l
}

// expire drops the blocks whose last row is earlier than a minute. A series without new attempts needs this call,
// because advance does not run.
func (s *Series) expire(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(before)
}

// idle reports whether s has no count of the given minute or later.
func (s *Series) idle(minute int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.blocks)
	return s.minute.Load() < minute && (n == 0 || s.blocks[n-1].last < minute)
}
