// Package wasmtest assembles WebAssembly modules for tests, including invalid and hostile ones. It does not check the
// modules. An example, a scorer that never returns:
//
//	wasmtest.Scorer(wasmtest.SpinLoop...).Bytes()
package wasmtest

import (
	"encoding/binary"
	"math"
	"slices"
)

// The value types in the binary format.
const (
	I32 byte = 0x7f
	I64 byte = 0x7e
	F32 byte = 0x7d
	F64 byte = 0x7c
)

// The kinds of imports and exports.
const (
	KindFunc byte = iota
	KindTable
	KindMemory
	KindGlobal
)

// Limits are the limits of a memory (in pages) or a table (in elements). In the binary format, Flag precedes the
// limits: 0 for Min only, 1 for Min and Max. Other values are for shared and 64-bit memories.
type Limits struct {
	Flag     byte
	Min, Max uint32
}

func (l Limits) append(b []byte) []byte {
	b = Uint(append(b, l.Flag), l.Min)
	if l.Flag&1 != 0 {
		b = Uint(b, l.Max)
	}
	return b
}

// Func is one function. The field Code is its body without the final end.
type Func struct {
	Export          string // "" for none
	Params, Results []byte
	Locals          []Group
	Code            []byte
}

// Group stands for locals of one type. The field Count is their number.
type Group struct {
	Count uint32
	Type  byte
}

// Import is one import. The field Desc holds the bytes that follow the kind in the binary format. For a function, Desc
// may be left out; Params and Results then give the type of the function.
type Import struct {
	Module, Name    string
	Kind            byte
	Params, Results []byte
	Desc            []byte
}

// Export is one export in addition to those of Func.Export.
type Export struct {
	Name  string
	Kind  byte
	Index uint32
}

// Global is a mutable global with its initial expression, without the final end.
type Global struct {
	Type byte
	Init []byte
}

// Data is a data segment: active at Offset, or passive.
type Data struct {
	Offset  int32
	Passive bool
	Bytes   []byte
}

// Module is a module to assemble. Its functions are numbered from 0: the imports first, then Funcs.
type Module struct {
	Imports  []Import
	Funcs    []Func
	Tables   []Limits // tables of functions
	Memories []Limits
	Globals  []Global
	Exports  []Export
	Start    *uint32  // index of the start function
	Elements []uint32 // functions put into the first table, from 0
	Data     []Data
	Custom   map[string][]byte // sections at the end, by name
}

// Func returns the function with the given export name, so that the caller can change it.
func (m *Module) Func(export string) *Func {
	at := slices.IndexFunc(m.Funcs, func(f Func) bool { return f.Export == export })
	if at < 0 {
		panic("wasmtest: no function " + export)
	}
	return &m.Funcs[at]
}

// Bytes returns the module in the binary format.
func (m *Module) Bytes() []byte {
	var types []byte
	var count uint32
	known := map[string]uint32{}
	typeOf := func(params, results []byte) uint32 {
		t := string(Vec(Vec([]byte{0x60}, params), results))
		n, ok := known[t]
		if !ok {
			n = count
			known[t] = n
			types = append(types, t...)
			count++
		}
		return n
	}
	var imports, funcs, exports, code []byte
	for _, i := range m.Imports {
		imports = append(Vec(Vec(imports, []byte(i.Module)), []byte(i.Name)), i.Kind)
		if i.Kind == KindFunc && i.Desc == nil {
			imports = Uint(imports, typeOf(i.Params, i.Results))
		} else {
			imports = append(imports, i.Desc...)
		}
	}
	exported := uint32(len(m.Exports))
	base := uint32(0)
	for _, i := range m.Imports {
		if i.Kind == KindFunc {
			base++
		}
	}
	for n, f := range m.Funcs {
		funcs = Uint(funcs, typeOf(f.Params, f.Results))
		if f.Export != "" {
			exported++
			exports = Uint(append(Vec(exports, []byte(f.Export)), KindFunc), base+uint32(n))
		}
		body := Uint(nil, uint32(len(f.Locals)))
		for _, g := range f.Locals {
			body = append(Uint(body, g.Count), g.Type)
		}
		code = Vec(code, append(append(body, f.Code...), End))
	}
	for _, e := range m.Exports {
		exports = Uint(append(Vec(exports, []byte(e.Name)), e.Kind), e.Index)
	}
	var tables, memories, globals, data []byte
	for _, l := range m.Tables {
		tables = l.append(append(tables, 0x70))
	}
	for _, l := range m.Memories {
		memories = l.append(memories)
	}
	for _, g := range m.Globals {
		globals = append(append(append(globals, g.Type, 1), g.Init...), End)
	}
	for _, d := range m.Data {
		if d.Passive {
			data = append(data, 1)
		} else {
			data = append(append(append(data, 0), Const32(d.Offset)...), End)
		}
		data = Vec(data, d.Bytes)
	}

	out := Header()
	section := func(id byte, n int, body []byte) {
		if n > 0 {
			out = Vec(append(out, id), append(Uint(nil, uint32(n)), body...))
		}
	}
	section(1, int(count), types)
	section(2, len(m.Imports), imports)
	section(3, len(m.Funcs), funcs)
	section(4, len(m.Tables), tables)
	section(5, len(m.Memories), memories)
	section(6, len(m.Globals), globals)
	section(7, int(exported), exports)
	if m.Start != nil {
		out = Vec(append(out, 8), Uint(nil, *m.Start))
	}
	if len(m.Elements) > 0 {
		e := append(append([]byte{0}, Const32(0)...), End)
		e = Uint(e, uint32(len(m.Elements)))
		for _, f := range m.Elements {
			e = Uint(e, f)
		}
		section(9, 1, e)
	}
	if slices.ContainsFunc(m.Data, func(d Data) bool { return d.Passive }) {
		out = Vec(append(out, 12), Uint(nil, uint32(len(m.Data))))
	}
	section(10, len(m.Funcs), code)
	section(11, len(m.Data), data)
	for name, body := range m.Custom {
		out = Vec(append(out, 0), append(Vec(nil, []byte(name)), body...))
	}
	return out
}

// Header returns the beginning of a module.
func Header() []byte { return []byte{0, 'a', 's', 'm', 1, 0, 0, 0} }

// Uint appends n as an unsigned LEB128 number.
func Uint(b []byte, n uint32) []byte { return binary.AppendUvarint(b, uint64(n)) }

// Int appends n as a signed LEB128 number.
func Int(b []byte, n int64) []byte {
	for {
		c := byte(n & 0x7f)
		n >>= 7
		if n == 0 && c&0x40 == 0 || n == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// Vec appends the length of p and then p.
func Vec(b, p []byte) []byte { return append(Uint(b, uint32(len(p))), p...) }

// Join concatenates instructions.
func Join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// Repeat returns the instructions in code, n times in a row.
func Repeat(n int, code ...byte) []byte { return slices.Repeat(code, n) }

// The opcodes that are used. Immediates follow them.
const (
	Unreachable  byte = 0x00
	Block        byte = 0x02 // followed by a block type
	Loop         byte = 0x03
	If           byte = 0x04
	End          byte = 0x0b
	Br           byte = 0x0c
	BrIf         byte = 0x0d
	BrTable      byte = 0x0e
	Return       byte = 0x0f
	Call         byte = 0x10
	CallIndirect byte = 0x11 // type, table
	ReturnCall   byte = 0x12
	Drop         byte = 0x1a
	LocalGet     byte = 0x20
	LocalSet     byte = 0x21
	GlobalGet    byte = 0x23
	GlobalSet    byte = 0x24
	F64Load      byte = 0x2b // alignment (3), offset
	I32Store     byte = 0x36 // alignment (2), offset
	F64Store     byte = 0x39
	MemorySize   byte = 0x3f // followed by 0
	MemoryGrow   byte = 0x40 // followed by 0
	I32Add       byte = 0x6a
	I32Sub       byte = 0x6b
	I32Mul       byte = 0x6c
	I32DivS      byte = 0x6d
	Empty        byte = 0x40 // the empty block type

	ReturnCallIndirect byte = 0x13 // type, table
)

// Const32 returns an i32.const.
func Const32(n int32) []byte { return Int([]byte{0x41}, int64(n)) }

// Const64 returns an i64.const.
func Const64(n int64) []byte { return Int([]byte{0x42}, n) }

// ConstF64 returns an f64.const.
func ConstF64(x float64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{0x44}, math.Float64bits(x))
}

// CallTo returns a call of the function with an index.
func CallTo(index uint32) []byte { return Uint([]byte{Call}, index) }

// Unless256 returns code for a scorer that runs the given code only if the number of candidates is not 256. When the
// host loads a module, it calls the module with 256 candidates.
func Unless256(code ...byte) []byte {
	return Join([]byte{LocalGet, 3}, Const32(256), []byte{0x47, If, Empty}, code, []byte{End}) // ne
}

// The offsets of the current time in the records that the exports "score", "backoff" and "observe" get. They are
// arguments for OnlyInRealCalls.
const (
	ScorerNow  byte = 8
	BackoffNow byte = 112
	ObserveNow byte = 0
)

// OnlyInRealCalls returns code that runs the given code only in real calls. It compares the time in the call's record
// with 1.75e9 s (2025): the checks and the trial call of an upload pass an earlier time. The first parameter of the
// export points to the record, and the parameter now is the offset of the time in it.
func OnlyInRealCalls(now byte, code ...byte) []byte {
	// ge
	return Join([]byte{LocalGet, 0, F64Load, 3, now}, ConstF64(1.75e9), []byte{0x66, If, Empty}, code, []byte{End})
}

// EndlessLoop returns an endless loop of the given code.
func EndlessLoop(code ...byte) []byte {
	return Join([]byte{Loop, Empty}, code, []byte{Br, 0, End})
}

// CountedLoop returns a loop of n passes. Each pass costs about 6 units of fuel. The loop uses the local with the given
// index, an i32.
func CountedLoop(n int32, local byte) []byte {
	return Join(Const32(n), []byte{LocalSet, local, Loop, Empty, LocalGet, local}, Const32(1),
		[]byte{I32Sub, LocalSet, local, LocalGet, local, BrIf, 0, End})
}

// SpinLoop is an endless loop.
var SpinLoop = EndlessLoop()

// RegionAt is the address that the export "reserve" returns in the modules of Scorer, Backoff and Judge. The region for
// the host's records (sdk/ABI.md) begins there and may extend to the end of the memory.
const RegionAt = 1024

// plugin returns a module with the parts that plugins of all kinds need: the export of the version, the export
// "reserve", which returns RegionAt, and a memory of one page. If needed, "reserve" grows the memory up to 256 pages.
func plugin(main Func) *Module {
	// Grow the memory to bytes+RegionAt: while memory.size<<16 < bytes+RegionAt, grow(1). Return 0 if that fails.
	const wanted = 0
	more := Join(
		[]byte{Block, Empty, Loop, Empty},
		[]byte{MemorySize, 0}, Const32(16), []byte{0x74}, // shl
		[]byte{LocalGet, wanted}, Const32(RegionAt), []byte{I32Add, 0x4f, BrIf, 1}, // ge_u
		Const32(1), []byte{MemoryGrow, 0}, Const32(-1), []byte{0x46, If, Empty}, Const32(0), []byte{Return, End}, // eq
		[]byte{Br, 0, End, End},
		Const32(RegionAt),
	)
	return &Module{
		Funcs: []Func{
			{Export: "whirlpool_abi_v1"},
			{Export: "reserve", Params: []byte{I32}, Results: []byte{I32}, Code: more},
			main,
		},
		Memories: []Limits{{Flag: 1, Min: 1, Max: 256}},
		Exports:  []Export{{"memory", KindMemory, 0}},
	}
}

// Scorer returns a scorer that runs code in each call. If the code runs to its end, the scorer leaves the scores as
// they are (0 in new memory) and returns status 0. The code may use the parameters: 0 is the request, 1 the candidates,
// 2 the scores, 3 the number of candidates.
func Scorer(code ...byte) *Module {
	return plugin(Func{Export: "score", Params: []byte{I32, I32, I32, I32}, Results: []byte{I32},
		Code: Join(code, Const32(0))})
}

// Backoff returns a backoff that runs code in each call. The code leaves the delay, an f64, on the stack.
// Parameter 0 is the request.
func Backoff(code ...byte) *Module {
	return plugin(Func{Export: "backoff", Params: []byte{I32}, Results: []byte{F64}, Code: code})
}

// Judge returns a judge that runs code in each call. If the code runs to its end, the judge returns status 0. Parameter
// 0 is the request, 1 the ruling.
func Judge(code ...byte) *Module {
	return plugin(Func{Export: "judge", Params: []byte{I32, I32}, Results: []byte{I32}, Code: Join(code, Const32(0))})
}

// Rules returns code for Judge that sets the ruling to the given kind. The parameter rest is how long the proxy is
// banned (is not chosen for the host), in seconds.
func Rules(kind, rest float64) []byte {
	return Join(
		[]byte{LocalGet, 1}, ConstF64(kind), []byte{F64Store, 3, 0},
		[]byte{LocalGet, 1}, ConstF64(rest), []byte{F64Store, 3, 8},
	)
}

// Scores returns the code of a scorer function (the argument of Scorer). It sets the score of every candidate to x.
func Scores(x float64) []byte {
	return Join(
		[]byte{Block, Empty, Loop, Empty},
		[]byte{LocalGet, 3, 0x45, BrIf, 1}, // eqz
		[]byte{LocalGet, 3}, Const32(1), []byte{I32Sub, LocalSet, 3},
		[]byte{LocalGet, 2, LocalGet, 3}, Const32(8), []byte{I32Mul, I32Add}, ConstF64(x), []byte{F64Store, 3, 0},
		[]byte{Br, 0, End, End},
	)
}

// Add appends functions and returns the module.
func (m *Module) Add(f ...Func) *Module {
	m.Funcs = append(m.Funcs, f...)
	return m
}

// CacheMissLoop returns an endless loop that reads and writes 16 MiB of memory in an order for which the processor's
// caches are useless: each address depends on the value read before. It uses the local with the given index,
// an i32. The memory must have 256 pages.
func CacheMissLoop(local byte) []byte {
	step := Join(
		[]byte{LocalGet, local, LocalGet, local, 0x28, 2, 0, LocalGet, local, I32Add}, // i32.load
		Const32(1664525), []byte{I32Mul}, Const32(1013904223), []byte{I32Add},
		Const32(0xffffc0), []byte{0x71, LocalSet, local}, // and
		Const32(7), []byte{I32Store, 2, 0},
	)
	return EndlessLoop(Repeat(8, step...)...)
}

// SlowStart returns a scorer whose start function runs CacheMissLoop.
func SlowStart() *Module {
	m := Scorer(Scores(1)...).Add(Func{Locals: []Group{{Count: 1, Type: I32}}, Code: CacheMissLoop(0)})
	m.Memories = []Limits{{Flag: 1, Min: 256, Max: 256}}
	start := uint32(len(m.Funcs) - 1)
	m.Start = &start
	return m
}

// SlowScorer returns a scorer that runs CacheMissLoop in each real call (OnlyInRealCalls).
func SlowScorer() *Module {
	m := Scorer(Join(Scores(1), OnlyInRealCalls(ScorerNow, CacheMissLoop(4)...))...)
	m.Func("score").Locals = []Group{{Count: 1, Type: I32}}
	m.Memories = []Limits{{Flag: 1, Min: 256, Max: 256}}
	return m
}

// SlowLearner returns a scorer that runs CacheMissLoop in each call of the export "observe" that is a real call
// (OnlyInRealCalls).
func SlowLearner() *Module {
	m := Scorer(Scores(1)...).Add(Func{
		Export: "observe", Params: []byte{I32}, Locals: []Group{{Count: 1, Type: I32}},
		Code: OnlyInRealCalls(ObserveNow, CacheMissLoop(1)...),
	})
	m.Memories = []Limits{{Flag: 1, Min: 256, Max: 256}}
	return m
}

// SlowToCompile returns a small scorer that takes about a second to compile: it has functions with many
// nested loops.
func SlowToCompile() *Module {
	m := Scorer(Scores(1)...)
	for range 3 {
		m.Add(Func{Code: Join(Repeat(450, Loop, Empty), Repeat(450, End))})
	}
	return m
}

// DeepScorer returns a scorer that calls a recursive function. The function calls itself the given number of
// times, and then all calls return.
func DeepScorer(calls int32) *Module {
	const recursive = 3
	m := Scorer(Join(Const32(calls), CallTo(recursive), Scores(1))...)
	return m.Add(Func{Params: []byte{I32}, Code: Join(
		[]byte{LocalGet, 0, If, Empty, LocalGet, 0}, Const32(1), []byte{I32Sub}, CallTo(recursive), []byte{End})})
}
