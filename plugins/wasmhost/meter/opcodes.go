package meter

// The opcodes and types that the meter writes or distinguishes (WebAssembly 2.0, sections 5.4 and 5.3).
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
	opTailCall    = 0x12 // return_call
	opTailIndir   = 0x13 // return_call_indirect
	opDrop        = 0x1a
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
	opI32Add      = 0x6a
	opI32Sub      = 0x6b
	opI32Mul      = 0x6c
	opI64Add      = 0x7c
	opI64Sub      = 0x7d
	opI64Mul      = 0x7e
	opI64ShrU     = 0x88
	opI64ExtendU  = 0xad
	opRefNull     = 0xd0
	opRefFunc     = 0xd2
	opMisc        = 0xfc // prefix of the misc instructions below
	opVector      = 0xfd // prefix of the vector instructions
	typeI32       = 0x7f
	typeI64       = 0x7e
	typeF64       = 0x7c
	typeV128      = 0x7b
	typeFuncref   = 0x70
	typeExternref = 0x6f
	blockEmpty    = 0x40
)

// The numbers of the instructions that begin with the prefix opMisc. The instructions with lower numbers are the
// saturating truncations.
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

// skipImmediates reads the immediates of an instruction (WebAssembly 2.0, section 5.4). If the cost of the instruction
// depends on its operand, it returns the kind of edit that charges for the operand. Otherwise it returns checkFuel.
func (f *funcRewriter) skipImmediates(r *reader, op byte) editKind {
	switch {
	case op == opBlock || op == opLoop || op == opIf:
		r.blockType(len(f.w.info.types))
	// the instructions unreachable, nop, else, end, return, drop and select
	case op <= 0x01, op == opElse, op == opEnd, op == opReturn, op == 0x1a, op == 0x1b:
	case op == opCall, op == opTailCall:
		r.u32()
	case op == opBr, op == opBrIf:
		f.readBranchTarget(r)
	case op == opBrTable:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			f.readBranchTarget(r)
		}
		f.readBranchTarget(r)
	case op == opCallIndir, op == opTailIndir: // wazero panics if the type does not exist
		if t := r.u32(); int(t) >= len(f.w.info.types) {
			r.fail("the type %d does not exist", t)
		}
		r.u32()
	case op == 0x1c: // select t*
		r.valueTypes()
	case op == opGlobalGet, op == opGlobalSet:
		// The counters have the indices after the module's own globals. Such an index is invalid in the original
		// module, but would give access to the counters in the metered module.
		if g := r.u32(); int(g) >= f.w.info.Globals {
			r.fail("the global %d does not exist", g)
		}
	case op == opLocalGet, op == opLocalSet, op == opLocalTee: // protects the added locals like the counters
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
		r.fail("the opcode %#x is not of WebAssembly 2.0%s", op, proposalText(op))
	}
	return checkFuel
}

// readBranchTarget reads the target of a branch. It fails if the function has no such block: in the metered module, the
// target might then be the block that openBlock adds.
func (f *funcRewriter) readBranchTarget(r *reader) {
	if l := r.u32(); int(l) >= len(f.openBlocks) {
		r.fail("the block that a branch leads to does not exist")
	}
}

func (f *funcRewriter) skipMisc(r *reader) editKind {
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
	return checkFuel
}

func (f *funcRewriter) skipVector(r *reader) {
	from := r.pos
	sub := r.u32()
	// wazero reads only one byte of this opcode, and would interpret a second byte as a nop.
	if canonical := appendU32(nil, sub); r.pos-from != len(canonical) {
		r.fail("the opcode 0xfd %d is written with more bytes than it needs", sub)
	}
	switch {
	case sub <= 11, sub == 92, sub == 93: // loads, v128.store, loads that fill with zeros
		r.u32()
		r.u32()
	case sub == 12, sub == 13: // v128.const, i8x16.shuffle
		r.bytes(16)
	case sub >= 21 && sub <= 34: // extract and replace a lane
		r.byte()
	case sub >= 84 && sub <= 91: // load and store a lane
		r.u32()
		r.u32()
		r.byte()
	case sub > 255:
		r.fail("the opcode 0xfd %d is not of WebAssembly 2.0", sub)
	}
}

// proposalText returns the end of an error message. It names the WebAssembly proposal after version 2.0 that defines
// the opcode, if there is one.
func proposalText(op byte) string {
	switch {
	case op >= 0x06 && op <= 0x0a, op == 0x18, op == 0x19, op == 0x1f:
		return ", but of the later proposal exception handling"
	case op == 0xfb:
		return ", but of the later proposal garbage collection"
	case op == 0xfe:
		return ", but of the later proposal threads"
	}
	return ""
}
