package meter

import (
	"bytes"
	"math"
	"slices"
)

// function rewrites one body, in one of two ways. A function that has a loop without
// calls keeps the counter in an additional local, which the compiler keeps in a
// register, and writes it back to the global before each call and when it returns.
// Every other function keeps it in the global.
//
//	global.get fuel  i64.const n  i64.sub  local.tee $f  i64.const 0  i64.lt_s
//	if  local.get $f  call refuel  local.set $f  end
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
	open   []frame // the blocks that have not ended at the current position
	bulk   bool    // a bulk instruction needs a local for its operand
	stack  int64   // bytes of the frame that the fuel of the function's entry does not cover
	cached bool    // the counter is kept in a local

	types   []byte // value types of the locals, including the parameters
	written []bool // by local: whether a loop writes it
	passed  []int  // the locals that refuelLoop passes; noLocal for none

	fuel, operand uint32 // indices of the added locals
}

// frame is a block that has not ended.
type frame struct {
	region int   // index in points of the check that pays for its instructions
	branch bool  // the block belongs to a dispatch loop, and a branch begins at its end
	label  int64 // number of values that a branch to the block carries
	loops  int64 // number of loops around the block, including itself
}

// point is a position in the input, before byte at, at which code is inserted or replaced.
type point struct {
	at   int
	what addition
	n    int64 // of check: the cost; of renumber: the new index
	skip int   // of renumber: number of bytes replaced
	loop bool  // of check: the check is at the head of a loop
	call bool  // of check: the code that the check pays for has a call
	head int   // of check in a dispatch loop: the loop's head; 0 for none
}

type addition byte

const (
	check addition = iota // subtracts from the counter; below zero it calls the host
	chargeBytes
	chargeElements
	chargePages
	putBack  // before a call or return: copies the local to the global
	takeUp   // after a call: copies the global to the local
	renumber // replaces the index of a function
)

func (f *function) reset(w *writer, t *signature) {
	*f = function{w: w, type_: t, out: f.out[:0], points: f.points[:0], open: f.open[:0], types: f.types[:0],
		written: f.written[:0], passed: f.passed[:0]}
}

// maxLocals is wazero's maximum number of locals.
const maxLocals = 50_000

func (f *function) rewrite(raw []byte) error {
	r := &in{b: raw}
	groups := r.count()
	locals := uint64(len(f.type_.params))
	first := r.at
	f.types = append(f.types[:0], f.type_.params...)
	for range groups {
		n := r.u32()
		locals += uint64(n)
		r.valueType()
		if r.err == nil && locals < maxLocals {
			f.types = append(f.types, bytes.Repeat(r.b[r.at-1:r.at], int(n))...)
		}
		if r.err != nil {
			break
		}
	}
	if r.err == nil && locals+2 > maxLocals {
		r.fail("%d locals are too many", locals)
	}
	f.written = append(f.written[:0], make([]bool, len(f.types))...)
	f.fuel, f.operand = uint32(locals), uint32(locals)+1
	f.size.Values = int64(locals) + int64(len(f.type_.results))
	declared := r.at
	f.size.vectors = slices.Contains(f.type_.params, typeV128) || bytes.Contains(raw[first:declared], []byte{typeV128})
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
		at = p.at + p.skip
		f.add(&p, i == 0)
	}
	f.out = append(f.out, raw[at:]...)
	if f.cached {
		f.putBack()
		f.out = append(f.out, opEnd)
	}
	return nil
}

// scan reads the instructions, records the points and their costs, and decides where the counter is
// kept.
func (f *function) scan(r *in) {
	f.open = append(f.open, frame{label: int64(len(f.type_.results))})
	f.points = append(f.points, point{at: r.at})
	branches := 0 // number of following blocks that belong to a dispatch loop
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
			f.open = append(f.open, frame{region, branches > 0, results, f.open[len(f.open)-1].loops})
			branches = max(branches-1, 0)
		case opLoop:
			params, _ := f.w.info.block(in{b: r.b, at: at + 1})
			loops := f.open[len(f.open)-1].loops + 1
			f.size.nested += loops
			f.open = append(f.open, frame{region: len(f.points), label: params, loops: loops})
			f.points = append(f.points, point{at: r.at, loop: true})
			branches = f.dispatch(*r)
		case opCall, opCallIndir:
			f.points[region].call = true
			f.points[f.points[region].head].call = true
			f.points = append(f.points, point{at: at, what: putBack})
			if op == opCall {
				f.renumber(r, at+1)
			}
			f.points = append(f.points, point{at: r.at, what: takeUp})
		case opRefFunc:
			f.renumber(r, at+1)
		case opLocalSet, opLocalTee:
			if f.open[len(f.open)-1].loops > 0 {
				f.written[(&in{b: r.b, at: at + 1}).u32()] = true
			}
		case opTailCall, opTailIndir:
			f.points[region].call = true
			f.points[f.points[region].head].call = true
			f.points = append(f.points, point{at: at, what: putBack})
			if op == opTailCall {
				f.renumber(r, at+1)
			}
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

// renumber records a point for the index of a function, which is between from and r.
func (f *function) renumber(r *in, from int) {
	index := (&in{b: r.b, at: from}).u32()
	if int(index) >= len(f.w.info.funcs) {
		r.fail("the function %d does not exist", index)
		return
	}
	f.points = append(f.points, point{at: from, what: renumber, n: int64(f.w.function(index)), skip: r.at - from})
}

// dispatch reports whether a loop is a dispatch loop, as Go compiles a function: nested blocks, and
// in the innermost one a table of branches to their ends. r is after the loop's opcode and type.
// blocks is the number of nested blocks; 0 for any other loop.
//
// Each jump within such a function is one pass of the loop. If the check at the loop's head paid
// for a whole pass, as in other loops, each jump would pay for the whole function. So each branch
// has its own check, and the head pays for nothing.
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
					return 0 // it leads to the head, or out of the loop with values
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

// dispatchCost is the cost of the local.get and the br_table before a branch.
const dispatchCost = 2

// branch begins a branch of a dispatch loop.
func (f *function) branch(at, before int) {
	head := f.points[before].head
	if head == 0 {
		head = before
		f.points[head].n = 0
	}
	f.open[len(f.open)-1].region = len(f.points)
	f.points = append(f.points, point{at: at, n: dispatchCost + f.moving(0), head: head})
}

// The cost of an instruction in addition to 1.
const (
	leaving    = 99 // of an instruction that leaves the compiled code
	atOnce     = 32 // number of values that branches, blocks and calls move without cost
	forOneMore = 8  // number of further values per unit of fuel
)

// extra returns the cost of an instruction in addition to 1. r is after its opcode.
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
		return f.moving(f.carried(int(r.u32()))) // all targets take the same number
	case opCall, opTailCall:
		if n := r.u32(); int(n) < len(f.w.info.funcs) {
			return moves(f.w.info.arity(f.w.info.funcs[n]))
		}
	case opCallIndir, opTailIndir:
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

// moving returns the cost of moving n values, and possibly every local, at a branch or at the end
// of a block. There are no instructions for these moves in the module.
func (f *function) moving(n int64) int64 { return moves(int64(f.fuel) + n) }

func moves(n int64) int64 { return max(0, n-atOnce) / forOneMore }

// carried returns the number of values of a branch to a label.
func (f *function) carried(label int) int64 {
	if label >= len(f.open) {
		return 0
	}
	return f.open[len(f.open)-1-label].label
}

// decide decides where the counter is kept, and which part of the frame is counted as stack.
func (f *function) decide() {
	f.size.mutable = int64(f.w.info.mutable) + 2 // the two counters
	for _, p := range f.points {
		if p.what <= chargePages {
			f.size.checks++
		}
	}
	f.stack = max(0, f.size.frame()-StackPerFuel*f.points[0].n)
	if !f.w.mayCache || len(f.type_.results) > 1 { // the added block would need a type that the module may not have
		return
	}
	for _, p := range f.points {
		f.cached = f.cached || p.loop && !p.call
	}
	if f.cached {
		f.pass()
	}
}

func (f *function) add(p *point, entry bool) {
	switch {
	case p.what == check && p.n == 0: // the head of a dispatch loop
	case p.what == check && (entry || !f.cached):
		f.getGlobal()
		f.take(p.n, false)
		if entry {
			f.countStack()
		}
		if entry && f.cached {
			f.openBlock()
		}
	case p.what == check:
		f.getLocal()
		f.take(p.n, p.loop)
	case p.what == renumber:
		f.out = appendU32(f.out, uint32(p.n))
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

// openBlock opens the block that replaces the function's own label.
func (f *function) openBlock() {
	t := byte(blockEmpty)
	if len(f.type_.results) == 1 {
		t = f.type_.results[0]
	}
	f.out = append(f.out, opBlock, t)
}

// countStack subtracts the part of the frame that the entry's fuel does not cover, and calls the
// host if the counter is below zero.
func (f *function) countStack() {
	if f.stack == 0 {
		return
	}
	f.out = appendU32(append(f.out, opGlobalGet), f.w.stack)
	f.out = append(appendS64(append(f.out, opI64Const), f.stack), opI64Sub)
	f.out = appendU32(append(f.out, opGlobalSet), f.w.stack)
	f.out = appendU32(append(f.out, opGlobalGet), f.w.stack)
	f.out = append(f.out, opI64Const, 0, opI64LtS, opIf, blockEmpty, opCall)
	f.out = append(appendU32(f.out, f.w.lookAtStack()), opEnd)
}

// take subtracts n from the counter on the operand stack, and calls the host if it is below zero.
func (f *function) take(n int64, loop bool) {
	f.out = appendS64(append(f.out, opI64Const), n)
	f.settle(loop)
}

// settle subtracts the top of the operand stack from the counter below it, and stores the counter.
// If it is below zero, the host returns a new value or ends the call. loop is set at the head of a
// loop without calls.
func (f *function) settle(loop bool) {
	f.out = appendU32(append(f.out, opI64Sub, opLocalTee), f.fuel)
	if !f.cached {
		f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
		f.getLocal()
	}
	f.out = append(f.out, opI64Const, 0, opI64LtS, opIf, blockEmpty)
	f.getLocal()
	switch {
	case loop:
		f.refuelLoop()
	case f.cached:
		f.out = appendU32(append(f.out, opCall), f.w.refuel())
		f.out = appendU32(append(f.out, opLocalSet), f.fuel)
	default:
		f.out = appendU32(append(f.out, opCall), f.w.refuel())
		f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
	}
	f.out = append(f.out, opEnd)
}

// passedTypes are the types of the values that refuelLoop takes and returns in addition to the
// fuel. There are as many as registers.
var passedTypes = []byte{typeI32, typeI32, typeI32, typeI32, typeI32, typeI32, typeF64, typeF64, typeF64, typeF64,
	typeI64}

const noLocal = -1

// refuelLoop calls the host and passes it the locals that the loop writes; the
// host returns them unchanged. wazero (1.12) spills a value that is live across a call
// at the place of its definition: here in every pass of the loop. A passed local gets
// a new value from the call, so it stays in its register in passes without a call.
func (f *function) refuelLoop() {
	for i, local := range f.passed {
		switch t := passedTypes[i]; {
		case local != noLocal:
			f.out = appendU32(append(f.out, opLocalGet), uint32(local))
		case t == typeI32:
			f.out = append(f.out, opI32Const, 0)
		case t == typeI64:
			f.out = append(f.out, opI64Const, 0)
		case t == typeF64:
			f.out = append(f.out, opF64Const, 0, 0, 0, 0, 0, 0, 0, 0)
		}
	}
	f.out = appendU32(append(f.out, opCall), f.w.refuelLoop())
	for _, local := range slices.Backward(f.passed) {
		if local == noLocal {
			f.out = append(f.out, opDrop)
		} else {
			f.out = appendU32(append(f.out, opLocalSet), uint32(local))
		}
	}
	f.out = appendU32(append(f.out, opLocalSet), f.fuel)
}

// pass chooses the locals that refuelLoop passes, in the order of passedTypes.
func (f *function) pass() {
	f.passed = f.passed[:0]
	for range passedTypes {
		f.passed = append(f.passed, noLocal)
	}
	for local, written := range f.written {
		for i, t := range passedTypes {
			if written && t == f.types[local] && f.passed[i] == noLocal {
				f.passed[i] = local
				break
			}
		}
	}
}

// charge subtracts the cost of a bulk instruction, which depends on its last operand. The operand
// stays on top of the stack.
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
	f.settle(false)
}
