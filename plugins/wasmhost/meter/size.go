package meter

import (
	"fmt"
	"math"
)

// Size is how much there is to compile in one function.
type Size struct {
	Instructions int64
	Calls        int64
	Carried      int64 // what calls take and give, all together
	Values       int64 // parameters, results and locals
	Edges        int64 // places where ways part or meet: blocks, branches, targets of br_table
	Loops        int64

	widest int64 // what the widest block takes and gives
}

// Work estimates what compiling it costs; a unit is at most a microsecond, and
// half a kilobyte. It was fitted to wazero 1.12, which cannot be stopped once it
// compiles. The terms that grow faster than the code (edges, loops, values that
// meet at many edges) are those by which a small module could keep it busy for
// ever. A function of standard Go has 300 units on average and 250,000 at most.
func (s Size) Work() int64 {
	meets := float64(s.Edges) * float64(s.Values+s.widest)
	edges, loops, values := float64(s.Edges), float64(s.Loops), float64(s.Values+s.widest)
	w := float64(20+s.Instructions+10*s.Calls+s.Carried) + values + values*values/5_000 + meets/2 + meets*meets/250_000 + edges*edges/50 + loops*loops/2
	return int64(min(w, math.MaxInt32))
}

// String names what makes it large.
func (s Size) String() string {
	return fmt.Sprintf("%d instructions, %d calls, %d parameters and locals, %d blocks and branches, %d loops", s.Instructions, s.Calls, s.Values, s.Edges, s.Loops)
}

// note counts an instruction, whose immediates stand in r.
func (s *Size) note(info *Info, op byte, r in) {
	s.Instructions++
	switch op {
	case opBlock, opIf, opLoop:
		s.Edges++
		if op == opLoop {
			s.Loops++
		}
		params, results := info.block(r)
		s.widest = max(s.widest, params+results)
	case opElse, opBr, opBrIf:
		s.Edges++
	case opBrTable:
		s.Edges += int64(r.u32())
	case opCall:
		s.Calls++
		if n := r.u32(); int(n) < len(info.funcs) {
			s.Carried += info.arity(info.funcs[n])
		}
	case opTableGet, opTableSet:
		s.Edges++
	case opRefFunc:
		s.Calls++
	case opMemoryGrow:
		s.Edges += 2 // what is charged for it, and its own
	case opMisc:
		switch sub := r.u32(); {
		case sub == miscMemoryFill, sub == miscTableFill: // are loops
			s.Loops++
			s.Edges += 2
		case sub == miscMemoryInit, sub == miscMemoryCopy, sub == miscTableInit, sub == miscTableCopy, sub == miscTableGrow:
			s.Edges += 3
		}
	case opCallIndir:
		s.Calls++
		s.Carried += info.arity(r.u32())
	}
}

// arity is how many values a function or block of that type takes and gives.
func (i *Info) arity(t uint32) int64 {
	if int(t) >= len(i.types) {
		return 0
	}
	return int64(len(i.types[t].params) + len(i.types[t].results))
}

// block is how many values a block takes and gives; its type stands in r.
func (i *Info) block(r in) (params, results int64) {
	switch t := int64(r.leb(33, true)); {
	case t >= 0 && t < int64(len(i.types)):
		return int64(len(i.types[t].params)), int64(len(i.types[t].results))
	case t < 0 && byte(t&0x7f) != blockEmpty:
		return 0, 1
	}
	return 0, 0
}
