package simulate

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func host() *wasmhost.Host { return wasmhost.New(wasmhost.DefaultLimits(), "") }

func generated(t *testing.T, spec string) *Trace {
	tr, err := Generate(spec, 1)
	require.NoError(t, err)
	return tr
}

func scorers(t *testing.T, p Plugin, spec string) ScorerReport {
	r, err := SimulateScorer(host(), p, generated(t, spec), NoBreaker(), 1)
	require.NoError(t, err)
	return r
}

func TestTracesAreReadAsTheyAreWritten(t *testing.T) {
	for _, s := range Scenarios {
		want := generated(t, s.Name+",proxies=7,duration=120,rate=3,hosts=2")
		want.Region, want.Proxies[1].Weight = "EU", 2.5
		isReadAsWritten(t, want, s.Name)
	}
}

func isReadAsWritten(t *testing.T, tr *Trace, what ...any) {
	var b bytes.Buffer
	require.NoError(t, tr.Write(&b), what...)
	again, err := Read(&b)
	require.NoError(t, err, what...)
	require.Equal(t, tr, again, what...)
}

func TestTraceDefaults(t *testing.T) {
	tr, err := Read(strings.NewReader(`
{"proxy": "a", "success": 0.9, "latency": 0.1, "region": "EU"}
{"proxy": "b", "at": 0, "success": 0.5, "latency": 0.2, "cost": 3}

{"proxy": "a", "at": 700, "success": 0.4}
`))
	require.NoError(t, err)
	require.Equal(t, &Trace{Duration: 760, Rate: 20, Hosts: 8, Start: 1767225600, Proxies: []Proxy{
		{ID: "a", Region: "EU", Weight: 1, States: []State{{0, 0.9, 0.1, 0}, {700, 0.4, 0.1, 0}}},
		{ID: "b", Weight: 1, Cost: 3, States: []State{{0, 0.5, 0.2, 0}}},
	}}, tr)
}

func TestFaultsOfTracesNameTheLine(t *testing.T) {
	a := `{"proxy":"a","success":1,"latency":0.1}` + "\n"
	for text, says := range map[string]string{
		"":                                       "no proxies",
		"{":                                      "line 1: ",
		a + `{"proxy":"a","at":1,"sucess":1}`:    `line 2: sucess: unknown field`,
		a + `{"proxy":"a","at":1,"success":1.5}`: "line 2: success is 1.5",
		a + `{"proxy":"a","at":1,"latency":0}`:   "line 2: latency is 0",
		a + `{"proxy":"a","at":1,"weight":0}`:    "line 2: weight",
		a + `{"proxy":"a","at":5}` + "\n" + `{"proxy":"a"}`: "line 3: at is 5",
		`{"proxy":"a","at":1,"success":1,"latency":1}`:      "line 1: the first line of proxy \"a\" must be at 0",
		`{"proxy":"a"}`: "line 1: the first line of proxy \"a\" needs",
		`{"success":1}`: `line 1: it describes a proxy, but`,
		`{"proxy":"a","rate":1,"success":1,"latency":1}`: "line 1: duration, rate",
		`{"rate":0}` + "\n" + a:                          "rate 0",
		`{"rate":1e9}` + "\n" + a:                        "more than",
		`{"hosts":0}` + "\n" + a:                         "hosts is 0",
		a + `{} {}`:                                      "line 2: there is more after",
	} {
		_, err := Read(strings.NewReader(text))
		require.ErrorContains(t, err, says, text)
	}
	for spec, says := range map[string]string{
		"storm": `no scenario "storm"`, "swap,proxies=1": "proxies is 1", "swap,x=1": `"x" is none of`,
		"swap,rate=fast": "not KEY=NUMBER", "swap,rate=-1": "above 0",
	} {
		_, err := Generate(spec, 1)
		require.ErrorContains(t, err, says)
	}
}

func TestSameSeedSameReport(t *testing.T) {
	const spec = "drift,duration=100"
	one, two := scorers(t, builtInPlugin("weighted"), spec), scorers(t, builtInPlugin("weighted"), spec)
	require.Equal(t, one, two)
	other, err := SimulateScorer(host(), builtInPlugin("weighted"), generated(t, spec), NoBreaker(), 2)
	require.NoError(t, err)
	require.NotEqual(t, one.Results[0], other.Results[0])
}

// A built-in module has the same result, whether the simulation runs it as a plugin or as the built-in.
func TestABuiltInHasTheSameResultAsPlugin(t *testing.T) {
	r := scorers(t, builtInPlugin("performance"), "outage,duration=120")
	require.Equal(t, r.Results[1], r.Results[0])
}

func TestTheFiguresOfScorers(t *testing.T) {
	r := scorers(t, builtInPlugin("performance"), "swap")
	by := map[string]Result{}
	for _, x := range r.Results {
		by[x.Scorer] = x
		total := 0.0
		for _, s := range x.Shares {
			total += s
		}
		require.InDelta(t, 1, total, 1e-9)
		for c := range Columns {
			column := 0.0
			for i := range r.Proxies {
				column += x.Timeline[i][c]
			}
			require.InDelta(t, 1, column, 1e-9)
		}
		require.Zero(t, x.Refused)
		require.Zero(t, x.Faults)
	}
	require.InDelta(t, 12000, r.Requests, 400, "20 a second")
	require.Zero(t, by[oracle].Regret)
	require.InDelta(t, 0.98, by[oracle].SuccessRate, 0.01)
	require.InDelta(t, 0.5, by[oracle].Shares[0], 0.02)
	require.InDelta(t, 0.5, by[oracle].Shares[4], 0.02)
	require.InDelta(t, 0.73, by["random"].SuccessRate, 0.02, "the mean of 0.98 to 0.48")
	require.InDelta(t, 0.25*12000, by["random"].Regret, 150)
	require.Less(t, by["performance"].Regret, 0.05*by["random"].Regret, "it finds the best, and again after the swap")
	require.Less(t, by["performance"].Latency, by["random"].Latency)
	require.Greater(t, by["performance"].Timeline[0][Columns/4], 0.9)
	require.Greater(t, by["performance"].Timeline[4][Columns*3/4], 0.9)
}

// With breakers, a proxy that fails is not used for some time, whatever the scorer is.
func TestBreakers(t *testing.T) {
	tr := generated(t, "outage,duration=90,rate=5")
	r, err := SimulateScorer(host(), builtInPlugin("round_robin"), tr, breaker.Default(), 1)
	require.NoError(t, err)
	free, err := SimulateScorer(host(), builtInPlugin("round_robin"), tr, NoBreaker(), 1)
	require.NoError(t, err)
	require.Zero(t, free.Results[0].Refused)
	middle := func(r ScorerReport) (sum float64) {
		for _, share := range r.Results[0].Timeline[0][Columns/3 : 2*Columns/3] {
			sum += share
		}
		return sum / (Columns / 3)
	}
	require.InDelta(t, 0.2, middle(free), 0.05, "one in five")
	require.Less(t, middle(r), 0.6*middle(free))
}

// A scorer gets each attempt as an observation. This scorer gives the proxy of the last success the highest
// score, and 0.5 to the others. It thus continues to use a good proxy.
func TestObservationsReachPluginsThatLearn(t *testing.T) {
	const favourite = 16    // address where it keeps an id_hash
	score := wasmtest.Join( // from the last candidate to the first
		[]byte{wasmtest.Block, wasmtest.Empty, wasmtest.Loop, wasmtest.Empty},
		[]byte{wasmtest.LocalGet, 3, 0x45, wasmtest.BrIf, 1},
		[]byte{wasmtest.LocalGet, 3}, wasmtest.Const32(1), []byte{wasmtest.I32Sub, wasmtest.LocalSet, 3},
		[]byte{wasmtest.LocalGet, 2, wasmtest.LocalGet, 3}, wasmtest.Const32(8),
		[]byte{wasmtest.I32Mul, wasmtest.I32Add},
		wasmtest.ConstF64(1), wasmtest.ConstF64(0.5),
		[]byte{wasmtest.LocalGet, 1, wasmtest.LocalGet, 3}, wasmtest.Const32(128),
		[]byte{wasmtest.I32Mul, wasmtest.I32Add, wasmtest.F64Load, 3, 104},
		wasmtest.Const32(favourite), []byte{wasmtest.F64Load, 3, 0, 0x61, 0x1b}, // f64.eq, select
		[]byte{wasmtest.F64Store, 3, 0, wasmtest.Br, 0, wasmtest.End, wasmtest.End},
	)
	observe := wasmtest.Func{Export: "observe", Params: []byte{wasmtest.I32}, Code: wasmtest.Join(
		// success
		[]byte{wasmtest.LocalGet, 0, wasmtest.F64Load, 3, 32}, wasmtest.ConstF64(1),
		[]byte{0x61, wasmtest.If, wasmtest.Empty},
		wasmtest.Const32(favourite), []byte{wasmtest.LocalGet, 0, wasmtest.F64Load, 3, 8, wasmtest.F64Store, 3, 0,
			wasmtest.End},
	)}
	tr, err := Read(strings.NewReader(`
{"duration": 60, "rate": 10}
{"proxy": "bad", "success": 0, "latency": 0.001}
{"proxy": "worse", "success": 0, "latency": 0.001}
{"proxy": "good", "success": 1, "latency": 0.001}
`))
	require.NoError(t, err)
	r, err := SimulateScorer(host(), Plugin{Name: "last", Code: wasmtest.Scorer(score...).Add(observe).Bytes()}, tr,
		NoBreaker(), 1)
	require.NoError(t, err)
	require.Greater(t, r.Results[0].Shares[2], 0.95)
	require.Equal(t, wasmhost.Scorer, kindOf(t, score, observe))
}

func kindOf(t *testing.T, score []byte, observe wasmtest.Func) wasmhost.Kind {
	d, err := host().Describe(wasmtest.Scorer(score...).Add(observe).Bytes())
	require.NoError(t, err)
	return d.Kind
}

// failing is a scorer that traps unless there are 256 candidates, as in its first call.
var failing = wasmtest.Scorer(wasmtest.Join([]byte{wasmtest.LocalGet, 3}, wasmtest.Const32(256),
	[]byte{0x47, wasmtest.If, wasmtest.Empty, wasmtest.Unreachable, wasmtest.End})...).Bytes()

func TestFaultsAreCounted(t *testing.T) {
	tr, err := Read(strings.NewReader(`
{"duration": 60, "rate": 10}
{"proxy": "a", "success": 1, "latency": 0.001}
{"proxy": "b", "success": 1, "latency": 0.001}
{"proxy": "c", "success": 1, "latency": 0.001}
{"proxy": "d", "success": 1, "latency": 0.001}
`))
	require.NoError(t, err)
	r, err := SimulateScorer(host(), Plugin{Name: "failing", Code: failing}, tr, NoBreaker(), 1)
	require.NoError(t, err)
	require.Equal(t, r.Requests, r.Results[0].Faults)
	require.Contains(t, r.Results[0].LastFault, "trap")
	for _, share := range r.Results[0].Shares {
		require.InDelta(t, 0.25, share, 0.01, "the rotation answered")
	}
	var b strings.Builder
	require.NoError(t, r.Write(&b, ASCII()))
	require.Contains(t, b.String(), "failing failed in")
}

func TestModulesThatDoNotLoad(t *testing.T) {
	_, err := SimulateScorer(host(), Plugin{Name: "mine", Code: []byte("no")}, generated(t, "swap"), NoBreaker(), 1)
	require.ErrorContains(t, err, "mine: this is not a module of WebAssembly 2.0")
	_, err = SimulateBackoff(host(), Plugin{Name: "mine", Code: []byte("no")}, false, 1)
	require.ErrorContains(t, err, "mine: this is not a module of WebAssembly 2.0")
}

func TestScorersText(t *testing.T) {
	tr, err := Read(strings.NewReader(`
{"duration": 60, "rate": 20}
{"proxy": "good", "success": 1, "latency": 0.1, "cost": 1}
{"proxy": "bad", "success": 0, "latency": 0.2}
{"proxy": "good", "at": 30, "success": 0}
{"proxy": "bad", "at": 30, "success": 1}
`))
	require.NoError(t, err)
	r, err := SimulateScorer(host(), builtInPlugin("round_robin"), tr, NoBreaker(), 1)
	require.NoError(t, err)
	r.Results = []Result{r.Results[0], r.Results[3]}
	var b strings.Builder
	require.NoError(t, r.Write(&b, ASCII()))
	out := b.String()
	require.Contains(t, out, "scorer       success   mean latency  mean cost  regret  refused\nround_robin  ")
	require.Contains(t, out, "share of requests  round_robin  oracle\n")
	require.Contains(t, out, "  good |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@                              |\n")
	require.Contains(t, out, "  bad  |                              @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|\n")
	require.Equal(t, "▁▅█ ", Unicode().cell(0.01)+Unicode().cell(0.6)+Unicode().cell(1)+Unicode().cell(0))
}

func waits(t *testing.T, p Plugin, jitter bool) map[string]BackoffResult {
	r, err := SimulateBackoff(host(), p, jitter, 1)
	require.NoError(t, err)
	by := map[string]BackoffResult{}
	for i, x := range r.Results {
		if i == 0 {
			x.Backoff = "plugin"
			by["plugin"] = x
		} else {
			by[x.Backoff] = x
		}
	}
	require.Len(t, by, 5)
	return by
}

func TestBackoffs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	by := waits(t, builtInPlugin("exponential"), false)
	for i, want := range []float64{1, 2, 4, 8, 16, 30, 30, 30, 30} {
		require.Equal(t, Delay{want, want, want}, by["exponential"].Delays[i])
		require.Equal(t, Delay{1, 1, 1}, by["fixed"].Delays[i])
		require.Equal(t, math.Min(float64(i+1), 30), by["linear"].Delays[i].Mean)
		d := by["decorrelated_jitter"].Delays[i]
		require.True(t, d.Min >= 1 && d.Max <= 30 && d.Min < d.Mean && d.Mean < d.Max)
	}
	plugin := by["plugin"]
	plugin.Backoff = "exponential"
	require.Equal(t, by["exponential"], plugin, "all face the same")
	// fixed waits 1 s nine times: it misses the outages longer than that.
	require.InDelta(t, 1-math.Exp(-9/meanOutage), by["fixed"].Recovered, 0.03)
	require.InDelta(t, 0.5, by["fixed"].Late, 0.1, "half a wait")
	require.Equal(t, 1.0, by["exponential"].Recovered, "it waits two minutes")
	require.Less(t, by["exponential"].Retries, by["fixed"].Retries)

	jittered := waits(t, builtInPlugin("exponential"), true)["exponential"].Delays[2]
	require.InDelta(t, 2, jittered.Min, 0.1)
	require.InDelta(t, 6, jittered.Max, 0.1)
}

// A backoff gets each attempt as an observation. The backoff of this test waits longer after each observed failure, up
// to the cap.
func TestBackoffsThatLearn(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	code := wasmtest.Backoff(wasmtest.Join(wasmtest.Const32(16), []byte{wasmtest.F64Load, 3, 0})...).Add(wasmtest.Func{
		Export: "observe", Params: []byte{wasmtest.I32}, Code: wasmtest.Join(wasmtest.Const32(16), wasmtest.Const32(16),
			[]byte{wasmtest.F64Load, 3, 0}, wasmtest.ConstF64(0.0001), []byte{0xa0, wasmtest.F64Store, 3, 0})}).Bytes()
	by := waits(t, Plugin{Name: "counting", Code: code}, false)
	first, last := by["plugin"].Delays[0], by["plugin"].Delays[8]
	require.Greater(t, first.Min, 0.1, "a thousand requests of two attempts at least came before")
	require.InDelta(t, first.Min+0.0008, last.Min, 1e-9, "eight attempts later")
	require.Greater(t, first.Max, first.Min)
}

func TestBackoffsText(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	r, err := SimulateBackoff(host(), Plugin{Name: "mine", Code: wasmtest.Backoff(wasmtest.ConstF64(3)...).Bytes()},
		false,
		1)
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, r.Write(&b, ASCII()))
	require.Contains(t, b.String(), "wait (s) before  mine  exponential  linear  fixed  decorrelated_jitter\n")
	require.Contains(t, b.String(), "retry 6          3.00  30.00        6.00    1.00   ")
	require.Contains(t, b.String(), fmt.Sprintf("\nretry 6\n  %-19s |#### 3.00\n  %-19s |%s 30.00\n", "mine",
		"exponential", strings.Repeat("#", barWidth)))
}

// Delays above the cap are limited to it, as in the gateway.
func TestDelaysAreClamped(t *testing.T) {
	by := waits(t, Plugin{Name: "long", Code: wasmtest.Backoff(wasmtest.ConstF64(1e9)...).Bytes()}, false)
	require.Equal(t, Delay{30, 30, 30}, by["plugin"].Delays[0])
}

func FuzzRead(f *testing.F) {
	f.Add(`{"rate": 20}` + "\n" + `{"proxy":"a","success":1,"latency":0.1}`)
	f.Fuzz(func(t *testing.T, text string) {
		tr, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		isReadAsWritten(t, tr)
	})
}

// Every trace that Generate makes can be written and read again.
func FuzzGenerate(f *testing.F) {
	for _, s := range Scenarios {
		f.Add(s.Name+",proxies=3,duration=30,rate=2,hosts=4", uint64(1))
	}
	f.Add("swap,rate=NaN", uint64(1))
	f.Add("drift,proxies=1e300,duration=-1", uint64(2))
	f.Fuzz(func(t *testing.T, spec string, seed uint64) {
		tr, err := Generate(spec, seed)
		if err != nil {
			return
		}
		isReadAsWritten(t, tr)
	})
}

var _ core.Scorer = (*countingScorer)(nil)

// The computed result of a fixed delay equals the result of a simulation with play.
func TestTheFixedDelayIsPlayedRight(t *testing.T) {
	policy := retry.DefaultPolicy()
	for i, k := range outageKinds {
		line := newTimeline(i, rand.New(rand.NewPCG(1, uint64(i))))
		played, err := line.simulate(&policy, rand.New(rand.NewPCG(1, 6)),
			func(*core.BackoffRequest) (float64, error) { return 2, nil }, func(*core.Observation) {})
		require.NoError(t, err)
		quick := line.simulateFixed(&policy, rand.New(rand.NewPCG(1, 6)), 2)
		if k.length != nil { // with a dead proxy, play draws more random numbers
			require.InDelta(t, played.Wait, quick.Wait, 1e-9, k.name)
			require.InDelta(t, played.Served, quick.Served, 1e-9, k.name)
			require.InDelta(t, played.Attempts, quick.Attempts, 1e-9, k.name)
		}
	}
}
