package meter

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
)

const (
	plenty  = 1 << 60
	funcref = 0x70 // a result of this type is an address, which differs each time
)

// corpus returns the modules of WebAssembly's own test suite, as wazero includes them.
func corpus(t testing.TB) []string {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	require.NoError(t, err)
	var files []string
	for _, version := range []string{"v1", "v2", "tail-call", "extended-const"} {
		found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal", "integration_test",
			"spectest", version, "testdata", "*.wasm"))
		require.NoError(t, err)
		files = append(files, found...)
	}
	require.Greater(t, len(files), 500, "the suite of wazero")
	return files
}

// Every module that compiles also compiles after it is metered, and has the same declarations.
func TestTheWebAssemblyTestSuiteCompilesMetered(t *testing.T) {
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(Features))
	defer rt.Close(ctx)
	taken := 0
	for _, path := range corpus(t) {
		module, err := os.ReadFile(path)
		require.NoError(t, err)
		plain, err := rt.CompileModule(ctx, module)
		if err != nil {
			continue // this module must be refused
		}
		out, err := Rewrite(module, Cost{Start: plenty})
		require.NoError(t, err, path)
		metered, err := rt.CompileModule(ctx, out)
		require.NoError(t, err, path)
		exports := metered.ExportedFunctions()
		delete(exports, StartExport)
		require.Equal(t, len(plain.ExportedFunctions()), len(exports))
		plain.Close(ctx)
		metered.Close(ctx)
		taken++
	}
	require.Greater(t, taken, 500)
}

// The functions of the test suite return the same results with and without metering.
func TestSameResults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	ctx := context.Background()
	called := 0
	for _, path := range corpus(t) {
		module, err := os.ReadFile(path)
		require.NoError(t, err)
		out, err := Rewrite(module, Cost{Start: 10_000_000})
		if err != nil {
			continue
		}
		got, fuel, ok := results(ctx, out) // the metered module first, because endless functions end only there
		if !ok {
			continue
		}
		want, _, ok := results(ctx, module)
		if !ok { // the start function is exported, so references to it may be valid then
			require.Contains(t, path, "ref_func.5")
			continue
		}
		require.Equal(t, want, got, path)
		called += len(want)

		// The fuel is the same whether or not the counter is kept in locals.
		out, err = rewrite(module, Cost{Start: 10_000_000}, false)
		require.NoError(t, err)
		got, global, ok := results(ctx, out)
		require.True(t, ok, path)
		require.Equal(t, want, got, path)
		require.Equal(t, global, fuel, path)
	}
	require.Greater(t, called, 1000)
}

// results calls every export with at most two numbers as parameters. The result spent is the fuel of the
// calls that returned.
func results(ctx context.Context, module []byte) (out map[string]string, spent map[string]int64, ok bool) {
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(Features).WithMemoryLimitPages(64))
	defer rt.Close(ctx)
	guest, err := Instantiate(ctx, rt, module)
	if err != nil {
		return nil, nil, false
	}
	out, spent = map[string]string{}, map[string]int64{}
	gauge, _ := guest.ExportedGlobal(FuelExport).(api.MutableGlobal)
	definitions := guest.ExportedFunctionDefinitions()
	for _, name := range slices.Sorted(maps.Keys(definitions)) {
		d := definitions[name]
		if name == StartExport || len(d.ParamTypes()) > 2 || slices.Contains(d.ResultTypes(), funcref) ||
			strings.Contains(name, "infinite") || strings.Contains(name, "runaway") {
			continue
		}
		for _, arg := range []uint64{0, 1, 5} {
			args := make([]uint64, len(d.ParamTypes()))
			for i := range args {
				args[i] = arg
			}
			const full = 10_000_000
			if gauge != nil {
				gauge.Set(full)
			}
			res, err := guest.ExportedFunction(name).Call(ctx, args...)
			text := fmt.Sprint(res)
			switch {
			case gauge != nil && int64(gauge.Get()) < 0:
				return nil, nil, false
			case err != nil:
				text, _, _ = strings.Cut(err.Error(), "\n")
			case gauge != nil:
				spent[fmt.Sprint(name, arg)] = full - int64(gauge.Get())
			}
			out[fmt.Sprint(name, arg)] = text
		}
	}
	return out, spent, true
}

func TestTruncatedAnywhere(t *testing.T) {
	for _, module := range builtin.Modules() {
		for i := range module {
			if out, err := Rewrite(module[:i], Cost{}); err == nil {
				// A module that is cut between two sections may still be valid.
				_, err = sections(out)
				require.NoError(t, err)
			}
		}
	}
}

// build returns a module with one memory, one table and one exported function "f" (i32) -> () with the given
// code.
func build(code ...byte) []byte {
	body := append([]byte{0}, append(code, opEnd)...)
	m := append([]byte{}, magic[:]...)
	m = appendSection(m, secType, []byte{1, 0x60, 1, typeI32, 0})
	m = appendSection(m, secFunction, []byte{1, 0})
	m = appendSection(m, secTable, []byte{1, 0x70, 0, 1})
	m = appendSection(m, secMemory, []byte{1, 0, 1})
	m = appendSection(m, secExport, append(appendBytes([]byte{1}, []byte("f")), 0, 0))
	return appendSection(m, secCode, append([]byte{1}, appendBytes(nil, body)...))
}

// endless are functions that never return by themselves.
var endless = map[string][]byte{
	"loop":      {opLoop, blockEmpty, 0x0c, 0, opEnd},
	"recursion": {opLocalGet, 0, 0x10, 0},
	"tail call": {opLocalGet, 0, opTailCall, 0},
	"fill":      {opLoop, blockEmpty, 0x41, 0, 0x41, 0, 0x41, 0x80, 0x80, 4, 0xfc, 11, 0, 0x0c, 0, opEnd},
	"grow":      {opLoop, blockEmpty, 0x41, 1, opMemoryGrow, 0, 0x1a, 0x0c, 0, opEnd},
	"dispatch": {opLoop, blockEmpty, opBlock, blockEmpty, opLocalGet, 0, opBrTable, 0, 0, opEnd, 0x0c, 0,
		opEnd},
	"dispatch to the head": {opLoop, blockEmpty, opBlock, blockEmpty, opLocalGet, 0, opBrTable, 0, 1, opEnd, opEnd},
	"dispatch to another": {opLoop, blockEmpty, opBlock, blockEmpty, opLocalGet, 0, opBrTable, 0, 0, opEnd,
		opLoop, blockEmpty, opBlock, blockEmpty, opLocalGet, 0, opBrTable, 0, 2, opEnd, opEnd, opEnd},
	"tables": {opLoop, blockEmpty, 0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a, 0x0c, 0, opEnd},
}

// goLike returns code as Go compiles a function of three blocks: a loop, and in it a table of branches. The
// argument is the number of the block to go to next. Block 0 goes to block 2. Block 1 has 100 instructions
// and is jumped over. Block 2 goes to itself until the argument reaches last.
func goLike(last byte) []byte {
	code := []byte{opLoop, blockEmpty, opBlock, blockEmpty, opBlock, blockEmpty, opBlock, blockEmpty,
		opLocalGet, 0, opBrTable, 2, 0, 1, 2, opEnd}
	code = append(code, 0x41, 2, opLocalSet, 0, 0x0c, 2, opEnd) // block 0: goes to block 2
	for range 99 {
		code = append(code, 0x01)
	}
	return append(code, opEnd, // block 2: adds 1 and repeats
		opLocalGet, 0, 0x41, 1, 0x6a, opLocalSet, 0,
		opLocalGet, 0, 0x41, last, 0x48, 0x0d, 0, opEnd)
}

func TestADispatchLoopPaysForItsBranches(t *testing.T) {
	ctx := context.Background()
	rt := wazero.NewRuntime(ctx)
	defer rt.Close(ctx)
	code := goLike(50)
	out, err := Rewrite(build(code...), Cost{Start: 10_000})
	require.NoError(t, err)
	guest := instantiate(t, rt, out)
	_, err = guest.ExportedFunction("f").Call(ctx, 0)
	require.NoError(t, err)
	spent := 10_000 - int64(guest.ExportedGlobal(FuelExport).Get())
	require.EqualValues(t, 2+(2+4)+48*(2+9), spent, "the function, the first block, and the third 48 times")
}

func TestNothingRunsForEver(t *testing.T) {
	ctx := context.Background()
	for name, code := range endless {
		rt := wazero.NewRuntimeWithConfig(ctx,
			wazero.NewRuntimeConfig().WithCoreFeatures(Features).WithMemoryLimitPages(100))
		out, err := Rewrite(build(code...), Cost{Start: 1_000_000})
		require.NoError(t, err, name)
		guest := instantiate(t, rt, out)
		_, err = guest.ExportedFunction("f").Call(ctx, 0)
		require.Error(t, err, name)
		fuel := guest.ExportedGlobal(FuelExport)
		if !strings.Contains(err.Error(), "stack overflow") {
			require.Negative(t, int64(fuel.Get()), name)
		}
		rt.Close(ctx)
	}
}

// The fuel for a bulk operation is charged before the operation runs.
func TestBulkIsChargedFirst(t *testing.T) {
	ctx := context.Background()
	rt := wazero.NewRuntime(ctx)
	defer rt.Close(ctx)
	out, err := Rewrite(build(0x41, 0, 0x41, 1, opLocalGet, 0, 0xfc, 11, 0), Cost{Start: 100})
	require.NoError(t, err)
	guest := instantiate(t, rt, out)
	fuel := guest.ExportedGlobal(FuelExport).(api.MutableGlobal)
	_, err = guest.ExportedFunction("f").Call(ctx, 160)
	require.NoError(t, err)
	require.EqualValues(t, 100-5-10, fuel.Get(), "five instructions and 160 bytes")
	_, err = guest.ExportedFunction("f").Call(ctx, 65536)
	require.ErrorContains(t, err, "out of fuel")
	b, _ := guest.Memory().ReadByte(1000)
	require.Zero(t, b, "nothing was written")
}

// wazero allocates memory for the number of items that a module declares, however large it is. So the meter checks
// this number first.
func TestVastCountsAreRefused(t *testing.T) {
	vast := []byte{0xff, 0xff, 0xff, 0x7f}
	for name, module := range map[string][]byte{
		"data segments":    appendSection(build(), secData, vast),
		"a data segment":   appendSection(build(), secData, append([]byte{1, 1}, vast...)),
		"types":            appendSection(slices.Clone(magic[:]), secType, vast),
		"parameters":       appendSection(slices.Clone(magic[:]), secType, append([]byte{1, 0x60}, vast...)),
		"element segments": appendSection(slices.Clone(magic[:]), secElement, vast),
		"elements":         appendSection(slices.Clone(magic[:]), secElement, append([]byte{1, 1, 0}, vast...)),
		"exports":          appendSection(slices.Clone(magic[:]), secExport, vast),
	} {
		_, err := Inspect(module)
		require.Error(t, err, name)
	}
	for _, sub := range [][]byte{append([]byte{1, 4}, vast...), append([]byte{2, 6, 1, 0}, vast...),
		append([]byte{0, 4}, vast...)} {
		out, err := Rewrite(appendSection(build(), secCustom, append(appendBytes(nil, []byte("name")), sub...)), Cost{})
		require.NoError(t, err)
		require.NotContains(t, string(out), string(vast), "a part of a name section that is malformed is left out")
	}
	good := func(index byte) []byte { return append(appendBytes(nil, []byte("name")), 1, 4, 1, index, 1, 'f') }
	out, err := Rewrite(appendSection(build(), secCustom, good(0)), Cost{})
	require.NoError(t, err)
	require.Contains(t, string(out), string(good(AddedImports)), "one that is stays, with the function's new index")
}

func TestNamesThatAreTaken(t *testing.T) {
	once, err := Rewrite(build(), Cost{})
	require.NoError(t, err)
	_, err = Rewrite(once, Cost{})
	require.ErrorContains(t, err, FuelExport)
}

// compile compiles a module with wazero, which panics for some modules instead of returning an error.
func compile(rt wazero.Runtime, module []byte) (compiled wazero.CompiledModule) {
	defer func() { _ = recover() }()
	compiled, err := rt.CompileModule(context.Background(), module)
	if err != nil {
		return nil
	}
	return compiled
}

func FuzzRewrite(f *testing.F) {
	for _, m := range builtin.Modules() {
		f.Add(m)
	}
	for _, code := range endless {
		f.Add(build(code...))
	}
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(Features).WithMemoryLimitPages(64))
	f.Fuzz(func(t *testing.T, module []byte) {
		out, err := Rewrite(module, Cost{})
		// wazero allocates memory for any count that it reads, so the host refuses a module with a vast count before
		// the call of wazero.
		if _, bad := Inspect(module); bad != nil || err != nil && strings.Contains(err.Error(),
			"a vector has") {
			return
		}
		plain := compile(rt, module)
		if plain == nil {
			return
		}
		defer plain.Close(ctx)
		if err != nil {
			if strings.Contains(err.Error(), FuelExport) || strings.Contains(err.Error(), "too many") {
				return
			}
			t.Fatalf("wazero takes it, Rewrite does not: %v", err)
		}
		metered, err := rt.CompileModule(ctx, out)
		if err != nil {
			t.Fatalf("wazero takes it, but not rewritten: %v", err)
		}
		metered.Close(ctx)
	})
}
