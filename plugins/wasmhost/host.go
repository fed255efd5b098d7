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
	"runtime"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"

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
	Fuel        int64  // instructions of one call, about; default 3,000,000 and 4,000 per candidate
	StartFuel   int64  // of its initialisation; default 20,000,000; standard Go takes 1 to 2 million
	MemoryPages uint32 // of 64 KiB; default 256 (16 MiB)
	ModuleBytes int    // default 16 MiB
	TableSize   uint32 // elements of all tables together; default 100,000

	Instances int           // of a module, at once; default 16, or 2 a processor
	Wait      time.Duration // of a call for one of them, at most; default 100 ms
	Hearing   time.Duration // the same of an observation, which is lost then; default 10 ms

	// CallTimeout and StartTimeout are of the CPU time of the thread that runs
	// the guest; of the clock where the system does not tell it. A call may take
	// 12 times as long by the clock, 250 ms at least.
	CallTimeout  time.Duration // of one call; default 20 ms
	StartTimeout time.Duration // of everything from the start function to tolerance; default 250 ms

	// Compilation cannot be stopped once it has begun, so it is bounded
	// beforehand: meter.Size.Work, a unit of which is about a microsecond.
	FunctionWork int64 // default 1,000,000
	ModuleWork   int64 // default 24,000,000
}

// DefaultLimits are generous to honest plugins.
func DefaultLimits() Limits {
	return Limits{
		Fuel: 3_000_000, StartFuel: 20_000_000, MemoryPages: 256, ModuleBytes: 16 << 20, TableSize: 100_000,
		Instances: max(16, 2*runtime.GOMAXPROCS(0)), Wait: 100 * time.Millisecond, Hearing: 10 * time.Millisecond,
		CallTimeout: DefaultCallTimeout, StartTimeout: DefaultStartTimeout,
		FunctionWork: 1_000_000, ModuleWork: 24_000_000,
	}
}

// The defaults of Limits.CallTimeout and StartTimeout.
const (
	DefaultCallTimeout  = 20 * time.Millisecond
	DefaultStartTimeout = 250 * time.Millisecond
)

// FuelPerCandidate is what a call may burn for each candidate, in addition to
// Limits.Fuel.
const FuelPerCandidate = 4_000

// Host loads modules. It is safe for concurrent use.
type Host struct {
	limits   Limits
	cacheDir string
	clock    clock
	output   Output        // nil for none
	cpuOnly  bool          // no call is ended for the time it takes by the clock
	building chan struct{} // holds one for each module that compiles in the background

	NoCache func(error) // unless nil it is told why compiled code is not kept, each time it is not
}

// New returns a host. cacheDir keeps compiled code from start to start; ""
// keeps none.
func New(limits Limits, cacheDir string) *Host {
	return &Host{limits: limits, cacheDir: cacheDir, clock: systemClock(), building: make(chan struct{}, atOnce())}
}

// atOnce is how many modules compile in the background at the same time: each
// takes a processor and some 50 MB, and requests need theirs.
func atOnce() int { return max(1, min(runtime.GOMAXPROCS(0)/2, 4)) }

// OnlyCPUTime returns a host like h that ends no call for the time it takes by the
// clock: tools use it, which may run at low priority beside a load.
func (h *Host) OnlyCPUTime() *Host {
	other := *h
	other.cpuOnly = true
	return &other
}

// CheckError says why a module may not serve, and what to mend.
type CheckError struct {
	Msg string
	Err error // the *Fault of the call that failed, if one did
}

func (e *CheckError) Error() string { return e.Msg }
func (e *CheckError) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &CheckError{Msg: clip(err.Error()), Err: errors.Unwrap(err)}
}

// clip shortens what may quote a module's names, which have any length.
func clip(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "..."
	}
	return s
}

// Load makes a module ready to serve: checked, metered, compiled, configured
// and tried once. config is its [plugins.NAME.config] table. The error is a
// *CheckError when the module is at fault.
func (h *Host) Load(code []byte, config map[string]any) (*Module, error) {
	m, err := h.Compile(code)
	if err != nil {
		return nil, err
	}
	m.Configure(config)
	if err := m.prepare(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Begin is Load for a module whose compilation would keep somebody waiting: it
// checks what can be checked at once and does the rest in the background. Until
// then the module answers ErrNotReady. done is called once, from another
// goroutine: with nil when the module serves, or with why it never will.
func (h *Host) Begin(code []byte, config map[string]any, done func(error)) (*Module, error) {
	m, err := h.admit(code)
	if err != nil {
		return nil, err
	}
	m.Configure(config)
	m.live++ // what is being built counts as a call: Close waits for it
	go func() {
		h.building <- struct{}{}
		err := ErrClosed
		if !m.isClosed() { // while it waited for its turn
			if err = h.build(m, code); err == nil {
				err = m.prepare()
			}
		}
		<-h.building
		m.ended()
		done(err)
	}()
	return m, nil
}

// SlowBytes is the size from which a module takes long to compile (a standard
// Go guest of 1.8 MB: 0.8 s), so that its compiled code is kept on disk and it
// is better begun than loaded while somebody waits.
const SlowBytes = 64 << 10

// slowWork is the estimated time to compile (meter.Size.Work, about a microsecond a unit) from which a module is slow.
const slowWork = 100_000

// Slow reports whether a module is expected to take longer than 0.1 s to compile: a large one, or one of few bytes
// with much to compile. It is false for a module that cannot be compiled.
func Slow(code []byte) bool {
	if len(code) >= SlowBytes {
		return true
	}
	if _, err := meter.Rewrite(code, meter.Cost{}); err != nil {
		return false
	}
	_, err := meter.Rewrite(code, meter.Cost{FunctionWork: slowWork, ModuleWork: slowWork})
	return err != nil
}

// Compile checks, meters and compiles a module without starting it; only
// Module.Probe does. The error is a *CheckError when the module is at fault.
func (h *Host) Compile(code []byte) (*Module, error) {
	m, err := h.admit(code)
	if err != nil {
		return nil, err
	}
	if err := h.build(m, code); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// admit checks a module as far as that takes no time.
func (h *Host) admit(code []byte) (*Module, error) {
	d, err := h.Describe(code)
	if err != nil {
		return nil, err
	}
	return &Module{desc: d, limits: h.limits, clock: h.clock, output: h.output, cpuOnly: h.cpuOnly,
		keep: runtime.GOMAXPROCS(0) + 2}, nil
}

// build meters and compiles; nothing of the module has run yet.
func (h *Host) build(m *Module, code []byte) error {
	metered, err := meter.Rewrite(code, meter.Cost{Table: m.limits.TableSize, FunctionWork: m.limits.FunctionWork,
		ModuleWork: m.limits.ModuleWork})
	if err != nil {
		return refuse("the module cannot be metered: %v", err)
	}
	ctx := context.Background()
	rc := wazero.NewRuntimeConfig().WithMemoryLimitPages(m.limits.MemoryPages).WithDebugInfoEnabled(false)
	if m.cache = h.cacheFor(code); m.cache != nil {
		m.runtime = wazero.NewRuntimeWithConfig(ctx, rc.WithCompilationCache(m.cache))
		if m.compiled, err = compile(ctx, m.runtime, metered); err == nil {
			return m.imports(ctx)
		}
		m.runtime.Close(ctx) // perhaps it is the file that is damaged
	}
	m.runtime = wazero.NewRuntimeWithConfig(ctx, rc)
	if m.compiled, err = compile(ctx, m.runtime, metered); err != nil {
		return refuse("the module does not compile: %v", firstLine(err))
	}
	return m.imports(ctx)
}

// compile is wazero's, whose validation panics at some modules that are not
// valid (an index of a type that does not exist, in its version 1.12).
func compile(ctx context.Context, rt wazero.Runtime, code []byte) (_ wazero.CompiledModule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is not valid: %v", p)
		}
	}()
	return rt.CompileModule(ctx, code)
}

// prepare starts, configures and tries a compiled module; then it is ready.
func (m *Module) prepare() error {
	var in *instance
	err := m.CheckStart(func() (err error) {
		if in != nil {
			in.guest.Close(context.Background())
		}
		in, err = m.instantiate()
		return err
	})
	if err != nil {
		return refuse("%w", err)
	}
	m.mu.Lock()
	m.live++
	m.mu.Unlock()
	m.tolerance = in.tolerance
	err = m.try(in)
	in.shrink() // a module that nobody uses keeps no large stacks
	m.ready.Store(err == nil)
	m.release(in, err)
	return err
}

// try runs a module once before it serves.
func (m *Module) try(in *instance) error {
	scores := make([]float64, abi.MinCandidates)
	err := m.CheckCall(func() error {
		if m.desc.Kind == Scorer {
			return in.score(trial{}, scores)
		}
		r := trialBackoff
		_, err := in.delay(&r)
		return err
	})
	if err != nil {
		return refuse("a trial call failed: %w", err)
	}
	return nil
}
