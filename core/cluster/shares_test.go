package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// testLimit is a limit of a testNode. Its uses are counted in the same way as in a gateway.
type testLimit struct {
	node    *testNode
	key     string
	kind    share.Kind
	whole   bool // share.Use.InitialIsEqualShare
	limit   int64
	used    int64 // on the day, or in flight
	count   int64
	seen    int64 // count at the last EachUsed
	day     int64 // stays 0 unless testWorld.hasDays is set
	share   share.Share
	divisor int64
	initial share.InitialShares
	tokens  float64 // of a rate
	filled  time.Time
}

func (l *testLimit) most() int64 {
	if l.kind == share.Daily {
		return l.share.AllowanceToday(l.limit, l.divisor, l.day)
	}
	return l.share.Allowance(l.limit, l.divisor)
}

// startDay begins a new day if the day has changed.
func (l *testLimit) startDay() {
	n := l.node
	if day := n.days.Day(n.now()); n.world.hasDays && l.kind == share.Daily && day != l.day {
		l.day, l.used = day, 0
	}
}

// begin begins a use if the share permits the use.
func (l *testLimit) begin() bool {
	l.startDay()
	switch {
	case l.kind == share.Rate:
		if l.fill(); l.tokens < 1-1e-6 {
			return false
		}
		l.tokens--
	case l.used >= l.most():
		return false
	default:
		l.used++
	}
	l.count++
	return true
}

// tunnel uses one more unit of an amount, in the way of an open tunnel: the tunnel does not end while other nodes may
// have a share left.
func (l *testLimit) tunnel() bool {
	spentAlone := l.initial.Alone && l.used >= l.share.AllowanceAlone(l.limit, l.initial, l.day)
	if spentAlone || l.share.IsSpent(l.limit, l.day, l.used) {
		return false
	}
	l.used++
	return true
}

// fill adds the tokens of the time since the last call.
func (l *testLimit) fill() {
	rate := float64(l.most()) / share.RateUnit
	now := l.node.world.now
	l.tokens = min(l.tokens+now.Sub(l.filled).Seconds()*rate, max(rate, 1))
	l.filled = now
}

func (l *testLimit) Key() string { return l.key }

func (l *testLimit) Use() share.Use {
	l.startDay()
	u := share.Use{Kind: l.kind, InitialIsEqualShare: l.whole, Limit: l.limit, Used: l.used, Share: l.most(),
		Count: l.count,
		Day:   l.day}
	switch l.kind {
	case share.Daily:
		u.Total, u.UsedAtTotal = l.share.Total(l.day)
		u.Count = l.used
	case share.Rate:
		l.fill()
		u.HasNoToken = l.tokens < 1-1e-6
	}
	return u
}

func (l *testLimit) SetShare(size, total, usedAtTotal int64) int64 {
	if l.kind == share.Rate {
		l.fill()
		size = max(size, share.Initial(l.limit, l.divisor))
	}
	l.share = share.NewShare(size, total, l.day, usedAtTotal)
	return max(size, l.used)
}

func (l *testLimit) ReleaseShare(size, total, usedAtTotal int64) {
	l.share = share.Share{}
	if l.kind == share.Daily {
		l.share = share.NewReleased(size, total, l.day, usedAtTotal)
	}
}

// testNode is a gateway that has only shared limits.
type testNode struct {
	Local
	world  *testWorld
	link   *testLink
	node   *Node
	limits []*testLimit
	holder string
	skew   time.Duration // of its clock
	days   share.DayClock
	dead   bool
	raised int
	next   time.Time // of the next step
}

func (n *testNode) Load() Load                          { return Load{} }
func (n *testNode) Suspects(int) []string               { return nil }
func (n *testNode) Succeeds(string) bool                { return true }
func (n *testNode) EachStats(int, func(string, Stats))  {}
func (n *testNode) ProbeTime() time.Duration            { return time.Second }
func (n *testNode) SharesGrown()                        { n.raised++ }
func (n *testNode) SetStoreTime(local, store time.Time) { n.days.Set(local, store) }
func (n *testNode) now() time.Time                      { return n.world.now.Add(n.skew) }

func (n *testNode) SetInitialShares(s share.InitialShares) {
	for _, l := range n.limits {
		l.initial = s
		if l.divisor = s.Divisor(); l.whole {
			l.divisor = s.Nodes
		}
		if l.kind == share.Daily && !l.share.IsFor(l.day) {
			l.share = share.NewInitial(l.day, l.used)
		}
	}
}

func (n *testNode) EachUsed(all bool, f func(share.Limit)) {
	for _, l := range n.limits {
		lately := l.count != l.seen || l.kind == share.InFlight && l.used > 0
		l.seen = l.count
		u := l.Use()
		if all && l.kind == share.Daily && l.used > 0 ||
			(lately || u.NeedsMore()) && !l.share.IsHeld(l.kind == share.Daily, l.day) {
			f(l)
		}
	}
}

// testLink is a node's connection to the store, which may be cut.
type testLink struct {
	Store
	cut bool
}

func (l *testLink) Exchange(ctx context.Context, b Batch) (Reply, error) {
	if l.cut {
		return Reply{}, errCut
	}
	return l.Store.Exchange(ctx, b)
}

func (l *testLink) Close() {}

// testWorld has nodes with a virtual clock, which run in one goroutine.
type testWorld struct {
	t     require.TestingT
	now   time.Time
	store *Memory
	nodes []*testNode
	runs  int
	// hasDays makes the amounts of limits begin again with each day.
	hasDays bool
}

func newTestWorld(t require.TestingT, nodes int, limits ...testLimit) *testWorld {
	w := &testWorld{t: t, now: time.Unix(1_800_000_000, 0)}
	w.store = NewMemory(func() time.Time { return w.now })
	for i := range nodes {
		n := &testNode{world: w, holder: fmt.Sprint("holder", i), link: &testLink{Store: w.store}}
		for _, l := range limits {
			l.node, l.filled, l.tokens = n, w.now, max(float64(l.limit)/share.RateUnit, 1)
			n.limits = append(n.limits, &l)
		}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	w.pass(4 * time.Second)
	return w
}

// start starts a new process.
func (n *testNode) start() {
	w := n.world
	w.runs++
	n.dead, n.next = false, w.now
	for _, l := range n.limits {
		l.share, l.seen, l.count = share.Share{}, 0, 0
	}
	n.node = New(Config{
		Name: "test", Node: n.holder, ID: fmt.Sprint("run", w.runs), Store: n.link, Timeout: DefaultTimeout,
		Now: n.now, Log: slog.New(slog.DiscardHandler),
	})
	n.node.Attach(n)
	n.node.AttachLimits(n, n.holder, fmt.Sprint("process", w.runs))
}

// pass advances the clock by d. In this time the nodes make their exchanges.
func (w *testWorld) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(10 * time.Millisecond) {
		for _, n := range w.nodes {
			if !n.dead && !w.now.Before(n.next) {
				wait, _ := n.node.Step(context.Background())
				n.next = w.now.Add(max(wait, minExchange))
			}
		}
	}
}

func (w *testWorld) used(limit int) (sum int64) {
	for _, n := range w.nodes {
		sum += n.limits[limit].used
	}
	return sum
}

// initialSum returns the sum of the initial shares of a limit.
func (w *testWorld) initialSum(limit int64) int64 {
	n := int64(len(w.nodes))
	return n * share.Initial(limit, initialDivisor*n)
}

// The days begin by the store's clock, whatever the clocks of the nodes show. A node whose clock is 2 minutes ahead
// uses nothing of the next day, also without the store. A node whose clock is behind uses the next day from its
// beginning.
func TestDaysBeginByTheStoresClock(t *testing.T) {
	w := newTestWorld(t, 3, testLimit{key: "d", kind: share.Daily, limit: 60})
	w.now, w.hasDays = time.Date(2027, 6, 30, 23, 59, 0, 0, time.UTC), true
	w.nodes[0].skew, w.nodes[2].skew = 2*time.Minute, -2*time.Minute
	use := func() (sum int) {
		for range 200 {
			for _, n := range w.nodes {
				if n.limits[0].begin() {
					sum++
				}
			}
			w.pass(20 * time.Millisecond)
		}
		return sum
	}
	cut := func(cut bool) {
		for _, n := range w.nodes {
			n.link.cut = cut
		}
	}
	w.pass(time.Second)
	require.InDelta(t, 60, use(), 3, "the limit and the initial shares; it is 00:01 by the clock of the first node")
	cut(true)
	w.pass(10 * time.Second)
	require.Zero(t, use(), "the nodes are alone")
	cut(false)
	w.nodes[1].skew = -10 * time.Minute // somebody changes a clock
	midnight := time.Date(2027, 7, 1, 0, 0, 0, 0, time.UTC)
	w.pass(midnight.Add(2 * time.Second).Sub(w.now))
	require.InDelta(t, 60, use(), 3, "it is 23:58 by the clock of the third node")
	require.Zero(t, use())
	w.pass(2 * time.Minute)
	require.Zero(t, use(), "it is 00:00 by the clock of the third node")
}

// Any nodes use a limit in any way, without a fault. Together they use at most the limit and their initial shares. If
// only one node has traffic, this node gets the whole rest of the limit.
func TestSharesOfLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		daily, inFlight := rapid.Int64Range(1, 300).Draw(t, "daily"), rapid.Int64Range(1, 30).Draw(t, "in flight")
		whole := rapid.Bool().Draw(t, "whole")
		w := newTestWorld(t, rapid.IntRange(1, 4).Draw(t, "nodes"),
			testLimit{key: "d", kind: share.Daily, limit: daily},
			testLimit{key: "f", kind: share.InFlight, whole: whole, limit: inFlight})
		initial := w.initialSum(inFlight)
		if n := int64(len(w.nodes)); whole {
			initial = (n - 1) * share.Initial(inFlight, n)
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")]
			for range rapid.IntRange(0, 20).Draw(t, "uses") {
				n.limits[0].begin()
				n.limits[1].begin()
			}
			n.limits[1].used -= rapid.Int64Range(0, n.limits[1].used).Draw(t, "ends")
			ms := rapid.SampledFrom([]int{0, 20, 60, 200, 1000, 12_000}).Draw(t, "ms")
			w.pass(time.Duration(ms) * time.Millisecond)
			require.LessOrEqual(t, w.used(0), daily+w.initialSum(daily))
			require.LessOrEqual(t, w.used(1), inFlight+initial)
		}
		for _, n := range w.nodes {
			n.limits[1].used = 0
		}
		w.pass(idleTime + 3*time.Second)
		n := w.nodes[0]
		for range 30 {
			for n.limits[0].begin() || n.limits[1].begin() {
			}
			w.pass(100 * time.Millisecond)
		}
		require.GreaterOrEqual(t, w.used(0), daily)
		require.LessOrEqual(t, w.used(0), daily+w.initialSum(daily))
		require.GreaterOrEqual(t, w.used(1), inFlight)
	})
}

// Uses of this limit beyond the share are refused. If there is only one node, it has the whole limit at any time:
// before it has joined, after few uses and after a time without use. If there are several nodes, each has an equal
// share immediately.
func TestWholeShares(t *testing.T) {
	for nodes := 1; nodes <= 3; nodes++ {
		w := newTestWorld(t, nodes, testLimit{key: "f", kind: share.InFlight, whole: true, limit: 30})
		burst := func(n *testNode) (begun int64) {
			l := n.limits[0]
			for l.used = 0; l.begin(); {
				begun++
			}
			l.used = 0
			return begun
		}
		share := int64(30 / nodes)
		for _, n := range w.nodes {
			require.Equal(t, share, burst(n))
		}
		w.pass(2 * idleTime)
		for _, n := range w.nodes {
			require.Equal(t, share, burst(n))
		}
		if nodes > 1 {
			continue
		}
		n := w.nodes[0]
		for range 20 {
			require.True(t, n.limits[0].begin())
			w.pass(time.Second)
			n.limits[0].used = 0
			w.pass(time.Second)
			require.Equal(t, share, burst(n))
		}
		n.start()
		require.Equal(t, share, burst(n), "a new process")
		n.link.cut = true
		w.pass(time.Second)
		require.Equal(t, share, burst(n), "without the store")
	}
}

// lease returns the maximum amount that the node may have used in addition to the amount in the store.
func (n *testNode) lease(limit int) int64 {
	l := n.limits[limit]
	e := n.node.sharing.byKey[l.key]
	switch {
	case e == nil:
		return max(l.most(), share.Initial(l.limit, 1))
	case l.kind == share.Daily:
		return max(e.storedSize, e.size) - min(e.usedAtTotal, e.storedSize, e.size)
	}
	return max(e.storedSize, e.size)
}

// equal returns the maximum share of the node after a long time without the store.
func (n *testNode) equal(limit int) int64 {
	return share.Initial(n.limits[limit].limit, int64(n.node.sharing.nodes))
}

// Nodes are killed, cut off and started again, and the store loses its data. The nodes use at most the limit and the
// shares that they held at the faults. At the end, the whole limit is granted.
func TestSharesAfterFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := [2]int64{rapid.Int64Range(1, 300).Draw(t, "daily"), rapid.Int64Range(1, 30).Draw(t, "in flight")}
		w := newTestWorld(t, rapid.IntRange(1, 4).Draw(t, "nodes"),
			testLimit{key: "d", kind: share.Daily, limit: limits[0]},
			testLimit{key: "f", kind: share.InFlight, limit: limits[1]})
		lost := int64(0)   // used by processes whose state is lost
		more := [2]int64{} // by which the limits may be exceeded
		check := func() {
			for i, sum := range [2]int64{w.used(0) + lost, w.used(1)} {
				require.LessOrEqual(t, sum, limits[i]+w.initialSum(limits[i])+more[i])
			}
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")]
			actions := []string{"", "", "", "", "kill", "cut", "heal", "clear", "start"}
			action := rapid.SampledFrom(actions).Draw(t, "action")
			switch {
			case action == "kill" && !n.dead, action == "cut" && !n.link.cut:
				for i := range more {
					if more[i] += n.lease(i); action == "cut" {
						more[i] += n.equal(i)
					}
				}
				if n.link.cut = n.link.cut || action == "cut"; action == "kill" {
					n.dead, n.limits[1].used = true, 0
				}
			case action == "heal":
				n.link.cut = false
			case action == "clear":
				w.store.Clear()
				more[0] += lost
				for _, n := range w.nodes {
					if n.dead || n.link.cut {
						more[0] += n.limits[0].used
					}
				}
				w.pass(500 * time.Millisecond) // the nodes report what they have used
			case action == "start" && n.dead:
				d := n.limits[0]
				if rapid.Bool().Draw(t, "loses its state") {
					lost, d.used, n.holder = lost+d.used, 0, fmt.Sprint("holder", len(w.nodes)+w.runs)
				} else {
					saved := rapid.Int64Range(0, d.used).Draw(t, "saved")
					lost, d.used = lost+d.used-saved, saved
				}
				for i := range more { // the node does not know yet how many nodes there are
					if n.link.cut {
						more[i] += limits[i]
					} else {
						more[i] += share.Initial(limits[i], initialDivisor)
					}
				}
				n.start()
			}
			for range rapid.IntRange(0, 20).Draw(t, "uses") {
				if !n.dead {
					n.limits[0].begin()
					n.limits[1].begin()
				}
			}
			n.limits[1].used -= rapid.Int64Range(0, n.limits[1].used).Draw(t, "ends")
			w.pass(time.Duration(rapid.SampledFrom([]int{0, 60, 200, 1000, 12_000}).Draw(t, "ms")) * time.Millisecond)
			check()
		}
		for _, n := range w.nodes {
			n.link.cut, n.limits[1].used = false, 0
			if n.dead {
				n.start()
			}
		}
		w.pass(idleTime + 10*time.Second)
		for range 30 {
			for l := w.nodes[0].limits; l[0].begin() || l[1].begin(); {
			}
			w.pass(100 * time.Millisecond)
			check()
		}
		require.GreaterOrEqual(t, w.used(0)+lost, limits[0])
		require.GreaterOrEqual(t, w.used(1), limits[1])
	})
}

// If a limit is raised on all nodes after it was used up, the nodes get shares of the new limit.
func TestARaisedLimitHasShares(t *testing.T) {
	w := newTestWorld(t, 2, testLimit{key: "d", kind: share.Daily, limit: 50})
	spend := func() {
		for range 30 {
			for _, n := range w.nodes {
				for n.limits[0].begin() {
				}
			}
			w.pass(100 * time.Millisecond)
		}
		w.pass(2 * idleTime)
	}
	spend()
	used := w.used(0)
	require.GreaterOrEqual(t, used, int64(50))
	spend()
	require.Equal(t, used, w.used(0))
	for _, n := range w.nodes {
		n.limits[0].limit = 200
	}
	w.pass(time.Second)
	spend()
	require.GreaterOrEqual(t, w.used(0), int64(200))
	require.LessOrEqual(t, w.used(0), 200+w.initialSum(200))
}

// No node can reach the store. In open tunnels, the nodes transmit at most the rest of the amount, their shares, and
// their equal shares of the amount that the other nodes have used since a node last knew the use of all nodes.
func TestTunnelsWithoutTheStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 3000).Draw(t, "limit")
		w := newTestWorld(t, rapid.IntRange(1, 4).Draw(t, "nodes"),
			testLimit{key: "d", kind: share.Daily, limit: limit})
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node")]
			for range rapid.IntRange(0, 50).Draw(t, "uses") {
				n.limits[0].tunnel()
			}
			ms := rapid.SampledFrom([]int{0, 60, 200, 1000, 12_000}).Draw(t, "ms")
			w.pass(time.Duration(ms) * time.Millisecond)
		}
		used := w.used(0)
		most := max(limit, used)
		for _, n := range w.nodes {
			l, nodes := n.limits[0], max(int64(n.node.sharing.nodes), 1)
			known, here := l.share.Total(l.day)
			unknown := max(used-known-max(l.used-here, 0), 0)
			most += n.lease(0) + max(l.used-l.most(), 0) + (unknown+nodes-1)/nodes
			n.link.cut = true
		}
		w.pass(2 * time.Second) // the nodes find out
		for range 20 {
			for _, n := range w.nodes {
				for range 1000 {
					n.limits[0].tunnel()
				}
			}
			require.LessOrEqual(t, w.used(0), most)
			w.pass(time.Second)
		}
		for _, n := range w.nodes {
			require.False(t, n.limits[0].tunnel())
			n.link.cut = false
		}
		w.pass(5 * time.Second)
		require.LessOrEqual(t, w.used(0), most)
	})
}

// Two processes have the same holder, and the new process has taken over the sockets of the old one. Each process has
// its own shares of the limits on attempts in flight. When the old process ends, the new process has the whole limit.
// An amount counts once.
func TestAProcessTakesOver(t *testing.T) {
	w := newTestWorld(t, 1, testLimit{key: "f", kind: share.InFlight, limit: 20},
		testLimit{key: "d", kind: share.Daily, limit: 1000})
	old := w.nodes[0]
	fill := func(n *testNode, d time.Duration) {
		for end := w.now.Add(d); w.now.Before(end); w.pass(50 * time.Millisecond) {
			for n.limits[0].begin() {
			}
		}
	}
	fill(old, time.Second)
	require.Equal(t, int64(20), old.limits[0].used)
	old.limits[0].used = 15
	for range 50 {
		old.limits[1].begin()
	}
	w.pass(2 * time.Second)
	next := &testNode{world: w, holder: old.holder, link: &testLink{Store: w.store}}
	for _, l := range old.limits {
		l := *l
		l.node = next
		if l.kind == share.InFlight {
			l.used = 0
		}
		next.limits = append(next.limits, &l)
	}
	w.nodes = append(w.nodes, next)
	next.start()
	w.pass(2 * time.Second)
	fill(next, 3*time.Second)
	require.Equal(t, int64(15), old.limits[0].used)
	require.LessOrEqual(t, next.limits[0].used, int64(5+2), "the rest of the limit, and the initial share")
	require.GreaterOrEqual(t, next.limits[0].used, int64(5))
	require.True(t, next.limits[1].begin())
	w.pass(2 * time.Second)
	require.Equal(t, int64(51), next.node.sharing.byKey["d"].totalUsed)
	old.limits[0].used = 0
	old.node.announceLeave()
	old.dead = true
	fill(next, time.Second)
	require.Equal(t, int64(20), next.limits[0].used)
}

// A request that is counted for a moment and then denied does not stay in the amount that the store has.
func TestDeniedRequestsDoNotAddUp(t *testing.T) {
	w := newTestWorld(t, 1, testLimit{key: "d", kind: share.Daily, limit: 1000})
	n := w.nodes[0]
	l := n.limits[0]
	require.True(t, l.begin())
	w.pass(time.Second)
	for range 50 {
		l.used += 3
		w.pass(renewInterval + idleExchange)
		l.used -= 3
		w.pass(2 * time.Second)
	}
	require.Less(t, n.node.sharing.byKey["d"].totalUsed, int64(10))
}

// However many shares become larger in an exchange, this is reported once.
func TestRaisedIsReportedOnce(t *testing.T) {
	var limits []testLimit
	for i := range 20 {
		limits = append(limits, testLimit{key: fmt.Sprint("f", i), kind: share.InFlight, limit: 100})
	}
	w := newTestWorld(t, 1, limits...)
	n := w.nodes[0]
	for _, l := range n.limits {
		for l.begin() {
		}
	}
	n.raised = 0
	n.node.Step(t.Context())
	require.Equal(t, 1, n.raised)
	require.Equal(t, uint64(20), n.node.sharing.counts.Grown)
}

// A rate holds for all nodes together, whichever nodes have the traffic. If only one node has traffic, it gets the
// whole rate.
func TestSharesOfARate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.SampledFrom([]float64{0.2, 1, 5, 50}).Draw(t, "rate")
		nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
		w := newTestWorld(t, nodes, testLimit{key: "r", kind: share.Rate, limit: int64(perSecond * share.RateUnit)})
		begun := 0
		busy := func(nodes []*testNode, d time.Duration) {
			for end := w.now.Add(d); w.now.Before(end); w.pass(20 * time.Millisecond) {
				for _, n := range nodes {
					for n.limits[0].begin() {
						begun++
					}
				}
			}
		}
		from := w.now
		// The initial shares and the bursts: a node may begin as many attempts together as its share has per second,
		// and at least one.
		burst := 1.125*perSecond + float64(2*nodes)
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			first := rapid.IntRange(0, nodes-1).Draw(t, "first")
			last := rapid.IntRange(first, nodes).Draw(t, "last")
			busy(w.nodes[first:last], time.Duration(rapid.IntRange(1, 20).Draw(t, "s"))*time.Second)
			most := 1.125*perSecond*w.now.Sub(from).Seconds() + burst
			require.LessOrEqual(t, float64(begun), most)
		}
		w.pass(30 * time.Second)
		busy(w.nodes[:1], 20*time.Second)
		begun = 0
		busy(w.nodes[:1], 20*time.Second)
		require.GreaterOrEqual(t, float64(begun), 0.95*20*perSecond-1)
		require.LessOrEqual(t, float64(begun), 20*perSecond+burst)
	})
}

// If a limit has fewer places than there are nodes, the nodes take turns.
func TestNodesTakeTurns(t *testing.T) {
	w := newTestWorld(t, 3, testLimit{key: "a", kind: share.InFlight, limit: 1},
		testLimit{key: "b", kind: share.InFlight, limit: 1})
	begun := map[string]int{}
	for range 12_000 { // ten minutes
		for _, n := range w.nodes {
			for _, l := range n.limits {
				if l.begin() {
					begun[l.key+" of "+n.holder]++
				}
			}
		}
		w.pass(40 * time.Millisecond)
		for _, n := range w.nodes {
			for _, l := range n.limits {
				l.used = 0
			}
		}
		w.pass(10 * time.Millisecond)
	}
	require.Len(t, begun, 6, "%v", begun)
	for what, n := range begun {
		require.Greater(t, n, 1200, "%s: %v", what, begun)
	}
}
