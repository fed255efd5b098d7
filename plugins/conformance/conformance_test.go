package conformance

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func host() *wasmhost.Host { return wasmhost.New(wasmhost.DefaultLimits(), "") }

func text(t *testing.T, r Report) string {
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	return b.String()
}

func TestBuiltInsConform(t *testing.T) {
	for name, code := range builtin.Modules() {
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
			require.True(t, passed["score_counts"] && passed["score_many"] && passed["score_finite"] && passed["score_deterministic"] && passed["score_range"])
		} else {
			require.True(t, passed["backoff_range"] && passed["backoff_deterministic"])
		}
	}
}

// Nothing that all of these do is wrong, so that what the others are faulted
// for is their own.
func TestHandmadeModulesConform(t *testing.T) {
	one := f64(0x3ff0000000000000)
	for name, m := range map[string]*module{
		"scorer":  scorer(success),
		"backoff": backoff(one),
		"learner": scorer(success).with("observe", "i>").with("pool_changed", "ii>").with("configure", "ii>i", i32(0)),
		"picky":   scorer(success).with("configure", "ii>i", get(1)), // refuses every setting
	} {
		r := Run(host(), m.bytes(), nil)
		require.True(t, r.OK, "%s\n%s", name, text(t, r))
	}
}

func TestEachCheckFails(t *testing.T) {
	one := f64(0x3ff0000000000000)
	minus := f64(0xbff0000000000000)
	spin := ops(opLoop, empty, opBr, 0, opEnd)
	// burn takes about six instructions n times.
	burn := func(n int32, local byte) []byte {
		return join(i32(n), set(local), ops(opLoop, empty), get(local), i32(1), ops(opSub, opTee, local, opBrIf, 0), ops(opEnd))
	}
	for _, c := range []struct {
		check, says string
		module      []byte
	}{
		{"parses", "ends too early", scorer(success).bytes()[:40]},
		{"imports", "wasi_snapshot_preview1.sock_open", (&module{pages: 20, functions: map[string]function{}, imports: [][2]string{{"wasi_snapshot_preview1", "sock_open"}}}).bytes()},
		{"version", "no function whirlpool_abi_v1", scorer(success).without("whirlpool_abi_v1").bytes()},
		{"version", "built for version 2", scorer(success).without("whirlpool_abi_v1").with("whirlpool_abi_v2", ">").bytes()},
		{"exports", "does not export reserve", scorer(success).without("reserve").bytes()},
		{"exports", "neither score", plugin().bytes()},
		{"exports", "both score", scorer(success).with("backoff", "i>F", one).bytes()},
		{"signatures", "score has the signature (i32, i32) -> i32", plugin().with("score", "ii>i", i32(0)).bytes()},
		{"memory", "300 pages", func() []byte { m := scorer(success); m.pages = 300; return m.bytes() }()},
		{"table", "200000", func() []byte { m := scorer(success); m.table = 200_000; return m.bytes() }()},
		{"meters", "whirlpool_fuel", scorer(success).with("whirlpool_fuel", ">").bytes()},
		{"compiles", "does not compile", scorer(success).with("other", ">", i32(1)).bytes()},
		{"starts", "used up its fuel", scorer(success).with("_initialize", ">", spin).bytes()},
		{"starts", "given no settings", scorer(success).with("configure", "ii>i", get(1), ops(opEqz)).bytes()},
		{"starts", "tolerance", scorer(success).with("tolerance", ">F", minus).bytes()},
		{"reserve", "no multiple of 8", scorer(success).with("reserve", "i>i", i32(1<<16+4)).bytes()},
		{"reserve", "past the guest's memory", scorer(success).with("reserve", "i>i", i32(1<<22)).bytes()},
		{"reserve", "no room", scorer(success).with("reserve", "i>i", get(0), i32(8192), ops(opGtU), when(i32(0), ops(opReturn)), i32(1<<16)).bytes()},
		// Takes more each time, and gives nothing back.
		{"reserve", "in a row", scorer(success).with("reserve", "i>i", i32(8), load(opLoadI32, 0), ops(opEqz), when(i32(8), i32(1<<16), store(opStoreI32, 0)),
			i32(8), i32(8), load(opLoadI32, 0), get(0), ops(opAdd), store(opStoreI32, 0), i32(8), load(opLoadI32, 0), get(0), ops(opSub)).bytes()},
		{"reserve_large", "though memory has only", scorer(success).with("reserve", "i>i", i32(1<<16)).bytes()},
		{"configure", "an unknown setting", scorer(success).with("configure", "ii>i", get(1), when(ops(opUnreachable)), i32(0)).bytes()},
		{"score_counts", "255 plausible candidates", scorer(success, get(3), i32(200), ops(opGtU), when(ops(opUnreachable))).bytes()},
		{"score_counts", "score returned 3", plugin().with("score", "iiii>i", i32(3)).bytes()},
		{"score_many", "4096 plausible candidates", scorer(success, get(3), i32(300), ops(opGtU), when(ops(opUnreachable))).bytes()},
		{"score_finite", "no request has used yet: not_finite", scorer(one, get(1), load(opLoadF64, 8), ops(opDivF64)).bytes()},
		{"score_finite", "breaker half open", scorer(success, get(1), load(opLoadF64, 96), one, ops(opAddF64), f64(0x4000000000000000), ops(opLtF64, opEqz), when(ops(opUnreachable))).bytes()},
		{"score_deterministic", "the same request", scorer(calls).bytes()},
		{"score_range", "behind the rows", scorer(get(1), load(opLoadF64, 128)).bytes()},
		{"score_range", "behind the scores", scorer(success, get(2), one, store(opStoreF64, 8)).bytes()},
		{"backoff_range", "retry 6", backoff(f64(0x4014000000000000), get(0), load(opLoadF64, 0), ops(opLtF64), when(minus, ops(opReturn)), one).bytes()},
		{"backoff_range", "NaN", backoff(f64(0x7ff8000000000000)).bytes()},
		{"backoff_deterministic", "then", backoff(calls).bytes()},
		{"observe", "Success:0", scorer(success).with("observe", "i>", get(0), load(opLoadF64, 32), f64(0x3fe0000000000000), ops(opLtF64), when(ops(opUnreachable))).bytes()},
		{"pool_changed", "0 proxies", scorer(success).with("pool_changed", "ii>", get(1), ops(opEqz), when(ops(opUnreachable))).bytes()},
		{"memory_stable", "memory grew", backoff(
			i32(8), i32(8), load(opLoadI32, 0), i32(1), ops(opAdd), store(opStoreI32, 0),
			i32(8), load(opLoadI32, 0), i32(0x7ff), ops(opAnd, opEqz), when(i32(1), ops(opGrow, 0, opDrop)), one).bytes()},
		{"fuel", "units of fuel", scorer(success, burn(930, 4)).bytes()},
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
			if c.check != "table" {
				require.NotEmpty(t, got.Mend)
			}
		})
	}
}

// What stands on a check that failed is not tried, and says so.
func TestSkipsWhatCannotBeTried(t *testing.T) {
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

func TestConfigIsGiven(t *testing.T) {
	m := scorer(success).with("configure", "ii>i", get(1), ops(opEqz)).bytes() // wants one at least
	require.False(t, Run(host(), m, nil).OK)
	r := Run(host(), m, map[string]any{"margin": "0.5"})
	require.True(t, r.OK, text(t, r))
}

func TestSectionsExist(t *testing.T) {
	page, err := os.ReadFile("../../sdk/ABI.md")
	require.NoError(t, err)
	r := Run(host(), scorer(success).bytes(), nil)
	r.Checks = append(r.Checks, Run(host(), backoff(f64(0)).bytes(), nil).Checks...)
	for _, c := range r.Checks {
		require.Contains(t, string(page), "\n## "+c.Section+"\n", c.Name)
	}
}
