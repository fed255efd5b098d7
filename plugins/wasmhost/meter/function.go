package meter

import (
	"bytes"
	"math"
	"slices"
)

// funcRewriter rewrites the code of one function. The counter (the fuel) is a global. If the function has a loop
// without calls, the rewritten code copies the counter into an added local, because the compiler can keep a local in a
// register. The rewritten code copies the local back to the global before each call and when the function returns. Such
// code has this form; $f is the local:
//
//	global.get fuel  i64.const n  i64.sub  local.tee $f  i64.const 0  i64.lt_s
//	if  local.get $f  call refuel  local.set $f  end
//	block T          ;; a branch out of the function ends here
//	  ...  loop  local.get $f  i64.const n  i64.sub  local.tee $f  ...
//	  ...  local.get $f  global.set fuel  call g  global.get fuel  local.set $f
//	  ...  local.get $f  global.set fuel  return
//	end
//	local.get $f  global.set fuel
type funcRewriter struct {
	w             *moduleWriter
	signature     *signature
	size          Size
	out           []byte
	edits         []edit
	openBlocks    []block // the blocks that have not ended at the current position
	hasBulk       bool    // the function has a bulk instruction, so it needs a local for the operand
	unpaidStack   int64   // bytes of the stack frame for which the fuel of the function's entry does not pay
	counterCached bool    // the counter is copied into a local

	types         []byte // value types of the locals, including the parameters
	writtenInLoop []bool // for each local: whether code in a loop writes it
	passedLocals  []int  // the locals that refuelLoop passes to the host, by index in passedTypes; noLocal for none

	fuel, operand uint32 // indices of the added locals
}

// block is a block that has not ended yet.
type block struct {
	checkIndex int // index in edits of the check that pays for the block's instructions
	// the block belongs to a dispatch loop (see dispatchBlocks); a branch of the loop begins at the block's end
	branch bool
	label  int64 // number of values that a branch to the block carries
	loops  int64 // number of loops around the block, including itself
}

// edit is a change of the function's code. It inserts code before the byte at the offset, or replaces the
// function index that begins at this offset.
type edit struct {
	offset int
	kind   editKind
	n      int64 // cost (checkFuel), or new index (renumber)
	skip   int   // number of replaced bytes (renumber)
	loop   bool  // the check is at the head of a loop (checkFuel)
	call   bool  // the code that the check pays for has a call (checkFuel)
	head   int   // index in edits of the check at the head of the dispatch loop; 0 for none (checkFuel)
}

type editKind byte

const (
	checkFuel editKind = iota // subtracts the cost from the counter, and calls the host if the counter is below zero
	chargeBytes
	chargeElements
	chargePages
	storeCounter // before a call or return: copies the local to the global
	loadCounter  // after a call: copies the global to the local
	renumber     // replaces the index of a function
)

func (f *funcRewriter) reset(w *moduleWriter, t *signature) {
	*f = funcRewriter{w: w, signature: t, out: f.out[:0], edits: f.edits[:0], openBlocks: f.openBlocks[:0],
		types:         f.types[:0],
		writtenInLoop: f.writtenInLoop[:0], passedLocals: f.passedLocals[:0]}
}

// maxLocals is wazero's maximum number of locals.
const maxLocals = 50_000

func (f *funcRewriter) rewrite(raw []byte) error {
	r := &reader{b: raw}
	groups := r.count()
	locals := uint64(len(f.signature.params))
	first := r.pos
	f.types = append(f.types[:0], f.signature.params...)
	for range groups {
		n := r.u32()
		locals += uint64(n)
		r.valueType()
		if r.err == nil && locals < maxLocals {
			f.types = append(f.types, bytes.Repeat(r.b[r.pos-1:r.pos], int(n))...)
		}
		if r.err != nil {
			break
		}
	}
	if r.err == nil && locals+2 > maxLocals {
		r.fail("%d locals are too many", locals)
	}
	f.writtenInLoop = append(f.writtenInLoop[:0], make([]bool, len(f.types))...)
	f.fuel, f.operand = uint32(locals), uint32(locals)+1
	f.size.Values = int64(locals) + int64(len(f.signature.results))
	declared := r.pos
	f.size.hasVectors = slices.Contains(f.signature.params, typeV128) || bytes.Contains(raw[first:declared],
		[]byte{typeV128})
	f.scan(r)
	if r.err != nil {
		return r.err
	}
	added := uint32(1)
	if f.hasBulk {
		added++
	}
	f.out = appendU32(f.out, groups+added)
	f.out = append(f.out, raw[first:declared]...)
	f.out = append(f.out, 1, typeI64)
	if f.hasBulk {
		f.out = append(f.out, 1, typeI32)
	}
	at := declared
	for i, p := range f.edits {
		f.out = append(f.out, raw[at:p.offset]...)
		at = p.offset + p.skip
		f.applyEdit(&p, i == 0)
	}
	f.out = append(f.out, raw[at:]...)
	if f.counterCached {
		f.storeCounter()
		f.out = append(f.out, opEnd)
	}
	return nil
}

// scan reads the instructions, records the edits with their costs, and calls placeCounter at the end.
func (f *funcRewriter) scan(r *reader) {
	f.openBlocks = append(f.openBlocks, block{label: int64(len(f.signature.results))})
	f.edits = append(f.edits, edit{offset: r.pos})
	branches := 0 // number of the following blocks that belong to a dispatch loop
	for r.err == nil {
		at := r.pos
		op := r.byte()
		charge := f.skipImmediates(r, op)
		if r.err != nil {
			return
		}
		f.size.add(f.w.info, op, reader{b: r.b, pos: at + 1})
		check := f.openBlocks[len(f.openBlocks)-1].checkIndex
		f.edits[check].n += 1 + f.extraCost(op, reader{b: r.b, pos: at + 1})
		if charge != checkFuel {
			f.hasBulk = true
			f.edits = append(f.edits, edit{offset: at, kind: charge})
		}
		switch op {
		case opBlock, opIf:
			_, results := f.w.info.blockValues(reader{b: r.b, pos: at + 1})
			f.openBlocks = append(f.openBlocks, block{check, branches > 0, results,
				f.openBlocks[len(f.openBlocks)-1].loops})
			branches = max(branches-1, 0)
		case opLoop:
			params, _ := f.w.info.blockValues(reader{b: r.b, pos: at + 1})
			loops := f.openBlocks[len(f.openBlocks)-1].loops + 1
			f.size.loopDepths += loops
			f.openBlocks = append(f.openBlocks, block{checkIndex: len(f.edits), label: params, loops: loops})
			f.edits = append(f.edits, edit{offset: r.pos, loop: true})
			branches = f.dispatchBlocks(*r)
		case opCall, opCallIndir:
			f.edits[check].call = true
			f.edits[f.edits[check].head].call = true
			f.edits = append(f.edits, edit{offset: at, kind: storeCounter})
			if op == opCall {
				f.addRenumber(r, at+1)
			}
			f.edits = append(f.edits, edit{offset: r.pos, kind: loadCounter})
		case opRefFunc:
			f.addRenumber(r, at+1)
		case opLocalSet, opLocalTee:
			if f.openBlocks[len(f.openBlocks)-1].loops > 0 {
				f.writtenInLoop[(&reader{b: r.b, pos: at + 1}).u32()] = true
			}
		case opTailCall, opTailIndir:
			f.edits[check].call = true
			f.edits[f.edits[check].head].call = true
			f.edits = append(f.edits, edit{offset: at, kind: storeCounter})
			if op == opTailCall {
				f.addRenumber(r, at+1)
			}
		case opReturn:
			f.edits = append(f.edits, edit{offset: at, kind: storeCounter})
		case opEnd:
			ended := f.openBlocks[len(f.openBlocks)-1]
			f.openBlocks = f.openBlocks[:len(f.openBlocks)-1]
			if ended.branch {
				f.beginBranch(r.pos, ended.checkIndex)
			}
			if len(f.openBlocks) == 0 {
				if r.remaining() > 0 {
					r.fail("code after the function's end")
				}
				f.placeCounter()
				return
			}
		}
	}
}

// addRenumber records an edit that replaces a function index. The index is in the bytes from the given offset to the
// position of r.
func (f *funcRewriter) addRenumber(r *reader, from int) {
	index := (&reader{b: r.b, pos: from}).u32()
	if int(index) >= len(f.w.info.funcs) {
		r.fail("the function %d does not exist", index)
		return
	}
	f.edits = append(f.edits, edit{offset: from, kind: renumber, n: int64(f.w.newIndex(index)), skip: r.pos - from})
}

// dispatchBlocks returns the number of nested blocks of a dispatch loop, or 0 for any other loop. The compiler of Go
// translates the jumps in a function to a dispatch loop: nested blocks, and in the innermost block a br_table that
// branches to the ends of the blocks. In the comments of this package, a branch of a dispatch loop is the code that
// follows the end of one of these blocks. The reader r is at the first instruction of the loop.
//
// In a function with a dispatch loop, each jump is one pass of the loop. In other loops, the check at the head
// subtracts the cost of all the code in the loop. In a dispatch loop, each jump would then cost as much as the whole
// function. Therefore each branch has a check for its own code, and the check at the head costs nothing.
func (f *funcRewriter) dispatchBlocks(r reader) (blocks int) {
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
				if l := int(r.u32()); l >= blocks && (l == blocks || f.carriedValues(l-blocks) > 0) {
					return 0 // the branch leads to the head, or leaves the loop with values
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

// beginBranch records the check of a branch of a dispatch loop (see dispatchBlocks). The parameter at is the offset of
// the branch. The parameter before is the index of the check that subtracts the cost of the code before the branch.
func (f *funcRewriter) beginBranch(at, before int) {
	head := f.edits[before].head
	if head == 0 {
		head = before
		f.edits[head].n = 0
	}
	f.openBlocks[len(f.openBlocks)-1].checkIndex = len(f.edits)
	f.edits = append(f.edits, edit{offset: at, n: dispatchCost + f.moveCost(0), head: head})
}

// The cost of an instruction is 1, plus the extra cost that extraCost computes from these constants.
const (
	hostCallCost = 99 // extra cost of an instruction whose machine code calls a function of wazero
	freeMoves    = 32 // number of values that branches, blocks and calls move without cost
	movesPerFuel = 8  // number of values beyond freeMoves that one unit of fuel moves
)

// extraCost returns the cost of an instruction, minus 1. The reader r has read the opcode.
func (f *funcRewriter) extraCost(op byte, r reader) int64 {
	switch op {
	case opBlock, opLoop, opIf:
		params, results := f.w.info.blockValues(r)
		return f.moveCost(params + results)
	case opBr, opBrIf:
		return f.moveCost(f.carriedValues(int(r.u32())))
	case opBrTable:
		for n := r.count(); n > 0; n-- {
			r.u32()
		}
		return f.moveCost(f.carriedValues(int(r.u32()))) // all targets take the same number of values
	case opCall, opTailCall:
		if n := r.u32(); int(n) < len(f.w.info.funcs) {
			return costOfMoves(f.w.info.valueCount(f.w.info.funcs[n]))
		}
	case opCallIndir, opTailIndir:
		return costOfMoves(f.w.info.valueCount(r.u32()))
	case opMemoryGrow, opRefFunc:
		return hostCallCost
	case opMisc:
		if r.u32() == miscTableGrow {
			return hostCallCost
		}
	}
	return 0
}

// moveCost returns the cost of moving values at a branch or at a block's end. The compiled code may move n values and
// all locals there, although the module has no instructions for these moves.
func (f *funcRewriter) moveCost(n int64) int64 { return costOfMoves(int64(f.fuel) + n) }

func costOfMoves(n int64) int64 { return max(0, n-freeMoves) / movesPerFuel }

// carriedValues returns the number of values that a branch to a label carries.
func (f *funcRewriter) carriedValues(label int) int64 {
	if label >= len(f.openBlocks) {
		return 0
	}
	return f.openBlocks[len(f.openBlocks)-1-label].label
}

// placeCounter decides whether the counter is copied into a local, and computes f.unpaidStack.
func (f *funcRewriter) placeCounter() {
	f.size.mutableGlobals = int64(f.w.info.mutableGlobals) + 2 // the two added counters are mutable, too
	for _, p := range f.edits {
		if p.kind <= chargePages {
			f.size.checks++
		}
	}
	f.unpaidStack = max(0, f.size.frameSize()-StackPerFuel*f.edits[0].n)
	if !f.w.mayCache || len(f.signature.results) > 1 { // openBlock would need a type that the module may not have
		return
	}
	for _, p := range f.edits {
		f.counterCached = f.counterCached || p.loop && !p.call
	}
	if f.counterCached {
		f.choosePassedLocals()
	}
}

func (f *funcRewriter) applyEdit(p *edit, entry bool) {
	switch {
	case p.kind == checkFuel && p.n == 0: // the head of a dispatch loop
	case p.kind == checkFuel && (entry || !f.counterCached):
		f.appendGlobalGet()
		f.subtract(p.n, false)
		if entry {
			f.countStack()
		}
		if entry && f.counterCached {
			f.openBlock()
		}
	case p.kind == checkFuel:
		f.appendLocalGet()
		f.subtract(p.n, p.loop)
	case p.kind == renumber:
		f.out = appendU32(f.out, uint32(p.n))
	case p.kind == storeCounter && f.counterCached:
		f.storeCounter()
	case p.kind == loadCounter && f.counterCached:
		f.appendGlobalGet()
		f.out = appendU32(append(f.out, opLocalSet), f.fuel)
	case p.kind == chargeBytes, p.kind == chargeElements, p.kind == chargePages:
		f.chargeOperand(p.kind)
	}
}

func (f *funcRewriter) appendGlobalGet() { f.out = appendU32(append(f.out, opGlobalGet), f.w.fuel) }
func (f *funcRewriter) appendLocalGet()  { f.out = appendU32(append(f.out, opLocalGet), f.fuel) }

func (f *funcRewriter) storeCounter() {
	f.appendLocalGet()
	f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
}

// openBlock inserts a block around the code of the function. A branch out of the function then leads to
// the end of this block.
func (f *funcRewriter) openBlock() {
	t := byte(blockEmpty)
	if len(f.signature.results) == 1 {
		t = f.signature.results[0]
	}
	f.out = append(f.out, opBlock, t)
}

// countStack inserts code that subtracts f.unpaidStack from the stack counter, and calls the host if the counter is
// then below zero.
func (f *funcRewriter) countStack() {
	if f.unpaidStack == 0 {
		return
	}
	f.out = appendU32(append(f.out, opGlobalGet), f.w.stack)
	f.out = append(appendS64(append(f.out, opI64Const), f.unpaidStack), opI64Sub)
	f.out = appendU32(append(f.out, opGlobalSet), f.w.stack)
	f.out = appendU32(append(f.out, opGlobalGet), f.w.stack)
	f.out = append(f.out, opI64Const, 0, opI64LtS, opIf, blockEmpty, opCall)
	f.out = append(appendU32(f.out, f.w.stackFunction()), opEnd)
}

// subtract inserts code that puts n on the operand stack, and then the code of subtractTop.
func (f *funcRewriter) subtract(n int64, loop bool) {
	f.out = appendS64(append(f.out, opI64Const), n)
	f.subtractTop(loop)
}

// subtractTop inserts code that subtracts the top of the operand stack from the counter below it, and stores the
// result. If the result is below zero, the code calls the host. The host returns a new value of the counter, or ends
// the call. The parameter loop is set at the head of a loop.
func (f *funcRewriter) subtractTop(loop bool) {
	f.out = appendU32(append(f.out, opI64Sub, opLocalTee), f.fuel)
	if !f.counterCached {
		f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
		f.appendLocalGet()
	}
	f.out = append(f.out, opI64Const, 0, opI64LtS, opIf, blockEmpty)
	f.appendLocalGet()
	switch {
	case loop:
		f.refuelLoop()
	case f.counterCached:
		f.out = appendU32(append(f.out, opCall), f.w.refuelFunction())
		f.out = appendU32(append(f.out, opLocalSet), f.fuel)
	default:
		f.out = appendU32(append(f.out, opCall), f.w.refuelFunction())
		f.out = appendU32(append(f.out, opGlobalSet), f.w.fuel)
	}
	f.out = append(f.out, opEnd)
}

// passedTypes are the types of the locals that refuelLoop passes. wazero can keep this many locals in registers, but
// not more.
var passedTypes = []byte{typeI32, typeI32, typeI32, typeI32, typeI32, typeI32, typeF64, typeF64, typeF64, typeF64,
	typeI64}

const noLocal = -1

// refuelLoop inserts a call of the host at the head of a loop. The call passes the locals that choosePassedLocals has
// chosen, and returns them unchanged. After the call the code uses the returned values, so wazero can keep the locals
// in registers. wazero 1.12 would store each value that is needed after the call on the stack. It would do so when the
// value is computed, which means in every pass of the loop.
func (f *funcRewriter) refuelLoop() {
	for i, local := range f.passedLocals {
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
	f.out = appendU32(append(f.out, opCall), f.w.refuelLoopFunction())
	for _, local := range slices.Backward(f.passedLocals) {
		if local == noLocal {
			f.out = append(f.out, opDrop)
		} else {
			f.out = appendU32(append(f.out, opLocalSet), uint32(local))
		}
	}
	f.out = appendU32(append(f.out, opLocalSet), f.fuel)
}

// choosePassedLocals chooses the locals that refuelLoop passes: for each element of passedTypes, the next local of this
// type that is written in a loop.
func (f *funcRewriter) choosePassedLocals() {
	f.passedLocals = f.passedLocals[:0]
	for range passedTypes {
		f.passedLocals = append(f.passedLocals, noLocal)
	}
	for local, written := range f.writtenInLoop {
		for i, t := range passedTypes {
			if written && t == f.types[local] && f.passedLocals[i] == noLocal {
				f.passedLocals[i] = local
				break
			}
		}
	}
}

// chargeOperand inserts code that subtracts the cost of a bulk instruction, which depends on its last operand. The
// operand stays on top of the operand stack.
func (f *funcRewriter) chargeOperand(kind editKind) {
	f.out = appendU32(append(f.out, opLocalTee), f.operand)
	if f.counterCached {
		f.appendLocalGet()
	} else {
		f.appendGlobalGet()
	}
	f.out = appendU32(append(f.out, opLocalGet), f.operand)
	f.out = append(f.out, opI64ExtendU)
	switch kind {
	case chargeBytes:
		f.out = append(appendS64(append(f.out, opI64Const), int64(f.w.shift)), opI64ShrU)
	case chargePages:
		f.out = append(appendS64(append(f.out, opI64Const), int64(min(f.w.cost.Page, math.MaxInt32))), opI64Mul)
	}
	f.subtractTop(false)
}
