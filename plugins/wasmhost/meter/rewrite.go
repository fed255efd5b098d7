// Package meter makes a WebAssembly module count its own instructions. At every function entry and every loop
// head, the rewritten code subtracts a cost from a counter: the cost of the instructions up to the next such
// place. If the counter is below zero, the code calls the host, which either increases the counter or ends
// the call. So a rewritten module calls the host after a limited number of instructions. With the same input
// it does so at the same instructions.
//
// A second counter limits the stack. The fuel of a function's entry covers a number of bytes on the stack
// (StackPerFuel). A function whose frame may be larger subtracts the other bytes from the second counter.
//
// The counters are added as exported globals, after the module's own globals. The host functions are added as
// imports, after the module's own imports. So the indices of the functions that the module defines grow by
// three.
package meter

import (
	"fmt"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// The names of the added exports.
const (
	FuelExport  = "whirlpool_fuel"  // a mutable i64: the fuel left
	StackExport = "whirlpool_stack" // a mutable i64: bytes of stack until the next call of StackImport
	StartExport = "whirlpool_start" // () -> (): the module's start function, which the host must call
)

// The functions that a metered module imports.
const (
	ImportModule = "whirlpool"
	RefuelImport = "refuel" // (i64) -> i64: takes the negative counter and returns its new value
	StackImport  = "stack"  // () -> (): called when the counter of stack is below zero

	// RefuelLoopImport is RefuelImport for loops. It takes and returns
	// RefuelLoopValues: the fuel, and values that it leaves as they are.
	RefuelLoopImport = "refuel_loop"
)

// StackPerFuel is the number of bytes on the stack that one unit of fuel of a function's entry covers.
const StackPerFuel = 64

// Cost has the cost of instructions in fuel, and limits of the module. An instruction that is not listed here
// costs 1.
type Cost struct {
	Start        int64  // the counter's value at instantiation
	Stack        int64  // the same for the counter of stack
	Page         uint32 // cost of memory.grow per page; default 1024
	BytesPerFuel uint32 // bytes of a bulk memory instruction per unit; a power of two; default 16

	Table uint32 // maximum number of elements of all tables; 0 for no limit

	FunctionWork, ModuleWork int64 // maximum Size.Work of a function and of the module; 0 for no limit
}

// Features are the features that a metered module may use, and the host must enable: WebAssembly
// 2.0, tail calls and extended constant expressions.
const Features = api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst

// Rewrite returns the metered module. It returns an error if the module is malformed, uses a
// feature that is not in Features, or exceeds a limit of cost.
func Rewrite(module []byte, cost Cost) ([]byte, error) {
	return rewrite(module, cost, true)
}

// rewrite is Rewrite. It keeps the counter in locals, where that is faster, only if mayCache is set.
func rewrite(module []byte, cost Cost, mayCache bool) ([]byte, error) {
	if cost.Page == 0 {
		cost.Page = 1024
	}
	if cost.BytesPerFuel == 0 {
		cost.BytesPerFuel = 16
	}
	list, err := sections(module)
	if err != nil {
		return nil, err
	}
	info, err := inspect(list)
	if err != nil {
		return nil, err
	}
	if err := info.fits(); err != nil {
		return nil, err
	}
	w := &writer{fuel: uint32(info.Globals), stack: uint32(info.Globals) + 1, cost: cost, info: &info,
		mayCache: mayCache}
	for w.shift = 0; 1<<w.shift < cost.BytesPerFuel; w.shift++ {
	}
	out := append(make([]byte, 0, len(module)+len(module)/4+64), magic[:]...)
	extended := []byte{secType, secImport, secGlobal, secExport} // sections that every metered module has
	for _, s := range list {
		if s.id != secCustom {
			for len(extended) > 0 && rank(extended[0]) < rank(s.id) {
				body, _ := w.section(extended[0], nil)
				out, extended = appendSection(out, extended[0], body), extended[1:]
			}
			if len(extended) > 0 && extended[0] == s.id {
				extended = extended[1:]
			}
		}
		body, err := w.section(s.id, s.body)
		if err != nil {
			return nil, err
		}
		if body != nil {
			out = appendSection(out, s.id, body)
		}
	}
	for _, id := range extended {
		body, _ := w.section(id, nil)
		out = appendSection(out, id, body)
	}
	return out, nil
}

// fits returns an error if the added items exceed a limit of the format.
func (i *Info) fits() error {
	for _, name := range []string{FuelExport, StackExport, StartExport} {
		if i.Exported(name) {
			return fmt.Errorf("it exports %q itself", name)
		}
	}
	for _, e := range i.Exports {
		if e.Kind == Global && int(e.Index) >= i.Globals {
			return fmt.Errorf("the export %q is a global that does not exist", e.Name)
		}
	}
	if i.start != nil {
		params, results, ok := i.signature(*i.start)
		if !ok || len(params)+len(results) > 0 {
			return fmt.Errorf("the start function %d does not exist, or takes or gives something", *i.start)
		}
	}
	return nil
}

// section rewrites the body of a section. A nil body stands for a section that the module does not
// have. If the result is nil, the section is removed.
func (w *writer) section(id byte, body []byte) ([]byte, error) {
	switch id {
	case secCustom:
		return w.names(body), nil
	case secType:
		return more(body, []byte{0x60, 1, typeI64, 1, typeI64}, []byte{0x60, 0, 0}, loopType()), nil
	case secImport:
		return more(body, w.imported(RefuelImport, 0), w.imported(StackImport, 1), w.imported(RefuelLoopImport, 2)), nil
	case secTable:
		return w.tables(body)
	case secGlobal:
		return w.globals(body)
	case secExport:
		return w.exports(body)
	case secStart: // removed: the host calls StartExport instead
		return nil, nil
	case secElement:
		return w.renumbered(body, func(r *in) { element(r) })
	case secCode:
		return w.code(body)
	}
	return body, nil
}

// Added is the number of added imports. They follow the module's own imports, so the indices of the
// module's own functions grow by Added.
const Added = 3

// function returns the new index of a function.
func (w *writer) function(index uint32) uint32 {
	if int(index) < w.imports() {
		return index
	}
	return index + Added
}

// imports returns the number of functions that the module itself imports.
func (w *writer) imports() int { return len(w.info.funcs) - w.info.Functions }

// The indices of the added functions.
func (w *writer) refuel() uint32      { return uint32(w.imports()) }
func (w *writer) lookAtStack() uint32 { return uint32(w.imports()) + 1 }
func (w *writer) refuelLoop() uint32  { return uint32(w.imports()) + 2 }

// RefuelLoopValues returns the types of both the parameters and the results of RefuelLoopImport.
func RefuelLoopValues() []byte { return append([]byte{typeI64}, passedTypes...) }

func loopType() []byte {
	return appendBytes(appendBytes([]byte{0x60}, RefuelLoopValues()), RefuelLoopValues())
}

// imported returns the import of a host function. Its type is the nth of the added types.
func (w *writer) imported(name string, nth int) []byte {
	b := appendBytes(appendBytes(nil, []byte(ImportModule)), []byte(name))
	return appendU32(append(b, byte(Function)), uint32(len(w.info.types)+nth))
}

// renumbered copies a section that is a vector, with the new indices of the functions that read
// reads in each element.
func (w *writer) renumbered(body []byte, read func(*in)) ([]byte, error) {
	var found []reference
	r := &in{b: body, functions: &found}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		read(r)
	}
	if r.err == nil && r.left() > 0 {
		r.fail("bytes are left over")
	}
	if r.err != nil {
		return nil, r.err
	}
	out := make([]byte, 0, len(body)+len(body)/8)
	at := 0
	for _, f := range found {
		if int(f.index) >= len(w.info.funcs) {
			return nil, fmt.Errorf("the function %d does not exist", f.index)
		}
		out = appendU32(append(out, body[at:f.from]...), w.function(f.index))
		at = f.to
	}
	return append(out, body[at:]...), nil
}

// names rewrites a "name" section (WebAssembly 2.0, section 7.4.1). It keeps the names of the
// module and its functions, which wazero reads. A malformed section is removed, because an error in
// a custom section must not make the module invalid (section 5.5.3). Other custom sections are not
// changed.
func (w *writer) names(body []byte) []byte {
	r := &in{b: body}
	if r.name() != "name" {
		return body
	}
	out := body[:r.at:r.at]
	for r.left() > 0 && r.err == nil {
		id := r.byte()
		sub := &in{b: r.bytes(r.u32())}
		if r.err != nil {
			return nil
		}
		switch id {
		case nameOfModule:
			sub.text()
			out = appendSection(out, id, sub.b)
		case namesOfFunctions:
			renamed, err := w.renumbered(sub.b, func(r *in) { r.function(); r.text() })
			sub.at, sub.err = len(sub.b), err
			out = appendSection(out, id, renamed)
		default:
			continue
		}
		if sub.err != nil || sub.left() > 0 {
			return nil
		}
	}
	if r.err != nil {
		return nil
	}
	return out
}

func appendSection(b []byte, id byte, body []byte) []byte {
	return appendBytes(append(b, id), body)
}

type writer struct {
	fuel  uint32 // index of the counter
	stack uint32 // index of the counter of stack
	shift uint32 // log2 of Cost.BytesPerFuel
	cost  Cost
	info  *Info

	mayCache bool
}

// more appends elements to a section that is a vector.
func more(body []byte, elements ...[]byte) []byte {
	n := uint32(0)
	if body != nil {
		r := &in{b: body}
		n = r.u32()
		body = body[r.at:]
	}
	out := append(appendU32(nil, n+uint32(len(elements))), body...)
	for _, e := range elements {
		out = append(out, e...)
	}
	return out
}

func (w *writer) globals(body []byte) ([]byte, error) {
	if body != nil {
		var err error
		body, err = w.renumbered(body, func(r *in) { r.valueType(); r.byte(); constant(r) })
		if err != nil {
			return nil, err
		}
	}
	counter := func(initial int64) []byte {
		return append(appendS64([]byte{typeI64, 1, opI64Const}, initial), opEnd)
	}
	return more(body, counter(w.cost.Start), counter(w.cost.Stack)), nil
}

func (w *writer) exports(body []byte) ([]byte, error) {
	if body != nil {
		var err error
		if body, err = w.renumbered(body, func(r *in) { export(r) }); err != nil {
			return nil, err
		}
	}
	one := func(name string, kind Kind, index uint32) []byte {
		return appendU32(append(appendBytes(nil, []byte(name)), byte(kind)), index)
	}
	body = more(body, one(FuelExport, Global, w.fuel), one(StackExport, Global, w.stack))
	if w.info.start != nil {
		body = more(body, one(StartExport, Function, w.function(*w.info.start)))
	}
	return body, nil
}

// maxTables is the maximum number of tables. Compilers make one.
const maxTables = 100

// tables limits the growth of the tables: the first one may grow until all together have cost.Table
// elements; the others may not grow.
func (w *writer) tables(body []byte) ([]byte, error) {
	r := &in{b: body}
	n := r.count()
	if n > maxTables {
		return nil, fmt.Errorf("it has %d tables; at most %d are taken", n, maxTables)
	}
	if w.cost.Table == 0 {
		return body, nil
	}
	room := w.cost.Table - min(w.cost.Table, w.info.TableMin)
	out := appendU32(nil, n)
	for ; n > 0 && r.err == nil; n-- {
		kind := r.referenceType()
		low, high, bounded := r.limits()
		if !bounded || high > low+room {
			high = low + room
		}
		out = appendU32(appendU32(append(out, kind, 1), low), high)
		room = 0
	}
	return out, r.err
}

// typeWork returns the work of compiling the module's types.
func (w *writer) typeWork() (work int64, err error) {
	for i, t := range w.info.types {
		n := t.work()
		if w.cost.FunctionWork > 0 && n > w.cost.FunctionWork {
			return 0, fmt.Errorf("the type %d would take too long to compile: %d parameters and results", i,
				len(t.params)+len(t.results))
		}
		work += n
	}
	return work, nil
}

// code rewrites all function bodies (WebAssembly 2.0, section 5.5.13).
func (w *writer) code(body []byte) ([]byte, error) {
	r := &in{b: body}
	n := r.count()
	own := w.info.funcs[len(w.info.funcs)-w.info.Functions:]
	if r.err == nil && int(n) != len(own) {
		r.fail("%d bodies for %d functions", n, len(own))
	}
	out := appendU32(make([]byte, 0, len(body)+len(body)/4), n)
	var f function
	work, err := w.typeWork()
	if err != nil {
		return nil, err
	}
	for i := 0; i < int(n) && r.err == nil; i++ {
		raw := r.bytes(r.u32())
		if r.err != nil {
			break
		}
		if int(own[i]) >= len(w.info.types) {
			return nil, fmt.Errorf("the type %d does not exist", own[i])
		}
		f.reset(w, &w.info.types[own[i]])
		if err := f.rewrite(raw); err != nil {
			return nil, fmt.Errorf("function %d: %w", len(w.info.funcs)-len(own)+i, err)
		}
		if n := f.size.Work(); w.cost.FunctionWork > 0 && n > w.cost.FunctionWork {
			return nil, fmt.Errorf("function %d would take too long to compile (%v: %d units, at most %d); split it",
				len(w.info.funcs)-len(own)+i, f.size, n, w.cost.FunctionWork)
		}
		if work += f.size.Work(); w.cost.ModuleWork > 0 && work > w.cost.ModuleWork {
			return nil, fmt.Errorf("it would take too long to compile (more than %d units by function %d); make it "+
				"smaller", w.cost.ModuleWork, len(w.info.funcs)-len(own)+i)
		}
		out = appendBytes(out, f.out)
	}
	if r.err == nil && r.left() > 0 {
		r.fail("bytes are left over after the code")
	}
	return out, r.err
}
