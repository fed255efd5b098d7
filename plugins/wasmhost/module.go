package wasmhost

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// The records of core and of sdk/abi must have the same layout, because the records of core are copied into the memory
// of a module. The following lines do not compile if the sizes differ. A test compares the fields.
var (
	_ [abi.RankRequestSize - unsafe.Sizeof(core.RankRequest{})]struct{}
	_ [unsafe.Sizeof(core.RankRequest{}) - abi.RankRequestSize]struct{}
	_ [abi.CandidateSize - unsafe.Sizeof(core.Candidate{})]struct{}
	_ [unsafe.Sizeof(core.Candidate{}) - abi.CandidateSize]struct{}
	_ [abi.BackoffRequestSize - unsafe.Sizeof(core.BackoffRequest{})]struct{}
	_ [unsafe.Sizeof(core.BackoffRequest{}) - abi.BackoffRequestSize]struct{}
	_ [abi.JudgeRequestSize - 16 - unsafe.Sizeof(core.JudgeRequest{})]struct{} // core's has no addresses
	_ [unsafe.Sizeof(core.JudgeRequest{}) - (abi.JudgeRequestSize - 16)]struct{}
	_ [abi.ObservationSize - unsafe.Sizeof(core.Observation{})]struct{}
	_ [unsafe.Sizeof(core.Observation{}) - abi.ObservationSize]struct{}
)

// ErrClosed is the error of calls of a closed module. ErrNotReady is the error of calls of a module that is being
// compiled or cannot be compiled (Host.LoadInBackground).
var (
	ErrClosed   = errors.New("the plugin has been replaced")
	ErrNotReady = errors.New("the plugin is not ready")
)

// Fault reports a failed call of a module.
type Fault struct {
	Reason string // one of the Reason constants
	Err    error
	Stack  []string // functions in progress when the call trapped, the innermost first
}

// The reasons of faults. Metrics, API and sdk/ABI.md use these words.
const (
	ReasonTrap          = "trap"           // the call trapped, or no instance could be started
	ReasonFuel          = "fuel"           // the call used up its fuel
	ReasonTimeout       = "timeout"        // the call used up its CPU time
	ReasonMemory        = "memory"         // reserve returned no usable region
	ReasonStatus        = "status"         // the module returned a status other than abi.StatusOK
	ReasonNotFinite     = "not_finite"     // a score or delay is NaN or infinite
	ReasonNegativeDelay = "negative_delay" // a delay is below 0
	ReasonRuling        = "ruling"         // the kind of a ruling is not one of the kinds in abi
	ReasonBusy          = "busy"           // ErrBusy
	ReasonSlow          = "slow"           // the call succeeded, but took more CPU time than Module.SlowLimit
)

func (f *Fault) Error() string { return f.Reason + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// Module is a module that is loaded or being loaded. It is safe for concurrent use: simultaneous calls use different
// instances. There are at most Limits.Instances instances, and only one if the module learns. A call of the zero Module
// returns ErrNotReady.
type Module struct {
	desc        Description
	limits      Limits
	clock       clock
	output      Output
	cpuTimeOnly bool
	runtime     wazero.Runtime
	cache       wazero.CompilationCache

	compiled    wazero.CompiledModule
	config      []pair
	ready       atomic.Bool // set when the fields above, tolerance and excerptSpec are set
	tolerance   float64
	excerptSpec *core.ExcerptSpec // nil unless the module is a judge
	pool        atomic.Pointer[[]Proxy]
	settings    atomic.Pointer[[]Setting]
	slowCalls   atomic.Uint64 // number of slow calls; see SlowCalls

	mu             sync.Mutex // guards the fields below
	idle           []*instance
	maxIdle        int          // maximum number of idle instances
	idleStackBytes int          // total bytes of the stacks of idle instances that are larger than maxKeptStack
	instanceCount  int          // number of instances, including those being started
	waitingCalls   []chan error // calls that wait for an instance, see wakeCalls
	isStarting     bool
	closed         bool
}

// Description returns the module's declarations.
func (m *Module) Description() Description { return m.desc }

// Learns reports whether the module receives observations.
func (m *Module) Learns() bool { return m.desc.Learns }

// WantsPool reports whether the module receives the proxies of the pool.
func (m *Module) WantsPool() bool { return m.desc.WantsPool }

// IsReady reports whether the module can be called.
func (m *Module) IsReady() bool { return m.ready.Load() }

// Tolerance implements core.Tolerance. It returns 0 if the module does not export "tolerance".
func (m *Module) Tolerance() float64 {
	if !m.ready.Load() {
		return 0
	}
	return m.tolerance
}

// instance is a running module with its own memory.
type instance struct {
	module *Module
	guest  api.Module
	memory api.Memory

	fuel, stackLeft api.MutableGlobal // counters added by meter.Rewrite
	budget          budget
	running         *exportedFunc // the function that was called last
	entries         []*exportedFunc
	hasLargeStack   bool // a stack is larger than maxKeptStack

	reserve, mainExport, configure, observe, poolChanged *exportedFunc

	regionAddress, regionSize uint32 // address and size of the region that reserve returned last
	stack                     [4]uint64
	tolerance                 float64
	excerptSpec               *core.ExcerptSpec // nil unless the module is a judge
	pool                      *[]Proxy          // the proxies that the instance has last received
	host                      hostState
	ctx                       context.Context // contains the instance; see caller
}

func (m *Module) instantiate() (*instance, error) {
	in := &instance{module: m}
	in.host.in, in.host.output.output = in, m.output
	ctx := context.WithValue(context.Background(), callerKey{}, in)
	in.ctx = ctx
	guest, err := m.instantiateGuest(ctx)
	if err != nil {
		return nil, checkError("the module does not start: %s", firstLine(err))
	}
	in.guest, in.memory = guest, guest.ExportedMemory(abi.Memory)
	fail := func(format string, args ...any) (*instance, error) {
		guest.Close(ctx)
		err := checkError(format, args...)
		in.logFault("the start of an instance", err)
		return nil, err
	}
	in.fuel = guest.ExportedGlobal(meter.FuelExport).(api.MutableGlobal)
	in.stackLeft = guest.ExportedGlobal(meter.StackExport).(api.MutableGlobal)
	in.setBudget(m.limits.StartFuel, m.limits.StartTimeout)
	if start := in.export(meter.StartExport); start != nil {
		if err := in.invoke(start); err != nil {
			return fail("the module does not start (its start function may take %d units of fuel): %w",
				m.limits.StartFuel, err)
		}
	}
	if init := in.export(abi.Initialize); init != nil {
		if err := in.invoke(init); err != nil {
			return fail("%s failed: %w", abi.Initialize, err)
		}
	}
	in.reserve = in.export(abi.Reserve)
	in.configure = in.export(abi.Configure)
	in.observe = in.export(abi.Observe)
	in.poolChanged = in.export(abi.PoolChanged)
	in.mainExport = in.export(mainExports[m.desc.Kind])
	if err := in.checkConfig(m.config); err != nil {
		return fail("%w", err)
	}
	if in.configure != nil {
		if err := in.callConfigure(m.config); err != nil {
			return fail("%s failed: %w", abi.Configure, err)
		}
	} else if len(m.config) > 0 {
		return fail("the plugin takes no configuration: it exports no %s", abi.Configure)
	}
	if f := in.export(abi.Tolerance); f != nil {
		if err := in.invoke(f); err != nil {
			return fail("%s failed: %w", abi.Tolerance, err)
		}
		t := math.Float64frombits(in.stack[0])
		if !(t >= 0 && t <= 1) {
			return fail("%s returned %v; it must be 0 to 1", abi.Tolerance, t)
		}
		in.tolerance = t
	}
	if m.desc.Kind == Judge {
		if in.excerptSpec, err = in.readExcerptSpec(); err != nil {
			return fail("%s failed: %w", abi.JudgeWants, err)
		}
	}
	return in, nil
}

// mainExports has, for each kind of module, the name of the function that such a module must export.
var mainExports = map[Kind]string{Scorer: abi.Score, Backoff: abi.Backoff, Judge: abi.Judge}

// instantiateGuest instantiates the module without running its code. It converts a panic of wazero, which an invalid
// module can cause, to an error.
func (m *Module) instantiateGuest(ctx context.Context) (guest api.Module, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is not valid: %v", p)
		}
	}()
	return m.runtime.InstantiateModule(ctx, m.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if len(line) > 300 {
		line = line[:300] + "..."
	}
	return strings.TrimSuffix(strings.ToValidUTF8(line, "?"), " (recovered by wazero)")
}

// region returns a region of size bytes in the memory. If the region that was reserved last is smaller, it first calls
// the export "reserve". The region is valid until the module's code runs again.
func (in *instance) region(size uint32) ([]byte, error) {
	if size > in.regionSize {
		want := (size + 4095) &^ 4095
		in.stack[0] = uint64(want)
		if err := in.invoke(in.reserve); err != nil {
			return nil, err
		}
		in.regionAddress, in.regionSize = uint32(in.stack[0]), want
		if in.regionAddress == 0 || in.regionAddress%abi.Alignment != 0 {
			in.regionSize = 0
			return nil, &Fault{Reason: ReasonMemory,
				Err: fmt.Errorf("%s(%d) returned %d: it must be an address other than 0 and a multiple of %d",
					abi.Reserve, want, in.regionAddress, abi.Alignment)}
		}
	}
	view, ok := in.memory.Read(in.regionAddress, size)
	if !ok {
		in.regionSize = 0
		return nil, &Fault{Reason: ReasonMemory, Err: fmt.Errorf("%s gave %d bytes at %d, past the end of memory",
			abi.Reserve, size, in.regionAddress)}
	}
	return view, nil
}

// Close closes the module. It does not wait: the module is freed when its calls in progress have ended. Later calls
// return ErrClosed.
func (m *Module) Close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	m.wakeCalls(len(m.waitingCalls), nil)
	idle := m.idle
	m.idle = nil
	m.instanceCount -= len(idle)
	last := m.instanceCount == 0
	m.mu.Unlock()
	for _, in := range idle {
		in.guest.Close(context.Background())
	}
	if last {
		m.destroy()
	}
}

func (m *Module) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *Module) destroy() {
	ctx := context.Background()
	if m.runtime != nil {
		m.runtime.Close(ctx)
	}
	if m.compiled != nil {
		m.compiled.Close(ctx)
	}
	if m.cache != nil {
		m.cache.Close(ctx)
	}
}

// Score implements core.Scorer. Its errors are *Fault, ErrClosed and ErrNotReady.
func (m *Module) Score(c core.Candidates, scores []float64) error {
	switch {
	case m.desc.Kind != Scorer:
		return ErrNotReady
	case c.Len() == 0:
		return nil
	}
	in, err := m.acquire(m.limits.Wait)
	if err != nil {
		return err
	}
	err = in.passPool()
	if err == nil {
		err = in.callScore(c, scores)
	}
	in.logFault(abi.Score, err)
	m.release(in, err)
	return err
}

// setCallBudget sets the fuel and the CPU time of a call that gets the given number of candidates or proxies.
func (in *instance) setCallBudget(candidates int) {
	in.setBudget(in.module.limits.Fuel+int64(candidates)*FuelPerCandidate, in.module.limits.CallTimeout)
}

func (in *instance) callScore(c core.Candidates, scores []float64) error {
	n := c.Len()
	const head = abi.RankRequestSize
	rowsEnd := uint32(head + n*abi.CandidateSize)
	size := rowsEnd + uint32(n)*abi.ScoreSize
	in.setCallBudget(n)
	view, err := in.region(size)
	if err != nil {
		return err
	}
	c.Fill((*core.RankRequest)(unsafe.Pointer(&view[0])), unsafe.Slice((*core.Candidate)(unsafe.Pointer(&view[head])),
		n))
	in.stack = [4]uint64{uint64(in.regionAddress), uint64(in.regionAddress + head), uint64(in.regionAddress + rowsEnd),
		uint64(n)}
	if err := in.invoke(in.mainExport); err != nil {
		return err
	}
	if status := int32(in.stack[0]); status != abi.StatusOK {
		return &Fault{Reason: ReasonStatus, Err: fmt.Errorf("%s returned %d", abi.Score, status)}
	}
	// read again: the memory may have moved
	view, ok := in.memory.Read(in.regionAddress+rowsEnd, uint32(n)*abi.ScoreSize)
	if !ok {
		return &Fault{Reason: ReasonMemory, Err: errors.New("the guest's memory has shrunk")}
	}
	for i := range scores[:n] {
		s := math.Float64frombits(binary.LittleEndian.Uint64(view[i*8:]))
		if s-s != 0 { // NaN or infinite
			return &Fault{Reason: ReasonNotFinite, Err: fmt.Errorf("the score of candidate %d is %v", i, s)}
		}
		scores[i] = s
	}
	return nil
}

// Delay implements core.Backoff. The result is in seconds. The errors are those of Score.
func (m *Module) Delay(r *core.BackoffRequest) (float64, error) {
	if m.desc.Kind != Backoff {
		return 0, ErrNotReady
	}
	in, err := m.acquire(m.limits.Wait)
	if err != nil {
		return 0, err
	}
	err = in.passPool()
	var d float64
	if err == nil {
		d, err = in.callBackoff(r)
	}
	in.logFault(abi.Backoff, err)
	m.release(in, err)
	return d, err
}

func (in *instance) callBackoff(r *core.BackoffRequest) (float64, error) {
	in.setCallBudget(0)
	view, err := in.region(abi.BackoffRequestSize)
	if err != nil {
		return 0, err
	}
	*(*core.BackoffRequest)(unsafe.Pointer(&view[0])) = *r
	in.stack[0] = uint64(in.regionAddress)
	if err := in.invoke(in.mainExport); err != nil {
		return 0, err
	}
	d := math.Float64frombits(in.stack[0])
	switch {
	case math.IsNaN(d) || math.IsInf(d, 0):
		return 0, &Fault{Reason: ReasonNotFinite, Err: fmt.Errorf("the delay is %v", d)}
	case d < 0:
		return 0, &Fault{Reason: ReasonNegativeDelay, Err: fmt.Errorf("the delay is %v", d)}
	}
	return d, nil
}

// Observe passes a finished attempt to a module that learns. The errors are those of Score.
func (m *Module) Observe(o *core.Observation) error {
	if !m.desc.Learns {
		return nil
	}
	in, err := m.acquire(m.limits.ObserveWait)
	if err != nil {
		return err
	}
	if err = in.passPool(); err == nil {
		err = in.callObserve(o)
	}
	in.logFault(abi.Observe, err)
	m.release(in, err)
	return err
}

func (in *instance) callObserve(o *core.Observation) error {
	in.setCallBudget(0)
	view, err := in.region(abi.ObservationSize)
	if err != nil {
		return err
	}
	*(*core.Observation)(unsafe.Pointer(&view[0])) = *o
	in.stack[0] = uint64(in.regionAddress)
	return in.invoke(in.observe)
}
