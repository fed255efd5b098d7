package cluster

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Memory is a Store in the memory of the process, for simulations and tests. It uses its clock and orders its
// operations as redisstore.Store does; a test compares the two stores.
type Memory struct {
	now func() time.Time

	mu           sync.Mutex // guards the fields below
	epoch        string
	seq          int64
	born         time.Time // when the current data began: at the first exchange, and after each loss
	records      map[string]Record
	order        []change // by revision; an element whose record has another revision is out of date
	leases       map[string]lease
	blobs        map[string]blob
	shareRecords map[string]storedShares // shared limits
	err          error
	exchanges    int
	listeners    map[int]func(News)
	listened     int // number of calls of Listen
}

type change struct {
	rev int64
	key string
}

type lease struct {
	holder string
	fence  int64
	ends   time.Time
}

type storedShares struct {
	record shareRecord
	ends   time.Time
}

// NewMemory returns an empty store with the clock now.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, records: map[string]Record{}, leases: map[string]lease{}, blobs: map[string]blob{},
		shareRecords: map[string]storedShares{}, listeners: map[int]func(News){}}
}

// Fail makes all later exchanges return err. If err is nil, exchanges succeed again.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// Clear removes all data. A restart of a store that saves nothing has the same effect.
func (m *Memory) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch, m.seq, m.order = "", 0, nil
	clear(m.records)
	clear(m.leases)
	clear(m.blobs)
	clear(m.shareRecords)
}

// Len returns the number of records, including records that have ended but have not been removed yet.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// Close implements Store. It does nothing.
func (m *Memory) Close() {}

// Listen implements Store.
func (m *Memory) Listen(ctx context.Context, f func(News)) error {
	m.mu.Lock()
	m.listened++
	number := m.listened
	m.listeners[number] = f
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.listeners, number)
	return ctx.Err()
}

// Exchange implements Store.
func (m *Memory) Exchange(ctx context.Context, b Batch) (Reply, error) {
	r, news, listeners, err := m.exchange(ctx, b)
	for _, f := range listeners {
		f(news)
	}
	return r, err
}

// exchange makes the exchange b. It also returns the records of urgent operations, and the functions that get them.
func (m *Memory) exchange(ctx context.Context, b Batch) (r Reply, news News, listeners []func(News), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.err, ctx.Err()); err != nil {
		return r, news, nil, err
	}
	now := m.now().Truncate(time.Millisecond)
	if m.epoch == "" || b.Epoch == m.epoch && b.Cursor > m.seq {
		m.seq = max(now.UnixMicro(), b.Cursor)
		m.epoch, m.born = strconv.FormatInt(m.seq, 10), now
	}
	m.expire(now)
	r = Reply{Epoch: m.epoch, Now: now, Results: make([]int64, len(b.Ops))}
	news.Epoch = m.epoch
	for i, op := range b.Ops {
		if op.Kind == Share {
			r.Results[i], r.ShareReplies = 1, append(r.ShareReplies, m.applyShare(op, now))
			continue
		}
		if r.Results[i] = m.do(op, now); op.Urgent && r.Results[i] > 0 {
			news.Records = append(news.Records, m.records[op.Key])
		}
	}
	if len(news.Records) > 0 {
		for _, number := range slices.Sorted(maps.Keys(m.listeners)) {
			listeners = append(listeners, m.listeners[number])
		}
	}
	cursor := b.Cursor
	if b.Epoch != m.epoch {
		cursor = 0
	}
	from, _ := slices.BinarySearchFunc(m.order, cursor+1, func(c change, rev int64) int {
		return cmp.Compare(c.rev, rev)
	})
	r.Cursor = m.seq
	for _, c := range m.order[from:] {
		if rec, held := m.records[c.key]; held && rec.Rev == c.rev && !rec.Ended(now) {
			if len(r.Changed) == b.Limit {
				r.More, r.Cursor = true, r.Changed[b.Limit-1].Rev
				break
			}
			r.Changed = append(r.Changed, rec)
		}
	}
	return r, news, listeners, nil
}

// do performs one operation and returns its result. The caller holds mu.
func (m *Memory) do(op Op, now time.Time) int64 {
	if op.TTL > 0 {
		op.TTL = max(op.TTL.Truncate(time.Millisecond), time.Millisecond)
	}
	held, leased := m.leases[op.Key]
	leased = leased && now.Before(held.ends)
	old, exists := m.records[op.Key]
	if exists && old.Ended(now) {
		old, exists = Record{}, false
	}
	switch op.Kind {
	case Put:
		at := now.Add(-op.Age.Truncate(time.Millisecond))
		if !op.At.IsZero() {
			at = op.At.Truncate(time.Millisecond)
		}
		if at.After(now) {
			at = now
		}
		switch {
		case exists && old.At.After(at):
			return 0
		case exists && old.At.Equal(at) && old.Value == op.Value:
			return old.Rev
		}
		return m.write(op, at, now)
	case Swap:
		if old.Rev != op.Rev {
			return 0
		}
		return m.write(op, now, now)
	case Acquire:
		if leased && held.holder != op.Value || now.Sub(m.born) < op.TTL || old.Rev > op.Rev {
			return 0
		}
		m.seq++
		m.leases[op.Key] = lease{op.Value, m.seq, now.Add(op.TTL)}
		return m.seq
	case Free:
		if !leased || held.fence != op.Rev {
			return 0
		}
		delete(m.leases, op.Key)
		return held.fence
	case Settle:
		if !leased || held.fence != op.Rev {
			return 0
		}
		delete(m.leases, op.Key)
		return m.write(op, now, now)
	case Void:
		if !leased {
			return 0
		}
		delete(m.leases, op.Key)
		return held.fence
	}
	return 0
}

// applyShare performs an operation of the kind Share. The caller holds mu.
func (m *Memory) applyShare(op Op, now time.Time) (d ShareReply) {
	known := m.shareRecords[op.Key]
	if !now.Before(known.ends) {
		known = storedShares{}
	}
	known.record, d = known.record.apply(op.Key, op.Request, now, op.TTL, now.Sub(m.born) >= settling)
	known.ends = now.Add(op.Request.RecordTime)
	if m.shareRecords[op.Key] = known; len(known.record) == 0 {
		delete(m.shareRecords, op.Key)
	}
	return d
}

func (m *Memory) write(op Op, at, now time.Time) int64 {
	m.seq++
	rec := Record{Key: op.Key, Value: op.Value, Rev: m.seq, At: at}
	if op.TTL > 0 {
		rec.Ends = now.Add(op.TTL)
	}
	m.records[op.Key] = rec
	m.order = append(m.order, change{m.seq, op.Key}) // sorted, because seq increases
	if len(m.order) > 2*len(m.records)+64 {
		m.order = slices.DeleteFunc(m.order, func(c change) bool { return m.records[c.key].Rev != c.rev })
	}
	return m.seq
}

// expireEvery is the number of exchanges after which the store removes records and leases that have ended.
const expireEvery = 64

// expire removes the records and leases that have ended, once in expireEvery calls. The caller holds mu.
func (m *Memory) expire(now time.Time) {
	if m.exchanges++; m.exchanges%expireEvery != 0 {
		return
	}
	maps.DeleteFunc(m.records, func(_ string, r Record) bool { return r.Ended(now) })
	maps.DeleteFunc(m.leases, func(_ string, l lease) bool { return !now.Before(l.ends) })
	maps.DeleteFunc(m.shareRecords, func(_ string, d storedShares) bool { return !now.Before(d.ends) })
}
