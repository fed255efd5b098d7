// Package meter makes a WebAssembly module count its own instructions. The counter is called fuel. At every function
// entry and every loop head, the rewritten code subtracts a cost from the fuel: the cost of the instructions up to
// the next function entry or loop head. If the fuel is below zero, the code calls the host, which either increases
// the fuel or ends the call. This limits the number of instructions between two calls of the host. With the same
// input, a module always calls the host at the same instructions.
//
// A second counter limits the stack. The fuel that is subtracted at a function's entry also pays for some bytes of
// stack (StackPerFuel). If the stack frame of a function may be larger, its entry subtracts the remaining bytes from
// the second counter.
//
// The counters are added as exported globals, after the module's own globals. The host functions are added as
// imports, after the module's own imports. As a result, the indices of the functions that the module defines increase
// by three.
package meter

import (
	"fmt"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// The names of the exports that metering adds to a module.
const (
	FuelExport  = "whirlpool_fuel"  // a mutable i64: the fuel left
	StackExport = "whirlpool_stack" // a mutable i64: bytes of stack until the next call of StackImport
	StartExport = "whirlpool_start" // () -> (): the module's start function, which the host must call
)

// The names of the functions that metering adds to the imports of a module. ImportModule is the module of all these
// functions.
const (
	ImportModule = "whirlpool"
	RefuelImport = "refuel" // (i64) -> i64: takes the negative value of the fuel counter, and returns its new value
	StackImport  = "stack"  // () -> (): called when the stack counter is below zero

	// RefuelLoopImport is called in place of RefuelImport at the head of a loop. Its parameters and its results have
	// the types RefuelLoopValues. The first value is the fuel counter. The other values are locals of the caller, which
	// the host returns unchanged.
	RefuelLoopImport = "refuel_loop"
)

// StackPerFuel is the number of bytes of stack that one unit of fuel pays for at a function's entry.
const StackPerFuel = 64

// Cost has costs of instructions in fuel, and limits on the module. Instructions that Cost does not name have a fixed
// cost, mostly 1.
type Cost struct {
	Start        int64  // value of the fuel counter at instantiation
	Stack        int64  // value of the stack counter at instantiation
	Page         uint32 // cost of memory.grow per page; default 1024
	BytesPerFuel uint32 // bytes that a bulk memory instruction handles per unit of fuel; a power of two; default 16

	Table uint32 // maximum number of elements of all tables together; 0 for no limit

	FunctionWork, ModuleWork int64 // maximum Size.Work of a function and of the module; 0 for no limit
}

// Features are the features that a metered module may use, and the host must enable: WebAssembly 2.0, tail calls and
// extended constant expressions.
const Features = api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst

// Rewrite returns the metered module. It fails if the module is malformed, uses a feature that is not in Features, or
// exceeds a limit of Cost.
func Rewrite(module []byte, cost Cost) ([]byte, error) {
	return rewrite(module, cost, true)
}

// rewrite implements Rewrite. If mayCache is set, the rewritten code may copy the counter into locals, which makes it
// faster.
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
	if err := info.checkIndices(); err != nil {
		return nil, err
	}
	w := &moduleWriter{fuel: uint32(info.Globals), stack: uint32(info.Globals) + 1, cost: cost, info: &info,
		mayCache: mayCache}
	for w.shift = 0; 1<<w.shift < cost.BytesPerFuel; w.shift++ {
	}
	out := append(make([]byte, 0, len(module)+len(module)/4+64), magic[:]...)
	missing := []byte{secType, secImport, secGlobal, secExport} // sections to add
	for _, s := range list {
		if s.id != secCustom {
			for len(missing) > 0 && sectionOrder(missing[0]) < sectionOrder(s.id) {
				body, _ := w.rewriteSection(missing[0], nil)
				out, missing = appendSection(out, missing[0], body), missing[1:]
			}
			if len(missing) > 0 && missing[0] == s.id {
				missing = missing[1:]
			}
		}
		body, err := w.rewriteSection(s.id, s.body)
		if err != nil {
			return nil, err
		}
		if body != nil {
			out = appendSection(out, s.id, body)
		}
	}
	for _, id := range missing {
		body, _ := w.rewriteSection(id, nil)
		out = appendSection(out, id, body)
	}
	return out, nil
}

// checkIndices returns an error if an export has a name that metering adds. It also returns an error if an exported
// global or the start function does not exist: in the metered module, an added global or function might have its
// index.
func (i *Info) checkIndices() error {
	for _, name := range []string{FuelExport, StackExport, StartExport} {
		if i.HasExport(name) {
			return fmt.Errorf("it exports %q, a name that metering adds", name)
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
			return fmt.Errorf("the start function %d does not exist, or has parameters or results", *i.start)
		}
	}
	return nil
}

// rewriteSection returns the rewritten body of a section. A body of nil means that the module has no such section. A
// result of nil means that the metered module has none.
func (w *moduleWriter) rewriteSection(id byte, body []byte) ([]byte, error) {
	switch id {
	case secCustom:
		return w.rewriteNames(body), nil
	case secType:
		return appendElements(body, []byte{0x60, 1, typeI64, 1, typeI64}, []byte{0x60, 0, 0}, loopType()), nil
	case secImport:
		return appendElements(body, w.hostImport(RefuelImport, 0), w.hostImport(StackImport, 1),
			w.hostImport(RefuelLoopImport, 2)), nil
	case secTable:
		return w.rewriteTables(body)
	case secGlobal:
		return w.rewriteGlobals(body)
	case secExport:
		return w.rewriteExports(body)
	case secStart: // removed: the host calls StartExport instead
		return nil, nil
	case secElement:
		return w.renumberSection(body, func(r *reader) { readElement(r) })
	case secCode:
		return w.rewriteCode(body)
	}
	return body, nil
}

// AddedImports is the number of added imports. They follow the module's own imports, so that the indices of the
// functions that the module defines increase by this number.
const AddedImports = 3

// newIndex converts the index of a function in the original module to its index in the metered module.
func (w *moduleWriter) newIndex(index uint32) uint32 {
	if int(index) < w.imports() {
		return index
	}
	return index + AddedImports
}

// imports returns the number of functions that the module itself imports.
func (w *moduleWriter) imports() int { return len(w.info.funcs) - w.info.Functions }

// The indices of the added host functions.
func (w *moduleWriter) refuelFunction() uint32     { return uint32(w.imports()) }
func (w *moduleWriter) stackFunction() uint32      { return uint32(w.imports()) + 1 }
func (w *moduleWriter) refuelLoopFunction() uint32 { return uint32(w.imports()) + 2 }

// RefuelLoopValues returns the types of both the parameters and the results of RefuelLoopImport.
func RefuelLoopValues() []byte { return append([]byte{typeI64}, passedTypes...) }

func loopType() []byte {
	return appendBytes(appendBytes([]byte{0x60}, RefuelLoopValues()), RefuelLoopValues())
}

// hostImport returns the import of a host function. The type of this function is the nth (from 0) of the types that
// metering adds.
func (w *moduleWriter) hostImport(name string, nth int) []byte {
	b := appendBytes(appendBytes(nil, []byte(ImportModule)), []byte(name))
	return appendU32(append(b, byte(Function)), uint32(len(w.info.types)+nth))
}

// renumberSection copies a section that is a vector, and replaces the indices of functions by their indices in the
// metered module. The parameter read is a function that reads one element of the vector.
func (w *moduleWriter) renumberSection(body []byte, read func(*reader)) ([]byte, error) {
	var found []funcReference
	r := &reader{b: body, functions: &found}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		read(r)
	}
	if r.err == nil && r.remaining() > 0 {
		r.fail("bytes after its last element")
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
		out = appendU32(append(out, body[at:f.from]...), w.newIndex(f.index))
		at = f.to
	}
	return append(out, body[at:]...), nil
}

// rewriteNames rewrites the "name" section (WebAssembly 2.0, section 7.4.1). It keeps the names of the module and
// its functions, which wazero reads. It removes a malformed section, because an error in a custom section
// must not make the module invalid (section 5.5.3). It returns other custom sections unchanged.
func (w *moduleWriter) rewriteNames(body []byte) []byte {
	r := &reader{b: body}
	if r.name() != "name" {
		return body
	}
	out := body[:r.pos:r.pos]
	for r.remaining() > 0 && r.err == nil {
		id := r.byte()
		sub := &reader{b: r.bytes(r.u32())}
		if r.err != nil {
			return nil
		}
		switch id {
		case nameOfModule:
			sub.skipText()
			out = appendSection(out, id, sub.b)
		case namesOfFunctions:
			renamed, err := w.renumberSection(sub.b, func(r *reader) { r.functionIndex(); r.skipText() })
			sub.pos, sub.err = len(sub.b), err
			out = appendSection(out, id, renamed)
		default:
			continue
		}
		if sub.err != nil || sub.remaining() > 0 {
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

type moduleWriter struct {
	fuel  uint32 // index of the global with the fuel
	stack uint32 // index of the global with the bytes of stack
	shift uint32 // log2 of Cost.BytesPerFuel
	cost  Cost
	info  *Info

	mayCache bool
}

// appendElements appends elements to a section that is a vector.
func appendElements(body []byte, elements ...[]byte) []byte {
	n := uint32(0)
	if body != nil {
		r := &reader{b: body}
		n = r.u32()
		body = body[r.pos:]
	}
	out := append(appendU32(nil, n+uint32(len(elements))), body...)
	for _, e := range elements {
		out = append(out, e...)
	}
	return out
}

func (w *moduleWriter) rewriteGlobals(body []byte) ([]byte, error) {
	if body != nil {
		var err error
		body, err = w.renumberSection(body, func(r *reader) { r.valueType(); r.byte(); readConstant(r) })
		if err != nil {
			return nil, err
		}
	}
	counter := func(initial int64) []byte {
		return append(appendS64([]byte{typeI64, 1, opI64Const}, initial), opEnd)
	}
	return appendElements(body, counter(w.cost.Start), counter(w.cost.Stack)), nil
}

func (w *moduleWriter) rewriteExports(body []byte) ([]byte, error) {
	if body != nil {
		var err error
		if body, err = w.renumberSection(body, func(r *reader) { readExport(r) }); err != nil {
			return nil, err
		}
	}
	newExport := func(name string, kind Kind, index uint32) []byte {
		return appendU32(append(appendBytes(nil, []byte(name)), byte(kind)), index)
	}
	body = appendElements(body, newExport(FuelExport, Global, w.fuel), newExport(StackExport, Global, w.stack))
	if w.info.start != nil {
		body = appendElements(body, newExport(StartExport, Function, w.newIndex(*w.info.start)))
	}
	return body, nil
}

// maxTables is the maximum number of tables. Compilers generate one table.
const maxTables = 100

// rewriteTables limits the growth of the tables. The first table may grow until all tables together have cost.Table
// elements. The other tables must not grow.
func (w *moduleWriter) rewriteTables(body []byte) ([]byte, error) {
	r := &reader{b: body}
	n := r.count()
	if n > maxTables {
		return nil, fmt.Errorf("it has %d tables; at most %d are allowed", n, maxTables)
	}
	if w.cost.Table == 0 {
		return body, nil
	}
	room := w.cost.Table - min(w.cost.Table, w.info.TableMin)
	out := appendU32(nil, n)
	for ; n > 0 && r.err == nil; n-- {
		kind := r.referenceType()
		low, high, bounded := r.readLimits()
		if !bounded || high > low+room {
			high = low + room
		}
		out = appendU32(appendU32(append(out, kind, 1), low), high)
		room = 0
	}
	return out, r.err
}

// typeWork returns the sum of signature.work over the module's types.
func (w *moduleWriter) typeWork() (work int64, err error) {
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

func (w *moduleWriter) rewriteCode(body []byte) ([]byte, error) {
	r := &reader{b: body}
	n := r.count()
	own := w.info.funcs[len(w.info.funcs)-w.info.Functions:]
	if r.err == nil && int(n) != len(own) {
		r.fail("%d function bodies for %d functions", n, len(own))
	}
	out := appendU32(make([]byte, 0, len(body)+len(body)/4), n)
	var f funcRewriter
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
	if r.err == nil && r.remaining() > 0 {
		r.fail("bytes after the last function")
	}
	return out, r.err
}
