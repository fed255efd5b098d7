// Package wasmhost runs plugins: it checks, meters, compiles and calls modules that implement
// sdk/ABI.md. No other package uses wazero.
//
// A call makes no allocation. The host writes records of float64 directly into the memory of an instance,
// makes one call for all candidates, and reads the scores. Each call is limited in fuel, CPU time and stack.
// A module has no access to files, network, environment or the clock.
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

// Kind is the kind of a plugin.
type Kind string

// The kinds.
const (
	Scorer  Kind = "scorer"
	Backoff Kind = "backoff"
	Judge   Kind = "judge"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Scorer, Backoff, Judge} }

// Limits are the limits for one module.
type Limits struct {
	Fuel        int64  // fuel of a call, about one unit per instruction; FuelPerCandidate is added; default 3,000,000
	StartFuel   int64  // fuel of an instance's start (see StartTimeout); Go needs 1 to 2 million; default 20,000,000
	MemoryPages uint32 // maximum memory in pages of 64 KiB; default 256 (16 MiB)
	ModuleBytes int    // maximum size of a module; default 16 MiB
	TableSize   uint32 // maximum elements of all tables together; default 100,000

	Instances   int           // maximum number; default 16, or 2 per processor if that is more
	Wait        time.Duration // maximum wait of a call for an instance; default 100 ms
	ObserveWait time.Duration // maximum wait of an observation for an instance; default 10 ms

	// CallTimeout and StartTimeout limit the CPU time of the thread (the real time on systems other than Linux). The
	// real time of a call is also limited: to 12 times its timeout, or to 250 ms if that is more.
	CallTimeout  time.Duration // limit of one call; default 20 ms
	StartTimeout time.Duration // limit of an instance's start, with configure and tolerance; default 250 ms

	// FunctionWork and ModuleWork limit the estimated work of compiling one function and the whole module
	// (meter.Size.Work). The host estimates the work first, because a compilation cannot be stopped. One unit of work
	// takes about one microsecond.
	FunctionWork int64 // default 1,000,000
	ModuleWork   int64 // default 24,000,000
}

// DefaultLimits returns the defaults of Limits.
func DefaultLimits() Limits {
	return Limits{
		Fuel: 3_000_000, StartFuel: 20_000_000, MemoryPages: 256, ModuleBytes: 16 << 20, TableSize: 100_000,
		Instances: max(16, 2*runtime.GOMAXPROCS(0)), Wait: 100 * time.Millisecond, ObserveWait: 10 * time.Millisecond,
		CallTimeout: DefaultCallTimeout, StartTimeout: DefaultStartTimeout,
		FunctionWork: 1_000_000, ModuleWork: 24_000_000,
	}
}

// The defaults of Limits.CallTimeout and StartTimeout.
const (
	DefaultCallTimeout  = 20 * time.Millisecond
	DefaultStartTimeout = 250 * time.Millisecond
)

// FuelPerCandidate is the fuel that a call gets for each candidate, in addition to Limits.Fuel.
const FuelPerCandidate = 4_000

// Host loads modules. It is safe for concurrent use.
type Host struct {
	limits       Limits
	cacheDir     string
	clock        clock
	output       Output        // nil for none
	cpuTimeOnly  bool          // calls are ended only because of CPU time, not because of real time
	compileSlots chan struct{} // semaphore of background compilations

	// OnCacheError receives the error if the cache cannot be opened. It may be nil.
	OnCacheError func(error)
}

// New returns a host. Compiled code is cached in the folder cacheDir; "" means no cache.
func New(limits Limits, cacheDir string) *Host {
	return &Host{limits: limits, cacheDir: cacheDir, clock: systemClock(), compileSlots: make(chan struct{},
		maxCompilations())}
}

// maxCompilations returns the maximum number of background compilations at the same time. Each uses one processor and
// about 50 MB.
func maxCompilations() int { return max(1, min(runtime.GOMAXPROCS(0)/2, 4)) }

// WithLimits returns a host like h with other limits for the modules that it loads.
func (h *Host) WithLimits(limits Limits) *Host {
	other := *h
	other.limits = limits
	return &other
}

// OnlyCPUTime returns a host like h that does not limit the real time of calls. It is for tools, which may run at low
// priority.
func (h *Host) OnlyCPUTime() *Host {
	other := *h
	other.cpuTimeOnly = true
	return &other
}

// CheckError reports why a module is refused. Its text states what to change.
type CheckError struct {
	Msg string
	Err error // the *Fault of a failed call; nil if no call failed
}

func (e *CheckError) Error() string { return e.Msg }
func (e *CheckError) Unwrap() error { return e.Err }

func checkError(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &CheckError{Msg: shorten(err.Error()), Err: errors.Unwrap(err)}
}

// shorten shortens a text that contains names from a module. Such names can have any length.
func shorten(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "..."
	}
	return s
}

// Load checks, meters, compiles and configures a module, and calls it once. The parameter config is the table
// [plugins.NAME.config]. The error is a *CheckError if the module is the cause.
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

// LoadInBackground is like Load, but returns after the quick checks, and does the rest in another goroutine. Calls
// return ErrNotReady until the module is ready. When the other goroutine has finished, it calls done with nil or, if a
// step has failed, with the error.
func (h *Host) LoadInBackground(code []byte, config map[string]any, done func(error)) (*Module, error) {
	m, err := h.newModule(code)
	if err != nil {
		return nil, err
	}
	m.Configure(config)
	m.instanceCount++ // so that Close waits for the build
	go func() {
		h.compileSlots <- struct{}{}
		err := ErrClosed
		if !m.isClosed() { // the module was not closed in the meantime
			if err = h.build(m, code); err == nil {
				err = m.prepare()
			}
		}
		<-h.compileSlots
		m.instanceEnded()
		done(err)
	}()
	return m, nil
}

// SlowBytes is a size in bytes. A module of at least this size counts as slow to compile. A module of standard Go has
// 1.8 MB and takes 0.9 s to compile.
const SlowBytes = 64 << 10

// slowWork is the estimated work (meter.Size.Work) above which a module counts as slow to compile.
const slowWork = 100_000

// IsSlowToCompile reports whether compiling a module probably takes more than 0.1 s. It returns false for a module that
// cannot be compiled.
func IsSlowToCompile(code []byte) bool {
	if len(code) >= SlowBytes {
		return true
	}
	if _, err := meter.Rewrite(code, meter.Cost{}); err != nil {
		return false
	}
	_, err := meter.Rewrite(code, meter.Cost{FunctionWork: slowWork, ModuleWork: slowWork})
	return err != nil
}

// Compile checks, meters and compiles a module. Only a Probe (Module.Probe) can call the compiled module. The error is
// a *CheckError if the module is the cause.
func (h *Host) Compile(code []byte) (*Module, error) {
	m, err := h.newModule(code)
	if err != nil {
		return nil, err
	}
	if err := h.build(m, code); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// newModule makes the quick checks of a module, and returns it uncompiled.
func (h *Host) newModule(code []byte) (*Module, error) {
	d, err := h.Describe(code)
	if err != nil {
		return nil, err
	}
	return &Module{desc: d, limits: h.limits, clock: h.clock, output: h.output, cpuTimeOnly: h.cpuTimeOnly,
		maxIdle: runtime.GOMAXPROCS(0) + 2}, nil
}

// build meters and compiles a module. It does not run it.
func (h *Host) build(m *Module, code []byte) error {
	metered, err := meter.Rewrite(code, meter.Cost{Table: m.limits.TableSize, FunctionWork: m.limits.FunctionWork,
		ModuleWork: m.limits.ModuleWork})
	if err != nil {
		return checkError("the module cannot be metered: %v", err)
	}
	ctx := context.Background()
	rc := wazero.NewRuntimeConfig().WithCoreFeatures(meter.Features).
		WithMemoryLimitPages(m.limits.MemoryPages).WithDebugInfoEnabled(false)
	if m.cache = h.cacheFor(code); m.cache != nil {
		m.runtime = wazero.NewRuntimeWithConfig(ctx, rc.WithCompilationCache(m.cache))
		if m.compiled, err = compile(ctx, m.runtime, metered); err == nil {
			return m.provideImports(ctx)
		}
		m.runtime.Close(ctx) // compile again without the cache, whose file may be damaged
	}
	m.runtime = wazero.NewRuntimeWithConfig(ctx, rc)
	if m.compiled, err = compile(ctx, m.runtime, metered); err != nil {
		return checkError("the module does not compile: %v", firstLine(err))
	}
	return m.provideImports(ctx)
}

// compile compiles a module, and converts a panic of wazero to an error. wazero 1.12 panics on an index of a type that
// does not exist.
func compile(ctx context.Context, rt wazero.Runtime, code []byte) (_ wazero.CompiledModule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is not valid: %v", p)
		}
	}()
	return rt.CompileModule(ctx, code)
}

// maxPrepareAttempts is the maximum number of times that prepare tries to call a module on an overloaded machine.
const maxPrepareAttempts = 8

// prepare starts and configures a compiled module, and calls it once. It does so again if the call has waited too long
// for a processor.
func (m *Module) prepare() (err error) {
	for range maxPrepareAttempts {
		if err = m.prepareOnce(); !errors.Is(err, ErrBusy) {
			break
		}
	}
	return err
}

func (m *Module) prepareOnce() error {
	var in *instance
	err := m.CheckStart(func() (err error) {
		if in != nil {
			in.guest.Close(context.Background())
		}
		in, err = m.instantiate()
		return err
	})
	if err != nil {
		return checkError("%w", err)
	}
	m.mu.Lock()
	m.instanceCount++
	m.mu.Unlock()
	m.tolerance, m.excerptSpec = in.tolerance, in.excerptSpec
	err = m.sampleCall(in)
	in.freeLargeStacks() // an unused module keeps no large stacks
	m.ready.Store(err == nil)
	m.release(in, err)
	return err
}

// sampleCall makes the first call of a module.
func (m *Module) sampleCall(in *instance) error {
	scores := make([]float64, abi.MinCandidates)
	err := m.CheckCall(func() error {
		switch m.desc.Kind {
		case Scorer:
			return in.callScore(sampleCandidates{}, scores)
		case Judge:
			_, err := in.callJudge(sampleForJudge(in.excerptSpec))
			return err
		}
		r := sampleBackoff
		_, err := in.callBackoff(&r)
		return err
	})
	if err != nil {
		return checkError("a trial call failed: %w", err)
	}
	return nil
}
