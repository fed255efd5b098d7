package workload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
)

// Catalog makes the workloads of the criteria from one seed.
type Catalog struct {
	Seed  uint64
	Scale float64 // factor for the number of requests; 1 for the figures of the report
	Rate  float64 // requests per second of workloads that do not set their own rate
}

// The states of the proxies.
var (
	healthy  = faults.State{Fails: 0.01, Latency: 50 * time.Millisecond}
	failing  = faults.State{Fails: 1, Latency: 10 * time.Millisecond}
	hanging  = faults.State{Hangs: true}
	refusing = faults.State{Refuses: true}
)

// proxies is the number of proxies of most workloads.
const proxies = 8

// New returns the catalog of the report, with 50 requests per second.
func New(seed uint64, scale float64) Catalog { return Catalog{Seed: seed, Scale: scale, Rate: 50} }

// base returns a workload without a pool: 10,000 requests for 6 targets.
func (c Catalog) base(name string) *Workload {
	w := &Workload{Name: name, Seed: c.Seed, Rate: c.Rate, Targets: 6}
	c.resize(w, 10_000)
	return w
}

// resize sets the number of requests to the given number times the catalog's scale.
func (c Catalog) resize(w *Workload, requests int) {
	w.Requests = max(int(float64(requests)*c.Scale), 100)
}

func (w *Workload) rng() *rand.Rand { return rand.New(rand.NewPCG(w.Seed, 0x6661756c)) }

// Kind is one type of fault. Make returns the workload of the kind for one of the Levels.
type Kind struct {
	Name, Text string
	Levels     []float64 // shares of attempts that fail, or of the time in which proxies fail
	Make       func(c Catalog, level float64) *Workload
}

// Kinds are the kinds of faults of SC-001.
func Kinds() []Kind {
	shares := []float64{0.05, 0.1, 0.2, 0.3}
	chain := func(level float64, burst time.Duration) faults.GilbertElliott {
		return faults.GilbertElliott{Burst: burst, Good: time.Duration(float64(burst) * (1 - level) / level)}
	}
	return []Kind{
		{"independent", "each attempt gets a 503 with the given probability", []float64{0.05, 0.1, 0.2, 0.3, 0.5},
			func(c Catalog, level float64) *Workload {
				w := c.base(levelName("independent", level))
				s := healthy
				s.Fails = level
				w.Pool = slices.Repeat(faults.Pool{faults.SteadyProxy(s)}, proxies)
				return w
			}},
		{"bursty", "each proxy has bursts in which every attempt gets a 503 (Gilbert-Elliott, mean 10 s)", shares,
			func(c Catalog, level float64) *Workload {
				w := c.base(levelName("bursty", level))
				w.Pool = chain(level, 10*time.Second).Independent(w.rng(), proxies, healthy, failing, w.Duration())
				return w
			}},
		{"correlated", "the two proxies of each of four vendors have their bursts (503, mean 10 s) together", shares,
			func(c Catalog, level float64) *Workload {
				w := c.base(levelName("correlated", level))
				w.Pool = chain(level, 10*time.Second).Correlated(w.rng(), proxies, 4, healthy, failing, w.Duration())
				return w
			}},
		{"black holes", "each proxy has periods (mean 20 s) in which it accepts connections and never responds", shares,
			func(c Catalog, level float64) *Workload {
				w := c.base(levelName("black holes", level))
				w.Pool = chain(level, 20*time.Second).Independent(w.rng(), proxies, healthy, hanging, w.Duration())
				return w
			}},
		{"bans", "each of six targets bans each proxy for periods (503, mean 30 s) of their own", shares,
			func(c Catalog, level float64) *Workload {
				w := c.base(levelName("bans", level))
				w.Pool = chain(level, 30*time.Second).Banned(w.rng(), proxies, w.Targets, healthy, w.Duration())
				return w
			}},
	}
}

func levelName(kind string, level float64) string { return fmt.Sprintf("%s %g", kind, level) }

// FailingRates are the probabilities of failure of the two bad proxies of SC-002.
func FailingRates() []float64 { return []float64{0.7, 0.8, 0.9, 1} }

// TwoFailing returns a workload of SC-002. Two of eight proxies fail the given share of their attempts. The other six
// fail 1 %.
func (c Catalog) TwoFailing(failShare, rate float64, requests int) *Workload {
	w := c.base(fmt.Sprintf("two failing %g at %g/s", failShare, rate))
	w.Rate = rate
	c.resize(w, requests)
	bad := failing
	bad.Fails = failShare
	w.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(healthy)}, proxies-2),
		faults.SteadyProxy(bad), faults.SteadyProxy(bad))
	return w
}

// Noise returns a workload with healthy proxies only. Each attempt fails with the given probability.
func (c Catalog) Noise(failShare, rate float64) *Workload {
	w := c.base(fmt.Sprintf("noise %g at %g/s", failShare, rate))
	w.Rate = rate
	s := healthy
	s.Fails = failShare
	w.Pool = slices.Repeat(faults.Pool{faults.SteadyProxy(s)}, proxies)
	return w
}

// WaitWorkloads returns the workloads of SC-003, except for black holes, which are in Kinds.
func (c Catalog) WaitWorkloads() []*Workload {
	hang := c.base("one of eight hangs")
	hang.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(healthy)}, proxies-1), faults.SteadyProxy(hanging))
	refuse := c.base("one of eight refuses")
	refuse.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(healthy)}, proxies-1),
		faults.SteadyProxy(refusing))
	mix := c.base("one refuses, one fails, one hangs")
	mix.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(healthy)}, proxies-3),
		faults.SteadyProxy(refusing), faults.SteadyProxy(failing), faults.SteadyProxy(hanging))
	return []*Workload{hang, refuse, mix}
}

// FailingInTurn returns the workload of SC-004. One proxy after the other fails every attempt for 40 s, and then
// recovers. While it fails, it responds with 503, refuses connections, or hangs.
func (c Catalog) FailingInTurn() *Workload {
	w := c.base("one dies after the other")
	w.Rate = max(100*c.Scale, 20)
	step := time.Duration(max(c.Scale, 0.2) * float64(time.Minute))
	rounds := max(int(3*c.Scale), 1)
	w.Requests = int(w.Rate * step.Seconds() * float64(rounds*proxies+1))
	how := []faults.State{failing, refusing, hanging}
	for i := range proxies {
		p := faults.SteadyProxy(healthy)
		for round := range rounds {
			at := time.Duration(round*proxies+i+1) * step
			p.Changes = append(p.Changes, faults.Change{At: at, State: how[(round+i)%len(how)]},
				faults.Change{At: at + step*2/3, State: healthy})
		}
		w.Pool = append(w.Pool, p)
	}
	return w
}

// ChoiceWorkloads returns the workloads of SC-005.
func (c Catalog) ChoiceWorkloads() []*Workload {
	steady := func(name string, fails ...float64) *Workload {
		w := c.base(name)
		for _, f := range fails {
			s := healthy
			s.Fails = f
			w.Pool = append(w.Pool, faults.SteadyProxy(s))
		}
		return w
	}
	zipf := make([]float64, 10)
	for i := range zipf {
		zipf[i] = 0.9 * (1 - 1/float64(i+1))
	}
	swap := c.base("swap every 60 s")
	for i := range proxies {
		p, good := faults.Proxy{}, i < proxies/2
		for at := time.Duration(0); at < swap.Duration(); at += time.Minute {
			s := healthy
			if !good {
				s.Fails = 0.6
			}
			p.Changes = append(p.Changes, faults.Change{At: at, State: s})
			good = !good
		}
		swap.Pool = append(swap.Pool, p)
	}
	return []*Workload{
		steady("equal", slices.Repeat([]float64{0.3}, 8)...),
		steady("two classes", 0.02, 0.02, 0.02, 0.02, 0.6, 0.6, 0.6, 0.6),
		steady("three classes", 0.05, 0.05, 0.05, 0.4, 0.4, 0.4, 0.4, 0.7, 0.7, 0.7),
		steady("Zipf", zipf...),
		swap,
	}
}

// DeadProxies returns the workload of SC-010 with dead proxies. Three of ten proxies are dead (one refuses, one hangs,
// one responds with 503). The other seven proxies fail 2 % of attempts.
func (c Catalog) DeadProxies() *Workload {
	w := c.base("three of ten are dead")
	s := healthy
	s.Fails = 0.02
	w.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(s)}, 7),
		faults.SteadyProxy(refusing), faults.SteadyProxy(hanging), faults.SteadyProxy(failing))
	w.MaxAttempts = 10
	return w
}

// EqualProxies returns the workload of SC-010 without dead proxies: all attempts fail with the same probability.
func (c Catalog) EqualProxies(failShare float64) *Workload {
	w := c.Noise(failShare, c.Rate)
	w.Name = fmt.Sprintf("independent %g, 10 attempts", failShare)
	w.MaxAttempts = 10
	return w
}

// AllInFlight returns the workload of SC-008: 10,000 requests that are all in flight at the same time. A tenth of
// the attempts fails.
func (c Catalog) AllInFlight() *Workload {
	w := c.base("all in flight")
	c.resize(w, 10_000)
	w.Rate = 2 * float64(w.Requests)
	w.Pool = slices.Repeat(faults.Pool{faults.SteadyProxy(faults.State{Fails: 0.1, Latency: 5 * time.Second})}, 4)
	w.MaxAttempts = 5
	return w
}
