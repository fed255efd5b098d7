package main

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/backoff"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
	"github.com/whirlpool-proxy/whirlpool/sdk/random"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

// plugin is a backoff, in Go, in the module, or one to compare with.
type plugin struct {
	delay   func(abi.BackoffRequest) float64
	observe func(abi.Observation)
}

func fresh(t *testing.T, settings ...configure.Setting) *adaptive {
	a := &adaptive{}
	require.NoError(t, configure.Apply(a, configure.New(settings...)))
	return a
}

func native(a *adaptive) plugin {
	return plugin{func(r abi.BackoffRequest) float64 { return a.Delay(&r) }, func(o abi.Observation) { a.Observe(&o) }}
}

func configured() plugin {
	return plugin{func(r abi.BackoffRequest) float64 { return exponential(&r) }, func(abi.Observation) {}}
}

// trace is what befalls one target that is asked three times a second.
type trace struct {
	name     string
	last     func(r *random.Source) float64 // s, of its outages; nil: a fifth of first attempts meet a dead proxy
	arrivals []float64
	outages  [][2]float64
}

func traces() []*trace {
	about := func(seconds float64) func(r *random.Source) float64 {
		return func(r *random.Source) float64 {
			x, _ := r.Normals()
			return seconds * math.Exp(0.2*x)
		}
	}
	list := []*trace{
		{name: "one proxy of five is dead"}, {name: "outages of 0.4 s", last: about(0.4)},
		{name: "outages of 5 s", last: about(5)},
		{name: "outages of 15 s", last: about(15)}, {name: "5 s, memoryless",
			last: func(r *random.Source) float64 { return -5 * math.Log(1-r.Float64()) }},
	}
	for i, t := range list {
		r := random.From(float64(i))
		now := 0.0
		for range 200 {
			now += 20 - 20*math.Log(1-r.Float64())
			if t.last != nil {
				d := t.last(&r)
				t.outages = append(t.outages, [2]float64{now, now + d})
				now += d
			}
		}
		for at := 0.0; at < now; at -= math.Log(1-r.Float64()) / 3 {
			t.arrivals = append(t.arrivals, at)
		}
	}
	return list
}

// recovers is when the target answers again, at itself if it does now.
func (t *trace) recovers(at float64) float64 {
	for _, o := range t.outages {
		if at >= o[0] && at < o[1] {
			return o[1]
		}
	}
	return at
}

// attempt is one try, to come.
type attempt struct {
	at, began, waited, chance float64
	number                    int
}

type queue []attempt

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(attempt)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// result is of the requests whose first attempt failed.
type result struct {
	served float64 // share
	median float64 // s until success, infinite for those not served
	best   float64 // s, the median of one who knows when each outage ends
	load   int     // attempts that failed
}

// run plays a trace under the gateway's default policy: three attempts.
func (t *trace) run(p plugin) result {
	r := random.From(99)
	var q queue
	for _, at := range t.arrivals {
		q = append(q, attempt{at: at, began: at, chance: r.Float64()})
	}
	heap.Init(&q)
	var out result
	var took, best []float64
	for len(q) > 0 {
		a := heap.Pop(&q).(attempt)
		proxy := "alive"
		ok := t.recovers(a.at) == a.at
		if t.last == nil && a.number == 0 && a.chance < 0.2 {
			proxy, ok = "dead", false
		}
		o := sdktest.Observation(proxy, ok)
		o.Now, o.Attempt, o.Delay = a.at, float64(a.number), a.waited
		p.observe(o)
		if ok {
			if a.number > 0 {
				took = append(took, a.at-a.began)
				out.served++
			}
			continue
		}
		out.load++
		if a.number == 0 {
			best = append(best, max(shortest, t.recovers(a.began)-a.began))
		}
		a.number++
		if a.number == 3 {
			took = append(took, math.Inf(1))
			continue
		}
		req := sdktest.BackoffRequest(a.number, proxy)
		req.Now, req.Elapsed, req.PreviousDelay, req.Random = a.at, a.at-a.began, a.waited, r.Float64()
		a.waited = min(max(p.delay(req), 0), req.Cap) // as the gateway does
		a.at += a.waited
		heap.Push(&q, a)
	}
	slices.Sort(took)
	slices.Sort(best)
	out.served /= float64(len(took))
	out.median, out.best = took[len(took)/2], best[len(best)/2]
	return out
}

// outcome plays all traces to the plugin and to the configured exponential.
func outcome(p func() plugin) (text string, ours, theirs map[string]result) {
	var out strings.Builder
	ours, theirs = map[string]result{}, map[string]result{}
	fmt.Fprintf(&out, "%-27s %-21s %-28s %s\n", "", "served", "median s until success", "failed attempts")
	fmt.Fprintf(&out, "%-27s %-21s %-28s %s\n", "", "exponential adaptive", "exponential adaptive at best",
		"adaptive/exponential")
	seconds := func(f float64) string {
		if math.IsInf(f, 1) {
			return "never"
		}
		return fmt.Sprintf("%.2f", f)
	}
	for _, t := range traces() {
		e, a := t.run(configured()), t.run(p())
		theirs[t.name], ours[t.name] = e, a
		fmt.Fprintf(&out, "%-27s %9.0f %% %6.0f %% %11s %8s %7s %20.2f\n", t.name, 100*e.served, 100*a.served,
			seconds(e.median), seconds(a.median), seconds(a.best), float64(a.load)/float64(e.load))
	}
	return out.String(), ours, theirs
}

func check(t *testing.T, ours, theirs map[string]result) {
	for name, a := range ours {
		e := theirs[name]
		require.GreaterOrEqual(t, a.served, e.served-0.01, name)
		require.LessOrEqual(t, float64(a.load), 1.03*float64(e.load), name)
	}
	for _, name := range []string{"one proxy of five is dead", "outages of 0.4 s"} {
		require.LessOrEqual(t, ours[name].median, 0.7*theirs[name].median, name)
	}
	for _, name := range []string{"outages of 5 s", "outages of 15 s"} {
		require.Greater(t, ours[name].served, 0.9, name)
		require.Less(t, theirs[name].served, 0.7, name)
		require.LessOrEqual(t, ours[name].median, 1.6*ours[name].best, name)
		require.LessOrEqual(t, float64(ours[name].load), 0.75*float64(theirs[name].load), name)
	}
}

func TestItWaitsForWhatUsuallyHappens(t *testing.T) {
	_, ours, theirs := outcome(func() plugin { return native(fresh(t)) })
	check(t, ours, theirs)
}

func TestWhatItKnowsNothingOfItLeavesToTheConfiguration(t *testing.T) {
	a := fresh(t)
	for retry, want := range []float64{1, 2, 4, 8, 16, 30} {
		r := sdktest.BackoffRequest(retry+1, "a")
		require.Equal(t, want, a.Delay(&r))
	}
	r := sdktest.BackoffRequest(2, "a")
	r.Jitter, r.Random = 1, 0.25
	require.Equal(t, 1.5, a.Delay(&r))
}

// outage lets a party fail at 0 and each of the seconds, and succeed at the last.
func (a *adaptive) outage(at float64, proxy, host string, seconds ...float64) {
	for i, s := range append([]float64{0}, seconds...) {
		o := sdktest.Observation(proxy, i > 0 && i == len(seconds))
		o.Now, o.HostHash = at+s, hash.Of(host)
		a.Observe(&o)
	}
}

func TestTargetsBeforeProxies(t *testing.T) {
	a := fresh(t)
	ask := func(proxy, host string, now float64) float64 {
		r := sdktest.BackoffRequest(1, proxy)
		r.HostHash, r.Now = hash.Of(host), now
		return a.Delay(&r)
	}
	for i := range 3 {
		a.outage(float64(100*i), "p", "slow", 7.99, 8)
	}
	require.Equal(t, shortest, ask("p", "slow", 300), "it answers now")
	a.outage(1000, "p", "slow")
	require.InDelta(t, 8*margin-2, ask("q", "slow", 1002), 0.01, "known by the target")
	require.InDelta(t, 8*margin-2, ask("p", "new", 1002), 0.01, "by the proxy")
	require.Equal(t, 1.0, ask("q", "new", 1002), "by neither")
	require.Equal(t, 1.0, ask("q", "slow", 1010), "longer than any before")
}

func TestNothingIsLearnedWhereNobodyAsked(t *testing.T) {
	a := fresh(t)
	for i := range 5 {
		a.outage(float64(1000*i), "p", "h", 500)
	}
	require.Zero(t, a.targets.Get(hash.Of("h")).ended)
}

func TestWaitsStayWithinTheirLimits(t *testing.T) {
	a := fresh(t)
	r := random.From(11)
	now := 0.0
	for range 20_000 {
		now += -3 * math.Log(1-r.Float64())
		o := sdktest.Observation(fmt.Sprint(r.Intn(5)), r.Float64() < 0.4)
		o.Now, o.HostHash = now, float64(r.Intn(5))
		a.Observe(&o)
		q := sdktest.BackoffRequest(1+r.Intn(9), fmt.Sprint(r.Intn(5)))
		q.Now, q.HostHash = now+r.Float64(), float64(r.Intn(5))
		q.Jitter, q.Random, q.Cap = float64(r.Intn(2)), r.Float64(), 10
		wait := a.Delay(&q)
		require.True(t, wait >= shortest && wait <= q.Cap, "%v", wait)
		require.Equal(t, wait, a.Delay(&q))
	}
}

func TestItOwesTheGatewayNothing(t *testing.T) {
	require.NoError(t, sdktest.CheckBackoff(func() backoff.Backoff { return &adaptive{} }))
}

func TestItRemembersABoundedNumberOfParties(t *testing.T) {
	a := fresh(t, configure.Setting{Key: "max_parties", Value: "3"})
	for i := range 10 {
		a.outage(0, fmt.Sprint("proxy-", i), fmt.Sprint("host-", i), 1)
	}
	require.Equal(t, 3, a.targets.Len())
	require.Equal(t, 3, a.proxies.Len())
}

func TestTheModule(t *testing.T) {
	wasm := exampletest.Build(t, ".")
	text, ours, theirs := outcome(func() plugin {
		p := exampletest.Backoff(t, wasm, nil)
		return plugin{p.Delay, p.Observe}
	})
	exampletest.Output(t, ".", text)
	check(t, ours, theirs)

	require.Contains(t, exampletest.Refusal(t, wasm, map[string]any{"quiet": "long"}),
		`the setting quiet is "long"; it must be a number from 1 to 3600`)
}
