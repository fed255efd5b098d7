package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Moves of sessions are sent in several exchanges. At the end, all nodes know the latest move of each session. The move
// of a session that has ended is not sent.
func TestMovesOfSessions(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	memory := NewMemory(clock)
	store := &sizes{Store: memory}
	a, b := manual(t, store, "a", clock), manual(t, store, "b", clock)
	step := func(d time.Duration) {
		for _, g := range []*gateway{a, b} {
			now = now.Add(d)
			g.node().Step(t.Context())
		}
	}
	session := func(i int) string { return fmt.Sprint("s", i) }
	const count = 2*maxMoves + 100
	for i := range count {
		a.node().Moved(Move{session(i), "p", 1, time.Minute})
	}
	store.ops = nil
	step(10 * time.Millisecond)
	for a.node().Status().Waiting > 0 {
		step(10 * time.Millisecond)
	}
	for range 2 {
		step(10 * time.Millisecond)
	}
	for _, n := range store.ops {
		require.LessOrEqual(t, n, maxMoves+10)
	}
	for i := range count {
		m := b.move(session(i))
		require.Equal(t, Move{session(i), "p", 1, m.TTL}, m)
		require.InDelta(t, time.Minute.Seconds(), m.TTL.Seconds(), 1)
	}

	// Both nodes move a session while they cannot reach the store. The later move counts, also on a node that starts
	// afterwards.
	memory.Fail(errCut)
	step(time.Second)
	a.node().Moved(Move{"both", "early", 7, time.Hour})
	a.node().Moved(Move{"ended", "p", 1, 5 * time.Second})
	now = now.Add(time.Second)
	b.node().Moved(Move{"both", "late", 2, time.Hour})
	now = now.Add(10 * time.Second)
	memory.Fail(nil)
	for range 4 {
		step(time.Second)
	}
	for _, g := range []*gateway{a, b, manual(t, store, "c", clock)} {
		require.Equal(t, "late", g.move("both").Proxy)
		require.Equal(t, uint32(2), g.move("both").Generation)
		require.InDelta(t, time.Hour.Seconds(), g.move("both").TTL.Seconds(), 30)
		require.Zero(t, g.move("ended"))
	}
	require.Zero(t, a.node().Status().Waiting)

	// A move that waits is later than a move that arrives.
	a.node().Moved(Move{"both", "a", 3, time.Hour})
	a.node().Step(t.Context())
	b.node().Moved(Move{"both", "b", 3, time.Hour})
	record := Record{Key: keyOf(moveKey, "both"), Value: `{"p":"a","g":3}`, Ends: now.Add(time.Hour)}
	b.node().receiveMove("both", &record)
	require.Equal(t, "late", b.move("both").Proxy, "the move is in the inbox")
	b.node().takeInbox(now)
	b.node().receiveMove("both", &record)
	require.Equal(t, "late", b.move("both").Proxy)
	for range 2 {
		step(time.Second)
	}
	require.Equal(t, []string{"b", "b"}, []string{a.move("both").Proxy, b.move("both").Proxy})

	// Their number is limited.
	memory.Fail(errCut)
	a.node().Step(t.Context())
	for i := range maxEvents + 10 {
		a.node().Moved(Move{session(i), "p", 1, time.Hour})
	}
	a.node().Step(t.Context())
	require.Equal(t, maxEvents, a.node().moves.count())
	require.Equal(t, uint64(10), a.node().Status().Counts.Dropped)
	a.node().receiveMove("x", &Record{Value: "?", Ends: now.Add(time.Hour)})
	require.Zero(t, a.move("x"))
}
