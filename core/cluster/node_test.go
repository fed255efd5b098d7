package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

const second = time.Second

// every calls f at intervals of d, until the time total has passed or f returns false.
func every(d, total time.Duration, f func() bool) {
	for begin := time.Now(); time.Since(begin) < total && f(); {
		time.Sleep(d)
	}
}

// If a proxy is dead for all nodes, its breaker is open on all nodes soon after the first opening. Together, the nodes
// waste few attempts.
func TestDeadForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 5)
		defer r.end()
		for _, g := range r.nodes[:3] { // the other two have no traffic
			require.True(t, g.try("p", 0))
		}
		time.Sleep(time.Minute)
		r.setDead("p", true)
		begin := time.Now()
		tries := 0
		var first time.Time
		open := func() (n int) {
			for _, g := range r.nodes {
				if g.state("p") == core.Open {
					n++
				}
			}
			return n
		}
		every(100*time.Millisecond, 10*second, func() bool {
			for _, g := range r.nodes[:3] {
				if time.Since(begin)%(300*time.Millisecond) == 0 && g.try("p", 0) {
					tries++
				}
			}
			if n := open(); n > 0 && first.IsZero() {
				first = time.Now()
			} else if n == 5 {
				return false
			}
			return true
		})
		require.Equal(t, 5, open())
		require.Less(t, time.Since(first), second)
		require.LessOrEqual(t, tries, 6, "one node alone needs 5")
		s := r.nodes[4].node().Status()
		require.Equal(t, 1, s.Open)
		require.Contains(t, s.Breakers[0].Why, "of 5 nodes")
	})
}

// A node fails at proxies that serve the other nodes. It keeps its own view, and is isolated.
func TestDeadForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		r.nodes[0].broken.Store(true)
		every(100*time.Millisecond, 20*second, func() bool {
			for _, p := range []string{"p", "q", "s"} {
				for _, g := range r.nodes {
					g.try(p, 0)
				}
			}
			return true
		})
		for _, p := range []string{"p", "q", "s"} {
			require.Equal(t, core.Open, r.nodes[0].state(p))
			require.Equal(t, core.Closed, r.nodes[1].state(p))
			require.Equal(t, core.Closed, r.nodes[2].state(p))
		}
		for _, g := range r.nodes {
			for _, n := range g.node().Status().Nodes {
				require.Equal(t, n.Node == "node0", n.Isolated, "%s as %s sees it", n.Node, g.name)
			}
		}
		// An isolated node is not a second witness.
		r.nodes[1].broken.Store(true)
		every(100*time.Millisecond, 2*second, func() bool {
			r.nodes[1].try("p", 0)
			return true
		})
		require.Equal(t, core.Closed, r.nodes[2].state("p"))
	})
}

// If only one of two nodes fails, it opens no breaker of the other node, even if the other node has no traffic.
func TestTwoNodesNeedTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		r.setDead("p", true)
		every(100*time.Millisecond, 5*second, func() bool { r.nodes[0].try("p", 0); return true })
		require.Equal(t, core.Open, r.nodes[0].state("p"))
		require.Equal(t, core.Closed, r.nodes[1].state("p"))
		r.nodes[1].try("p", 0) // one failure, with the evidence of the other node
		time.Sleep(second)
		require.Equal(t, core.Open, r.nodes[1].state("p"))
	})
}

// openEverywhere makes a proxy dead and waits until its breaker is open for the cluster.
func (r *rig) openEverywhere(key string) {
	r.setDead(key, true)
	every(100*time.Millisecond, 5*second, func() bool {
		for _, g := range r.nodes {
			g.try(key, 0)
		}
		return r.nodes[0].node().Status().Open == 0
	})
	time.Sleep(second)
	for _, g := range r.nodes {
		require.Equal(r.t, core.Open, g.state(key), g.name)
	}
}

// One node makes the probe for all nodes: a success closes the breaker on all nodes, a failure keeps it open on all
// nodes.
func TestOneProbeForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 5)
		defer r.end()
		r.openEverywhere("p")
		tried := 0
		every(50*time.Millisecond, 80*second, func() bool {
			for _, g := range r.nodes {
				if g.try("p", 0) {
					tried++
				}
			}
			return true
		})
		require.Equal(t, 2, tried, "probes after 30 s and 75 s")
		r.setDead("p", false)
		every(50*time.Millisecond, 50*second, func() bool {
			for _, g := range r.nodes {
				if g.try("p", 0) {
					return false
				}
			}
			return true
		})
		time.Sleep(second)
		for _, g := range r.nodes {
			require.Equal(t, core.Closed, g.state("p"))
		}
		r.requireOneProbe()
	})
}

// A node that ends without notice during its probe delays the next probe until its lease has ended. The result of a
// probe after the end of its lease has no effect.
func TestAKilledNodeLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		r.openEverywhere("p")
		time.Sleep(30 * second)
		slow := r.nodes[0]
		begun := make(chan bool)
		go func() {
			for !slow.breaker("p").HasProbe() && slow.state("p") != core.Closed {
				if slow.try("p", 20*second) {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			close(begun)
		}()
		time.Sleep(second)
		require.True(t, slow.breaker("p").HasProbe())
		slow.store.set(nil, true) // its process stands still
		begin := time.Now()
		every(50*time.Millisecond, time.Minute, func() bool { return !r.nodes[1].try("p", 0) })
		require.Less(t, time.Since(begin), 14*second)
		r.setDead("p", false)
		<-begun // the slow node's probe succeeds, after its lease
		require.NotEqual(t, core.Closed, slow.state("p"))
		slow.store.set(nil, false)
		time.Sleep(3 * second)
		require.Equal(t, core.Open, r.nodes[1].state("p"), "the probe of this node has failed")
		require.Equal(t, core.Open, r.nodes[2].state("p"))
		r.requireOneProbe()
	})
}

// Without the store, each node continues alone immediately, and makes its own probes. When the store is back, the
// results of both sides are merged.
func TestAlone(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 3)
			defer r.end()
			r.openEverywhere("p")
			r.nodes[2].Ban("q", "host", time.Hour)
			time.Sleep(second)
			require.NotZero(t, r.nodes[0].banned("q", "host"))
			for _, g := range r.nodes {
				g.store.set(errCut, hang)
			}
			time.Sleep(second)
			for _, g := range r.nodes {
				alone, problem := g.node().Alone()
				require.True(t, alone)
				require.NotEmpty(t, problem)
			}
			r.nodes[0].breaker("p").Reset()
			r.nodes[0].node().Reset(t.Context(), "p")
			r.nodes[1].EndBan("q", "host")
			r.nodes[1].set("policy", "a", 1)
			time.Sleep(second)
			r.nodes[2].set("policy", "b", 2)
			require.Equal(t, core.Open, r.nodes[1].state("p"), "it cannot have been told")
			time.Sleep(20 * second)
			for _, g := range r.nodes {
				g.store.set(nil, false)
			}
			time.Sleep(4 * second)
			for _, g := range r.nodes {
				require.Equal(t, core.Closed, g.state("p"), "the reset is in force")
				require.Zero(t, g.banned("q", "host"))
				require.Equal(t, `{"a":1,"b":2}`, g.value("policy"))
				require.Zero(t, g.node().Status().Waiting)
			}
		})
	}
}

// A store that has lost its data gets the records of the nodes again.
func TestEmptyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		r.openEverywhere("p")
		r.nodes[0].Ban("q", "", time.Hour)
		r.nodes[1].set("policy", "a", 1)
		time.Sleep(second)
		r.store.Clear()
		time.Sleep(3 * second)
		g := r.add()
		time.Sleep(3 * second)
		require.Equal(t, core.Open, g.state("p"))
		require.InDelta(t, time.Hour.Seconds(), g.banned("q", "").Seconds(), 10)
		require.Equal(t, `{"a":1}`, g.value("policy"))
		require.Len(t, g.node().Status().Nodes, 4)
		r.nodes[2].set("policy", "b", 2)
		time.Sleep(second)
		for _, g := range r.nodes {
			require.Equal(t, `{"a":1,"b":2}`, g.value("policy"))
		}
	})
}

// Changes that two nodes make at the same time are both in force everywhere.
func TestChangesAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4)
		defer r.end()
		for i, g := range r.nodes {
			go g.set("policy", string(rune('a'+i)), i)
		}
		time.Sleep(2 * second)
		for _, g := range r.nodes {
			require.Equal(t, `{"a":0,"b":1,"c":2,"d":3}`, g.value("policy"))
		}
	})
}

// A clock that is wrong by minutes changes nothing.
func TestWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		for _, skew := range []time.Duration{-7 * time.Minute, 7 * time.Minute} {
			g := r.add()
			g.stop()
			<-g.done
			g.skew = skew
			g.start()
		}
		time.Sleep(3 * second)
		r.openEverywhere("p")
		r.nodes[2].Ban("q", "host", time.Minute)
		time.Sleep(second)
		for _, g := range r.nodes {
			require.InDelta(t, 59, g.banned("q", "host").Seconds(), 1)
			require.InDelta(t, 28, g.breaker("p").OpenTime().Seconds(), 2)
		}
		tried := 0
		every(50*time.Millisecond, 35*second, func() bool {
			for _, g := range r.nodes {
				if g.try("p", 0) {
					tried++
				}
			}
			return true
		})
		require.Equal(t, 1, tried)
	})
}

func TestSuspectsAndStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		r.nodes[0].suspects("dead.test:443")
		time.Sleep(3 * second)
		require.False(t, r.nodes[2].wasTold("dead.test:443"), "one report of three nodes")
		r.nodes[1].suspects("dead.test:443")
		time.Sleep(3 * second)
		require.True(t, r.nodes[2].wasTold("dead.test:443"))
		for _, g := range r.nodes {
			require.Equal(t, []SuspectStatus{{"dead.test:443", []string{"node0", "node1"}}}, g.node().Status().Suspects)
		}
		r.nodes[0].try("p", 0)
		time.Sleep(12 * second)
		g := r.add()
		time.Sleep(3 * second)
		require.Equal(t, Stats{SuccessRate: 1, Samples: 1, Latency: second}, g.seeded("p"))
		require.Equal(t, Load{Tried: 1, Requests: 1, Proxies: 1}, g.node().Status().Nodes[0].Load)
	})
}

// A node that succeeds nowhere, and suspects a target at which another node succeeds, is isolated.
func TestANodeThatFailsAtATargetIsIsolated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		defer r.end()
		isolated := func() (names []string) {
			for _, g := range r.nodes {
				for _, n := range g.node().Status().Nodes {
					if n.Isolated {
						names = append(names, g.name+" sees "+n.Node)
					}
				}
			}
			return names
		}
		bad := r.nodes[0]
		bad.suspects("shop.test:443")
		r.nodes[1].succeedsAt("other.test:443")
		time.Sleep(3 * second)
		require.Empty(t, isolated(), "no node succeeds there")
		r.nodes[1].succeedsAt("shop.test:443")
		bad.succeedsAt("other.test:443")
		time.Sleep(7 * second)
		require.Empty(t, isolated(), "the node succeeds at another target")
		bad.succeedsAt()
		time.Sleep(3 * second)
		require.Equal(t, []string{"node0 sees node0", "node1 sees node0", "node2 sees node0"}, isolated())
		require.False(t, r.nodes[2].wasTold("shop.test:443"), "the other nodes do not believe it")
		for _, g := range r.nodes {
			require.Equal(t, []SuspectStatus{{"shop.test:443", []string{"node0"}}}, g.node().Status().Suspects)
		}
		bad.mu.Lock()
		delete(bad.suspect, "shop.test:443")
		bad.mu.Unlock()
		time.Sleep(7 * second)
		require.Empty(t, isolated())
	})
}

// A store that has lost its data has also lost the leases. It grants no lease until all earlier leases have ended.
func TestNoLeaseAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		r.openEverywhere("p")
		time.Sleep(30 * second)
		begun := make(chan bool)
		go func() {
			every(20*time.Millisecond, 10*second, func() bool { return !r.nodes[0].try("p", 10*second) })
			close(begun)
		}()
		time.Sleep(second)
		require.True(t, r.nodes[0].breaker("p").HasProbe())
		r.store.Clear()
		every(20*time.Millisecond, 8*second, func() bool {
			require.False(t, r.nodes[1].try("p", 0))
			return true
		})
		<-begun
		r.requireOneProbe()
	})
}

// A node that ends frees its lease, so another node can probe at once.
func TestALeavingNodeFreesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		defer r.end()
		r.openEverywhere("p")
		leaving := r.nodes[0]
		every(20*time.Millisecond, time.Minute, func() bool {
			leaving.breaker("p").Admissible() // asks for a lease, but does not probe
			return len(leaving.node().inbox.leases()) == 0
		})
		require.NotEmpty(t, leaving.node().inbox.leases())
		leaving.stop()
		<-leaving.done
		begin := time.Now()
		every(10*time.Millisecond, time.Minute, func() bool { return !r.nodes[1].try("p", 0) })
		require.Less(t, time.Since(begin), time.Second)
	})
}

// A node that cannot reach the store tries again at growing intervals. The random part of an interval does not make it
// short.
func TestTheIntervalsOfRetriesGrow(t *testing.T) {
	memory := NewMemory(time.Now)
	g := manual(t, memory, "a", time.Now)
	memory.Fail(errCut)
	expected := firstRetry
	for range 200 {
		wait, interruptible := g.node().Step(t.Context())
		require.False(t, interruptible)
		require.LessOrEqual(t, wait, expected)
		require.Greater(t, wait, expected/2-time.Millisecond)
		expected = min(2*expected, longestRetry)
	}
}
