package meter

import (
	"fmt"
	"math"
)

// Size has the properties of a function that determine the time of its compilation.
type Size struct {
	Instructions int64
	Calls        int64
	Carried      int64 // parameters and results of all calls
	Values       int64 // parameters, results and locals
	Edges        int64 // blocks, branches and targets of br_table
	Loops        int64

	nested int64 // sum over all loops of the number of loops around each, including itself
	more   int64 // machine instructions beyond one per instruction of the module
	widest int64 // largest number of parameters and results of a block

	checks  int64 // calls of the host that metering adds
	mutable int64 // mutable globals of the module; all of them are loaded after each call
	blocks  int64 // blocks and loops
	globals int64 // instructions that read or write a global
	most    int64 // largest number of parameters and results of a call
	vectors bool  // values may have 128 bits
}

// frame returns the maximum stack of a call in bytes. wazero 1.12 reserves a place on the stack for each value that
// is not kept in a register. At most these values are the results of all instructions and, at each point where branches
// meet, all locals, all globals, and the address and size of the memory.
func (s Size) frame() int64 {
	const values, memory = 2, 2 // per instruction
	slot := int64(8)
	if s.vectors {
		slot = 16
	}
	meeting := s.Values + s.widest + s.globals + memory
	return 64 + slot*(values*s.Instructions+meeting*(s.blocks+2)) + 2*slot*s.most
}

// Work estimates the work of compiling the function. A unit is about one microsecond and half a
// kilobyte of memory. The formula was fitted to wazero 1.12, whose compilation cannot be cancelled.
// Terms that grow faster than the code (edges, loops, values at many edges) are those by which a
// small module could take hours to compile. A function of standard Go has 1,700 units on average,
// and 230,000 at most.
func (s Size) Work() int64 {
	meets := float64(s.Edges) * float64(s.Values+s.widest)
	edges, loops, nested, values := float64(s.Edges), float64(s.Loops), float64(s.nested), float64(s.Values+s.widest)
	w := float64(20+s.Instructions+s.more+10*s.Calls+s.Carried) + values + values*values/5_000 + meets/2 +
		meets*meets/250_000 + edges*edges/50 + loops*loops/2 + nested*values*0.6 + nested*values*values/300 +
		float64(s.Calls+s.checks)*float64(s.mutable)/2
	return int64(min(w, math.MaxInt32))
}

// work estimates the work of compiling a function type: wazero compiles an entry for each type,
// even if no function has it.
func (t signature) work() int64 {
	n := float64(len(t.params) + len(t.results))
	return int64(10 + n + n*n/1_000)
}

// String lists the parts of the size.
func (s Size) String() string {
	return fmt.Sprintf("%d instructions, %d calls, %d parameters and locals, %d blocks and branches, %d loops",
		s.Instructions, s.Calls, s.Values, s.Edges, s.Loops)
}

// note adds an instruction. r is after its opcode.
func (s *Size) note(info *Info, op byte, r in) {
	s.Instructions++
	s.more += becomes(op, r)
	switch op {
	case opBlock, opIf, opLoop:
		s.Edges++
		s.blocks++
		if op == opLoop {
			s.Loops++
		}
		params, results := info.block(r)
		s.widest = max(s.widest, params+results)
	case opElse, opBr, opBrIf:
		s.Edges++
	case opBrTable:
		s.Edges += int64(r.u32())
	case opCall, opTailCall:
		s.Calls++
		if n := r.u32(); int(n) < len(info.funcs) {
			s.carry(info.arity(info.funcs[n]))
		}
	case opTableGet, opTableSet:
		s.Edges++
	case opRefFunc:
		s.Calls++
	case opMemoryGrow:
		s.Edges += 2 // one edge for metering, one for the instruction
	case opMisc:
		switch sub := r.u32(); {
		case sub == miscMemoryFill, sub == miscTableFill: // they are compiled to loops
			s.Loops++
			s.Edges += 2
		case sub == miscMemoryInit, sub == miscMemoryCopy, sub == miscTableInit, sub == miscTableCopy,
			sub == miscTableGrow:
			s.Edges += 3
		}
	case opCallIndir, opTailIndir:
		s.Calls++
		s.more += indirect
		s.carry(info.arity(r.u32()))
	case opGlobalGet, opGlobalSet:
		s.globals++
	case opVector:
		s.vectors = true
	}
}

// carry adds the parameters and results of a call.
func (s *Size) carry(values int64) {
	s.Carried += values
	s.most = max(s.most, values)
}

// The number of machine instructions of an instruction, minus one. The code of an instruction that may trap includes
// the exit for the trap, which has 5 KB or more.
const (
	access   = 8  // loads and stores, and conversions that saturate
	divide   = 6  // of integers
	indirect = 20 // calls through a table
	truncate = 12 // to integers
	lanes    = 3  // vector instructions, except loads and stores
)

// becomes returns the number of machine instructions of an instruction, minus one. r is after the opcode.
func becomes(op byte, r in) int64 {
	switch {
	case op >= 0x28 && op <= 0x3e: // i32.load to i64.store32
		return access
	case op >= 0x6d && op <= 0x70, op >= 0x7f && op <= 0x82: // div and rem
		return divide
	case op >= 0xa8 && op <= 0xab, op >= 0xae && op <= 0xb1: // trunc
		return truncate
	case op == opMisc && r.u32() <= 7: // trunc_sat
		return access
	case op == opVector:
		if sub := r.u32(); sub <= 11 || sub >= 84 && sub <= 93 {
			return access
		}
		return lanes
	}
	return 0
}

// arity returns the number of parameters and results of a type.
func (i *Info) arity(t uint32) int64 {
	if int(t) >= len(i.types) {
		return 0
	}
	return int64(len(i.types[t].params) + len(i.types[t].results))
}

// block returns the number of parameters and results of a block. r is at its type.
func (i *Info) block(r in) (params, results int64) {
	switch t := int64(r.leb(33, true)); {
	case t >= 0 && t < int64(len(i.types)):
		return int64(len(i.types[t].params)), int64(len(i.types[t].results))
	case t < 0 && byte(t&0x7f) != blockEmpty:
		return 0, 1
	}
	return 0, 0
}
