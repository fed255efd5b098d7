// Package wasmhost runs plugins: it checks, meters, compiles and calls modules
// of sdk/ABI.md. (wazero stops here.)
//
// A call costs no allocation: the host writes records of float64 straight into
// the guest's memory, calls once for all candidates and reads the scores back.
// Every call has fuel; a guest has no files, no network, no environment and no
// real clock.
package wasmhost

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Kind is what a module decides.
type Kind string

// The kinds.
const (
	Scorer  Kind = "scorer"
	Backoff Kind = "backoff"
)

// Limits bound what a module may cost.
type Limits struct {
	Fuel        int64  // instructions of one call, about; default 1,000,000 and 2,000 per candidate
	StartFuel   int64  // of its initialisation; default 200,000,000
	MemoryPages uint32 // of 64 KiB; default 256 (16 MiB)
	ModuleBytes int    // default 16 MiB
	TableSize   uint32 // elements; default 100,000
}

// DefaultLimits are generous to honest plugins.
func DefaultLimits() Limits {
	return Limits{Fuel: 1_000_000, StartFuel: 200_000_000, MemoryPages: 256, ModuleBytes: 16 << 20, TableSize: 100_000}
}

// FuelPerCandidate is what a call may burn for each candidate beside
// Limits.Fuel.
const FuelPerCandidate = 2_000

// Host loads modules. It is safe for concurrent use.
type Host struct {
	limits   Limits
	cacheDir string
}

// New returns a host. cacheDir keeps compiled code from start to start; ""
// keeps none.
func New(limits Limits, cacheDir string) *Host { return &Host{limits: limits, cacheDir: cacheDir} }

// CheckError says why a module may not serve, and what to mend.
type CheckError struct{ Msg string }

func (e *CheckError) Error() string { return e.Msg }

func refuse(format string, args ...any) error { return &CheckError{fmt.Sprintf(format, args...)} }

// Description is what can be said of a module without running it.
type Description struct {
	Kind       Kind     `json:"kind"`
	ABIVersion int      `json:"abi_version"`
	Exports    []string `json:"exports"`
	Imports    []string `json:"imports"`
	Size       int      `json:"size"`         // bytes
	MemoryMin  uint32   `json:"memory_pages"` // of 64 KiB
	Functions  int      `json:"functions"`
}

// allowedImports are the WASI functions that standard Go, TinyGo and
// AssemblyScript bring along. They reach nothing: no files, no sockets, no
// environment; the clock is a counter, randomness a fixed sequence.
var allowedImports = map[string]bool{
	"args_get": true, "args_sizes_get": true, "environ_get": true, "environ_sizes_get": true,
	"clock_time_get": true, "clock_res_get": true, "random_get": true, "sched_yield": true, "poll_oneoff": true,
	"proc_exit": true, "fd_write": true, "fd_read": true, "fd_close": true, "fd_seek": true,
	"fd_fdstat_get": true, "fd_fdstat_set_flags": true, "fd_prestat_get": true, "fd_prestat_dir_name": true,
}

const (
	wasiModule = wasi_snapshot_preview1.ModuleName
	envModule  = "env"
	envAbort   = "abort" // AssemblyScript's assertion
)

var signatures = map[string][2]string{ // parameters, results: i for i32, F for f64
	abi.VersionExport: {"", ""}, abi.Reserve: {"i", "i"}, abi.Score: {"iiii", "i"}, abi.Backoff: {"i", "F"},
	abi.Initialize: {"", ""}, abi.Configure: {"ii", "i"}, abi.PoolChanged: {"ii", ""}, abi.Observe: {"i", ""}, abi.Tolerance: {"", "F"},
}

// Describe checks a module as far as that is possible without running it. The
// error is a *CheckError.
func (h *Host) Describe(code []byte) (Description, error) {
	d := Description{Size: len(code), Exports: []string{}, Imports: []string{}}
	if len(code) > h.limits.ModuleBytes {
		return d, refuse("the module has %d bytes; at most %d are taken", len(code), h.limits.ModuleBytes)
	}
	info, err := meter.Inspect(code)
	if err != nil {
		return d, refuse("this is not a WebAssembly module: %v", err)
	}
	d.Functions, d.MemoryMin = info.Functions, info.MemoryMin
	for _, imp := range info.Imports {
		name := imp.Module + "." + imp.Name
		d.Imports = append(d.Imports, name)
		ok := imp.Kind == meter.Function && (imp.Module == wasiModule && allowedImports[imp.Name] || imp.Module == envModule && imp.Name == envAbort)
		if !ok {
			return d, refuse("the module imports %s; a plugin may import only the functions that sdk/ABI.md lists", name)
		}
	}
	kinds := map[string]string{}
	for _, e := range info.Exports {
		d.Exports = append(d.Exports, e.Name)
		if e.Kind == meter.Function {
			kinds[e.Name] = letters(e.Params) + ">" + letters(e.Results)
		}
		if v, ok := cutVersion(e.Name); ok {
			d.ABIVersion = max(d.ABIVersion, v)
		}
		if e.Name == abi.Memory && e.Kind != meter.Memory {
			return d, refuse("the export %q is not a memory", abi.Memory)
		}
	}
	switch {
	case d.ABIVersion == 0:
		return d, refuse("the module exports no function %s, which says what version of the ABI it was built for", abi.VersionExport)
	case kinds[abi.VersionExport] == "":
		return d, refuse("the module was built for version %d of the ABI; this host speaks version %d", d.ABIVersion, abi.Version)
	case !info.Exported(abi.Memory):
		return d, refuse("the module does not export its memory as %q", abi.Memory)
	case kinds[abi.Reserve] == "":
		return d, refuse("the module does not export %s(bytes i32) -> address i32", abi.Reserve)
	}
	for name, want := range signatures {
		if got := kinds[name]; got != "" && got != want[0]+">"+want[1] {
			return d, refuse("the export %s has the signature (%s); sdk/ABI.md says (%s>%s), i for i32 and F for f64", name, got, want[0], want[1])
		}
	}
	scores, waits := kinds[abi.Score] != "", kinds[abi.Backoff] != ""
	switch {
	case scores && waits:
		return d, refuse("the module exports both %s and %s; it must be one kind of plugin", abi.Score, abi.Backoff)
	case scores:
		d.Kind = Scorer
	case waits:
		d.Kind = Backoff
	default:
		return d, refuse("the module exports neither %s (a scorer) nor %s (a backoff)", abi.Score, abi.Backoff)
	}
	switch {
	case info.MemoryMin > h.limits.MemoryPages:
		return d, refuse("the module wants %d pages of memory; at most %d are given", info.MemoryMin, h.limits.MemoryPages)
	case info.TableMin > h.limits.TableSize:
		return d, refuse("the module wants a table of %d; at most %d are given", info.TableMin, h.limits.TableSize)
	}
	return d, nil
}

func cutVersion(name string) (int, bool) {
	if len(name) <= len(abi.VersionPrefix) || name[:len(abi.VersionPrefix)] != abi.VersionPrefix {
		return 0, false
	}
	v, err := strconv.Atoi(name[len(abi.VersionPrefix):])
	return v, err == nil && v > 0
}

func letters(types []byte) string {
	out := make([]byte, len(types))
	for i, t := range types {
		switch t {
		case api.ValueTypeI32:
			out[i] = 'i'
		case api.ValueTypeI64:
			out[i] = 'I'
		case api.ValueTypeF32:
			out[i] = 'f'
		case api.ValueTypeF64:
			out[i] = 'F'
		default:
			out[i] = '?'
		}
	}
	return string(out)
}

// Load makes a module ready to serve: checked, metered, compiled, configured
// and tried once. config is its [plugins.NAME.config] table. The error is a
// *CheckError when the module is at fault.
func (h *Host) Load(code []byte, config map[string]any) (*Module, error) {
	d, err := h.Describe(code)
	if err != nil {
		return nil, err
	}
	metered, err := meter.Rewrite(code, meter.Cost{Start: h.limits.StartFuel})
	if err != nil {
		return nil, refuse("the module cannot be metered: %v", err)
	}
	ctx := context.Background()
	rc := wazero.NewRuntimeConfig().WithMemoryLimitPages(h.limits.MemoryPages).WithDebugInfoEnabled(false)
	m := &Module{desc: d, limits: h.limits}
	if h.cacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(h.cacheDir)
		if err != nil {
			return nil, fmt.Errorf("the cache of compiled plugins: %w", err)
		}
		m.cache = cache
		rc = rc.WithCompilationCache(cache)
	}
	m.runtime = wazero.NewRuntimeWithConfig(ctx, rc)
	if err := m.prepare(ctx, metered, config); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Module) prepare(ctx context.Context, metered []byte, config map[string]any) error {
	compiled, err := m.runtime.CompileModule(ctx, metered)
	if err != nil {
		return refuse("the module does not compile: %v", firstLine(err))
	}
	m.compiled = compiled
	if err := m.imports(ctx); err != nil {
		return err
	}
	m.config = pairs(config)
	in, err := m.instantiate()
	if err != nil {
		return err
	}
	m.learns, m.wantsPool, m.tolerance = in.observe != nil, in.poolChanged != nil, in.tolerance
	m.live++
	err = m.try(in)
	m.release(in, err)
	return err
}

// imports gives the guest the functions it asks for, none of which reaches
// anything.
func (m *Module) imports(ctx context.Context) error {
	wanted := map[string]bool{}
	for _, f := range m.compiled.ImportedFunctions() {
		module, _, _ := f.Import()
		wanted[module] = true
	}
	if wanted[wasiModule] {
		if _, err := wasi_snapshot_preview1.Instantiate(ctx, m.runtime); err != nil {
			return fmt.Errorf("wasi: %w", err)
		}
	}
	if wanted[envModule] {
		abort := func(context.Context, api.Module, uint32, uint32, uint32, uint32) { panic(errAbort) }
		if _, err := m.runtime.NewHostModuleBuilder(envModule).NewFunctionBuilder().WithFunc(abort).Export(envAbort).Instantiate(ctx); err != nil {
			return refuse("the import %s.%s: %v", envModule, envAbort, firstLine(err))
		}
	}
	return nil
}

var errAbort = errors.New("the plugin called abort")

// try runs a module once before it serves.
func (m *Module) try(in *instance) error {
	var err error
	switch m.desc.Kind {
	case Scorer:
		scores := make([]float64, abi.MinCandidates)
		err = in.score(trial{}, scores)
	case Backoff:
		r := trialBackoff
		var d float64
		if d, err = in.delay(&r); err == nil && (d < 0 || math.IsNaN(d)) {
			err = &Fault{"negative_delay", fmt.Errorf("the delay is %v", d)}
		}
	}
	if err != nil {
		return refuse("a trial call failed: %v", err)
	}
	return nil
}
