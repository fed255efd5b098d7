package wasmhost_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// bombs are small modules that wazero 1.12 takes very long to compile, most of them forever and some with all
// the memory of the machine. Its compiler cannot be stopped. The compile time of each module grows faster
// than its size, for a different reason.
func bombs() map[string]*w.Module {
	one := func(f w.Func) *w.Module { return w.Scorer().Add(f) }
	counted := func(n int, each func(i int) []byte) (code []byte) {
		for i := range n {
			code = append(code, each(i)...)
		}
		return code
	}
	local := func(op byte, i int) []byte { return w.Uint([]byte{op}, uint32(i)) }
	locals := []w.Group{{Count: 3000, Type: w.I32}}
	wide := w.Repeat(1000, w.I64)
	blocks := w.Scorer().Add(w.Func{Params: wide, Results: wide, Code: w.Join(
		// 3 is the type of the function itself
		counted(1000, func(i int) []byte { return local(w.LocalGet, i) }), w.Repeat(5000, w.Block, 3, w.End))})
	results := w.Scorer().Add(
		w.Func{Results: wide, Code: w.Repeat(1000, 0x42, 0)},
		w.Func{Code: w.Repeat(3000, w.Block, w.Empty, w.Call, 3, w.Unreachable, w.End)})
	many := w.Scorer()
	for range 10_000 {
		many.Add(w.Func{Locals: []w.Group{{Count: 49_000, Type: w.I64}}})
	}
	eight := w.Repeat(8000, w.I64)
	around := w.Scorer()
	for range 100 { // a loop that takes 8,000 values and repeats with each value in the place of the next one
		around.Add(w.Func{Params: eight, Results: eight, Code: w.Join(
			counted(8000, func(i int) []byte { return local(w.LocalGet, i) }), []byte{w.Loop,
				3}, w.Const64(1), []byte{w.Br, 0, w.End})})
	}
	globals := w.Scorer()
	for range 10_000 {
		globals.Globals = append(globals.Globals, w.Global{Type: w.I32, Init: w.Const32(1)})
	}
	globals.Add(w.Func{Code: w.Repeat(10_000, w.CallTo(0)...)})
	return map[string]*w.Module{
		"calls over globals":  globals,
		"values around loops": around,
		"memory.fill":         one(w.Func{Code: w.Repeat(5000, w.Join(args(0, 0, 0), []byte{0xfc, 11, 0})...)}),
		"memory.copy":         one(w.Func{Code: w.Repeat(20_000, w.Join(args(0, 0, 0), []byte{0xfc, 10, 0, 0})...)}),
		"memory.grow":         one(w.Func{Code: w.Repeat(20_000, w.Join(args(0), []byte{w.MemoryGrow, 0, w.Drop})...)}),
		"nested loops":        one(w.Func{Code: w.Join(w.Repeat(10_000, w.Loop, w.Empty), w.Repeat(10_000, w.End))}),
		"loops":               one(w.Func{Code: w.Repeat(100_000, w.Loop, w.Empty, w.End)}),
		"ifs":                 one(w.Func{Code: w.Repeat(1_000_000, 0x41, 1, w.If, w.Empty, w.End)}),
		"nested ifs": one(w.Func{Code: w.Join(w.Repeat(100_000, 0x41, 1, w.If, w.Empty),
			w.Repeat(100_000, w.End))}),
		"nested blocks": one(w.Func{Code: w.Join(w.Repeat(1_000_000, w.Block, w.Empty),
			w.Repeat(1_000_000, w.End))}),
		"one br_table": one(w.Func{Code: w.Join([]byte{w.Block, w.Empty}, w.Const32(0),
			w.Uint([]byte{w.BrTable}, 1_000_000), w.Repeat(1_000_001, 0), []byte{w.End})}),
		"many br_tables": one(w.Func{Code: w.Repeat(4000, w.Join([]byte{w.Block, w.Empty}, w.Const32(0),
			w.Uint([]byte{w.BrTable}, 1000), w.Repeat(1001, 0), []byte{w.End})...)}),
		"values over blocks": blocks,
		"results of calls":   results,
		"calls":              one(w.Func{Code: w.Repeat(1_000_000, w.Call, 0)}),
		"locals":             many,
		"one long function": one(w.Func{Params: []byte{w.I32}, Results: []byte{w.I32},
			Code: w.Join([]byte{w.LocalGet, 0}, w.Repeat(5_000_000, w.LocalGet, 0, w.I32Add))}),
		"many values at once": one(w.Func{Params: []byte{w.I32}, Results: []byte{w.I32},
			Code: w.Join([]byte{w.LocalGet, 0}, w.Repeat(1_000_000, w.LocalGet, 0, 0x28, 2, 0),
				w.Repeat(1_000_000, w.I32Add))}),
		"a vast type": withImport(w.Repeat(100_000, w.I64)),
		"vast types":  withTypes(400, 9_000),
		// The head of each loop has a place for each value, so wazero compares the values again and again.
		"values in nested loops": one(w.Func{Params: []byte{w.I32}, Locals: []w.Group{{Count: 300, Type: w.I32}},
			Code: w.Join(
				counted(300, func(i int) []byte {
					return w.Join([]byte{w.Loop, w.Empty}, local(w.LocalGet, i+1), w.Const32(1), []byte{w.I32Add},
						local(w.LocalSet, i+1))
				}), w.Repeat(300, w.LocalGet, 0, w.BrIf, 0, w.End))}),
		"values in a loop": one(w.Func{Params: []byte{w.I32}, Locals: []w.Group{{Count: 40_000, Type: w.I32}},
			Code: w.Join([]byte{w.Loop, w.Empty},
				counted(40_000, func(i int) []byte {
					return w.Join(local(w.LocalGet, i+1), w.Const32(1), []byte{w.I32Add}, local(w.LocalSet, i+1))
				}), []byte{w.LocalGet, 0, w.BrIf, 0, w.End})}),
		"calls through a table": one(w.Func{Code: w.Repeat(80_000, 0x41, 0, w.CallIndirect, 0, 0)}),
		// 5 KB each
		"loads and stores": one(w.Func{Code: w.Repeat(225_000, 0x41, 0, 0x41, 0, 0x28, 2, 0, w.I32Store, 2, 0)}),
		"divisions": one(w.Func{Params: []byte{w.I32}, Code: w.Repeat(225_000, w.LocalGet, 0, w.LocalGet, 0,
			w.I32DivS, w.Drop)}),
		"truncations": one(w.Func{Params: []byte{w.F64}, Code: w.Repeat(300_000, w.LocalGet, 0, 0xaa,
			w.Drop)}),
		"vector loads": one(w.Func{Code: w.Repeat(300_000, 0x41, 0, 0xfd, 7, 0, 0, w.Drop)}),
		"locals over branches": one(w.Func{Params: []byte{w.I32}, Locals: locals, Code: w.Join(
			[]byte{w.Block, w.Empty},
			counted(30_000, func(i int) []byte {
				return w.Join(w.Const32(int32(i)), local(w.LocalSet, i%3000+1), []byte{w.LocalGet, 0, w.BrIf, 0})
			}),
			[]byte{w.End},
			counted(3000, func(i int) []byte { return append(local(w.LocalGet, i+1), w.Drop) }))}),
	}
}

// withImport returns a module that imports a function with the given parameters, and so has a type that
// none of its own functions has.
func withImport(params []byte) *w.Module {
	m := w.Scorer()
	m.Imports = []w.Import{{Module: "env", Name: "abort", Params: params}}
	return m
}

// withTypes returns a module that imports functions of the given number of different types, each
// with n parameters.
func withTypes(types, n int) *w.Module {
	m := w.Scorer()
	for i := range types {
		params := w.Repeat(n, w.I64)
		params[i] = w.I32
		m.Imports = append(m.Imports, w.Import{Module: "env", Name: "abort", Params: params})
	}
	return m
}

func TestCompileBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := wasmhost.ThreadTime()
	host := wasmhost.New(wasmhost.DefaultLimits(), "")
	for name, m := range bombs() {
		code := m.Bytes()
		begin := used()
		_, err := host.Load(code, nil)
		var refused *wasmhost.CheckError
		require.ErrorAs(t, err, &refused, name)
		if strings.Contains(err.Error(), "with the signature") { // refused earlier, because of its import
			limits := wasmhost.DefaultLimits()
			_, err = meter.Rewrite(code, meter.Cost{FunctionWork: limits.FunctionWork, ModuleWork: limits.ModuleWork})
		}
		require.ErrorContains(t, err, "too long to compile", name)
		require.Less(t, used()-begin, 30*time.Second, name)
	}
}

// Modules that are only large are accepted.
func TestTenThousandFunctions(t *testing.T) {
	m := w.Scorer()
	for range 10_000 {
		m.Add(w.Func{Code: w.Join(w.Const32(1), []byte{w.Drop})})
	}
	load(t, m).Close()
}
