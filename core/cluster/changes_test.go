package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// manual returns a gateway with a node of the cluster. The node makes exchanges only by Step.
func manual(t *testing.T, store Store, name string, now func() time.Time) *gateway {
	g := &gateway{
		name: name, breakers: map[string]*watched{}, values: map[string]string{}, bans: map[string]time.Time{},
		seeds: map[string]Stats{},
	}
	g.current.Store(New(Config{
		Name: "test", Node: name, ID: name, Store: store, Timeout: DefaultTimeout, Now: now,
		Log: slog.New(slog.DiscardHandler),
	}))
	g.node().Attach(g)
	for range 2 {
		g.node().Step(t.Context())
	}
	alone, _ := g.node().Alone()
	require.False(t, alone)
	return g
}

// many returns n changes of different things.
func many(n int) (made []Change) {
	for i := range n {
		made = append(made, Change{Key: fmt.Sprintf("thing%04d", i), Value: "x", Redo: func() (string, error) {
			return "y", nil
		}})
	}
	return made
}

func shareAll(t testing.TB, ctx context.Context, g *gateway, made []Change) {
	require.NoError(t, g.node().Change(ctx, func() ([]Change, error) { return made, nil }))
}

// A thousand changes of one request are shared together, in a fraction of a second.
func TestManyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		shareAll(t, ctx, r.nodes[0], many(1000))
		require.Less(t, time.Since(begin), 300*time.Millisecond)
		time.Sleep(second)
		for _, g := range r.nodes[1:] {
			g.mu.Lock()
			require.Len(t, g.values, 1000)
			g.mu.Unlock()
		}
	})
}

// sizes records the number of operations of each exchange.
type sizes struct {
	Store
	ops []int
}

func (s *sizes) Exchange(ctx context.Context, b Batch) (Reply, error) {
	s.ops = append(s.ops, len(b.Ops))
	return s.Store.Exchange(ctx, b)
}

// The changes of a node that could not reach the store are shared in several exchanges.
func TestExchangeHasALimitedSize(t *testing.T) {
	memory := NewMemory(time.Now)
	store := &sizes{Store: memory}
	g := manual(t, store, "a", time.Now)
	memory.Fail(errCut)
	g.node().Step(t.Context())
	shareAll(t, t.Context(), g, many(5000))
	for i := range 3000 {
		g.node().Reset(t.Context(), fmt.Sprint("p", i))
	}
	memory.Fail(nil)
	for range 20 {
		g.node().Step(t.Context())
	}
	require.Zero(t, g.node().Status().Waiting)
	require.LessOrEqual(t, slices.Max(store.ops), maxOps)
	require.Equal(t, 5000, len(g.node().Status().Changes)+len(g.node().changes.known)-maxListed)
}

// While a node makes a change of another node, which may take long, the state of the node can be read.
func TestStatusDuringAChange(t *testing.T) {
	memory := NewMemory(time.Now)
	a, b := manual(t, memory, "a", time.Now), manual(t, memory, "b", time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // do not wait for the store
	shareAll(t, ctx, a, many(1))
	a.node().Step(t.Context())
	begun, end := make(chan struct{}), make(chan struct{})
	b.onApply = func([]Change) {
		close(begun)
		<-end
	}
	stepped, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stepped)
		b.node().Step(t.Context())
	}()
	<-begun
	go func() {
		defer close(read)
		b.node().Alone()
		b.node().Status()
	}()
	select {
	case <-read:
	case <-time.After(time.Minute):
		t.Error("the state of the node waits for the change")
	}
	close(end)
	<-stepped
	<-read
}

// While a change by the API is made, which may take long, exchanges go on.
func TestExchangesGoOnDuringAChange(t *testing.T) {
	memory := NewMemory(time.Now)
	a, b := manual(t, memory, "a", time.Now), manual(t, memory, "b", time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // do not wait for the store
	begun, end, changed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(changed)
		b.node().Change(ctx, func() ([]Change, error) {
			close(begun)
			<-end
			return nil, nil
		})
	}()
	<-begun
	shareAll(t, ctx, a, many(1))
	a.node().Step(t.Context())
	stepped := make(chan struct{})
	go func() {
		defer close(stepped)
		b.node().Step(t.Context())
	}()
	select {
	case <-stepped:
		require.Empty(t, b.values)
	case <-time.After(time.Minute):
		t.Error("the exchange waits for the change")
	}
	close(end)
	<-changed
	<-stepped
	b.node().Step(t.Context())
	require.Len(t, b.values, 1)
}

// If changes take long to make, the exchanges go on in between.
func TestExchangesGoOnDuringManyChanges(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	store := &sizes{Store: NewMemory(clock)}
	a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shareAll(t, ctx, a, many(1900))
	for range 4 {
		a.node().Step(t.Context())
	}
	var made []int
	b.onApply = func(list []Change) {
		made = append(made, len(list))
		now = now.Add(applyTime / 2)
	}
	for begin := len(store.ops); len(b.values) < 1900; {
		before := len(b.values)
		wait, _ := b.node().Step(t.Context())
		require.LessOrEqual(t, len(b.values)-before, 2*maxApplied)
		require.Equal(t, len(b.values) < 1900, wait == 0, "the rest does not wait")
		require.Less(t, len(store.ops)-begin, 10)
	}
	require.Equal(t, maxApplied, slices.Max(made))
	require.Len(t, made, 10)
}

// After a while, a node removes its data about deleted keys.
func TestOldDataIsRemoved(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	store := NewMemory(clock)
	a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
	steps := func(d, total time.Duration) {
		for range total / d {
			now = now.Add(d)
			a.node().Step(t.Context())
			b.node().Step(t.Context())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	remove := func(g *gateway) {
		shareAll(t, ctx, g, []Change{{Key: "thing", Value: "removed", TTL: time.Hour}})
	}
	held := func() (counts []int) {
		for _, n := range []*Node{a.node(), b.node()} {
			counts = append(counts, len(n.stats), len(n.changes.known))
		}
		return counts
	}
	a.breakers["p"] = &watched{tries: 1}
	remove(a)
	steps(second, 30*second)
	require.NotZero(t, b.seeded("p"))
	require.Equal(t, []int{1, 1, 1, 1}, held())
	delete(a.breakers, "p") // the proxy is removed
	steps(time.Minute, 2*time.Hour)
	require.Equal(t, []int{0, 0, 0, 0}, held())

	remove(b) // written again: the store has no record of the earlier removal
	steps(second, 3*second)
	require.Zero(t, b.node().Status().Waiting)
	require.Equal(t, []int{0, 1, 0, 1}, held())
}

// Statistics that do not change are written again before their record ends.
func TestStatisticsStay(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	store := NewMemory(clock)
	a := manual(t, store, "a", clock)
	a.breakers["p"] = &watched{tries: 1}
	for range 300 {
		now = now.Add(time.Minute)
		a.node().Step(t.Context())
	}
	require.NotZero(t, manual(t, store, "b", clock).seeded("p"))
}

// If a restart of the store loses its data, the removal of a key does not last for ever.
func TestRemovalEndsAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		shareAll(t, ctx, r.nodes[0], []Change{{Key: "thing", Value: "removed", TTL: time.Hour}})
		r.store.Clear()
		time.Sleep(10 * second)
		r.store.mu.Lock()
		rec := r.store.records[keyOf(changeKey, "thing")]
		r.store.mu.Unlock()
		require.Equal(t, "removed", rec.Value)
		require.InDelta(t, time.Hour.Seconds(), time.Until(rec.Ends).Seconds(), 30)
	})
}

// Node b has received a change of node a, but has not made it yet when the store loses its data. Node a is gone. Node b
// writes the change again. If node b itself has changed the same key, it makes its own change after that change.
func TestReceivedChangeOutlivesALoss(t *testing.T) {
	for _, own := range []string{"none", "before the loss", "after the loss"} {
		t.Run(own, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			clock := func() time.Time { now = now.Add(time.Second); return now }
			store := NewMemory(clock)
			a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // do not wait for the store
			shareAll(t, ctx, a, []Change{{Key: "thing", Value: "first"}})
			a.node().Step(t.Context())
			b.node().Step(t.Context())
			shareAll(t, ctx, a, []Change{{Key: "thing", Value: "second"}, {Key: "other", Value: "x"}})
			a.node().Step(t.Context())
			c := &b.node().changes
			c.makingMu.Lock() // the API makes a change for a long time
			b.node().Step(t.Context())
			require.Len(t, c.received, 2)
			change := func() {
				b.mu.Lock()
				b.values["thing"] = "first+own"
				b.mu.Unlock()
				c.addWaiting([]Change{{Key: "thing", Value: "first+own", Redo: func() (string, error) {
					b.mu.Lock()
					defer b.mu.Unlock()
					b.values["thing"] += "+own"
					return b.values["thing"], nil
				}}})
			}
			want := "second"
			if own == "before the loss" {
				change()
			}
			b.node().Step(t.Context())
			store.Clear()
			b.node().Step(t.Context())
			if own == "after the loss" {
				change()
			}
			b.node().Step(t.Context())
			store.Clear() // once more
			b.node().Step(t.Context())
			if own != "none" {
				want = "second+own"
				require.Equal(t, 1, c.count())
			}
			c.makingMu.Unlock()
			for range 5 {
				b.node().Step(t.Context())
			}
			require.Zero(t, b.node().Status().Waiting)
			third := manual(t, store, "c", clock)
			for _, g := range []*gateway{b, third} {
				require.Equal(t, want, g.value("thing"))
				require.Equal(t, "x", g.value("other"))
			}
		})
	}
}

// Node a has written a change that node b has not received when the store loses its data. Node b, which detects the
// loss first, has changed the same key. Node b makes its change again after the change of node a. If node a has ended,
// node b does not wait for long.
func TestChangeWaitsForThoseThatWereLost(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint(gone), func(t *testing.T) {
			now := time.Unix(1e9, 0)
			clock := func() time.Time { return now }
			store := NewMemory(clock)
			a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
			step := func(nodes ...*gateway) {
				for _, g := range nodes {
					now = now.Add(100 * time.Millisecond)
					g.node().Step(t.Context())
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // do not wait for the store
			share := func(g *gateway, value string) {
				redo := func() (string, error) {
					g.mu.Lock()
					defer g.mu.Unlock()
					g.values["thing"] += "+" + value
					return g.values["thing"], nil
				}
				shareAll(t, ctx, g, []Change{{Key: "thing", Value: value, Redo: redo}})
			}
			for range 20 {
				step(a, b)
			}
			share(a, "early")
			step(a, b, a, b)
			require.Equal(t, "early", b.value("thing"))
			a.values["thing"] = "late"
			share(a, "late")
			step(a)
			store.Clear()
			share(b, "own")
			step(b, b, b, b, b)
			require.Equal(t, 1, b.node().Status().Waiting)
			require.Equal(t, "early", store.records[keyOf(changeKey, "thing")].Value, "b has written this one again")
			if gone {
				for b.node().Status().Waiting > 0 {
					step(b)
				}
				require.Equal(t, "early+own", store.records[keyOf(changeKey, "thing")].Value)
				return
			}
			step(a, a, a, b, b, b, a, a)
			for _, g := range []*gateway{a, b} {
				require.Equal(t, "late+own", g.value("thing"))
				require.Zero(t, g.node().Status().Waiting)
			}
		})
	}
}

// A change that conflicts with a change of another node is not shared.
func TestChangeThatDoesNotFit(t *testing.T) {
	memory := NewMemory(time.Now)
	a, b := manual(t, memory, "a", time.Now), manual(t, memory, "b", time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shareAll(t, ctx, a, []Change{{Key: "thing", Value: "a"}})
	a.node().Step(t.Context())
	shareAll(t, ctx, b, []Change{{Key: "thing", Value: "b", Redo: func() (string, error) { return "", errCut }}})
	for range 3 {
		b.node().Step(t.Context())
		a.node().Step(t.Context())
	}
	require.Equal(t, "a", b.value("thing"))
	require.Empty(t, a.value("thing"), "it was made by the API")
	require.Zero(t, b.node().Status().Waiting)
}

// A store that has lost its data gets all of its data again, in any amount. The nodes divide the work.
func TestALotIsLost(t *testing.T) {
	const count = maxEvents + 1000
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	memory := NewMemory(clock)
	store := &sizes{Store: memory}
	a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
	step := func() {
		for _, g := range []*gateway{a, b} {
			now = now.Add(10 * time.Millisecond)
			g.node().Step(t.Context())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shareAll(t, ctx, a, many(count))
	for len(b.values) < count {
		step()
	}
	memory.Clear()
	a.node().Step(t.Context())
	require.Equal(t, count, a.node().Status().Waiting)
	store.ops = nil
	for a.node().Status().Waiting+b.node().Status().Waiting > 0 {
		step()
	}
	sum := 0
	for _, ops := range store.ops {
		sum += ops
		require.LessOrEqual(t, ops, maxOffers+10)
	}
	require.Less(t, sum, count*13/10)
	require.Zero(t, a.node().Status().Counts.Dropped+b.node().Status().Counts.Dropped)
	for i := range count {
		require.Equal(t, "x", memory.records[keyOf(changeKey, fmt.Sprintf("thing%04d", i))].Value)
	}
}

// If a node has two records of a change, it writes the record with the higher revision again. If one of the records has
// the revision 0, because it is older than an earlier loss of data, the node writes the other record.
func TestLatestRecordIsWrittenAgain(t *testing.T) {
	early, late := time.Unix(1e9, 0), time.Unix(1e9, 1e6)
	for _, c := range []struct {
		known, received Record
		want            string
	}{
		{Record{Rev: 0, At: late}, Record{Rev: 7, At: early}, "known"},
		{Record{Rev: 0, At: early}, Record{Rev: 7, At: late}, "received"},
		{Record{Rev: 7, At: late}, Record{Rev: 0, At: early}, "known"},
		{Record{Rev: 0, At: late}, Record{Rev: 0, At: early}, "known"},
		{Record{Rev: 0, At: early}, Record{Rev: 7, At: early}, "received"},
		{Record{Rev: 8, At: early}, Record{Rev: 7, At: late}, "known"},
		{Record{Rev: 6, At: late}, Record{Rev: 7, At: early}, "received"},
	} {
		var all changes
		all.init()
		c.known.Key, c.known.Value = keyOf(changeKey, "thing"), "known"
		c.received.Key, c.received.Value = c.known.Key, "received"
		all.known["thing"], all.received = c.known, []Record{c.received}
		out := all.resetRevisions()
		require.Len(t, out, 1)
		require.Equal(t, c.want, out[0].Value, "%+v", c)
		require.Equal(t, c.want == "received", len(all.received) == 1, "%+v", c)
	}
}

// If a store loses its data a second time, before all open breakers are written again, it gets all breakers
// nevertheless.
func TestTwoLosses(t *testing.T) {
	for _, between := range []string{"nothing", "failures of the proxies", "older records of another node"} {
		t.Run(between, func(t *testing.T) {
			const count = 2*maxOffers + 100
			now := time.Unix(1e9, 0)
			store := NewMemory(func() time.Time { return now })
			g := manual(t, store, "a", func() time.Time { return now })
			step := func() {
				now = now.Add(time.Second)
				g.node().Step(t.Context())
			}
			value := encode(breakerRecord{State: stateOpen, Due: now.Add(time.Hour).UnixMilli(), By: "b"})
			var ops []Op
			for i := range count {
				ops = append(ops, Op{Kind: Put, Key: keyOf(breakerKey, fmt.Sprint(i)), Value: value, TTL: closedFor})
			}
			_, err := store.Exchange(t.Context(), Batch{Limit: 1, Ops: ops})
			require.NoError(t, err)
			step()
			require.Equal(t, count, g.node().Status().Open)
			older := slices.Clone(ops)
			for i := range older {
				older[i].Value, older[i].At = encode(breakerRecord{State: stateOpen, By: "c"}), time.Unix(1, 0)
			}
			for range 2 {
				store.Clear()
				step()
				require.GreaterOrEqual(t, g.node().Status().Waiting, count-maxOffers)
				switch between {
				case "failures of the proxies":
					for i := range count {
						g.node().Failed(fmt.Sprint(i))
					}
				case "older records of another node":
					_, err = store.Exchange(t.Context(), Batch{Limit: 1, Ops: older})
					require.NoError(t, err)
				}
				step()
				require.Equal(t, count, g.node().Status().Open)
			}
			for range 5 {
				step()
			}
			require.Zero(t, g.node().Status().Waiting)
			require.Equal(t, count, g.node().Status().Open)
			for _, op := range ops {
				require.Equal(t, value, store.records[op.Key].Value)
			}
		})
	}
}

// The record of an open breaker ends, too, if the store has lost it.
func TestLostBreakerEnds(t *testing.T) {
	now := time.Unix(1e9, 0)
	store := NewMemory(func() time.Time { return now })
	g := manual(t, store, "a", func() time.Time { return now })
	op := Op{Kind: Put, Key: keyOf(breakerKey, "p"), Value: encode(breakerRecord{State: stateOpen}), TTL: time.Minute}
	_, err := store.Exchange(t.Context(), Batch{Limit: 1, Ops: []Op{op}})
	require.NoError(t, err)
	for range 2 {
		g.node().Step(t.Context())
		require.Equal(t, 1, g.node().Status().Open)
	}
	store.Clear()
	now = now.Add(59 * time.Second)
	g.node().Step(t.Context())
	require.Equal(t, 1, g.node().Status().Open)
	now = now.Add(time.Second)
	g.node().Step(t.Context())
	require.Zero(t, g.node().Status().Open)
	require.Zero(t, g.node().Status().Waiting)
}

// An offered record is not written if the store has a record with the same key and the same or a later time. A
// record that has ended is not written either.
func TestOffers(t *testing.T) {
	at := time.Unix(1e9, 0)
	var o offers
	for _, key := range []string{"early", "equal", "late", "ended", "ends"} {
		o.add(Record{Key: key, At: at})
		o.add(Record{Key: key, Value: "earlier", At: at.Add(-1)})
	}
	o.add(Record{Key: "ended", At: at, Ends: at.Add(time.Minute)})
	o.add(Record{Key: "ends soon", At: at, Ends: at.Add(time.Minute + time.Millisecond)})
	o.add(Record{Key: "ends", At: at, Ends: at.Add(time.Hour)})
	o.sort("node")
	o.received(&Record{Key: "early", At: at.Add(-1)})
	o.received(&Record{Key: "equal", At: at})
	o.received(&Record{Key: "late", At: at.Add(1)})
	require.Len(t, o.send(make([]pending, maxOps), at), maxOps)
	require.Equal(t, 4, o.count())
	ops := o.send(nil, at.Add(time.Minute))
	slices.SortFunc(ops, func(a, b pending) int { return strings.Compare(a.op.Key, b.op.Key) })
	require.Len(t, ops, 2)
	require.Equal(t, Op{Kind: Put, Key: "early", At: at}, ops[0].op)
	require.Equal(t, Op{Kind: Put, Key: "ends", At: at, TTL: time.Hour - time.Minute}, ops[1].op)
	require.Len(t, o.send(nil, at), 2, "they are sent until the store has them")
	for _, p := range ops {
		p.done(0)
	}
	require.Zero(t, o.count())
	require.Empty(t, o.send(nil, at))
}

// The log states once that events are not shared.
func TestDroppedEventsAreLogged(t *testing.T) {
	var log bytes.Buffer
	memory := NewMemory(time.Now)
	a := manual(t, memory, "a", time.Now)
	a.node().cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	memory.Fail(errCut)
	a.node().Step(t.Context())
	for i := range maxEvents + 10 {
		a.node().Banned(fmt.Sprint("p", i), "", time.Now().Add(time.Hour))
	}
	a.node().Step(t.Context())
	require.Equal(t, uint64(10), a.node().Status().Counts.Dropped)
	require.Equal(t, 1, strings.Count(log.String(), "the oldest are not shared"))
}

// An event replaces an earlier event with the same eventID. If there are too many events, the oldest is dropped.
func TestEvents(t *testing.T) {
	var s events
	for i := range maxEvents + 2 {
		require.Equal(t, i >= maxEvents, s.add(&event{op: Op{Kind: Put, Key: fmt.Sprint(i)}}))
	}
	require.False(t, s.add(&event{op: Op{Kind: Put, Key: "2", Value: "new"}}))
	require.Equal(t, maxEvents, s.count())
	sent := s.send(nil, time.Now())
	require.Len(t, sent, maxOps)
	require.Equal(t, "3", sent[0].op.Key, "0 and 1 were dropped, and 2 is new")
	for _, p := range sent {
		p.done(1)
	}
	require.Equal(t, maxEvents-maxOps, s.count())
	for s.count() > 0 {
		sent = s.send(nil, time.Now())
		for _, p := range sent {
			p.done(1)
		}
	}
	require.Equal(t, "new", sent[len(sent)-1].op.Value)
}
