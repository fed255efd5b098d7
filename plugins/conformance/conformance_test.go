package conformance

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func host() *wasmhost.Host { return wasmhost.New(wasmhost.DefaultLimits(), "") }

func text(t *testing.T, r Report) string {
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	return b.String()
}

func TestBuiltInsConform(t *testing.T) {
	modules := builtin.Modules()
	if testing.Short() { // -short tests one module of each kind
		oneOfEach := []string{"performance", "exponential", "ban_like"}
		maps.DeleteFunc(modules, func(name string, _ []byte) bool { return !slices.Contains(oneOfEach, name) })
		require.Len(t, modules, len(oneOfEach))
	}
	for name, code := range modules {
		r := Run(host(), code, nil)
		require.True(t, r.OK, "%s\n%s", name, text(t, r))
		passed := map[string]bool{}
		for _, c := range r.Checks {
			passed[c.Name] = c.Result == Pass
		}
		for _, must := range []string{"starts", "reserve", "reserve_large", "memory_stable", "fuel", "instances"} {
			require.True(t, passed[must], "%s: %s", name, must)
		}
		if r.Kind == wasmhost.Scorer {
			require.True(t, passed["score_counts"] && passed["score_many"] && passed["score_finite"] &&
				passed["score_deterministic"] && passed["score_range"])
		}
		if r.Kind == wasmhost.Backoff {
			require.True(t, passed["backoff_range"] && (passed["backoff_deterministic"] || passed["observe"]), name)
		}
		if r.Kind == wasmhost.Judge {
			require.True(t, passed["judge_rulings"] && passed["judge_deterministic"])
		}
	}
}

// All of these modules conform. Each failed check of the other modules is therefore due to the code in
// which they differ.
func TestHandmadeModulesConform(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	one := wt.ConstF64(1)
	declaring := scorer(success).with("configure", "ii>i", wt.Const32(0))
	declaring.with("describe", ">i", wt.Const32(8))
	declaring.Data = []wt.Data{{Offset: 8, Bytes: []byte("margin\tnumber\n\x00")}}
	for name, m := range map[string]module{
		"scorer":  scorer(success),
		"backoff": backoff(one),
		"judge":   judge(one),
		"learner": scorer(success).with("observe", "i>").with("pool_changed", "ii>").with("configure", "ii>i",
			wt.Const32(0)),
		// The host refuses all settings that the module does not declare.
		"declaring": declaring,
		"picky":     scorer(success).with("configure", "ii>i", get(1)), // refuses every setting
	} {
		r := Run(host(), m.Bytes(), nil)
		require.True(t, r.OK, "%s\n%s", name, text(t, r))
	}
}

// A backoff must be able to reserve 4096 bytes for its calls. It must refuse settings that do not fit.
func TestASmallBackoff(t *testing.T) {
	m := backoff(wt.ConstF64(1)).with("configure", "ii>i", wt.Const32(0)).
		with("reserve", "i>i", get(0), wt.Const32(4096), ops(opGtU), when(wt.Const32(0), ops(wt.Return)),
			wt.Const32(wt.RegionAt))
	r := Run(host(), m.Bytes(), nil)
	for _, c := range r.Checks {
		require.NotEqual(t, Fail, c.Result, "%s: %s", c.Name, c.Detail)
	}
}

// A module for another host imports hundreds of functions. The error lists only a few of them.
func TestALongListIsShort(t *testing.T) {
	m := scorer(success)
	for i := range 500 {
		m.Imports = append(m.Imports, wt.Import{Module: "env", Name: fmt.Sprint("f", i)})
	}
	r := Run(host(), m.Bytes(), nil)
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == "imports" })
	require.Equal(t, Fail, r.Checks[i].Result)
	require.Contains(t, r.Checks[i].Detail, `"env.f2"`)
	require.Contains(t, r.Checks[i].Detail, "; and 497 more, which whirlpool plugin inspect lists")
	require.Less(t, len(r.Checks[i].Detail), 500)
}

// The advice depends on whether configure failed or refused the settings.
func TestSettingsThatAreRefused(t *testing.T) {
	m := scorer(success).with("configure", "ii>i", get(1)).Bytes()
	require.True(t, Run(host(), m, nil).OK)
	r := Run(host(), m, map[string]any{"a": 1})
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == "starts" })
	require.Equal(t, Fail, r.Checks[i].Result)
	require.Equal(t, "give settings that it takes with --config", r.Checks[i].Remedy)
}

func TestEachCheckFails(t *testing.T) {
	one := wt.ConstF64(1)
	minus := wt.ConstF64(-1)
	spin := ops(wt.Loop, wt.Empty, wt.Br, 0, wt.End)
	// burn returns code that runs about six instructions n times.
	burn := func(n int32, local byte) []byte {
		return wt.Join(wt.Const32(n), set(local), ops(wt.Loop, wt.Empty), get(local), wt.Const32(1),
			ops(wt.I32Sub, opTee, local, wt.BrIf, 0), ops(wt.End))
	}
	for _, c := range []struct {
		check, says string
		module      []byte
	}{
		{"parses", "ends too early", scorer(success).Bytes()[:45]},
		{"imports", "wasi_snapshot_preview1.sock_open", func() []byte {
			m := scorer(success)
			m.Imports = []wt.Import{{Module: "wasi_snapshot_preview1", Name: "sock_open"}}
			return m.Bytes()
		}()},
		{"version", "no function whirlpool_abi_v1", scorer(success).without("whirlpool_abi_v1").Bytes()},
		{"version", "built for version 2", scorer(success).without("whirlpool_abi_v1").with("whirlpool_abi_v2",
			">").Bytes()},
		{"exports", "does not export reserve", scorer(success).without("reserve").Bytes()},
		{"exports", "neither score", scorer(success).without("score").Bytes()},
		{"exports", "both score", scorer(success).with("backoff", "i>F", one).Bytes()},
		{"signatures", "score has the signature (i32, i32) -> i32", scorer(success).with("score", "ii>i",
			wt.Const32(0)).Bytes()},
		{"memory", "300 pages", func() []byte {
			m := scorer(success)
			m.Memories = []wt.Limits{{Min: 300}}
			return m.Bytes()
		}()},
		{"table", "200000", func() []byte {
			m := scorer(success)
			m.Tables = []wt.Limits{{Min: 200_000}}
			return m.Bytes()
		}()},
		{"meters", "whirlpool_fuel", scorer(success).with("whirlpool_fuel", ">").Bytes()},
		{"compiles", "does not compile", scorer(success).with("other", ">", wt.Const32(1)).Bytes()},
		{"starts", "used up its fuel", scorer(success).with("_initialize", ">", spin).Bytes()},
		{"starts", "got no settings", scorer(success).with("configure", "ii>i", get(1), ops(opEqz)).Bytes()},
		{"starts", "tolerance", scorer(success).with("tolerance", ">F", minus).Bytes()},
		{"reserve", "not a multiple of 8", scorer(success).with("reserve", "i>i", wt.Const32(wt.RegionAt+4)).Bytes()},
		{"reserve", "past the guest's memory", scorer(success).with("reserve", "i>i", wt.Const32(1<<22)).Bytes()},
		{"reserve", "no memory", scorer(success).with("reserve", "i>i", get(0), wt.Const32(8192), ops(opGtU),
			when(wt.Const32(0), ops(wt.Return)), wt.Const32(wt.RegionAt)).Bytes()},
		// Each call of reserve takes more memory, and no memory is reused.
		{"reserve", "in a row", scorer(success).with("reserve", "i>i", wt.Const32(8), load(opLoadI32, 0), ops(opEqz),
			when(wt.Const32(8), wt.Const32(wt.RegionAt), store(wt.I32Store, 0)),
			wt.Const32(8), wt.Const32(8), load(opLoadI32, 0), get(0), ops(wt.I32Add), store(wt.I32Store, 0),
			wt.Const32(8), load(opLoadI32, 0), get(0), ops(wt.I32Sub)).Bytes()},
		// The module keeps its own data in the region to which the host may write.
		{"answers", "unreachable", scorer(success, wt.Const32(wt.RegionAt+8000), load(opLoadI32, 0),
			when(ops(wt.Unreachable))).Bytes()},
		{"reserve_large", "though memory has only", scorer(success).with("reserve", "i>i",
			wt.Const32(wt.RegionAt)).Bytes()},
		{"configure", "an unknown setting", scorer(success).with("configure", "ii>i", get(1), when(ops(wt.Unreachable)),
			wt.Const32(0)).Bytes()},
		{"score_counts", "255 plausible candidates", scorer(success, get(3), wt.Const32(200), ops(opGtU),
			when(ops(wt.Unreachable))).Bytes()},
		{"answers", "score returned 3", scorer(success).with("score", "iiii>i", wt.Const32(3)).Bytes()},
		{"score_many", "4096 plausible candidates", scorer(success, get(3), wt.Const32(300), ops(opGtU),
			when(ops(wt.Unreachable))).Bytes()},
		{"score_finite", "no request has used yet: not_finite", scorer(one, get(1), load(wt.F64Load, 8),
			ops(opDivF64)).Bytes()},
		{"score_finite", "breaker half open", scorer(success, get(1), load(wt.F64Load, 96), one, ops(opAddF64),
			wt.ConstF64(2), ops(opLtF64, opEqz), when(ops(wt.Unreachable))).Bytes()},
		{"score_deterministic", "the same request", scorer(counting).Bytes()},
		{"score_range", "behind the rows", scorer(get(1), load(wt.F64Load, 128)).Bytes()},
		{"score_range", "behind the scores", scorer(success, get(2), one, store(wt.F64Store, 8)).Bytes()},
		{"backoff_range", "retry 6", backoff(wt.ConstF64(5), get(0), load(wt.F64Load, 0), ops(opLtF64),
			when(minus, ops(wt.Return)), one).Bytes()},
		{"answers", "the delay is NaN", backoff(wt.ConstF64(math.NaN())).Bytes()},
		{"backoff_deterministic", "then", backoff(counting).Bytes()},
		{"judge_rulings", "404: ruling", judge(one).
			with("judge", "ii>i", get(0), load(wt.F64Load, 24), wt.ConstF64(404), ops(opLtF64, opEqz),
				when(get(1), wt.ConstF64(9), store(wt.F64Store, 0)), wt.Const32(0)).Bytes()},
		{"answers", "judge returned 3", judge(one).with("judge", "ii>i", wt.Const32(3)).Bytes()},
		{"judge_deterministic", "the kind was 3 and then", judge(counting, wt.ConstF64(40), ops(opLtF64),
			when(get(1), wt.ConstF64(3), store(wt.F64Store, 0), wt.Const32(0), ops(wt.Return)), one).Bytes()},
		{"observe", "Success:0", scorer(success).with("observe", "i>", get(0), load(wt.F64Load, 32), wt.ConstF64(0.5),
			ops(opLtF64), when(ops(wt.Unreachable))).Bytes()},
		{"pool_changed", "0 proxies", scorer(success).with("pool_changed", "ii>", get(1), ops(opEqz),
			when(ops(wt.Unreachable))).Bytes()},
		{"memory_stable", "memory grew", backoff(
			wt.Const32(8), wt.Const32(8), load(opLoadI32, 0), wt.Const32(1), ops(wt.I32Add), store(wt.I32Store, 0),
			wt.Const32(8), load(opLoadI32, 0), wt.Const32(0x7ff), ops(opAnd, opEqz),
			when(wt.Const32(1), ops(wt.MemoryGrow, 0, wt.Drop)), one).Bytes()},
		{"fuel", "units of fuel", scorer(success, burn(2475, 4)).Bytes()},
	} {
		t.Run(c.check+"/"+c.says, func(t *testing.T) {
			r := Run(host(), c.module, nil)
			require.False(t, r.OK)
			seen := map[string]Check{}
			for _, check := range r.Checks {
				seen[check.Name] = check
			}
			got := seen[c.check]
			require.Equal(t, Fail, got.Result, "%s", text(t, r))
			require.Contains(t, got.Detail, c.says)
			require.NotEmpty(t, got.Remedy)
		})
	}
}

// A check that depends on a failed check is skipped, which the report states.
func TestChecksThatCannotRunAreSkipped(t *testing.T) {
	r := Run(host(), []byte("not a module"), nil)
	for _, c := range r.Checks {
		switch c.Name {
		case "size":
			require.Equal(t, Pass, c.Result)
		case "parses":
			require.Equal(t, Fail, c.Result)
		default:
			require.Equal(t, Skip, c.Result, c.Name)
			require.Contains(t, c.Detail, "parses failed")
		}
	}
}

func TestText(t *testing.T) {
	m := backoff(wt.ConstF64(-1)).Bytes()
	r := Run(host(), m, nil)
	require.Equal(t, fmt.Sprintf(`PASS  size                   %d bytes
PASS  parses                 a binary WebAssembly module
PASS  imports                0, all allowed
PASS  version                1
PASS  exports                a backoff
PASS  signatures             as documented
PASS  memory                 20 pages to begin with
PASS  table                  within its limit
PASS  meters                 %s
PASS  compiles               3 functions
PASS  starts                 0 of %d units of start fuel, 20 pages of memory
PASS  reserve                aligned, 5096 times; the largest 4096 bytes
FAIL  answers                negative_delay: the delay is -1
      mend: return a number of seconds of at least 0 (sdk/ABI.md, "4. Calls")
SKIP  reserve_large          not tried, since answers failed
SKIP  configure              not tried, since answers failed
SKIP  backoff_range          not tried, since answers failed
SKIP  backoff_deterministic  not tried, since answers failed
SKIP  observe                not tried, since answers failed
SKIP  pool_changed           not tried, since answers failed
SKIP  memory_stable          not tried, since answers failed
SKIP  fuel                   not tried, since answers failed
SKIP  time                   not tried, since answers failed
SKIP  instances              not tried, since answers failed
the module does not follow the ABI: 12 passed, 1 failed, 10 skipped
`, len(m), r.Checks[8].Detail, wasmhost.DefaultLimits().StartFuel), text(t, r))
}

func TestConfigIsGiven(t *testing.T) {
	m := scorer(success).with("configure", "ii>i", get(1), ops(opEqz)).Bytes() // requires at least one setting
	require.False(t, Run(host(), m, nil).OK)
	r := Run(host(), m, map[string]any{"margin": "0.5"})
	require.True(t, r.OK, text(t, r))
}

func TestSectionsExist(t *testing.T) {
	page, err := os.ReadFile("../../sdk/ABI.md")
	require.NoError(t, err)
	r := Run(host(), scorer(success).Bytes(), nil)
	r.Checks = append(r.Checks, Run(host(), backoff(wt.ConstF64(0)).Bytes(), nil).Checks...)
	r.Checks = append(r.Checks, Run(host(), judge(wt.ConstF64(0)).Bytes(), nil).Checks...)
	for _, c := range r.Checks {
		require.Contains(t, string(page), "\n## "+c.Section+"\n", c.Name)
	}
}

// Malicious modules fail checks like all others.
func TestHostileModules(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	grow := wt.EndlessLoop(wt.Join(wt.Const32(1), ops(wt.MemoryGrow, 0, wt.Drop))...)
	for name, m := range map[string]module{
		"spins":               {wt.Scorer(wt.SpinLoop...)},
		"spins at start":      scorer(success).with("_initialize", ">", wt.SpinLoop),
		"spins in reserve":    scorer(success).with("reserve", "i>i", wt.SpinLoop, wt.Const32(0)),
		"spins when told":     scorer(success).with("observe", "i>", wt.SpinLoop),
		"eats memory":         {wt.Scorer(grow...)},
		"scores NaN":          {wt.Scorer(wt.Scores(math.NaN())...)},
		"rules NaN":           judge(wt.ConstF64(math.NaN())),
		"spins when it rules": {wt.Judge(wt.SpinLoop...)},
		"waits forever":       backoff(wt.ConstF64(math.Inf(1))),
		"nearly spins": scorer(success, wt.Const32(20_000), set(4), ops(wt.Loop, wt.Empty), get(4), wt.Const32(1),
			ops(wt.I32Sub, opTee, 4, wt.BrIf, 0, wt.End)),
	} {
		r := Run(host(), m.Bytes(), nil)
		require.False(t, r.OK, name)
		for _, c := range r.Checks {
			if c.Result == Fail {
				require.NotEmpty(t, c.Detail, "%s: %s", name, c.Name)
			}
		}
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	code := builtin.Modules()["fixed"]
	for n := range code {
		r := Run(host(), code[:n], nil)
		require.False(t, r.OK, "%d of %d bytes", n, len(code))
	}
}

func FuzzRun(f *testing.F) {
	if testing.Short() {
		f.Skip("takes seconds of a processor; make test runs it")
	}
	f.Add(scorer(success).Bytes())
	f.Add(backoff(counting).Bytes())
	f.Add(judge(success).Bytes())
	f.Fuzz(func(t *testing.T, code []byte) {
		r := Run(host(), code, nil)
		for _, c := range r.Checks {
			if c.Result == Fail && c.Detail == "" {
				t.Fatalf("%s fails and does not say why", c.Name)
			}
			if strings.ContainsFunc(c.Detail, unicode.IsControl) {
				t.Fatalf("%s shows what moves a terminal's cursor: %q", c.Name, c.Detail)
			}
		}
	})
}
