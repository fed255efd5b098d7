package wasmhost_test

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// patient returns a host whose calls wait for an instance without a limit, so that a slow machine does not
// change the result.
func patient() *wasmhost.Host {
	limits := wasmhost.DefaultLimits()
	limits.Wait, limits.CallTimeout, limits.StartTimeout = time.Minute, time.Minute, time.Minute
	return wasmhost.New(limits, "")
}

func load(t testing.TB, m *w.Module) *wasmhost.Module {
	t.Helper()
	loaded, err := patient().Load(m.Bytes(), nil)
	require.NoError(t, err)
	return loaded
}

// within is the longest permitted time of a call. The fuel ends after milliseconds, but the machine may be
// busy and the race detector is slow.
const within = time.Minute

// spared is the memory that a hostile call may take. A memory of 16 MiB is copied each time it has grown by a
// quarter, and wazero copies the stack of a recursion each time it doubles.
const spared = 160 << 20

func wasi(name string, params string) w.Import {
	i := w.Import{Module: "wasi_snapshot_preview1", Name: name, Results: []byte{w.I32}}
	for _, c := range params {
		i.Params = append(i.Params, map[rune]byte{'i': w.I32, 'I': w.I64}[c])
	}
	return i
}

// hostile is the code of a scorer, and the expected result of the call: the reason of a fault, or "" for a
// success.
type hostile struct {
	code   []byte
	reason string
	with   func(m *w.Module) // adds other parts to the module
}

// self is the index of the function score. added is the index of the first function that a case adds.
const self, added = 2, 3

func args(n ...int32) (code []byte) {
	for _, v := range n {
		code = append(code, w.Const32(v)...)
	}
	return code
}

func imports(list ...w.Import) func(m *w.Module) {
	return func(m *w.Module) { m.Imports = append(m.Imports, list...) }
}

func calls() map[string]hostile {
	recursion := w.Join([]byte{w.LocalGet, 0, w.LocalGet, 1, w.LocalGet, 2, w.LocalGet, 3}, w.CallTo(self),
		[]byte{w.Drop})
	wide := func(m *w.Module) { // a function that returns a thousand values and calls itself
		many := w.Repeat(1000, w.I64)
		m.Add(w.Func{Results: many, Code: w.CallTo(added)})
	}
	deep := func(m *w.Module) { // its frame has 2,000 values that are live across the call
		var code []byte
		for i := range 2000 {
			code = w.Join(code, w.Uint([]byte{w.LocalGet}, uint32(i)))
		}
		code = w.Join(code, w.CallTo(added), w.Repeat(1999, w.I32Add), []byte{w.Drop})
		m.Add(w.Func{Locals: []w.Group{{Count: 2000, Type: w.I32}}, Code: code})
	}
	hidden := func(m *w.Module) { // a loop that is never entered keeps 20,000 values on its stack during a call
		values := w.Join(w.Repeat(20_000, w.LocalGet, 0, 0x28, 2, 0), w.Const32(0), w.CallTo(added),
			w.Repeat(19_999, w.I32Add), []byte{w.Drop})
		m.Add(w.Func{Params: []byte{w.I32}, Code: w.Join(
			[]byte{w.LocalGet, 0, w.If, w.Empty, w.Loop, w.Empty}, values, []byte{w.End,
				w.End}, w.Const32(0), w.CallTo(added))})
	}
	at := func(address int32, x float64) []byte {
		return w.Join(w.Const32(address), w.ConstF64(x), []byte{w.F64Store, 3, 0})
	}
	score := func(x float64) []byte { return w.Join([]byte{w.LocalGet, 2}, w.ConstF64(x), []byte{w.F64Store, 3, 8}) }
	return map[string]hostile{
		"spins":        {w.SpinLoop, "fuel", nil},
		"calls itself": {recursion, "trap", nil},
		"calls itself at its end": {w.CallTo(added), "fuel", func(m *w.Module) {
			m.Add(w.Func{Code: []byte{w.ReturnCall, added}})
		}},
		"calls itself at its end through a table": {w.CallTo(added), "fuel", func(m *w.Module) {
			m.Tables, m.Elements = []w.Limits{{Min: 1}}, []uint32{added}
			m.Add(w.Func{Code: w.Join(w.Const32(0), []byte{w.ReturnCallIndirect, 0, 0})})
		}},
		"two call each other": {w.CallTo(added), "trap", func(m *w.Module) {
			m.Add(w.Func{Code: w.CallTo(added + 1)},
				w.Func{Code: w.CallTo(added)})
		}},
		"calls itself through a table": {w.CallTo(added), "trap", func(m *w.Module) {
			m.Tables, m.Elements = []w.Limits{{Min: 1}}, []uint32{added}
			m.Add(w.Func{Code: w.Join(w.Const32(0), []byte{w.CallIndirect, 0, 0})}) // the type of whirlpool_abi_v1
		}},
		"recursion with many results":  {w.Join(w.CallTo(added), w.Repeat(1000, w.Drop)), "trap", wide},
		"recursion with large frames":  {w.CallTo(added), "fuel", deep},
		"recursion with hidden frames": {w.Join(w.Const32(0), w.CallTo(added)), "trap", hidden},
		"grows memory for ever": {w.EndlessLoop(w.Join(w.Const32(1), []byte{w.MemoryGrow, 0, w.Drop})...), "fuel",
			nil},
		"grows memory past its limit": {w.Join(w.Const32(300), []byte{w.MemoryGrow, 0, w.Drop}), "", nil},
		"grows memory by 4 GiB":       {w.Join(w.Const32(65536), []byte{w.MemoryGrow, 0, w.Drop}), "fuel", nil},
		"takes all memory there is":   {w.Join(w.Const32(255), []byte{w.MemoryGrow, 0, w.Drop}), "", nil},
		"grows a table for ever": {w.EndlessLoop(0xd0, 0x70, 0x41, 100, 0xfc, 15, 0, w.Drop), "fuel",
			func(m *w.Module) { m.Tables = []w.Limits{{Min: 1}} }},
		"grows a table by a billion": {w.Join([]byte{0xd0, 0x70}, w.Const32(1<<30), []byte{0xfc, 15, 0, w.Drop}),
			"fuel", func(m *w.Module) { m.Tables = []w.Limits{{Min: 1}} }},
		"fills memory for ever":  {w.EndlessLoop(w.Join(args(0, 0, 65536), []byte{0xfc, 11, 0})...), "fuel", nil},
		"copies memory for ever": {w.EndlessLoop(w.Join(args(0, 0, 65536), []byte{0xfc, 10, 0, 0})...), "fuel", nil},
		"unreachable":            {[]byte{w.Unreachable}, "trap", nil},
		"divides by zero":        {w.Join(args(1, 0), []byte{w.I32DivS, w.Drop}), "trap", nil},
		"calls a function that is none": {w.Join(w.Const32(5), []byte{w.CallIndirect, 0, 0}), "trap",
			func(m *w.Module) { m.Tables = []w.Limits{{Min: 10}} }},
		"calls one of another type": {w.Join(w.Const32(0), []byte{w.CallIndirect, 0, 0}), "trap",
			func(m *w.Module) { m.Tables, m.Elements = []w.Limits{{Min: 10}}, []uint32{self} }},
		"reads past the end":  {w.Join(w.Const32(-8), []byte{w.F64Load, 3, 0, w.Drop}), "trap", nil},
		"writes past the end": {at(math.MaxInt32, 1), "trap", nil},
		"writes with a large offset": {w.Join(w.Const32(-1), w.ConstF64(1),
			w.Uint([]byte{w.F64Store, 3}, math.MaxUint32)), "trap", nil},
		"a score of NaN":    {score(math.NaN()), "not_finite", nil},
		"a score of +Inf":   {score(math.Inf(1)), "not_finite", nil},
		"a score of -Inf":   {score(math.Inf(-1)), "not_finite", nil},
		"a denormal score":  {score(math.SmallestNonzeroFloat64), "", nil},
		"the largest score": {score(math.MaxFloat64), "", nil},
		"a score of -0":     {score(math.Copysign(0, -1)), "", nil},
		"status 1":          {w.Join(w.Const32(1), []byte{w.Return}), "status", nil},
		"status -1":         {w.Join(w.Const32(-1), []byte{w.Return}), "status", nil},
		"writes over what it is given": {w.Join([]byte{w.LocalGet, 0}, args(255, 80+2*128), []byte{0xfc, 11, 0}), "",
			nil},
		"writes over all of memory": {w.Join(args(0, 0, 65536), []byte{0xfc, 11, 0}), "", nil},
		"moves memory, then scores": {w.Join(w.Const32(100), []byte{w.MemoryGrow, 0, w.Drop}, w.Scores(3)), "",
			nil},
		"exits with 0": {w.Join(w.Const32(0), w.CallTo(0)), "trap", imports(exit)},
		"exits with 1": {w.Join(w.Const32(1), w.CallTo(0)), "trap", imports(exit)},
		"aborts":       {w.Join(args(0, 0, 0, 0), w.CallTo(0)), "trap", imports(abort)},
		"wants random bytes for ever": {w.EndlessLoop(w.Join(args(0, 65536), w.CallTo(0), []byte{w.Drop})...), "fuel",
			imports(wasi("random_get", "ii"))},
		"wants the time for ever": {w.EndlessLoop(w.Join(args(0), w.Const64(0), args(8), w.CallTo(0),
			[]byte{w.Drop})...), "fuel", imports(wasi("clock_time_get", "iIi"))},
		"writes for ever": {w.EndlessLoop(w.Join(args(1, 0, 8000, 0), w.CallTo(0), []byte{w.Drop})...),
			"fuel", imports(wasi("fd_write", "iiii"))},
		"polls 1,000 files for ever": {w.EndlessLoop(w.Join(args(0, 0, 1000, 0), w.CallTo(0), []byte{w.Drop})...),
			"fuel", imports(wasi("poll_oneoff", "iiii"))},
		"polls 4 billion files": {w.Join(args(0, 0, -1, 0), w.CallTo(0), []byte{w.Drop}), "fuel",
			imports(wasi("poll_oneoff", "iiii"))},
		"polls past the end": {w.Join(args(0, 0, 4000, 0), w.CallTo(0), []byte{w.Drop}), "",
			imports(wasi("poll_oneoff", "iiii"))},
		"yields for ever": {w.EndlessLoop(w.CallTo(0)[0], 0, w.Drop), "fuel",
			imports(wasi("sched_yield", ""))},
	}
}

var (
	exit  = w.Import{Module: "wasi_snapshot_preview1", Name: "proc_exit", Params: []byte{w.I32}}
	abort = w.Import{Module: "env", Name: "abort", Params: w.Repeat(4, w.I32)}
)

// build returns a scorer with the code. If behaved is set, the code does not run in the first call.
func (h hostile) build(behaved bool) *w.Module {
	code := h.code
	if behaved {
		code = w.Unless256(code...)
	}
	m := w.Scorer(code...)
	if h.with != nil {
		h.with(m)
	}
	return m
}

func reasonOf(err error) string {
	var f *wasmhost.Fault
	if errors.As(err, &f) {
		return f.Reason
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// A call ends for the expected reason, soon and with little memory. The next call succeeds, if necessary in
// another instance. Other modules are not affected. A module that behaves in this way in its first call is
// not loaded.
func TestHostileCalls(t *testing.T) {
	host := patient()
	honest, err := host.Load(builtin.Modules()["performance"], nil)
	require.NoError(t, err)
	defer honest.Close()
	for name, h := range calls() {
		t.Run(name, func(t *testing.T) {
			m, err := host.Load(h.build(false).Bytes(), nil)
			if h.reason == "" {
				require.NoError(t, err)
				m.Close()
			} else {
				var refused *wasmhost.CheckError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, h.reason, reasonOf(err), "%v", err)
			}

			m, err = host.Load(h.build(true).Bytes(), nil)
			require.NoError(t, err)
			defer m.Close()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			begin := time.Now()
			for range 3 {
				err = m.Score(rows{{}, {}}, make([]float64, 2))
				require.Equal(t, h.reason, reasonOf(err), "%v", err)
				require.NoError(t, m.Score(make(rows, 256), make([]float64, 256)))
			}
			require.Less(t, time.Since(begin), 3*within)
			runtime.ReadMemStats(&after)
			t.Logf("%v, %d MiB: %v", time.Since(begin)/3, (after.TotalAlloc-before.TotalAlloc)/3>>20, err)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(3*spared))
			require.Equal(t, 1, m.Instances())
			require.NoError(t, honest.Score(rows{{}, {}}, make([]float64, 2)))
		})
	}
}

// The steps before a module is ready are limited, too, and errors state the limit.
func TestHostileStarts(t *testing.T) {
	start := func(f w.Func) *w.Module {
		m := w.Scorer(w.Scores(1)...).Add(f)
		at := uint32(added)
		m.Start = &at
		return m
	}
	with := func(export string, params, results, code []byte) *w.Module {
		return w.Scorer(w.Scores(1)...).Add(w.Func{Export: export, Params: params, Results: results, Code: code})
	}
	reserve := func(code ...[]byte) *w.Module {
		m := w.Scorer(w.Scores(1)...)
		m.Func("reserve").Code = w.Join(code...)
		return m
	}
	two, one := w.Repeat(2, w.I32), []byte{w.I32}
	tables := start(w.Func{Code: w.EndlessLoop(0xd0, 0x70, 0x41, 100, 0xfc, 15, 0, w.Drop)})
	tables.Tables = []w.Limits{{Min: 1}}
	exits := start(w.Func{Code: w.Join(w.Const32(0), w.CallTo(0))})
	exits.Imports = []w.Import{exit}
	at := uint32(added + 1)
	exits.Start = &at
	for name, c := range map[string]struct {
		module *w.Module
		says   string
	}{
		"the start function spins": {start(w.Func{Code: w.SpinLoop}),
			"does not start (its start function may take 20000000 units"},
		"the start function traps":    {start(w.Func{Code: []byte{w.Unreachable}}), "does not start"},
		"the start function recurses": {start(w.Func{Code: w.CallTo(added)}), "does not start"},
		"the start function grows memory": {start(w.Func{Code: w.EndlessLoop(w.Const32(1)[0], 1, w.MemoryGrow, 0,
			w.Drop)}),
			"does not start"},
		"the start function grows tables": {tables, "does not start"},
		"the start function exits":        {exits, "does not start"},
		"_initialize spins":               {with("_initialize", nil, nil, w.SpinLoop), "_initialize failed: fuel"},
		"_initialize traps": {with("_initialize", nil, nil, []byte{w.Unreachable}),
			"_initialize failed: trap"},
		"configure spins": {with("configure", two, one, w.Join(w.SpinLoop, w.Const32(0))),
			"configure failed: fuel"},
		"configure traps": {with("configure", two, one, []byte{w.Unreachable}),
			"configure failed: trap"},
		"configure refuses": {with("configure", two, one, w.Const32(7)),
			"refused its configuration with status 7"},
		"tolerance spins": {with("tolerance", nil, []byte{w.F64}, w.Join(w.SpinLoop, w.ConstF64(0))),
			"tolerance failed: fuel"},
		"tolerance is NaN": {with("tolerance", nil, []byte{w.F64}, w.ConstF64(math.NaN())),
			"tolerance returned NaN; it must be 0 to 1"},
		"tolerance is 2": {with("tolerance", nil, []byte{w.F64}, w.ConstF64(2)),
			"tolerance returned 2; it must be 0 to 1"},
		"tolerance is negative": {with("tolerance", nil, []byte{w.F64}, w.ConstF64(-0.1)),
			"it must be 0 to 1"},
		"reserve spins": {reserve(w.SpinLoop, w.Const32(8)), "fuel"},
		"reserve traps": {reserve([]byte{w.Unreachable}), "trap"},
		"reserve returns 0": {reserve(w.Const32(0)),
			"returned 0: it must be an address other than 0 and a multiple of 8"},
		"reserve is not aligned":    {reserve(w.Const32(1028)), "multiple of 8"},
		"reserve ends past the end": {reserve(w.Const32(65536 - 8)), "past the end of memory"},
		"reserve is near 4 GiB":     {reserve(w.Const32(-8)), "past the end of memory"},
		"data past the end of memory": {segment(w.Data{Offset: 65530, Bytes: []byte("too long")}),
			"does not start"},
		"data at a negative offset": {segment(w.Data{Offset: -1, Bytes: []byte("x")}), "does not start"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := patient().Load(c.module.Bytes(), nil)
			runtime.ReadMemStats(&after)
			var refused *wasmhost.CheckError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, c.says)
			require.Less(t, time.Since(begin), within)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(spared))
			t.Log(time.Since(begin), (after.TotalAlloc-before.TotalAlloc)>>20, "MiB:", err)
		})
	}
}

func segment(d w.Data) *w.Module {
	m := w.Scorer()
	m.Memories[0].Max = 1
	m.Data = []w.Data{d}
	return m
}

// The declarations of a module are checked before the module is compiled.
func TestHostileDeclarations(t *testing.T) {
	change := func(f func(m *w.Module)) []byte {
		m := w.Scorer(w.Scores(1)...)
		f(m)
		return m.Bytes()
	}
	imported := func(module, name string, kind byte, desc ...byte) []byte {
		return change(func(m *w.Module) {
			m.Imports = []w.Import{{Module: module, Name: name, Kind: kind,
				Desc: desc}}
		})
	}
	forbidden := func(name string) []byte {
		return change(func(m *w.Module) { m.Imports = []w.Import{wasi(name, "iiii")} })
	}
	long := string(make([]byte, 1<<20))
	for name, c := range map[string]struct {
		code []byte
		says string
	}{
		"an empty file":         {nil, "not a module of WebAssembly 2.0"},
		"text":                  {[]byte("(module)"), "not a module of WebAssembly 2.0"},
		"20 MB of zeros":        {make([]byte, 20<<20), "at most 16777216 are taken"},
		"16 MiB of zeros":       {make([]byte, 16<<20), "not a module of WebAssembly 2.0"},
		"only a header":         {w.Header(), "exports no function whirlpool_abi_v1"},
		"a header of version 2": {[]byte("\x00asm\x02\x00\x00\x00"), "version 1"},
		"a component":           {[]byte("\x00asm\x0d\x00\x01\x00"), "version 1"},
		"another ABI": {change(func(m *w.Module) { m.Func("whirlpool_abi_v1").Export = "whirlpool_abi_v9" }),
			"built for version 9 of the ABI; this host speaks version 1"},
		"no version": {change(func(m *w.Module) { m.Func("whirlpool_abi_v1").Export = "" }),
			"exports no function whirlpool_abi_v1"},
		"an ABI of 2^70": {change(func(m *w.Module) {
			m.Func("whirlpool_abi_v1").Export = "whirlpool_abi_v1180591620717411303424"
		}), "exports no function whirlpool_abi_v1"},
		"both kinds": {change(func(m *w.Module) {
			m.Add(w.Func{Export: "backoff", Params: []byte{w.I32}, Results: []byte{w.F64}, Code: w.ConstF64(1)})
		}), "it must be one kind of plugin"},
		"no kind": {change(func(m *w.Module) { m.Func("score").Export = "" }),
			"exports neither score (a scorer) nor backoff"},
		"no reserve": {change(func(m *w.Module) { m.Func("reserve").Export = "" }), "does not export reserve"},
		"a wrong signature": {change(func(m *w.Module) {
			f := m.Func("score")
			f.Params, f.Code = w.Repeat(3, w.I32),
				w.Const32(0)
		}), "score has the signature (i32, i32, i32) -> i32; it must be (i32, i32, i32, i32) -> i32"},
		"score as a global": {change(func(m *w.Module) {
			m.Func("score").Export = ""
			m.Globals = []w.Global{{Type: w.I32, Init: w.Const32(0)}}
			m.Exports = append(m.Exports, w.Export{Name: "score", Kind: w.KindGlobal})
		}), "exports neither score"},
		"no memory": {change(func(m *w.Module) {
			m.Memories, m.Exports = nil, nil
			m.Func("reserve").Code = w.Const32(8)
			m.Func("score").Code = w.Const32(0)
		}), "does not export its memory"},
		"memory not exported": {change(func(m *w.Module) { m.Exports = nil }), "does not export its memory"},
		"a memory that is not there": {change(func(m *w.Module) {
			m.Memories = nil
			m.Func("reserve").Code = w.Const32(8)
			m.Func("score").Code = w.Const32(0)
		}), "memory"},
		"memory as a function": {change(func(m *w.Module) {
			m.Exports = []w.Export{{Name: "memory",
				Kind: w.KindFunc, Index: 0}}
		}), "not a memory"},
		"two memories": {change(func(m *w.Module) { m.Memories = append(m.Memories, w.Limits{Min: 1}) }),
			"memor"},
		"a huge memory": {change(func(m *w.Module) { m.Memories = []w.Limits{{Min: 65536}} }),
			"wants 65536 pages of memory; at most 256 are given"},
		"a memory of 2^32-1": {change(func(m *w.Module) { m.Memories = []w.Limits{{Min: math.MaxUint32}} }),
			"at most 256 are given"},
		"a maximum below the minimum": {change(func(m *w.Module) {
			m.Memories = []w.Limits{{Flag: 1, Min: 2,
				Max: 1}}
		}), "m"},
		"shared memory": {change(func(m *w.Module) {
			m.Memories = []w.Limits{{Flag: 3, Min: 1,
				Max: 2}}
		}), "shared and 64-bit memories are not supported"},
		"memory64": {change(func(m *w.Module) { m.Memories = []w.Limits{{Flag: 4, Min: 1}} }),
			"shared and 64-bit memories are not supported"},
		"a memory of kind 0x80": {change(func(m *w.Module) { m.Memories = []w.Limits{{Flag: 0x80, Min: 1}} }),
			"unknown kind"},
		"imported memory":    {imported("env", "memory", w.KindMemory, 0, 1), `imports "env.memory"`},
		"an imported table":  {imported("env", "table", w.KindTable, 0x70, 0, 1), `imports "env.table"`},
		"an imported global": {imported("env", "fuel", w.KindGlobal, w.I64, 1), `imports "env.fuel"`},
		"a huge table": {change(func(m *w.Module) { m.Tables = []w.Limits{{Min: 1 << 30}} }),
			"wants a table of 1073741824; at most 100000 are given"},
		"tables that add up": {change(func(m *w.Module) {
			m.Tables = []w.Limits{{Min: 60_000},
				{Min: 60_000}}
		}), "at most 100000 are given"},
		"tables past 2^32": {change(func(m *w.Module) {
			m.Tables = []w.Limits{{Min: math.MaxUint32},
				{Min: 2}}
		}), "at most 100000 are given"},
		"100,001 elements": {change(func(m *w.Module) {
			m.Tables, m.Elements = []w.Limits{{Min: 1}},
				make([]uint32, 100_001)
		}), "100001 elements in its segments; at most 100000 are taken"},
		"10,001 globals": {change(func(m *w.Module) {
			for range 10_001 {
				m.Globals = append(m.Globals, w.Global{Type: w.I32, Init: w.Const32(0)})
			}
		}), "has 10001 globals; at most 10000 are taken"},
		"1,001 imports": {change(func(m *w.Module) { m.Imports = slices.Repeat([]w.Import{abort}, 1001) }),
			"has 1001 imports; at most 1000 are taken"},
		"a thousand tables": {change(func(m *w.Module) { m.Tables = make([]w.Limits, 1000) }),
			"at most 100 are allowed"},
		"50,001 locals": {change(func(m *w.Module) {
			m.Func("score").Locals = []w.Group{{Count: 50_001,
				Type: w.I64}}
		}), "locals are too many"},
		"2^32 locals": {change(func(m *w.Module) {
			m.Func("score").Locals = []w.Group{{Count: math.MaxUint32, Type: w.I64},
				{Count: math.MaxUint32, Type: w.I64}}
		}), "locals are too many"},
		"the host's own export": {change(func(m *w.Module) {
			m.Func("reserve").Export = ""
			m.Add(w.Func{Export: "reserve", Params: []byte{w.I32}, Results: []byte{w.I32}, Code: w.Const32(8)},
				w.Func{Export: "whirlpool_fuel"})
		}), "whirlpool_fuel"},
		"the gauge's index, read": {change(func(m *w.Module) {
			m.Func("score").Code = w.Join([]byte{w.GlobalGet, 0,
				w.Drop}, w.Const32(0))
		}), "global 0 does not exist"},
		"the gauge's index, set": {change(func(m *w.Module) {
			m.Func("score").Code = w.Join(w.Const64(1<<60), []byte{w.GlobalSet, 0}, w.Const32(0))
		}), "global 0 does not exist"},
		"the gauge's index, exported": {change(func(m *w.Module) {
			m.Exports = append(m.Exports,
				w.Export{Name: "g", Kind: w.KindGlobal})
		}), "global"},
		"the local that is added": {change(func(m *w.Module) {
			m.Func("score").Code = w.Join([]byte{w.LocalGet,
				4, w.Drop}, w.Const32(0))
		}), "local 4 does not exist"},
		"a branch out of the function": {change(func(m *w.Module) {
			m.Func("score").Code = w.Join(w.Const32(0),
				[]byte{w.Br, 2})
		}), "branch"},
		"code that is not valid": {change(func(m *w.Module) { m.Func("score").Code = []byte{w.I32Add} }),
			"does not compile"},
		"an opcode of exceptions": {change(func(m *w.Module) {
			m.Func("score").Code = []byte{0x06, 0x40, 0x0b,
				0x41, 0}
		}), "0x6 is not of WebAssembly 2.0, but of the later proposal exception handling"},
		"an atomic": {change(func(m *w.Module) {
			m.Func("score").Code = []byte{0xfe, 3, 0, 0x41,
				0}
		}), "0xfe is not of WebAssembly 2.0, but of the later proposal threads"},
		"sockets":   {forbidden("sock_open"), `imports "wasi_snapshot_preview1.sock_open"`},
		"accepting": {forbidden("sock_accept"), `imports "wasi_snapshot_preview1.sock_accept"`},
		"files":     {forbidden("path_open"), `imports "wasi_snapshot_preview1.path_open"`},
		"folders":   {forbidden("fd_readdir"), `imports "wasi_snapshot_preview1.fd_readdir"`},
		"signals":   {forbidden("proc_raise"), `imports "wasi_snapshot_preview1.proc_raise"`},
		"another WASI": {imported("wasi_unstable", "fd_write", w.KindFunc, 0),
			`imports "wasi_unstable.fd_write"`},
		"a component of WASI 0.2": {imported("wasi:cli/environment@0.2.0", "get-environment", w.KindFunc, 0),
			`imports "wasi:cli/environment@0.2.0.get-environment"`},
		"an import of itself": {imported("", "score", w.KindFunc, 0), `imports ".score"`},
		"an import with a wrong signature": {change(func(m *w.Module) {
			m.Imports = []w.Import{wasi("clock_time_get",
				"i")}
		}), "it must be (i32, i64, i32) -> i32"},
		"a long name": {change(func(m *w.Module) {
			m.Imports = []w.Import{{Module: long,
				Name: long}}
		}), "imports"},
		"a name that is not a text": {change(func(m *w.Module) {
			m.Imports = []w.Import{{Module: "\xff\n\x1b[2J",
				Name: "x"}}
		}), "imports"},
		"a long export": {change(func(m *w.Module) {
			m.Exports = append(m.Exports, w.Export{Name: long, Kind: w.KindFunc, Index: 1 << 20})
		}), "the export"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			host := patient()
			m, err := host.Load(c.code, nil)
			if err == nil {
				m.Close()
			}
			var refused *wasmhost.CheckError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, c.says)
			require.Less(t, len(err.Error()), 1000)
			require.True(t, utf8.ValidString(err.Error()))
			require.NotContains(t, err.Error(), "\n")
			require.NotContains(t, err.Error(), "\x1b")
			require.Less(t, time.Since(begin), within)
		})
	}
}

// reserveLater returns a scorer. Its export reserve returns a valid address in the first call of score. In later calls,
// it returns the value that the code of the parameter later leaves on the stack.
func reserveLater(later ...byte) *w.Module {
	m := w.Scorer(w.Scores(1)...)
	m.Globals = []w.Global{{Type: w.I32, Init: w.Const32(0)}}
	f := m.Func("reserve")
	f.Code = w.Join([]byte{w.GlobalGet, 0, w.If, w.Empty}, later, []byte{w.Return, w.End}, w.Const32(1),
		[]byte{w.GlobalSet, 0}, f.Code)
	return m
}

// The host checks each address. An invalid address is a fault of that call, and the next call uses a new
// instance.
func TestHostileBuffers(t *testing.T) {
	host := patient()
	for name, c := range map[string]struct {
		later  []byte
		reason string
	}{
		"0":                 {w.Const32(0), "memory"},
		"not aligned":       {w.Const32(1025), "memory"},
		"aligned to 4":      {w.Const32(1028), "memory"},
		"ends past the end": {w.Const32(65536 - 4096), "memory"},
		"the very end":      {w.Const32(65536), "memory"},
		"past the end":      {w.Const32(1 << 24), "memory"},
		"near 2 GiB":        {w.Const32(math.MaxInt32 - 7), "memory"},
		"near 4 GiB":        {w.Const32(-8), "memory"},
		"so that it wraps":  {w.Const32(-65536), "memory"},
		"overlaps the old":  {w.Const32(w.RegionAt + 8), "memory"}, // the memory has not grown for this region
		"spins":             {w.Join(w.SpinLoop, w.Const32(8)), "fuel"},
		"traps":             {[]byte{w.Unreachable}, "trap"},
		"recurses":          {w.Join(w.Const32(8), w.CallTo(1)), "trap"},
		"grows and returns what was there": {w.Join(w.Const32(16), []byte{w.MemoryGrow, 0, w.Drop},
			w.Const32(w.RegionAt)), ""},
		"grows in vain": {w.Join(w.Const32(1000), []byte{w.MemoryGrow, 0}), "memory"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := host.Load(reserveLater(c.later...).Bytes(), nil)
			require.NoError(t, err)
			defer m.Close()
			scores := make([]float64, 1000)
			err = m.Score(make(rows, 1000), scores)
			require.Equal(t, c.reason, reasonOf(err), "%v", err)
			require.NoError(t, m.Score(make(rows, 200), scores))
			require.Equal(t, 1.0, scores[199])
		})
	}
}

// If reserve returns a different region each time, the records are written there.
func TestRecordsAreWrittenToTheReservedRegion(t *testing.T) {
	code := w.Join(
		// the first score is the first success rate
		[]byte{w.LocalGet, 2}, []byte{w.LocalGet, 1, w.F64Load, 3, 0}, []byte{w.F64Store, 3, 0},
		w.Const32(1), []byte{w.MemoryGrow, 0, w.Drop})
	m := w.Scorer(code...)
	m.Memories[0].Min = 32
	m.Globals = []w.Global{{Type: w.I32, Init: w.Const32(4096)}}
	m.Func("reserve").Code = w.Join([]byte{w.GlobalGet, 0}, w.Const32(4096),
		[]byte{w.I32Add, w.GlobalSet, 0, w.GlobalGet, 0})
	loaded := load(t, m)
	defer loaded.Close()
	for n := 1; n < 600; n += 7 {
		list, scores := make(rows, n), make([]float64, n)
		list[0].SuccessRate = float64(n)
		require.NoError(t, loaded.Score(list, scores))
		require.Equal(t, float64(n), scores[0])
	}
	require.NoError(t, loaded.Score(rows{}, nil), "nobody to choose from")
}

func TestHostileObservers(t *testing.T) {
	host := patient()
	pool := []wasmhost.Proxy{{ID: "a", Metadata: map[string]string{"k": "v"}}}
	for name, c := range map[string]struct {
		code   []byte
		reason string
	}{"spins": {w.SpinLoop, "fuel"}, "traps": {[]byte{w.Unreachable}, "trap"}, "grows": {w.Join(w.Const32(200),
		[]byte{w.MemoryGrow, 0, w.Drop}), ""}} {
		m, err := host.Load(w.Scorer(w.Scores(1)...).Add(w.Func{Export: "observe", Params: []byte{w.I32},
			Code: c.code}).Bytes(), nil)
		require.NoError(t, err)
		for range 3 {
			require.Equal(t, c.reason, reasonOf(m.Observe(&core.Observation{})), name)
			require.NoError(t, m.Score(rows{{}}, []float64{0}))
		}
		require.Equal(t, 1, m.Instances())
		m.Close()
		require.Zero(t, m.Instances())

		m, err = host.Load(w.Scorer(w.Scores(1)...).Add(w.Func{Export: "pool_changed", Params: w.Repeat(2, w.I32),
			Code: c.code}).Bytes(), nil)
		require.NoError(t, err)
		m.SetPool(pool)
		require.Equal(t, c.reason, reasonOf(m.Score(rows{{}}, []float64{0})), name)
		m.Close()
		require.Zero(t, m.Instances())
	}
}

func TestHostileBackoffs(t *testing.T) {
	host := patient()
	honest := w.ConstF64(1) // the result in the first call, whose Retry-After is 0
	for name, c := range map[string]struct {
		code   []byte
		reason string
		delay  float64
	}{
		"NaN":                {w.ConstF64(math.NaN()), "not_finite", 0},
		"another NaN":        {w.ConstF64(math.Float64frombits(0xfff0000000000001)), "not_finite", 0},
		"+Inf":               {w.ConstF64(math.Inf(1)), "not_finite", 0},
		"-Inf":               {w.ConstF64(math.Inf(-1)), "not_finite", 0},
		"negative":           {w.ConstF64(-1e-9), "negative_delay", 0},
		"hugely negative":    {w.ConstF64(-math.MaxFloat64), "negative_delay", 0},
		"huge":               {w.ConstF64(math.MaxFloat64), "", math.MaxFloat64},
		"denormal":           {w.ConstF64(math.SmallestNonzeroFloat64), "", math.SmallestNonzeroFloat64},
		"spins":              {w.Join(w.SpinLoop, honest), "fuel", 0},
		"traps":              {[]byte{w.Unreachable}, "trap", 0},
		"fills what it gets": {w.Join([]byte{w.LocalGet, 0}, args(255, 120), []byte{0xfc, 11, 0}, honest), "", 1},
	} {
		// ne, else
		code := w.Join([]byte{w.LocalGet, 0, w.F64Load, 3, 56}, w.ConstF64(0), []byte{0x62, w.If, w.F64}, c.code,
			[]byte{0x05}, honest, []byte{w.End})
		m, err := host.Load(w.Backoff(code...).Bytes(), nil)
		require.NoError(t, err, name)
		for range 3 {
			d, err := m.Delay(&core.BackoffRequest{RetryAfter: 1})
			require.Equal(t, c.reason, reasonOf(err), name)
			require.Equal(t, c.delay, d, name)
			d, err = m.Delay(&core.BackoffRequest{})
			require.NoError(t, err)
			require.Equal(t, 1.0, d)
		}
		require.Equal(t, 1, m.Instances())
		m.Close()
		require.Zero(t, m.Instances())
	}
}

// The scores of a failed call must not be used. The next call has no access to the memory of the earlier
// instance.
func TestInstancesShareNoMemory(t *testing.T) {
	// the score is what stands at 8
	read := w.Join([]byte{w.LocalGet, 2}, w.Const32(0), []byte{w.F64Load, 3, 8}, []byte{w.F64Store, 3, 0})
	write := w.Join(w.Const32(0), w.ConstF64(42), []byte{w.F64Store, 3, 8})
	host := patient()
	one, err := host.Load(w.Scorer(w.Join(read, write)...).Bytes(), nil)
	require.NoError(t, err)
	defer one.Close()
	other, err := host.Load(w.Scorer(read...).Bytes(), nil)
	require.NoError(t, err)
	defer other.Close()
	scores := []float64{7}
	require.NoError(t, one.Score(rows{{}}, scores))
	require.Equal(t, 42.0, scores[0], "its own memory stays")
	require.NoError(t, other.Score(rows{{}}, scores))
	require.Zero(t, scores[0], "another module's memory is its own")
}

// Modules that are only large are accepted, and their instances need no more memory than others.
func TestLargeModules(t *testing.T) {
	for name, change := range map[string]func(m *w.Module){
		"passive data": func(m *w.Module) { m.Data = []w.Data{{Passive: true, Bytes: make([]byte, 15<<20)}} },
		"active data": func(m *w.Module) {
			m.Memories[0].Min = 200
			m.Data = []w.Data{{Offset: 65536, Bytes: make([]byte, 12<<20)}}
		},
		"segments": func(m *w.Module) { m.Data = slices.Repeat([]w.Data{{Bytes: []byte("x")}}, 100_000) },
		"custom sections": func(m *w.Module) {
			m.Custom = map[string][]byte{"name": make([]byte, 10<<20), "x": make([]byte, 5<<20)}
		},
		"globals": func(m *w.Module) {
			m.Globals = slices.Repeat([]w.Global{{Type: w.I32, Init: w.Const32(1)}},
				9_000)
		},
		"exports": func(m *w.Module) {
			for i := range 50_000 {
				m.Exports = append(m.Exports, w.Export{Name: strconv.Itoa(i), Kind: w.KindFunc})
			}
		},
		"elements": func(m *w.Module) { m.Tables, m.Elements = []w.Limits{{Min: 100_000}}, make([]uint32, 100_000) },
	} {
		t.Run(name, func(t *testing.T) {
			m := w.Scorer(w.Scores(1)...)
			change(m)
			begin := time.Now()
			loaded := load(t, m)
			defer loaded.Close()
			require.Less(t, time.Since(begin), within)
			t.Log(time.Since(begin))
			scores := make([]float64, 3)
			require.NoError(t, loaded.Score(make(rows, 3), scores))
			require.Equal(t, []float64{1, 1, 1}, scores)
		})
	}
}

// All hostile modules are called at the same time, each by several goroutines. All results of a good module
// that is called at the same time are correct.
func TestHostileTogether(t *testing.T) {
	host := patient()
	honest := load(t, w.Scorer(w.Scores(4)...))
	defer honest.Close()
	var wg sync.WaitGroup
	for name, h := range calls() {
		m, err := host.Load(h.build(true).Bytes(), nil)
		require.NoError(t, err, name)
		defer m.Close()
		for range 2 {
			wg.Go(func() {
				for range 3 {
					if err := m.Score(rows{{}, {}}, make([]float64, 2)); reasonOf(err) != h.reason {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
	for range 4 {
		wg.Go(func() {
			scores := make([]float64, 7)
			for range 500 {
				if err := honest.Score(make(rows, 7), scores); err != nil || scores[6] != 4 {
					t.Errorf("the honest one: %v, %v", err, scores)
				}
				clear(scores)
			}
		})
	}
	wg.Wait()
}
