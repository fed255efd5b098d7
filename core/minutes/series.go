package minutes

import (
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// slotCount is the number of keys of a series that are counted without a lock. The first keys that occur in the
	// series get the slots, and keep them.
	slotCount = 12
	// An attempt that ended in one of the lateMinutes before the current minute is counted in the current minute. An
	// attempt that ended earlier shows that the clock was set back.
	lateMinutes = 2
)

// Series holds the counts of one proxy, of one target, or of all attempts. Its zero value is empty. It is safe for
// concurrent use.
type Series struct {
	minute    atomic.Int64             // the current minute since the Unix epoch; 0 before the first attempt
	keys      [slotCount]atomic.Uint32 // each key + 1; 0 for a free slot
	counts    [slotCount]atomic.Uint32
	latencies [numBuckets]atomic.Uint32
	bytes     atomic.Uint64

	changed   atomic.Bool // there are counts that save has not returned
	isDropped atomic.Bool // the store has dropped the series

	mu          sync.Mutex     // guards the fields below
	otherKeys   map[Key]uint32 // attempts of the current minute whose keys have no slot; nil if there are none
	blocks      []block        // the oldest first; rows are added to the last one
	savedMinute int64          // minute of the last row that save has returned
	pendingRow  *Row           // last row that restore got; nil after endRestore
}

// add counts an attempt with the given key and the bucket of its latency. The minute in which the attempt ended is
// counted from the Unix epoch.
func (s *Series) add(minute, keepMinutes int64, k Key, bucket int) {
	s.setMinute(minute, keepMinutes)
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
		s.markChanged()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.otherKeys == nil {
		s.otherKeys = map[Key]uint32{}
	}
	s.otherKeys[k]++
	s.markChanged()
}

func (s *Series) markChanged() {
	if !s.changed.Load() { // a load, unlike a store, leaves the cache line shared
		s.changed.Store(true)
	}
}

// AddBytes counts n bytes in the given minute or, if the current minute is later, in the current minute.
func (s *Series) AddBytes(minute, keepMinutes int64, n uint64) {
	s.setMinute(max(minute, s.minute.Load()), keepMinutes)
	s.bytes.Add(n)
	s.markChanged()
}

// setMinute makes the given minute the current minute, unless it is at most lateMinutes before the current minute.
func (s *Series) setMinute(minute, keepMinutes int64) {
	if current := s.minute.Load(); current == minute || current > minute && current-minute <= lateMinutes {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if current := s.minute.Load(); current == minute || current > minute && current-minute <= lateMinutes {
		return // another call has set the minute
	}
	s.endMinute()
	s.minute.Store(minute)
	s.dropBlocksBefore(minute - keepMinutes)
}

// endMinute turns the counts of the current minute into a row. The caller holds mu.
func (s *Series) endMinute() {
	row := Row{Minute: s.minute.Load()}
	for i := range s.counts {
		if n := s.counts[i].Swap(0); n > 0 {
			row.Counts = append(row.Counts, Count{Key(s.keys[i].Load() - 1), uint64(n)})
		}
	}
	for k, n := range s.otherKeys {
		row.Counts = append(row.Counts, Count{k, uint64(n)})
	}
	s.otherKeys = nil
	var l Latencies
	for i := range s.latencies {
		l[i] = float64(s.latencies[i].Swap(0))
	}
	row.P50, row.P95 = l.bucket(0.5), l.bucket(0.95)
	if len(row.Counts) > 0 && row.P50 < 0 {
		row.P50, row.P95 = 0, 0 // the latency of a counted attempt will be counted in the next minute
	}
	row.Bytes = s.bytes.Swap(0)
	s.appendRow(&row)
}

// appendRow adds the row of a minute that is over to the series. The caller holds mu.
func (s *Series) appendRow(r *Row) {
	if len(r.Counts) == 0 && r.Bytes == 0 {
		return
	}
	r.limitKeys()
	n := len(s.blocks)
	if n == 0 || !s.blocks[n-1].hasRoomFor(r) {
		kib := 0
		if n > 0 {
			s.blocks[n-1].close()
			kib = s.blocks[n-1].restBytes
		}
		s.blocks = append(s.blocks, block{start: r.Minute, last: r.Minute, restBytes: kib})
		n++
	}
	s.blocks[n-1].add(r)
}

// dropBlocksBefore drops the blocks whose last row is before the given minute. The caller holds mu.
func (s *Series) dropBlocksBefore(before int64) {
	s.blocks = slices.DeleteFunc(s.blocks, func(b block) bool { return b.last < before })
	if len(s.blocks) == 0 {
		s.blocks = nil
	}
}

// eachRow calls f for every minute from first to last that has attempts or bytes. For the current minute, f
// also gets the distribution of the latencies; for other minutes, it gets nil. The row is valid until f returns. A
// minute may come twice: after a restart, or if the clock was set back. The caller holds mu.
func (s *Series) eachRow(first, last int64, f func(*Row, *Latencies)) {
	for i := range s.blocks {
		if b := &s.blocks[i]; b.start <= last && b.last >= first {
			_ = b.eachRow(func(r *Row) { // no error: Restore has checked the blocks from a file
				if r.Minute >= first && r.Minute <= last {
					f(r, nil)
				}
			})
		}
	}
	row, latencies := s.currentRow()
	if row.Minute >= first && row.Minute <= last && (len(row.Counts) > 0 || row.Bytes > 0) {
		f(&row, latencies)
	}
}

// mayHave reports whether some minute since first may have an attempt with a key for which wanted returns true. It
// decodes no rows.
func (s *Series) mayHave(first int64, wanted func(Key) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.keys {
		if k := s.keys[i].Load(); k != 0 && wanted(Key(k-1)) {
			return true
		}
	}
	for k := range s.otherKeys {
		if wanted(k) {
			return true
		}
	}
	return slices.ContainsFunc(s.blocks, func(b block) bool {
		return b.last >= first && slices.ContainsFunc(b.keys, wanted)
	})
}

// currentRow returns the row of the current minute, and the distribution of its latencies. The caller holds mu.
func (s *Series) currentRow() (Row, *Latencies) {
	row, l := Row{Minute: s.minute.Load(), Bytes: s.bytes.Load()}, &Latencies{}
	for i := range s.counts {
		if n := s.counts[i].Load(); n > 0 {
			row.Counts = append(row.Counts, Count{Key(s.keys[i].Load() - 1), uint64(n)})
		}
	}
	for k, n := range s.otherKeys {
		row.Counts = append(row.Counts, Count{k, uint64(n)})
	}
	for i := range s.latencies {
		l[i] = float64(s.latencies[i].Load())
	}
	row.P50, row.P95 = max(0, l.bucket(0.5)), max(0, l.bucket(0.95))
	return row, l
}

// dropOldBlocks drops the blocks whose last row is before the given minute. It is for a series without new counts:
// setMinute drops old blocks only when something is counted.
func (s *Series) dropOldBlocks(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropBlocksBefore(before)
}

// hasNothingSince reports whether s has no count of the given minute or later.
func (s *Series) hasNothingSince(minute int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.blocks)
	return s.minute.Load() < minute && (n == 0 || s.blocks[n-1].last < minute)
}
