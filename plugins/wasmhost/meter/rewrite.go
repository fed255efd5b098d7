// Package meter makes a WebAssembly module count its own steps: every function
// entry and every loop head takes from a counter what the straight way through
// it can cost, and traps below zero. A module so rewritten ends after a bounded
// number of instructions, whatever it does, without a clock and at a small
// price; the same input ends at the same instruction each time.
//
// The counter is a global of the module, appended behind its own so that no
// index moves, and exported so that the host can fill it before each call.
package meter

import (
	"fmt"
	"math"
)

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
	work := int64(0)
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

// The opcodes and types that the meter writes, or treats apart (WebAssembly 2.0,
// 5.4 and 5.3).
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opIf          = 0x04
	opElse        = 0x05
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrIf        = 0x0d
	opBrTable     = 0x0e
	opReturn      = 0x0f
	opCall        = 0x10
	opCallIndir   = 0x11
	opLocalGet    = 0x20
	opLocalSet    = 0x21
	opLocalTee    = 0x22
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opTableGet    = 0x25
	opTableSet    = 0x26
	opMemoryGrow  = 0x40
	opI32Const    = 0x41
	opI64Const    = 0x42
	opF32Const    = 0x43
	opF64Const    = 0x44
	opI64LtS      = 0x53
	opI64Sub      = 0x7d
	opI64Mul      = 0x7e
	opI64ShrU     = 0x88
	opI64ExtendU  = 0xad
	opRefNull     = 0xd0
	opRefFunc     = 0xd2
	opMisc        = 0xfc // one of those below follows
	opVector      = 0xfd // a vector instruction's number follows
	typeI32       = 0x7f
	typeI64       = 0x7e
	typeV128      = 0x7b
	typeFuncref   = 0x70
	typeExternref = 0x6f
	blockEmpty    = 0x40
)

// The instructions behind opMisc; below the first of them are the saturating
// truncations.
const (
	miscMemoryInit = iota + 8
	miscDataDrop
	miscMemoryCopy
	miscMemoryFill
	miscTableInit
	miscElemDrop
	miscTableCopy
	miscTableGrow
	miscTableSize
	miscTableFill
)

// function rewrites one body, in one of two ways. A function that has a loop
// without calls keeps the counter in a local of its own, which the compiler
// keeps in a register, and puts it back into the global before every call and
// on its way out. Every other function counts in the global itself.
//
//	global.get fuel  i64.const n  i64.sub  local.tee $f  i64.const 0  i64.lt_s
//	if  local.get $f  global.set fuel  unreachable  end
//	block T          ;; a branch out of the function ends here
//	  ...  loop  local.get $f  i64.const n  i64.sub  local.tee $f  ...
//	  ...  local.get $f  global.set fuel  call g  global.get fuel  local.set $f
//	  ...  local.get $f  global.set fuel  return
//	end
//	local.get $f  global.set fuel
type function struct {
	w      *writer
	type_  *signature
	size   Size
	out    []byte
	points []point
	open   []frame // the open blocks
	bulk   bool    // a bulk instruction's operand needs a local
	cached bool    // the counter is kept in a local

	fuel, operand uint32 // indices of the locals that are added
}

// frame is an open block.
type frame struct {
	region int   // what its instructions are charged to: index into points
	branch bool  // the dispatch of a loop: where it ends a branch begins
	label  int64 // how many values a branch to it carries
}

// point is a place in the input, before the byte at, where something is added.
type point struct {
	at   int
	what addition
	n    int64 // of check: the cost
	loop bool  // of check: a loop's head
	call bool  // of check: the way through it has a call
	head int   // of check: the head of the loop that this is a branch of; 0 for none
}

type addition byte

const (
	check addition = iota
	chargeBytes
	chargeElements
	chargePages
	putBack // before a call or a return: the counter goes into the global
	takeUp  // after a call: and comes from there again
)

func (f *function) reset(w *writer, t *signature) {
	*f = function{w: w, type_: t, out: f.out[:0], points: f.points[:0], open: f.open[:0]}
}

// maxLocals is wazero's own limit.
const maxLocals = 50_000

func (f *function) rewrite(raw []byte) error {
	r := &in{b: raw}
	groups := r.count()
	locals := uint64(len(f.type_.params))
	first := r.at
	for range groups {
		locals += uint64(r.u32())
		r.valueType()
		if r.err != nil {
			break
		}
	}
	if r.err == nil && locals+2 > maxLocals {
		r.fail("%d locals are too many", locals)
	}
	f.fuel, f.operand = uint32(locals), uint32(locals)+1
	f.size.Values = int64(locals) + int64(len(f.type_.results))
	declared := r.at
	f.scan(r)
	if r.err != nil {
		return r.err
	}
	added := uint32(1)
	if f.bulk {
		added++
	}
	f.out = appendU32(f.out, groups+added)
	f.out = append(f.out, raw[first:declared]...)
	f.out = append(f.out, 1, typeI64)
	if f.bulk {
		f.out = append(f.out, 1, typeI32)
	}
	at := declared
	for i, p := range f.points {
		f.out = append(f.out, raw[at:p.at]...)
		at = p.at
		f.add(&p, i == 0)
	}
	f.out = append(f.out, raw[at:]...)
	if f.cached {
		f.putBack()
		f.out = append(f.out, opEnd)
	}
	return nil
}

// scan walks the instructions, notes where something is added and what the
// ways cost, and decides where the counter is kept.
func (f *function) scan(r *in) {
	f.open = append(f.open, frame{label: int64(len(f.type_.results))})
	f.points = append(f.points, point{at: r.at})
	branches := 0 // blocks to come that are the dispatch of a loop
	for r.err == nil {
		at := r.at
		op := r.byte()
		charge := f.skip(r, op)
		if r.err != nil {
			return
		}
		f.size.note(f.w.info, op, in{b: r.b, at: at + 1})
		region := f.open[len(f.open)-1].region
		f.points[region].n += 1 + f.extra(op, in{b: r.b, at: at + 1})
		if charge != check {
			f.bulk = true
			f.points = append(f.points, point{at: at, what: charge})
		}
		switch op {
		case opBlock, opIf:
			_, results := f.w.info.block(in{b: r.b, at: at + 1})
			f.open = append(f.open, frame{region, branches > 0, results})
			branches = max(branches-1, 0)
		case opLoop:
			params, _ := f.w.info.block(in{b: r.b, at: at + 1})
			f.open = append(f.open, frame{region: len(f.points), label: params})
			f.points = append(f.points, point{at: r.at, loop: true})
			branches = f.dispatch(*r)
		case opCall, opCallIndir:
			f.points[region].call = true
			f.points[f.points[region].head].call = true
			f.points = append(f.points, point{at: at, what: putBack}, point{at: r.at, what: takeUp})
		case opReturn:
			f.points = append(f.points, point{at: at, what: putBack})
		case opEnd:
			ended := f.open[len(f.open)-1]
			f.open = f.open[:len(f.open)-1]
			if ended.branch {
				f.branch(r.at, ended.region)
			}
			if len(f.open) == 0 {
				if r.left() > 0 {
					r.fail("code after the function's end")
				}
				f.decide()
				return
			}
		}
	}
}

// dispatch tells whether a loop is what Go makes of a function: blocks within
// blocks, and in the innermost a table of branches to their ends. r stands behind
// the loop's opcode and type. The result is the number of blocks, 0 for any other
// loop.
//
// Each jump within such a function goes round the loop once more. If the loop's
// head paid for one pass, as elsewhere, every jump would pay for the whole
// function. So each branch pays for itself here, and the head for nothing: it only
// ever leads to a branch, or out.
func (f *function) dispatch(r in) (blocks int) {
	for r.err == nil {
		switch op := r.byte(); {
		case op == opBlock && r.byte() == blockEmpty:
			blocks++
		case op == opLocalGet && blocks > 0:
			r.u32()
			if r.byte() != opBrTable {
				return 0
			}
			for n := int64(r.count()); n >= 0 && r.err == nil; n-- {
				if l := int(r.u32()); l >= blocks && (l == blocks || f.carried(l-blocks) > 0) {
					return 0 // it leads to the head itself, or out and takes values along
				}
			}
			if r.err != nil {
				return 0
			}
			return blocks
		default:
			return 0
		}
	}
	return 0
}

// dispatchCost is of the local.get and the br_table that lead to a branch.
const dispatchCost = 2

// branch begins a branch of a loop that dispatches.
func (f *function) branch(at, before int) {
	head := f.points[before].head
	if head == 0 {
		head = before
		f.points[head].n = 0
	}
	f.open[len(f.open)-1].region = len(f.points)
	f.points = append(f.points, point{at: at, n: dispatchCost + f.moving(0), head: head})
}

// What an instruction costs beyond 1.
const (
	leaving    = 99 // where the guest's own code is left for a moment
	atOnce     = 32 // so many values move for nothing, where ways part or meet and in calls
	forOneMore = 8  // of those beyond, so many move for a unit of fuel
)

// extra is what an instruction costs beyond 1; r stands behind its opcode.
func (f *function) extra(op byte, r in) int64 {
	switch op {
	case opBlock, opLoop, opIf:
		params, results := f.w.info.block(r)
		return f.moving(params + results)
	case opBr, opBrIf:
		return f.moving(f.carried(int(r.u32())))
	case opBrTable:
		for n := r.count(); n > 0; n-- {
			r.u32()
		}
		return f.moving(f.carried(int(r.u32()))) // all of its targets take the same
	case opCall:
		if n := r.u32(); int(n) < len(f.w.info.funcs) {
			return moves(f.w.info.arity(f.w.info.funcs[n]))
		}
	case opCallIndir:
		return moves(f.w.info.arity(r.u32()))
	case opMemoryGrow, opRefFunc:
		return leaving
	case opMisc:
		if r.u32() == miscTableGrow {
			return leaving
		}
	}
	return 0
}

// moving is the cost of moving n values, and perhaps every local, where ways part
// or meet. No instruction of the module stands for it.
func (f *function) moving(n int64) int64 { return moves(int64(f.fuel) + n) }

func moves(n int64) int64 { return max(0, n-atOnce) / forOneMore }

// carried is how many values a branch to a label takes along.
func (f *function) carried(label int) int64 {
	if label >= len(f.open) {
		return 0
	}
	return f.open[len(f.open)-1-label].label
}

func (f *function) decide() {
	if !f.w.mayCache || len(f.type_.results) > 1 { // its block would need a type that may not be there
		return
	}
	for _, p := range f.points {
		f.cached = f.cached || p.loop && !p.call
	}
}

func (f *function) add(p *point, entry bool) {
	switch {
	case p.what == check && p.n == 0: // the head of a loop that dispatches
	case p.what == check && (entry || !f.cached):
		f.getGlobal()
		f.take(p.n)
		if entry && f.cached {
			f.openBlock()
		}
	case p.what == check:
		f.getLocal()
		f.take(p.n)
	case p.what == putBack && f.cached:
		f.putBack()
	case p.what == takeUp && f.cached:
		f.getGlobal()
		f.out = appendU32(append(f.out, opLocalSet), f.fuel)
	case p.what == chargeBytes, p.what == chargeElements, p.what == chargePages:
		f.charge(p.what)
	}
}

func (f *function) getGlobal() { f.out = appendU32(append(f.out, opGlobalGet), f.w.fuel) }
func (f *function) getLocal()  { f.out = appendU32(append(f.out, opLocalGet), f.fuel) }

func (f *function) putBack() {
	f.getLocal()
	f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
}

// openBlock takes the place of the function's own label.
func (f *function) openBlock() {
	t := byte(blockEmpty)
	if len(f.type_.results) == 1 {
		t = f.type_.results[0]
	}
	f.out = append(f.out, opBlock, t)
}

// take takes n from the counter on the stack and traps below zero.
func (f *function) take(n int64) {
	f.out = appendS64(append(f.out, opI64Const), n)
	f.settle()
}

// settle subtracts what is on top of the stack from the counter below it,
// stores the counter and traps if it is below zero.
func (f *function) settle() {
	f.out = appendU32(append(f.out, opI64Sub, opLocalTee), f.fuel)
	if !f.cached {
		f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
		f.getLocal()
	}
	f.out = append(f.out, opI64Const, 0, opI64LtS, opIf, blockEmpty)
	if f.cached {
		f.putBack()
	}
	f.out = append(f.out, opUnreachable, opEnd)
}

// charge takes what a bulk instruction's last operand, which is on top of the
// stack and stays there, makes it cost.
func (f *function) charge(what addition) {
	f.out = appendU32(append(f.out, opLocalTee), f.operand)
	if f.cached {
		f.getLocal()
	} else {
		f.getGlobal()
	}
	f.out = appendU32(append(f.out, opLocalGet), f.operand)
	f.out = append(f.out, opI64ExtendU)
	switch what {
	case chargeBytes:
		f.out = append(appendS64(append(f.out, opI64Const), int64(f.w.shift)), opI64ShrU)
	case chargePages:
		f.out = append(appendS64(append(f.out, opI64Const), int64(min(f.w.cost.Page, math.MaxInt32))), opI64Mul)
	}
	f.settle()
}

// skip reads an instruction's immediates (WebAssembly 2.0, 5.4) and tells what
// its operand is charged by; check stands for nothing.
func (f *function) skip(r *in, op byte) addition {
	switch {
	case op == opBlock || op == opLoop || op == opIf:
		r.blockType(len(f.w.info.types))
	case op <= 0x01, op == opElse, op == opEnd, op == opReturn, op == 0x1a, op == 0x1b: // unreachable nop else end return drop select
	case op == opCall:
		r.u32()
	case op == opBr, op == opBrIf:
		f.label(r)
	case op == opBrTable:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			f.label(r)
		}
		f.label(r)
	case op == opCallIndir: // wazero panics at a type that does not exist
		if t := r.u32(); int(t) >= len(f.w.info.types) {
			r.fail("the type %d does not exist", t)
		}
		r.u32()
	case op == 0x1c: // select t*
		r.valueTypes()
	case op == opGlobalGet, op == opGlobalSet:
		// The counter stands behind the module's own globals: code that names
		// it was invalid before, and would meter itself now.
		if g := r.u32(); int(g) >= f.w.info.Globals {
			r.fail("the global %d does not exist", g)
		}
	case op == opLocalGet, op == opLocalSet, op == opLocalTee: // so do the locals that are added
		if l := r.u32(); l >= f.fuel {
			r.fail("the local %d does not exist", l)
		}
	case op == opTableGet, op == opTableSet:
		r.u32()
	case op >= 0x28 && op <= 0x3e: // loads and stores
		r.u32()
		r.u32()
	case op == 0x3f: // memory.size
		r.u32()
	case op == opMemoryGrow:
		r.u32()
		return chargePages
	case op == opI32Const:
		r.leb(32, true)
	case op == opI64Const:
		r.leb(64, true)
	case op == opF32Const:
		r.bytes(4)
	case op == opF64Const:
		r.bytes(8)
	case op >= 0x45 && op <= 0xc4: // numeric, sign extension
	case op == opRefNull:
		r.referenceType()
	case op == 0xd1: // ref.is_null
	case op == opRefFunc:
		r.u32()
	case op == opMisc:
		return f.skipMisc(r)
	case op == opVector:
		f.skipVector(r)
	default:
		r.fail("the opcode %#x is not of WebAssembly 2.0", op)
	}
	return check
}

// label reads the target of a branch. One that does not exist is refused here: the
// block that the rewriting adds might otherwise become that target.
func (f *function) label(r *in) {
	if l := r.u32(); int(l) >= len(f.open) {
		r.fail("a branch leaves more blocks than there are")
	}
}

func (f *function) skipMisc(r *in) addition {
	switch sub := r.u32(); {
	case sub < miscMemoryInit:
	case sub == miscMemoryInit, sub == miscMemoryCopy:
		r.u32()
		r.u32()
		return chargeBytes
	case sub == miscMemoryFill:
		r.u32()
		return chargeBytes
	case sub == miscTableInit, sub == miscTableCopy:
		r.u32()
		r.u32()
		return chargeElements
	case sub == miscTableGrow, sub == miscTableFill:
		r.u32()
		return chargeElements
	case sub == miscDataDrop, sub == miscElemDrop, sub == miscTableSize:
		r.u32()
	default:
		r.fail("the opcode 0xfc %d is not of WebAssembly 2.0", sub)
	}
	return check
}

func (f *function) skipVector(r *in) {
	from := r.at
	sub := r.u32()
	if canonical := appendU32(nil, sub); r.at-from != len(canonical) { // wazero reads one byte, and a nop where it has two
		r.fail("the opcode 0xfd %d is written with more bytes than it needs", sub)
	}
	switch {
	case sub <= 11, sub == 92, sub == 93: // loads, store, load zero
		r.u32()
		r.u32()
	case sub == 12, sub == 13: // v128.const, i8x16.shuffle
		r.bytes(16)
	case sub >= 21 && sub <= 34: // lanes
		r.byte()
	case sub >= 84 && sub <= 91: // load and store lanes
		r.u32()
		r.u32()
		r.byte()
	case sub > 255:
		r.fail("the opcode 0xfd %d is not of WebAssembly 2.0", sub)
	}
}
