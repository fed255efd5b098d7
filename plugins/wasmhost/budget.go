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

// Go's scheduler cannot stop a goroutine within guest code. A garbage collection would have to wait for the guest, and
// all other goroutines for the garbage collection. Therefore a call gets its fuel in slices. At the end of each slice
// the guest calls the host. There, the scheduler can stop the goroutine, and the host checks the fuel, the time and the
// stack of the call.

// fuelSlice is the fuel that a call gets at a time. The guest uses it up in 5 µs to 2 ms.
const fuelSlice = 20_000

// The limits of a call's stack. A stack begins with 10 KiB. wazero doubles it whenever it is full, up to 80 MB, and
// keeps it for the next call of the same function.
const (
	maxStack     = 1 << 20  // bytes; a call whose stack grows beyond this is ended
	maxKeptStack = 64 << 10 // bytes; a larger stack may be freed after the call

	// maxKeptStacks is the maximum total size, in bytes, of the large stacks that the idle instances of a module keep.
	// A stack is large if it exceeds maxKeptStack. Large stacks are kept because growing a stack takes time.
	maxKeptStacks = 4 << 20

	// stackStep is the number of bytes by which functions with large frames may grow the stack before the host checks
	// its size. Other functions need no such limit, because their fuel limits the stack: a frame takes at most
	// meter.StackPerFuel bytes for each unit of fuel.
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

// overloadError reports that a call took too much real time, although it used little CPU time.
type overloadError struct{ limit time.Duration }

func (e *overloadError) Error() string {
	return fmt.Sprintf("the call did not end within %v because it got too little CPU time: the machine is overloaded",
		e.limit)
}

// Is makes overloadError match ErrBusy, because the module has not caused the delay.
func (e *overloadError) Is(target error) bool { return target == ErrBusy }

// A call fails if its real time exceeds both minRealTimeout and realTimeFactor times its timeout. A guest cannot
// sleep, so such a call has waited for a processor.
const (
	realTimeFactor = 12
	minRealTimeout = 250 * time.Millisecond
)

// budget is the fuel and time that are left for the call in progress.
type budget struct {
	fuel          int64         // fuel of the call that has not been added to the module's counter yet
	timeout       time.Duration // limit on the thread's CPU time
	firstSliceEnd time.Time     // real time at the end of the first slice; zero before
	cpuAtLock     time.Duration // the thread's CPU time when the goroutine was locked to it
	threadLocked  bool          // the goroutine is locked to its thread
	isSlow        bool          // the call has taken more than 1/slowShare of the timeout

	err error // reason why the host ended the call; nil if it did not
}

// setBudget sets the fuel and the CPU time that all calls until the next setBudget may use in total.
func (in *instance) setBudget(fuel int64, timeout time.Duration) {
	first := min(fuel, fuelSlice)
	in.budget = budget{fuel: fuel - first, timeout: timeout}
	in.fuel.Set(uint64(first))
	in.stackLeft.Set(stackStep)
}

// fuelLeft returns the fuel that remained after the last call; negative if the call used more than it had.
func (in *instance) fuelLeft() int64 { return int64(in.fuel.Get()) + in.budget.fuel }

// The module calls refuel when its fuel counter is below zero. The parameter left is the value of the counter. refuel
// returns a new value of the counter, or ends the call.
func (in *instance) refuel(left int64) int64 {
	b := &in.budget
	if left+b.fuel < 0 {
		in.fuel.Set(uint64(left))
		in.abortCall(errFuel)
	}
	in.checkTime()
	in.checkStack()
	grant := min(b.fuel, fuelSlice-left)
	b.fuel -= grant
	return left + grant
}

// abortCall ends the running call by a panic. wazero catches the panic and returns it to invoke as the error of the
// call.
func (in *instance) abortCall(err error) {
	in.budget.err = err
	panic(err)
}

// checkTime ends a call that has taken too long. In the first eighth of the timeout it makes no system call, so that
// short calls stay cheap.
func (in *instance) checkTime() {
	b := &in.budget
	now := in.module.clock.now()
	if b.firstSliceEnd.IsZero() {
		b.firstSliceEnd = now
		return
	}
	elapsed := now.Sub(b.firstSliceEnd)
	switch {
	case elapsed > max(minRealTimeout, realTimeFactor*b.timeout) && !in.module.cpuTimeOnly:
		in.abortCall(&overloadError{max(minRealTimeout, realTimeFactor*b.timeout)})
	case elapsed < b.timeout/8:
	case !b.threadLocked:
		runtime.LockOSThread()
		b.threadLocked, b.cpuAtLock = true, in.module.clock.cpu()
	default:
		used := in.module.clock.cpu() - b.cpuAtLock + b.timeout/8
		if used > b.timeout {
			in.abortCall(&timeoutError{b.timeout})
		}
		b.isSlow = b.isSlow || used > b.timeout/slowShare
	}
}

// checkStack ends a call whose stack is too large.
func (in *instance) checkStack() {
	if in.running.stackSize() > maxStack {
		in.abortCall(errStack)
	}
	in.stackLeft.Set(stackStep)
}

// exportedFunc is an exported function of an instance and the stack of its calls.
type exportedFunc struct {
	name  string
	call  api.Function
	stack reflect.Value // the field of call that has the stack; see stackOf
}

// export returns the exported function with the given name, or nil.
func (in *instance) export(name string) *exportedFunc {
	f := in.guest.ExportedFunction(name)
	if f == nil {
		return nil
	}
	e := &exportedFunc{name, f, stackOf(f)}
	in.entries = append(in.entries, e)
	return e
}

// stackOf returns the field of f that holds the stack of its calls, as in wazero 1.12. It returns the zero Value for a
// function of wazero's interpreter, which has no such field and limits the depth of calls itself.
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

func (e *exportedFunc) stackSize() int {
	if !e.stack.IsValid() {
		return 0
	}
	return e.stack.Len()
}

// largeStackBytes returns the total size of the stacks larger than maxKeptStack.
func (in *instance) largeStackBytes() (bytes int) {
	for _, e := range in.entries {
		if size := e.stackSize(); size > maxKeptStack {
			bytes += size
		}
	}
	return bytes
}

// freeLargeStacks frees the stacks larger than maxKeptStack.
func (in *instance) freeLargeStacks() {
	for _, e := range in.entries {
		if e.stackSize() > maxKeptStack {
			e.call = in.guest.ExportedFunction(e.name)
			e.stack = stackOf(e.call)
		}
	}
	in.hasLargeStack = false
}

// invoke calls the exported function f within the budget. Before the call, the instance's field stack has the
// parameters; after the call, it has the result.
func (in *instance) invoke(f *exportedFunc) error {
	in.host.output.reset()
	in.running = f
	err := f.call.CallWithStack(in.ctx, in.stack[:])
	if in.budget.threadLocked {
		in.budget.threadLocked = false
		runtime.UnlockOSThread()
	}
	in.host.output.flush()
	in.hasLargeStack = in.hasLargeStack || f.stackSize() > maxKeptStack
	if err == nil {
		if in.budget.isSlow && f == in.mainExport {
			in.module.slowCalls.Add(1)
		}
		return nil
	}
	return in.faultOf(err)
}

// faultOf converts the error of a failed call to a *Fault.
func (in *instance) faultOf(err error) error {
	ended := in.budget.err
	if errors.Is(ended, ErrBusy) {
		return &Fault{Reason: ReasonBusy, Err: ended}
	}
	f := &Fault{Reason: ReasonTrap, Stack: stackOfError(err, len(in.module.desc.Imports))}
	text := firstLine(err)
	if ended != nil {
		text = ended.Error()
	}
	var timeout *timeoutError
	switch {
	case errors.Is(ended, errFuel):
		f.Reason = ReasonFuel
	case errors.As(ended, &timeout):
		f.Reason = ReasonTimeout
	}
	f.Err = errors.New(text + in.host.output.explanationText())
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
