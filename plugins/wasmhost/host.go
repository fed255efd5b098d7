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
	Fuel        int64  // for one call, plus FuelPerCandidate; about one unit per instruction; default 3,000,000
	StartFuel   int64  // for an instance's start (see StartTimeout); default 20,000,000; Go needs 1 to 2 million
	MemoryPages uint32 // of 64 KiB; default 256 (16 MiB)
	ModuleBytes int    // default 16 MiB
	TableSize   uint32 // elements of all tables together; default 100,000

	Instances   int           // maximum number; default 16, or 2 per processor if that is more
	Wait        time.Duration // maximum wait of a call for an instance; default 100 ms
	ObserveWait time.Duration // maximum wait of an observation for an instance; default 10 ms

	// CallTimeout and StartTimeout limit the CPU time of the thread (real time on systems other than
	// Linux). The real time of a call is limited to 12 times its timeout, but never to less than 250 ms.
	CallTimeout  time.Duration // of one call; default 20 ms
	StartTimeout time.Duration // of an instance's start: from the start function to tolerance; default 250 ms

	// FunctionWork and ModuleWork are the maximum work of compiling one function and the whole module
	// (meter.Size.Work). A compilation cannot be stopped, so its work is estimated before it begins. One unit takes
	// about one microsecond.
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
	limits   Limits
	cacheDir string
	clock    clock
	output   Output        // nil for none
	cpuOnly  bool          // calls are ended only because of CPU time, not because of real time
	building chan struct{} // semaphore of background compilations

	// OnCacheError, if not nil, is called with the error if compiled code cannot be cached.
	OnCacheError func(error)
}

// New returns a host. Compiled code is cached in the folder cacheDir; "" means no cache.
func New(limits Limits, cacheDir string) *Host {
	return &Host{limits: limits, cacheDir: cacheDir, clock: systemClock(), building: make(chan struct{}, atOnce())}
}

// atOnce returns the maximum number of background compilations at the same time. Each compilation uses one processor
// and about 50 MB.
func atOnce() int { return max(1, min(runtime.GOMAXPROCS(0)/2, 4)) }

// WithLimits returns a host like h with other limits for the modules that it loads.
func (h *Host) WithLimits(limits Limits) *Host {
	other := *h
	other.limits = limits
	return &other
}

// OnlyCPUTime returns a host like h that does not limit the real time of calls. It is meant for
// tools, which may run at low priority.
func (h *Host) OnlyCPUTime() *Host {
	other := *h
	other.cpuOnly = true
	return &other
}

// CheckError reports why a module is refused. Its text states what to change.
type CheckError struct {
	Msg string
	Err error // the *Fault of a failed call; nil if no call failed
}

func (e *CheckError) Error() string { return e.Msg }
func (e *CheckError) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &CheckError{Msg: clip(err.Error()), Err: errors.Unwrap(err)}
}

// clip shortens a text that contains names of a module, which can have any length.
func clip(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "..."
	}
	return s
}

// Load checks, meters, compiles and configures a module, and calls it once. The parameter config is the module's
// [plugins.NAME.config] table. The error is a *CheckError if the module is the reason.
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

// Begin is like Load, but for a module that takes long to compile: it makes the quick checks before it returns, and
// the other steps of Load in the background. Until the module is ready, calls return ErrNotReady. When the module is
// ready or a step has failed, another goroutine calls the function done once, with nil or the error.
func (h *Host) Begin(code []byte, config map[string]any, done func(error)) (*Module, error) {
	m, err := h.admit(code)
	if err != nil {
		return nil, err
	}
	m.Configure(config)
	m.live++ // so that Close waits for the build
	go func() {
		h.building <- struct{}{}
		err := ErrClosed
		if !m.isClosed() { // not closed in the meantime
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

// SlowBytes is the size in bytes at or above which a module counts as slow to compile. A module of standard
// Go has 1.8 MB and takes 0.9 s.
const SlowBytes = 64 << 10

// slowWork is the estimated work of compilation (meter.Size.Work) at or above which a module counts as slow
// to compile.
const slowWork = 100_000

// Slow reports whether compiling a module probably takes more than 0.1 s, because of its size or of the estimated
// work. It returns false for a module that cannot be compiled.
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

// Compile checks, meters and compiles a module. Only a Probe (Module.Probe) can call the module. The error is a
// *CheckError if the module is the reason.
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

// admit makes the quick checks of a module and returns it uncompiled.
func (h *Host) admit(code []byte) (*Module, error) {
	d, err := h.Describe(code)
	if err != nil {
		return nil, err
	}
	return &Module{desc: d, limits: h.limits, clock: h.clock, output: h.output, cpuOnly: h.cpuOnly,
		keep: runtime.GOMAXPROCS(0) + 2}, nil
}

// build meters and compiles the code of the module m. It does not run the module.
func (h *Host) build(m *Module, code []byte) error {
	metered, err := meter.Rewrite(code, meter.Cost{Table: m.limits.TableSize, FunctionWork: m.limits.FunctionWork,
		ModuleWork: m.limits.ModuleWork})
	if err != nil {
		return refuse("the module cannot be metered: %v", err)
	}
	ctx := context.Background()
	rc := wazero.NewRuntimeConfig().WithCoreFeatures(meter.Features).
		WithMemoryLimitPages(m.limits.MemoryPages).WithDebugInfoEnabled(false)
	if m.cache = h.cacheFor(code); m.cache != nil {
		m.runtime = wazero.NewRuntimeWithConfig(ctx, rc.WithCompilationCache(m.cache))
		if m.compiled, err = compile(ctx, m.runtime, metered); err == nil {
			return m.imports(ctx)
		}
		m.runtime.Close(ctx) // compile again without the cache, whose file may be damaged
	}
	m.runtime = wazero.NewRuntimeWithConfig(ctx, rc)
	if m.compiled, err = compile(ctx, m.runtime, metered); err != nil {
		return refuse("the module does not compile: %v", firstLine(err))
	}
	return m.imports(ctx)
}

// compile compiles a module with wazero. It recovers from panics: wazero 1.12 panics on an index of
// a type that does not exist.
func compile(ctx context.Context, rt wazero.Runtime, code []byte) (_ wazero.CompiledModule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is not valid: %v", p)
		}
	}()
	return rt.CompileModule(ctx, code)
}

// busyTries is the maximum number of times that prepare tries to call a module on an overloaded machine.
const busyTries = 8

// prepare starts and configures a compiled module, and calls it once. It tries again if the call has waited for a
// processor for too long, because that is not the module's fault.
func (m *Module) prepare() (err error) {
	for range busyTries {
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
		return refuse("%w", err)
	}
	m.mu.Lock()
	m.live++
	m.mu.Unlock()
	m.tolerance, m.wants = in.tolerance, in.wants
	err = m.try(in)
	in.shrink() // an unused module keeps no large stacks
	m.ready.Store(err == nil)
	m.release(in, err)
	return err
}

// try makes the first call of a module, with an input for tests.
func (m *Module) try(in *instance) error {
	scores := make([]float64, abi.MinCandidates)
	err := m.CheckCall(func() error {
		switch m.desc.Kind {
		case Scorer:
			return in.score(trial{}, scores)
		case Judge:
			_, err := in.rule(trialJudge(in.wants))
			return err
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
