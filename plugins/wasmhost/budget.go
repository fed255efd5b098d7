package wasmhost

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
)

// Go's scheduler cannot preempt guest code. A garbage collection would wait for the guest, and all goroutines
// would wait for the garbage collection. For this reason a call gets its fuel in slices. At the end of each
// slice the guest calls the host. There, Go's scheduler can stop the goroutine, and the host checks the fuel,
// the time and the stack of the call.

// slice is the fuel that a call gets at a time. The guest uses it up in 5 µs to 2 ms.
const slice = 20_000

// The limits of a call's stack. wazero begins with a stack of 10 KiB and doubles it whenever it is full, up to 80 MB.
// wazero keeps the stack for the next call of the same function.
const (
	maxStack  = 1 << 20  // bytes; a call whose stack grows beyond this is ended
	keptStack = 64 << 10 // bytes; a larger stack may be freed after the call

	// keptStacks is the maximum total size, in bytes, of the stacks larger than keptStack that the idle instances of
	// a module keep. Such stacks are kept because growing a stack takes time.
	keptStacks = 4 << 20

	// stackStep is the number of bytes by which functions with large frames may grow the stack before the host checks
	// its size. Other functions take at most meter.StackPerFuel bytes for each unit of fuel in a slice.
	stackStep = 1 << 20
)

// Reasons why the host ends a call.
var (
	errFuel  = errors.New("the plugin used up its fuel")
	errStack = fmt.Errorf("the stack of the call grew beyond %d KiB", maxStack>>10)
)

// timeoutError reports that a call used more CPU time than its timeout.
type timeoutError struct{ timeout time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("the call took longer than %v of CPU time", e.timeout)
}

// lateError reports that a call took too much real time, although it used little CPU time.
type lateError struct{ limit time.Duration }

func (e *lateError) Error() string {
	return fmt.Sprintf("the call did not end within %v because it got too little CPU time: the machine is overloaded",
		e.limit)
}

// Is makes errors.Is(err, ErrBusy) true, because the module has not caused the delay.
func (e *lateError) Is(target error) bool { return target == ErrBusy }

// A call fails if its real time exceeds both clockFactor times its timeout and minClock. A guest cannot
// sleep, so such a call has waited for a processor. Its error wraps ErrBusy, as if no instance had been free.
const (
	clockFactor = 12
	minClock    = 250 * time.Millisecond
)

// budget is the fuel and time that are left for the call in progress.
type budget struct {
	fuel    int64         // fuel of the call that has not been added to the module's counter yet
	timeout time.Duration // of the thread's CPU time
	began   time.Time     // real time at the end of the first slice; zero before
	cpu     time.Duration // the thread's CPU time when the goroutine was locked to it
	locked  bool          // the goroutine is locked to its thread
	slow    bool          // the call has taken more than 1/slowShare of the timeout

	err error // why the host ended the call
}

// allow sets the fuel and the CPU time that all calls until the next call of allow may use in total.
func (in *instance) allow(fuel int64, timeout time.Duration) {
	first := min(fuel, slice)
	in.budget = budget{fuel: fuel - first, timeout: timeout}
	in.fuel.Set(uint64(first))
	in.stackLeft.Set(stackStep)
}

// fuelLeft returns the fuel that remained after the last call. It is negative if the call used more fuel
// than it had.
func (in *instance) fuelLeft() int64 { return int64(in.fuel.Get()) + in.budget.fuel }

// refuel is called by the module when its fuel counter is below zero. The parameter left is the counter's value.
// refuel returns a new value, or ends the call.
func (in *instance) refuel(left int64) int64 {
	b := &in.budget
	if left+b.fuel < 0 {
		in.fuel.Set(uint64(left))
		in.end(errFuel)
	}
	in.checkTime()
	in.checkStack()
	grant := min(b.fuel, slice-left)
	b.fuel -= grant
	return left + grant
}

// end aborts the running call by a panic, which wazero returns as an error to (*instance).invoke.
func (in *instance) end(err error) {
	in.budget.err = err
	panic(err)
}

// checkTime ends a call that has taken too long. It makes no system call during the first eighth of
// the timeout, so that short calls stay cheap.
func (in *instance) checkTime() {
	b := &in.budget
	now := in.module.clock.now()
	if b.began.IsZero() {
		b.began = now
		return
	}
	elapsed := now.Sub(b.began)
	switch {
	case elapsed > max(minClock, clockFactor*b.timeout) && !in.module.cpuOnly:
		in.end(&lateError{max(minClock, clockFactor*b.timeout)})
	case elapsed < b.timeout/8:
	case !b.locked:
		runtime.LockOSThread()
		b.locked, b.cpu = true, in.module.clock.cpu()
	default:
		used := in.module.clock.cpu() - b.cpu + b.timeout/8
		if used > b.timeout {
			in.end(&timeoutError{b.timeout})
		}
		b.slow = b.slow || used > b.timeout/slowShare
	}
}

// checkStack ends a call whose stack has grown too large.
func (in *instance) checkStack() {
	if in.running.stackSize() > maxStack {
		in.end(errStack)
	}
	in.stackLeft.Set(stackStep)
}

// entry is an exported function of an instance and the stack of its calls.
type entry struct {
	name  string
	call  api.Function
	stack reflect.Value // the field of call that has the stack; see stackOf
}

// export returns the exported function with the given name, or nil.
func (in *instance) export(name string) *entry {
	f := in.guest.ExportedFunction(name)
	if f == nil {
		return nil
	}
	e := &entry{name, f, stackOf(f)}
	in.entries = append(in.entries, e)
	return e
}

// stackOf returns the field that holds the stack of f, a function of wazero 1.12. A function of wazero's interpreter
// has no such field; stackOf then returns the zero reflect.Value. The interpreter limits the depth of calls itself.
func stackOf(f api.Function) reflect.Value {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	if stack := v.Elem().FieldByName("stack"); stack.IsValid() && stack.Kind() == reflect.Slice {
		return stack
	}
	return reflect.Value{}
}

// stackSize returns the size of the stack in bytes.
func (e *entry) stackSize() int {
	if !e.stack.IsValid() {
		return 0
	}
	return e.stack.Len()
}

// grown returns the total size of the stacks larger than keptStack, in bytes.
func (in *instance) grown() (bytes int) {
	for _, e := range in.entries {
		if size := e.stackSize(); size > keptStack {
			bytes += size
		}
	}
	return bytes
}

// shrink frees the stacks larger than keptStack.
func (in *instance) shrink() {
	for _, e := range in.entries {
		if e.stackSize() > keptStack {
			e.call = in.guest.ExportedFunction(e.name)
			e.stack = stackOf(e.call)
		}
	}
	in.large = false
}

// invoke calls f within the budget. The parameters are in the instance's stack field.
func (in *instance) invoke(f *entry) error {
	in.host.printed.reset()
	in.running = f
	err := f.call.CallWithStack(in.ctx, in.stack[:])
	if in.budget.locked {
		in.budget.locked = false
		runtime.UnlockOSThread()
	}
	in.host.printed.flush()
	in.large = in.large || f.stackSize() > keptStack
	if err == nil {
		if in.budget.slow && f == in.main {
			in.module.slow.Add(1)
		}
		return nil
	}
	return in.fault(err)
}

// fault converts the error of a failed call to a *Fault.
func (in *instance) fault(err error) error {
	ended := in.budget.err
	if errors.Is(ended, ErrBusy) {
		return &Fault{Reason: ReasonBusy, Err: ended}
	}
	f := &Fault{Reason: ReasonTrap, Stack: stackOfError(err, len(in.module.desc.Imports))}
	text := firstLine(err)
	if ended != nil {
		text = ended.Error()
	}
	var late *timeoutError
	switch {
	case errors.Is(ended, errFuel):
		f.Reason = ReasonFuel
	case errors.As(ended, &late):
		f.Reason = ReasonTimeout
	}
	f.Err = errors.New(text + in.host.printed.because())
	return f
}

// importMeter adds the functions that a metered module imports (meter.Rewrite).
func (m *Module) importMeter(b wazero.HostModuleBuilder) wazero.HostModuleBuilder {
	refuel := api.GoModuleFunc(func(ctx context.Context, _ api.Module, p []uint64) {
		p[0] = uint64(caller(ctx).refuel(int64(p[0])))
	})
	look := api.GoModuleFunc(func(ctx context.Context, _ api.Module, _ []uint64) { caller(ctx).checkStack() })
	one, many := []api.ValueType{api.ValueTypeI64}, meter.RefuelLoopValues()
	return b.NewFunctionBuilder().WithGoModuleFunction(refuel, one, one).Export(meter.RefuelImport).
		NewFunctionBuilder().WithGoModuleFunction(refuel, many, many).Export(meter.RefuelLoopImport).
		NewFunctionBuilder().WithGoModuleFunction(look, nil, nil).Export(meter.StackImport)
}

type callerKey struct{}

// caller returns the instance whose code has called the host.
func caller(ctx context.Context) *instance { return ctx.Value(callerKey{}).(*instance) }
