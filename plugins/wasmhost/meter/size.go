package meter

import (
	"fmt"
	"math"
)

// Size has the properties of a function that determine how long its compilation takes.
type Size struct {
	Instructions int64
	Calls        int64
	Carried      int64 // number of parameters and results of all calls
	Values       int64 // number of parameters, results and locals
	Edges        int64 // number of blocks, branches and targets of br_table
	Loops        int64

	loopDepths       int64 // sum over all loops of their depths; an outermost loop has depth 1
	extraMachineCode int64 // number of machine instructions, minus the number of WebAssembly instructions
	widestBlock      int64 // largest number of parameters and results of a block

	checks         int64 // number of calls of the host that metering adds
	mutableGlobals int64 // number of mutable globals of the module; all of them are loaded after each call
	blocks         int64 // number of blocks and loops
	globals        int64 // number of instructions that read or write a global
	widestCall     int64 // largest number of parameters and results of a call
	hasVectors     bool  // values may have 128 bits
}

// frameSize returns an upper limit of the size of the function's stack frame, in bytes. wazero 1.12 reserves a slot in
// the frame for each value that it does not keep in a register. In the worst case, these values are the results of all
// instructions and, at each point where branches meet, all locals, all globals, and the address and size of the memory.
func (s Size) frameSize() int64 {
	const values, memory = 2, 2 // slots per instruction
	slot := int64(8)
	if s.hasVectors {
		slot = 16
	}
	meeting := s.Values + s.widestBlock + s.globals + memory
	return 64 + slot*(values*s.Instructions+meeting*(s.blocks+2)) + 2*slot*s.widestCall
}

// Work estimates the work of compiling the function. A unit stands for about one microsecond and half a kilobyte of
// memory. The formula was fitted to wazero 1.12, whose compilation cannot be cancelled. A small module with many
// branches, nested loops, or many values where branches meet could take hours to compile; the products in the formula
// give such a module a high estimate. A function of standard Go has 1,700 units on average, and at most 230,000.
func (s Size) Work() int64 {
	meets := float64(s.Edges) * float64(s.Values+s.widestBlock)
	edges, loops, nested, values := float64(s.Edges), float64(s.Loops), float64(s.loopDepths), float64(s.Values+
		s.widestBlock)
	w := float64(20+s.Instructions+s.extraMachineCode+10*s.Calls+s.Carried) + values + values*values/5_000 + meets/2 +
		meets*meets/250_000 + edges*edges/50 + loops*loops/2 + nested*values*0.6 + nested*values*values/300 +
		float64(s.Calls+s.checks)*float64(s.mutableGlobals)/2
	return int64(min(w, math.MaxInt32))
}

// work estimates the work of compiling a function type. wazero compiles an entry for each type, even if no
// function has the type.
func (s signature) work() int64 {
	n := float64(len(s.params) + len(s.results))
	return int64(10 + n + n*n/1_000)
}

// String returns some of the properties as text.
func (s Size) String() string {
	return fmt.Sprintf("%d instructions, %d calls, %d parameters and locals, %d blocks and branches, %d loops",
		s.Instructions, s.Calls, s.Values, s.Edges, s.Loops)
}

// add updates s for one more instruction. The reader r is at the byte after the opcode.
func (s *Size) add(info *Info, op byte, r reader) {
	s.Instructions++
	s.extraMachineCode += extraMachineCode(op, r)
	switch op {
	case opBlock, opIf, opLoop:
		s.Edges++
		s.blocks++
		if op == opLoop {
			s.Loops++
		}
		params, results := info.blockValues(r)
		s.widestBlock = max(s.widestBlock, params+results)
	case opElse, opBr, opBrIf:
		s.Edges++
	case opBrTable:
		s.Edges += int64(r.u32())
	case opCall, opTailCall:
		s.Calls++
		if n := r.u32(); int(n) < len(info.funcs) {
			s.addCall(info.valueCount(info.funcs[n]))
		}
	case opTableGet, opTableSet:
		s.Edges++
	case opRefFunc:
		s.Calls++
	case opMemoryGrow:
		s.Edges += 2 // one edge for metering, one for the instruction
	case opMisc:
		switch sub := r.u32(); {
		case sub == miscMemoryFill, sub == miscTableFill: // wazero compiles them to loops
			s.Loops++
			s.Edges += 2
		case sub == miscMemoryInit, sub == miscMemoryCopy, sub == miscTableInit, sub == miscTableCopy,
			sub == miscTableGrow:
			s.Edges += 3
		}
	case opCallIndir, opTailIndir:
		s.Calls++
		s.extraMachineCode += indirectCallCode
		s.addCall(info.valueCount(r.u32()))
	case opGlobalGet, opGlobalSet:
		s.globals++
	case opVector:
		s.hasVectors = true
	}
}

func (s *Size) addCall(values int64) {
	s.Carried += values
	s.widestCall = max(s.widestCall, values)
}

// The number of machine instructions that one instruction of a module compiles to, minus one. For an instruction that
// may trap, this includes the code that leaves the function at the trap. Compiling that code takes at least 5 KB of
// memory.
const (
	memoryAccessCode = 8  // loads and stores, and conversions that saturate
	divisionCode     = 6  // division of integers
	indirectCallCode = 20 // calls through a table
	truncationCode   = 12 // truncations to integers
	vectorCode       = 3  // vector instructions, except loads and stores
)

// extraMachineCode returns the number of machine instructions that an instruction compiles to, minus one. The reader r
// is at the byte after the opcode.
func extraMachineCode(op byte, r reader) int64 {
	switch {
	case op >= 0x28 && op <= 0x3e: // i32.load to i64.store32
		return memoryAccessCode
	case op >= 0x6d && op <= 0x70, op >= 0x7f && op <= 0x82: // div and rem
		return divisionCode
	case op >= 0xa8 && op <= 0xab, op >= 0xae && op <= 0xb1: // trunc
		return truncationCode
	case op == opMisc && r.u32() <= 7: // trunc_sat
		return memoryAccessCode
	case op == opVector:
		if sub := r.u32(); sub <= 11 || sub >= 84 && sub <= 93 {
			return memoryAccessCode
		}
		return vectorCode
	}
	return 0
}

// valueCount returns the number of parameters and results of the function type with index t.
func (i *Info) valueCount(t uint32) int64 {
	if int(t) >= len(i.types) {
		return 0
	}
	return int64(len(i.types[t].params) + len(i.types[t].results))
}

// blockValues returns the number of parameters and results of a block. The reader r is at the type of the block.
func (i *Info) blockValues(r reader) (params, results int64) {
	switch t := int64(r.leb(33, true)); {
	case t >= 0 && t < int64(len(i.types)):
		return int64(len(i.types[t].params)), int64(len(i.types[t].results))
	case t < 0 && byte(t&0x7f) != blockEmpty:
		return 0, 1
	}
	return 0, 0
}
