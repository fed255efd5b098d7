package evidence

import (
	"fmt"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
)

// Property a: equal proxies with noise.
func TestNoiseOpensNothing(t *testing.T) {
	const tries = 600_000
	for _, kind := range []fault{either, own} {
		for _, noise := range []float64{0.001, 0.01, 0.02, 0.1, 0.3} {
			for _, n := range []int{2, 3, 8, 100} {
				for _, targets := range []int{1, 5} {
					p := newPool(n, []float64{1, 200, 10000}[(n+targets)%3], uint64(n)+1)
					p.random = targets == 5
					p.target = func() int { return p.rng.IntN(targets) }
					p.fails = func(int, int) fault { return p.noise(noise, kind) }
					for range tries / 10 {
						p.request()
					}
					fmt.Printf("a. kind %d noise %5.1f%% N=%3d targets %d: openings %d refused %d served %.3f%%\n",
						kind, noise*100, n, targets, p.openings, p.refused, 100*float64(p.served)/float64(p.requests))
				}
			}
		}
	}
}

// untilOpen returns how many tries proxy 0 got until it was open, in order, of 300 seeds.
func untilOpen(seeds, targets, n int, bad, peers float64, kind fault, warm int) []int {
	var all []int
	for seed := range seeds {
		p := newPool(n, []float64{1, 50, 10000}[seed%3], uint64(seed)+100)
		p.random = seed%2 == 0
		p.target = func() int { return p.rng.IntN(targets) }
		p.fails = func(int, int) fault { return p.noise(peers, either) }
		for range warm {
			p.request()
		}
		p.mark()
		for p.proxies[0].state != 0 {
			p.request()
		}
		p.openings, p.opened = 0, map[int]int{}
		p.fails = func(x, _ int) fault {
			if x == 0 {
				return p.noise(bad, kind)
			}
			return p.noise(peers, either)
		}
		for p.opened[0] == 0 && p.proxies[0].attempts < 500 {
			p.request()
		}
		all = append(all, p.proxies[0].attempts)
	}
	sort.Ints(all)
	return all
}

func TestDead(t *testing.T) {
	for _, kind := range []fault{either, own} {
		for _, peers := range []float64{0, 0.01, 0.02, 0.05} {
			for _, targets := range []int{1, 2, 3, 5, 1000} {
				for _, n := range []int{2, 8, 100} {
					for _, warm := range []int{0, 2000} {
						r := untilOpen(100, targets, n, 1, peers, kind, warm)
						fmt.Printf("b. kind %d peers %.0f%% targets %d N=%d warm %d: min %d median %d p90 %d max %d\n", kind, peers*100, targets, n, warm, r[0], r[len(r)/2], r[len(r)*9/10], r[len(r)-1])
					}
				}
			}
		}
	}
}

func TestBad80(t *testing.T) {
	for _, targets := range []int{1, 2, 3, 5, 1000} {
		for _, n := range []int{2, 8, 100} {
			for _, warm := range []int{0, 2000} {
				r := untilOpen(300, targets, n, 0.8, 0.05, either, warm)
				fmt.Printf("c. targets %d N=%d warm %d: min %d median %d p90 %d max %d\n", targets, n, warm, r[0], r[len(r)/2], r[len(r)*9/10], r[len(r)-1])
			}
		}
	}
}

func TestDeadTarget(t *testing.T) {
	for _, warm := range []int{0, 5000} {
		for _, share := range []float64{0.01, 0.1, 0.5, 1} {
			for _, n := range []int{2, 3, 8, 100} {
				for _, at := range []int{1, 256} {
					opened, tries, worst, all := 0, 0, 0, 0
					for seed := range 20 {
						p := newPool(n, []float64{1, 50, 10000}[seed%3], uint64(seed)+100)
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
						p.openings = 0
						p.fails = func(_, target int) fault {
							if target == 0 {
								return either
							}
							return p.noise(0.01, either)
						}
						for i := 0; i < 3000; i += at {
							if at == 1 {
								p.request()
							} else {
								p.batch(at)
							}
						}
						opened += p.openings
						if share == 1 {
							continue
						}
						p.opened = map[int]int{}
						good := 0
						p.fails = func(x, target int) fault {
							if x == 0 && target != 0 {
								good++
							}
							if target == 0 || x == 0 {
								return either
							}
							return p.noise(0.01, either)
						}
						p.mark()
						for p.opened[0] == 0 && p.proxies[0].attempts < 500 {
							if at == 1 {
								p.request()
							} else {
								p.batch(4)
							}
						}
						tries += p.proxies[0].attempts
						worst = max(worst, good)
						all++
					}
					fmt.Printf("d. warm %d share %.0f%% N=%d at once %d: openings %d; dead proxy after %.1f tries, at most %d at good targets\n",
						warm, share*100, n, at, opened, float64(tries)/float64(max(all, 1)), worst)
				}
			}
		}
	}
}

func TestBanned(t *testing.T) {
	for _, targets := range []int{2, 3, 5, 20} {
		for _, n := range []int{2, 8} {
			for _, noise := range []float64{0, 0.01, 0.05} {
				opened, tries := 0, 0
				for seed := range 5 {
					p := newPool(n, 200, uint64(seed)+7)
					p.random = true
					p.target = func() int { return p.rng.IntN(targets) }
					p.fails = func(x, target int) fault {
						if x == 0 && target == 0 {
							return either
						}
						return p.noise(noise, either)
					}
					for p.proxies[0].attempts < 100_000/5 {
						p.request()
					}
					opened += p.openings
					tries += p.proxies[0].attempts
				}
				fmt.Printf("e. targets %d N=%d noise %.0f%%: openings %d in %d tries\n", targets, n, noise*100, opened, tries)
			}
		}
	}
}

func TestEverything(t *testing.T) {
	for _, targets := range []int{1, 2, 5} {
		for _, kind := range []fault{either, own} {
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
				worst := 0
				for _, x := range p.proxies {
					worst = max(worst, x.attempts)
				}
				fmt.Printf("f. kind %d targets %d N=%d: opened %d, most tries %d\n", kind, targets, n, len(p.opened), worst)
			}
		}
	}
	require.True(t, true)
}
