package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// freeUnits is the resource of these tests: the number of free units by kind.
type freeUnits map[string]int

// waiterOf returns a request that takes a unit of its kind.
func (free freeUnits) waiterOf(p core.Priority, kind string) *Waiter[string] {
	return &Waiter[string]{Priority: p, Kind: kind, TryTake: func() Result {
		if free[kind] < 0 {
			return Failed
		}
		if free[kind] == 0 {
			return Nothing
		}
		free[kind]--
		return Taken
	}}
}

// model is a queue described by its rules: lists in the order of arrival and the tags of the lines.
type model struct {
	free    freeUnits
	waiting []*Waiter[string] // in the order of arrival
	tags    [core.PriorityCount + 1]uint64
	clock   uint64
}

func (m *model) of(p core.Priority) (list []*Waiter[string]) {
	for _, w := range m.waiting {
		if w.Priority == p {
			list = append(list, w)
		}
	}
	return list
}

func (m *model) remove(w *Waiter[string]) {
	m.waiting = slices.DeleteFunc(m.waiting, func(o *Waiter[string]) bool { return o == w })
}

// begin begins the wait of the first request of a priority.
func (m *model) begin(p core.Priority) {
	m.tags[p] = m.clock + map[core.Priority]uint64{
		core.PriorityHigh: 4, core.PriorityNormal: 16, core.PriorityLow: 48}[p]
}

// first returns the request that takes the next unit. It removes the requests before it whose wait fails, and returns
// them as well.
func (m *model) first() (next *Waiter[string], failed []*Waiter[string]) {
	order := []core.Priority{core.PriorityHigh, core.PriorityNormal, core.PriorityLow}
	slices.SortStableFunc(order, func(a, b core.Priority) int { return int(int64(m.tags[a]) - int64(m.tags[b])) })
	for _, p := range order {
		for _, w := range m.of(p) {
			switch free := m.free[w.Kind]; {
			case free < 0:
				failed = append(failed, w)
				m.remove(w)
			case free > 0:
				m.clock = max(m.clock, m.tags[p])
				m.remove(w)
				if m.tags[p] = 0; len(m.of(p)) > 0 {
					m.begin(p)
				}
				return w, failed
			}
		}
	}
	return nil, failed
}

// displaced returns the request that must leave a full queue to make room for a request of priority p; nil if there is
// none.
func (m *model) displaced(p core.Priority, limit int) *Waiter[string] {
	sixteenths := map[core.Priority]int{core.PriorityHigh: 12, core.PriorityNormal: 3, core.PriorityLow: 1}
	above := func(p core.Priority) bool { return len(m.of(p)) > max(limit*sixteenths[p]/16, 1) }
	below := len(m.of(p)) < max(limit*sixteenths[p]/16, 1)
	for _, other := range []core.Priority{core.PriorityLow, core.PriorityNormal, core.PriorityHigh} {
		if list := m.of(other); other != p && above(other) && (below || other > p) {
			return list[len(list)-1]
		}
	}
	return nil
}

// The queue behaves like the model: the same requests take units, wait, are displaced or fail.
func TestTheQueueAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		kinds := []string{"a", "b"}
		m := &model{free: freeUnits{}}
		free := freeUnits{} // free units of the queue
		q := New[string](time.Now)
		var totals [core.PriorityCount + 1]Counts
		ended := func(w *Waiter[string], want error) {
			require.False(t, w.isWaiting)
			require.Equal(t, want, w.err)
			require.Len(t, w.ended, 1, "it wakes up once")
		}
		kind := func(t *rapid.T) string { return rapid.SampledFrom(kinds).Draw(t, "kind") }
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				p := rapid.SampledFrom([]core.Priority{core.PriorityHigh, core.PriorityNormal,
					core.PriorityLow}).Draw(t, "priority")
				w := free.waiterOf(p, kind(t))
				same := slices.ContainsFunc(m.waiting, func(o *Waiter[string]) bool { return o.Kind == w.Kind })
				waits, err := q.Enter(w, limit)
				switch {
				case !same && m.free[w.Kind] != 0:
					m.free[w.Kind] = max(m.free[w.Kind]-1, -1)
					require.NoError(t, err)
					require.False(t, waits)
					return
				case len(m.waiting) >= limit:
					out := m.displaced(p, limit)
					if out == nil {
						totals[p].FullRefusals++
						require.Equal(t, ErrFull, err)
						require.False(t, waits)
						return
					}
					totals[out.Priority].FullRefusals++
					ended(out, ErrFull)
					m.remove(out)
				}
				require.NoError(t, err)
				require.True(t, waits)
				totals[p].Queued++
				m.waiting = append(m.waiting, w)
				if m.tags[p] == 0 {
					m.begin(p)
				}
			},
			"free": func(t *rapid.T) { // some units become free, and each is reported to the queue
				k := kind(t)
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					free[k], m.free[k] = max(free[k], 0)+1, max(m.free[k], 0)+1
					q.ServeOne()
					next, failed := m.first()
					for _, w := range failed {
						ended(w, nil)
					}
					if next != nil {
						m.free[next.Kind]--
						ended(next, nil)
					}
				}
			},
			"free unannounced": func(t *rapid.T) {
				k := kind(t)
				n := rapid.IntRange(0, 3).Draw(t, "n")
				free[k], m.free[k] = n, n
				q.Serve()
				for {
					next, failed := m.first()
					for _, w := range failed {
						ended(w, nil)
					}
					if next == nil {
						break
					}
					m.free[next.Kind]--
					ended(next, nil)
				}
			},
			"fail": func(t *rapid.T) { // requests of a kind cannot take anything any more
				k := kind(t)
				free[k], m.free[k] = -1, -1
			},
			"leave": func(t *rapid.T) {
				if len(m.waiting) == 0 {
					t.Skip("nobody waits")
				}
				w := rapid.SampledFrom(m.waiting).Draw(t, "who")
				left := errors.New("left")
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(left)
				require.Equal(t, left, q.Wait(ctx, w, time.Hour))
				require.Empty(t, w.ended)
				m.remove(w)
			},
			"expire": func(t *rapid.T) {
				if len(m.waiting) == 0 {
					t.Skip("nobody waits")
				}
				w := rapid.SampledFrom(m.waiting).Draw(t, "who")
				require.Equal(t, ErrExpired, q.Wait(t.Context(), w, 0))
				totals[w.Priority].Expired++
				m.remove(w)
			},
			"": func(t *rapid.T) {
				require.Equal(t, m.free, free)
				require.Equal(t, len(m.waiting) == 0, q.Empty())
				for p, c := range q.Counts() {
					c.WaitTime = 0
					want := totals[p]
					want.Waiting = len(m.of(p))
					require.Equal(t, want, c, p)
				}
				require.LessOrEqual(t, len(m.waiting), limit)
				for _, w := range m.waiting {
					require.True(t, w.isWaiting)
				}
			},
		})
	})
}

// While a request of low priority waits, at least one of any 18 units in a row goes to low priority. This is also true
// if requests of other priorities arrive between units, or if low requests leave and others follow.
func TestLowPriorityAlwaysGetsAShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		free := freeUnits{}
		q := New[string](time.Now)
		enter := func(p core.Priority, n int) (last *Waiter[string]) {
			for range n {
				last = free.waiterOf(p, "")
				waits, err := q.Enter(last, 1<<20)
				require.NoError(t, err)
				require.True(t, waits)
			}
			return last
		}
		low := enter(core.PriorityLow, 1)
		since := 0
		for range rapid.IntRange(20, 200).Draw(t, "units") {
			enter(core.PriorityHigh, rapid.IntRange(0, 2).Draw(t, "high"))
			enter(core.PriorityNormal, rapid.IntRange(0, 2).Draw(t, "normal"))
			if rapid.Bool().Draw(t, "low leaves") {
				require.Equal(t, ErrExpired, q.Wait(t.Context(), low, 0))
				low = enter(core.PriorityLow, 1)
			}
			free[""]++
			q.ServeOne()
			if since++; !low.isWaiting {
				since = 0
				low = enter(core.PriorityLow, 1)
			}
			require.Less(t, since, 18)
		}
	})
}

// The shares of the priorities while requests of several wait.
func TestSharesOfThePriorities(t *testing.T) {
	for name, c := range map[string]struct{ waiting, want map[core.Priority]int }{
		"all": {
			map[core.Priority]int{core.PriorityHigh: 1000, core.PriorityNormal: 1000, core.PriorityLow: 1000},
			map[core.Priority]int{core.PriorityHigh: 600, core.PriorityNormal: 150, core.PriorityLow: 50},
		},
		"high and low": {
			map[core.Priority]int{core.PriorityHigh: 1000, core.PriorityLow: 1000},
			map[core.Priority]int{core.PriorityHigh: 738, core.PriorityLow: 62},
		},
		"normal and low": {
			map[core.Priority]int{core.PriorityNormal: 1000, core.PriorityLow: 1000},
			map[core.Priority]int{core.PriorityNormal: 600, core.PriorityLow: 200},
		},
		"low only": {map[core.Priority]int{core.PriorityLow: 1000}, map[core.Priority]int{core.PriorityLow: 800}},
	} {
		t.Run(name, func(t *testing.T) {
			free := freeUnits{}
			q := New[string](time.Now)
			for p, n := range c.waiting {
				for range n {
					q.Enter(free.waiterOf(p, ""), 1<<20)
				}
			}
			free[""] = 800
			q.Serve()
			for p, want := range c.want {
				require.InDelta(t, want, c.waiting[p]-q.Counts()[p].Waiting, 1, p)
			}
		})
	}
}

// A request that waits for another kind of unit delays no other request.
func TestARequestOfAnotherKindDelaysNoRequest(t *testing.T) {
	free := freeUnits{}
	q := New[string](time.Now)
	us, eu := free.waiterOf(core.PriorityHigh, "US"), free.waiterOf(core.PriorityLow, "EU")
	for _, w := range []*Waiter[string]{us, eu} {
		waits, err := q.Enter(w, 10)
		require.NoError(t, err)
		require.True(t, waits)
	}
	free["EU"] = 1
	q.ServeOne()
	require.True(t, us.isWaiting)
	require.NoError(t, q.Wait(t.Context(), eu, time.Hour))
	free["FR"] = 1
	waits, err := q.Enter(free.waiterOf(core.PriorityLow, "FR"), 10)
	require.NoError(t, err)
	require.False(t, waits, "a free place that nobody waits for is taken at once")
}

func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := freeUnits{}
		q := New[string](time.Now)
		wait := func(ctx context.Context, longest time.Duration) (took time.Duration, err error) {
			w, began := free.waiterOf(core.PriorityNormal, ""), time.Now()
			waits, err := q.Enter(w, 10)
			require.NoError(t, err)
			require.True(t, waits)
			err = q.Wait(ctx, w, longest)
			return time.Since(began), err
		}
		took, err := wait(t.Context(), time.Second)
		require.Equal(t, ErrExpired, err)
		require.Equal(t, time.Second, took)

		left := errors.New("left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(300*time.Millisecond, func() { cancel(left) })
		took, err = wait(ctx, time.Second)
		require.Equal(t, left, err)
		require.Equal(t, 300*time.Millisecond, took)

		time.AfterFunc(700*time.Millisecond, func() {
			q.mu.Lock()
			free[""]++
			q.mu.Unlock()
			q.ServeOne()
		})
		took, err = wait(t.Context(), time.Second)
		require.NoError(t, err)
		require.Equal(t, 700*time.Millisecond, took)
		require.Equal(t, Counts{Queued: 3, Expired: 1, WaitTime: 2 * time.Second}, q.Counts()[core.PriorityNormal])
	})
}

// Requests take and release units in many goroutines, while other requests leave or reach their longest wait.
// No unit is lost or used twice, and at the end no request waits.
func TestConcurrentWaiters(t *testing.T) {
	const units, requests = 3, 3000
	q := New[int](time.Now)
	var free, inUse atomic.Int64
	free.Store(units)
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			w := &Waiter[int]{Priority: core.Priorities()[i%3], TryTake: func() Result {
				if free.Add(-1) < 0 {
					free.Add(1)
					return Nothing
				}
				return Taken
			}}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			waits, err := q.Enter(w, 100)
			if waits {
				switch i % 5 {
				case 0:
					go cancel()
				case 1:
					err = q.Wait(ctx, w, 0)
				}
				if i%5 != 1 {
					err = q.Wait(ctx, w, time.Minute)
				}
			}
			if err != nil {
				return
			}
			if n := inUse.Add(1); n > units {
				t.Errorf("%d units in use", n)
			}
			inUse.Add(-1)
			free.Add(1)
			q.ServeOne()
		})
	}
	all.Wait()
	require.True(t, q.Empty())
	require.EqualValues(t, units, free.Load())
}

// While no request waits, a unit that becomes free costs no allocation and no lock.
func TestAllocOfAFreedUnit(t *testing.T) {
	q := New[int](time.Now)
	q.mu.Lock() // never unlocked: code that needs the lock would not return
	require.Zero(t, testing.AllocsPerRun(100, func() {
		q.ServeOne()
		q.Serve()
		if !q.Empty() {
			t.Fatal("somebody waits")
		}
	}))
}
