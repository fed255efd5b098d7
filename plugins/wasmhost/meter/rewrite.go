// Package meter makes a WebAssembly module count its own steps: every function
// entry and every loop head takes from a counter what the straight way through
// it can cost, and traps below zero. A module so rewritten ends after a bounded
// number of instructions, whatever it does, without a clock and at a small
// price; the same input ends at the same instruction each time.
//
// The counter is a global of the module, appended behind its own so that no
// index moves, and exported so that the host can fill it before each call.
package meter

import "fmt"

// FuelExport is the name under which the counter is exported: a mutable i64.
const FuelExport = "whirlpool_fuel"

// Cost says what things cost in fuel; an instruction costs 1.
type Cost struct {
	Start        int64  // the counter's value at instantiation
	Page         uint32 // of memory.grow, each page; default 1024
	BytesPerFuel uint32 // of bulk memory instructions, a power of two; default 16

	Table uint32 // elements that all tables together may have; 0 for no bound

	FunctionWork, ModuleWork int64 // Size.Work of a function, and of all together, at most; 0 for no bound
}

// Rewrite returns the module metered. An error means that the module is
// malformed, or uses what WebAssembly 2.0 does not have.
func Rewrite(module []byte, cost Cost) ([]byte, error) {
	return rewrite(module, cost, true)
}

// rewrite keeps the counter in locals where that pays only if it may.
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
	if info.Exported(FuelExport) {
		return nil, fmt.Errorf("it exports %q itself", FuelExport)
	}
	for _, e := range info.Exports {
		if e.Kind == Global && int(e.Index) >= info.Globals {
			return nil, fmt.Errorf("the export %q is a global that does not exist", e.Name)
		}
	}
	w := &writer{fuel: uint32(info.Globals), cost: cost, info: &info, mayCache: mayCache}
	for w.shift = 0; 1<<w.shift < cost.BytesPerFuel; w.shift++ {
	}
	out := append(make([]byte, 0, len(module)+len(module)/4+64), magic[:]...)
	doneGlobal, doneExport := false, false
	for _, s := range list {
		if s.id != secCustom {
			if !doneGlobal && rank(s.id) > rank(secGlobal) {
				out, doneGlobal = appendSection(out, secGlobal, w.global(nil)), true
			}
			if !doneExport && rank(s.id) > rank(secExport) {
				out, doneExport = appendSection(out, secExport, w.export(nil)), true
			}
		}
		body := s.body
		switch s.id {
		case secCustom:
			if !wellNamed(body) {
				continue // an error in a custom section is none of the module's (5.5.3)
			}
		case secTable:
			body, err = w.tables(body)
		case secGlobal:
			body, doneGlobal = w.global(body), true
		case secExport:
			body, doneExport = w.export(body), true
		case secCode:
			body, err = w.code(body)
		}
		if err != nil {
			return nil, err
		}
		out = appendSection(out, s.id, body)
	}
	if !doneGlobal {
		out = appendSection(out, secGlobal, w.global(nil))
	}
	if !doneExport {
		out = appendSection(out, secExport, w.export(nil))
	}
	return out, nil
}

func appendSection(b []byte, id byte, body []byte) []byte {
	return appendBytes(append(b, id), body)
}

type writer struct {
	fuel  uint32 // index of the counter
	shift uint32 // log2 of the bytes a unit of fuel moves
	cost  Cost
	info  *Info

	mayCache bool
}

// more appends an element to a section that is a vector.
func more(body, element []byte) []byte {
	if body == nil {
		return append([]byte{1}, element...)
	}
	r := &in{b: body}
	n := r.u32()
	out := appendU32(make([]byte, 0, len(body)+len(element)+1), n+1)
	return append(append(out, body[r.at:]...), element...)
}

func (w *writer) global(body []byte) []byte {
	g := appendS64([]byte{typeI64, 1, opI64Const}, w.cost.Start)
	return more(body, append(g, opEnd))
}

func (w *writer) export(body []byte) []byte {
	e := appendBytes(nil, []byte(FuelExport))
	return more(body, appendU32(append(e, byte(Global)), w.fuel))
}

// maxTables is of one module; every toolchain makes do with one.
const maxTables = 100

// tables lets the first table grow into what all tables together leave of the
// bound, and the others not at all.
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

// typeWork is what the module's types cost to compile.
func (w *writer) typeWork() (work int64, err error) {
	for i, t := range w.info.types {
		n := t.work()
		if w.cost.FunctionWork > 0 && n > w.cost.FunctionWork {
			return 0, fmt.Errorf("the type %d would take too long to compile: %d parameters and results", i, len(t.params)+len(t.results))
		}
		work += n
	}
	return work, nil
}

// code rewrites every function body (WebAssembly 2.0, 5.5.13).
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
			return nil, fmt.Errorf("function %d would take too long to compile (%v: %d units, at most %d); split it", len(w.info.funcs)-len(own)+i, f.size, n, w.cost.FunctionWork)
		}
		if work += f.size.Work(); w.cost.ModuleWork > 0 && work > w.cost.ModuleWork {
			return nil, fmt.Errorf("it would take too long to compile (more than %d units by function %d); make it smaller", w.cost.ModuleWork, len(w.info.funcs)-len(own)+i)
		}
		out = appendBytes(out, f.out)
	}
	if r.err == nil && r.left() > 0 {
		r.fail("bytes are left over after the code")
	}
	return out, r.err
}
