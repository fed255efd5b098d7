//go:build !race

// The simulations run in one goroutine, where the race detector is useless and takes minutes. `make test`
// runs them without it.

package evidence

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file check the properties a to f of the rule, in virtual time. With -v they
// print their measurements.

var kinds = map[fault]string{either: "either's", own: "proxy's own"}

// rates returns numbers of requests per second for a pool of n proxies. With fewer requests than the first number, a
// proxy would not get failure_threshold attempts within the window.
func rates(n int) []float64 { return []float64{max(1, float64(n)/8), 50, 10000} }

// Property a: in a pool of equal proxies with noise no request is refused, and no more requests fail
// than by chance. A breaker opens by chance at most once in four million attempts.
func TestNoiseOpensNothing(t *testing.T) {
	openings, attempts := 0, 0
	for _, kind := range []fault{either, own} {
		for _, noise := range []float64{0.001, 0.01, 0.02, 0.1, 0.3} {
			row := fmt.Sprintf("%-11s %4.1f %%, openings:", kinds[kind], noise*100)
			for _, n := range []int{2, 3, 8, 100} {
				for _, targets := range []int{1, 5} {
					const requests = 600_000
					p := newPool(n, rates(n)[(n+targets)%3], uint64(n)+1)
					p.random = targets == 5
					p.target = func() int { return p.rng.IntN(targets) }
					p.fails = func(int, int) fault { return p.noise(noise, kind) }
					for range requests {
						p.request()
					}
					lost := math.Pow(noise, float64(min(p.tries, n)))
					sigma := math.Sqrt(lost * (1 - lost) / float64(requests))
					require.Zero(t, p.refused, "%s N=%d targets %d", row, n, targets)
					require.LessOrEqual(t, p.openings, 3, "%s N=%d targets %d", row, n, targets)
					openings, attempts = openings+p.openings, attempts+requests
					share := float64(p.served) / float64(requests)
					require.GreaterOrEqual(t, share, 1-lost-0.001-3*sigma, "%s N=%d targets %d", row, n, targets)
					row += fmt.Sprintf("  N=%d/%d targets: %d", n, targets, p.openings)
				}
			}
			t.Log(row)
		}
	}
	t.Logf("%d openings in %d attempts", openings, attempts)
	require.LessOrEqual(t, openings, attempts/4_000_000)
}

// outcome is the number of attempts through proxy 0 until its breaker opened, for each seed, sorted.
type outcome []int

func (o outcome) median() int { return o[len(o)/2] }
func (o outcome) most() int   { return o[len(o)-1] }
func (o outcome) String() string {
	return fmt.Sprintf("%d (%d to %d)", o.median(), o[0], o.most())
}

// untilOpen measures the outcome if proxy 0 fails with probability bad, and the others with
// probability peers.
func untilOpen(t *testing.T, seeds, targets, n int, bad, peers float64, kind fault, warm int) (o outcome) {
	for seed := range seeds {
		p := newPool(n, rates(n)[seed%3], uint64(seed)+100)
		p.random = seed%2 == 0
		p.target = func() int { return p.rng.IntN(targets) }
		p.fails = func(int, int) fault { return p.noise(peers, either) }
		for range warm {
			p.request()
		}
		for p.proxies[0].state != 0 {
			p.request()
		}
		p.mark()
		p.opened = map[int]int{}
		p.fails = func(x, _ int) fault {
			if x == 0 {
				return p.noise(bad, kind)
			}
			return p.noise(peers, either)
		}
		for p.opened[0] == 0 && p.proxies[0].attempts < 500 {
			p.request()
		}
		require.GreaterOrEqual(t, p.proxies[0].live, threshold)
		o = append(o, p.proxies[0].attempts)
	}
	sort.Ints(o)
	return o
}

// Property b: the breaker of a proxy that dies opens after 6 attempts (median), at most 12.
func TestADeadProxyOpens(t *testing.T) {
	for _, kind := range []fault{either, own} {
		for _, peers := range []float64{0, 0.01, 0.02, 0.05} {
			row := fmt.Sprintf("%-11s among %.0f %%, attempts until open:", kinds[kind], peers*100)
			for _, n := range []int{2, 8, 100} {
				for _, targets := range []int{1, 3, 1000} {
					o := untilOpen(t, 60, targets, n, 1, peers, kind, 2000)
					row += fmt.Sprintf("  N=%d/%d targets: %v", n, targets, o)
					require.LessOrEqual(t, o.median(), 6, row)
					require.LessOrEqual(t, o.most(), 12, row)
				}
			}
			t.Log(row)
		}
	}
}

// Property c: the breaker of a proxy with 80 % failures in a pool with 5 % opens after 12
// attempts (median), at most 25.
func TestABadProxyOpens(t *testing.T) {
	row := "80 % among 5 %, attempts until open:"
	for _, targets := range []int{1, 2, 3, 5} {
		o := untilOpen(t, 300, targets, 8, 0.8, 0.05, either, 2000)
		row += fmt.Sprintf("  %d targets: %v", targets, o)
		require.LessOrEqual(t, o.median(), 12, row)
		require.LessOrEqual(t, o.most(), 25, row)
	}
	t.Log(row)
}

// Property d: a dead target opens no breaker. The breaker of a proxy that dies at the same time opens
// within 10 attempts at the targets that are not dead.
func TestADeadTargetOpensNothing(t *testing.T) {
	for _, warm := range []int{0, 3000} {
		for _, share := range []float64{0.01, 0.1, 0.5, 1} {
			row := fmt.Sprintf("dead from request %d, %.0f %% of requests; openings, attempts of a dead proxy:", warm,
				share*100)
			for _, n := range []int{2, 3, 8, 100} {
				for _, at := range []int{1, 256} {
					openings, tries := 0, outcome{}
					for seed := range 9 {
						o, good := deadTarget(n, at, warm, share, uint64(seed))
						openings += o
						tries = append(tries, good)
					}
					sort.Ints(tries)
					row += fmt.Sprintf("  N=%d/%d at once: %d, %v", n, at, openings, tries)
					require.Zero(t, openings, row)
					if share < 1 {
						require.LessOrEqual(t, tries.median(), 6, row)
						require.LessOrEqual(t, tries.most(), 10, row)
					}
				}
			}
			t.Log(row)
		}
	}
}

// deadTarget returns the number of openings due to a dead target. Later, a proxy dies. The result good is the number of
// attempts through this proxy at other targets until its breaker opened.
func deadTarget(n, at, warm int, share float64, seed uint64) (openings, good int) {
	p := newPool(n, rates(n)[seed%3], seed+100)
	p.random = seed%2 == 0
	p.target = func() int {
		if p.rng.Float64() < share {
			return 0
		}
		return 1 + p.rng.IntN(3)
	}
	p.fails = func(int, int) fault { return p.noise(0.01, either) }
	for range warm {
		p.request()
	}
	p.fails = func(_, target int) fault {
		if target == 0 {
			return either
		}
		return p.noise(0.01, either)
	}
	for range 2048 / at {
		if at == 1 {
			p.request()
		} else {
			p.batch(at)
		}
	}
	openings = p.openings
	if share == 1 {
		return openings, 0
	}
	p.fails = func(x, target int) fault {
		if target == 0 {
			return either
		}
		if x == 0 {
			good++
			return either
		}
		return p.noise(0.01, either)
	}
	p.opened = map[int]int{}
	for p.opened[0] == 0 && good < 500 {
		p.request()
	}
	return openings, good
}

// Property d with dead names that are each requested once: they open no breaker, and the breaker of a proxy
// that dies at the same time opens within 10 attempts at the other targets.
func TestUniqueDeadNamesOpenNothing(t *testing.T) {
	for _, share := range []float64{0.01, 0.1, 0.3, 0.5, 0.85} {
		row := fmt.Sprintf("unique dead names in %.0f %% of the requests; attempts of a dead proxy:", share*100)
		for _, n := range []int{2, 3, 8, 100} {
			for _, at := range []int{1, 256} {
				tries := outcome{}
				for seed := range 9 {
					p, dies := uniqueNames(n, share, uint64(seed))
					for range 2048 / at {
						if at == 1 {
							p.request()
						} else {
							p.batch(at)
						}
					}
					require.Empty(t, p.opened, "%s N=%d/%d at once", row, n, at)
					tries = append(tries, dies())
					require.Len(t, p.opened, 1, "%s N=%d/%d at once", row, n, at)
					require.Zero(t, p.refused)
				}
				sort.Ints(tries)
				row += fmt.Sprintf("  N=%d/%d at once: %v", n, at, tries)
				require.LessOrEqual(t, tries.median(), 6, row)
				require.LessOrEqual(t, tries.most(), 10, row)
			}
		}
		t.Log(row)
	}
}

// uniqueNames returns a pool that has served. From now on, the given share of its requests is for dead names. The
// function dies lets proxy 0 die, and returns the number of its attempts at the other targets until its breaker opens.
func uniqueNames(n int, share float64, seed uint64) (p *pool, dies func() int) {
	p = newPool(n, rates(n)[seed%3], seed+100)
	p.random = seed%2 == 0
	const good = 3
	p.target = func() int { return p.rng.IntN(good) }
	name, dead, tries := 0, false, 0
	p.fails = func(x, target int) fault {
		switch {
		case target >= good:
			return either
		case dead && x == 0:
			tries++
			return either
		}
		return p.noise(0.01, either)
	}
	for range 4 * n {
		p.request()
	}
	p.target = func() int {
		if p.rng.Float64() < share {
			name++
			return len(names) + name
		}
		return p.rng.IntN(good)
	}
	return p, func() int {
		dead = true
		for p.opened[0] == 0 && tries < 500 {
			p.request()
		}
		return tries
	}
}

// Property f: if all requests are for dead names, all attempts fail. The breakers open much later than with targets
// that have served: after about 70 failures of each proxy.
func TestOnlyDeadNames(t *testing.T) {
	p, _ := uniqueNames(8, 1, 1)
	p.mark()
	for len(p.opened) == 0 {
		p.request()
	}
	for _, x := range p.proxies {
		require.InDelta(t, 70, x.attempts, 8)
	}
	for range 20 {
		p.request()
	}
	require.Len(t, p.opened, 8)
}

// The first requests of a new pool are for dead names, and the proxies report that they cannot reach these targets. No
// breaker opens. If the proxies fail without such a report, the breakers open after five failures of each.
func TestANewPoolSurvivesDeadNames(t *testing.T) {
	for _, n := range []int{2, 3, 8, 100} {
		for _, kind := range []fault{reported, either} {
			p := newPool(n, 40, 1)
			name := 0
			p.target = func() int { name++; return len(names) + name }
			p.fails = func(int, int) fault { return kind }
			for range 10 + 5*n {
				p.request()
			}
			if kind == either {
				require.Len(t, p.opened, n)
				continue
			}
			require.Empty(t, p.opened, "N=%d", n)
			p.fails = func(int, int) fault { return none }
			for range 100 {
				require.True(t, p.request())
			}
			require.Zero(t, p.refused)
		}
	}
}

// The first requests of a new pool are a burst of dead names, which ends before minFirstOutage. No breaker opens, even
// if the proxies do not report that they cannot reach the targets.
func TestANewPoolSurvivesABurstOfDeadNames(t *testing.T) {
	for _, n := range []int{3, 8} {
		p := newPool(n, 10_000, 1)
		name := 0
		p.target = func() int { name++; return len(names) + name }
		p.fails = func(int, int) fault { return either }
		for range 200 {
			p.request()
		}
		require.Empty(t, p.opened, "N=%d", n)
	}
}

// A proxy dies while one target gets nearly all requests. Its breaker opens, although a ban by this
// target would look the same. Without the third case of Book.limitBanEvidence, this took 46 attempts (5 to 282).
func TestADeadProxyOfABusyTargetOpens(t *testing.T) {
	var o outcome
	for seed := range 30 {
		p := newPool(8, rates(8)[seed%3], uint64(seed)+7)
		p.target = func() int {
			if p.rng.Float64() < 0.98 {
				return 0
			}
			return 1
		}
		p.fails = func(int, int) fault { return p.noise(0.01, either) }
		for range 2000 {
			p.request()
		}
		p.fails = func(x, _ int) fault {
			if x == 0 {
				return either
			}
			return p.noise(0.01, either)
		}
		p.mark()
		p.opened = map[int]int{}
		for p.opened[0] == 0 && p.proxies[0].attempts < 300 {
			p.request()
		}
		o = append(o, p.proxies[0].attempts)
	}
	sort.Ints(o)
	t.Logf("dead proxy, 98 %% of the requests for one of two targets, attempts until open: %v", o)
	require.LessOrEqual(t, o.most(), 12)
}

// Property e: the breaker of a proxy that one of several targets bans stays closed.
func TestABannedProxyStaysBanned(t *testing.T) {
	for _, noise := range []float64{0, 0.01, 0.05} {
		row := fmt.Sprintf("banned by one target, noise %.0f %%, openings in 100,000 attempts:", noise*100)
		for _, n := range []int{2, 8} {
			for _, targets := range []int{2, 3, 5, 20} {
				openings := 0
				for seed := range 5 {
					p := newPool(n, []float64{10, 200, 10000}[seed%3], uint64(seed)+7)
					p.random = true
					p.target = func() int { return p.rng.IntN(targets) }
					p.fails = func(x, target int) fault {
						if x == 0 && target == 0 {
							return either
						}
						return p.noise(noise, either)
					}
					for p.proxies[0].attempts < 20_000 {
						p.request()
					}
					openings += p.openings
				}
				row += fmt.Sprintf("  N=%d/%d targets: %d", n, targets, openings)
				require.LessOrEqual(t, openings, 1, row)
			}
		}
		t.Log(row)
	}
}

// Property f: if everything fails at several targets, or by own failures, all breakers open. (One dead
// target is property d.)
func TestEverythingFails(t *testing.T) {
	for _, kind := range []fault{either, own} {
		for _, targets := range []int{1, 2, 5} {
			var row strings.Builder
			fmt.Fprintf(&row, "everything fails by %s faults at %d targets; opened, most attempts:", kinds[kind],
				targets)
			for _, n := range []int{2, 8, 100} {
				p := newPool(n, 100, 3)
				p.target = func() int { return p.rng.IntN(targets) }
				for range 1000 {
					p.request()
				}
				p.fails = func(int, int) fault { return kind }
				p.mark()
				for range n * 20 {
					p.request()
				}
				most := 0
				for _, x := range p.proxies {
					most = max(most, x.attempts)
				}
				fmt.Fprintf(&row, "  N=%d: %d, %d", n, len(p.opened), most)
				if kind == either && targets == 1 {
					require.Empty(t, p.opened, row.String())
				} else {
					require.Len(t, p.opened, n, row.String())
				}
			}
			t.Log(row.String())
		}
	}
}

func TestOnlyTheBreakersOfDeadProxiesOpen(t *testing.T) {
	for _, kind := range []fault{own, either} {
		p := newPool(50, 100, 5)
		p.random = true
		p.target = func() int { return p.rng.IntN(3) }
		dead := func(x int) bool { return x >= 5 }
		p.fails = func(x, _ int) fault {
			if dead(x) {
				return kind
			}
			return p.noise(0.02, either)
		}
		for range 2000 {
			p.request()
		}
		most := 0
		for _, x := range p.proxies {
			if !dead(x.id) {
				require.Zero(t, p.opened[x.id])
				continue
			}
			require.NotZero(t, p.opened[x.id], "%s: proxy %d", kinds[kind], x.id)
			most = max(most, x.attempts)
		}
		t.Logf("45 of 50 dead by %s faults: all open, after at most %d attempts, probes among them", kinds[kind], most)
	}
}

// Property d with late results: a target dies while 256 slow attempts are in flight that will succeed.
// Later attempts there fail at once, or after 10 s.
func TestLateResultsOpenNothing(t *testing.T) {
	for _, fails := range []time.Duration{time.Millisecond, 10 * time.Second} {
		for _, targets := range []int{1, 3} {
			row := fmt.Sprintf("256 at once, one of %d targets dies and fails after %v; openings:", targets, fails)
			for _, n := range []int{2, 3, 8, 100} {
				for _, tries := range []int{1, 3} {
					openings := 0
					for seed := range 3 {
						p := newPool(n, 1, uint64(seed)+40)
						p.random, p.tries = seed%2 == 0, tries
						p.target = func() int { return p.rng.IntN(targets) }
						dead := false
						p.fails = func(_, target int) fault {
							if dead && target == 0 {
								return either
							}
							return p.noise(0.01, either)
						}
						took := func(target int, f fault) time.Duration {
							if f != none {
								return fails*9/10 + time.Duration(p.rng.Int64N(int64(fails/5)))
							}
							return 20*time.Millisecond + time.Duration(p.rng.Int64N(int64(160*time.Millisecond)))
						}
						dies := p.now + 500*time.Millisecond
						p.target = func() int { dead = dead || p.now > dies; return p.rng.IntN(targets) }
						p.flow(256, 1200*time.Millisecond, took)
						openings += p.openings
					}
					row += fmt.Sprintf("  N=%d/%d tries: %d", n, tries, openings)
					require.Zero(t, openings, row)
				}
			}
			t.Log(row)
		}
	}
}

// With the same traffic, the breaker of a proxy that dies opens within a second of its first failure.
func TestADeadProxyOpensUnderLoad(t *testing.T) {
	for _, fails := range []time.Duration{time.Millisecond, 10 * time.Second} {
		for _, n := range []int{2, 8, 100} {
			p := newPool(n, 1, 77)
			p.target = func() int { return p.rng.IntN(3) }
			dies, opened := p.now+500*time.Millisecond, time.Duration(0)
			p.fails = func(x, _ int) fault {
				if opened == 0 && p.opened[0] > 0 {
					opened = p.now
				}
				if x == 0 && p.now > dies {
					return either
				}
				return p.noise(0.01, either)
			}
			p.flow(256, 30*time.Second, func(_ int, f fault) time.Duration {
				if f != none {
					return fails
				}
				return 20*time.Millisecond + time.Duration(p.rng.Int64N(int64(160*time.Millisecond)))
			})
			t.Logf("256 at once, N=%d, fails after %v: open %v after the first failure", n, fails, opened-dies-fails)
			require.NotZero(t, p.opened[0])
			if n > 2 { // in a pool of two, the other proxy has nothing to be compared with
				require.Len(t, p.opened, 1)
			}
			require.Less(t, opened-dies-fails, time.Second)
		}
	}
}

// Property c: at most 1 % of the attempts go through a bad proxy, from 10 requests a second on, and at most 5 % at
// one request a second. docs/decisions/evidence.md explains why 1 % is impossible at that rate.
func TestABadProxyGetsFewTries(t *testing.T) {
	row := "80 % among 5 %, 20 minutes, share of the attempts:"
	for _, rate := range []float64{1, 10, 40, 200, 1000} {
		bad, all := 0, 0
		seeds := 20
		if rate > 100 {
			seeds = 2
		}
		for seed := range seeds {
			p := newPool(8, rate, uint64(seed)+7)
			p.target = func() int { return p.rng.IntN(3) }
			p.fails = func(x, _ int) fault {
				if x == 0 {
					return p.noise(0.8, either)
				}
				return p.noise(0.05, either)
			}
			for p.now < 21*time.Minute {
				p.request()
			}
			bad += p.proxies[0].attempts
			for _, x := range p.proxies {
				all += x.attempts
			}
		}
		share := float64(bad) / float64(all)
		row += fmt.Sprintf("  %.0f/s: %.2f %%", rate, share*100)
		most := 0.01
		if rate == 1 {
			most = 0.05
		}
		require.LessOrEqual(t, share, most, row)
	}
	t.Log(row)
}
