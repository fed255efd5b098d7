package conformance

import (
	"slices"

	wt "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// Opcodes that wasmtest does not have.
const (
	opTee     = 0x22
	opLoadI32 = 0x28
	opEqz     = 0x45
	opGtU     = 0x4b
	opLtF64   = 0x63
	opAnd     = 0x71
	opAddF64  = 0xa0
	opDivF64  = 0xa3
)

func get(local byte) []byte { return []byte{wt.LocalGet, local} }
func set(local byte) []byte { return []byte{wt.LocalSet, local} }

func load(op byte, offset uint32) []byte  { return wt.Uint([]byte{op, 0}, offset) }
func store(op byte, offset uint32) []byte { return wt.Uint([]byte{op, 0}, offset) }

func ops(b ...byte) []byte { return b }

// when returns code that runs if the i32 on the stack is not 0.
func when(code ...[]byte) []byte {
	return wt.Join(ops(wt.If, wt.Empty), wt.Join(code...), ops(wt.End))
}

// module is a plugin that conforms until it is changed.
type module struct{ *wt.Module }

// with adds or replaces a function. Its signature has a form such as "ii>F". The function has one i32 local
// in addition to its parameters.
func (m module) with(name, signature string, code ...[]byte) module {
	f := wt.Func{Export: name, Locals: []wt.Group{{Count: 1, Type: wt.I32}}, Code: wt.Join(code...)}
	into := &f.Params
	for _, c := range []byte(signature) {
		switch c {
		case '>':
			into = &f.Results
		case 'i':
			*into = append(*into, wt.I32)
		case 'F':
			*into = append(*into, wt.F64)
		}
	}
	m.without(name).Add(f)
	return m
}

// without removes a function.
func (m module) without(name string) module {
	m.Funcs = slices.DeleteFunc(m.Funcs, func(f wt.Func) bool { return f.Export == name })
	return m
}

// plugin returns a module with a region of up to 19 pages for records. Its reserve returns 0 for larger
// regions.
func plugin(m *wt.Module) module {
	m.Memories = []wt.Limits{{Min: 20}}
	return module{m}.with("reserve", "i>i", get(0), wt.Const32(19<<16), ops(opGtU), when(wt.Const32(0), ops(wt.Return)),
		wt.Const32(wt.RegionAt))
}

// scorer returns a scorer. The given code computes the f64 score of one candidate: local 1 is the candidate's row,
// local 3 the number of candidates left, and local 4 is free.
func scorer(code ...[]byte) module {
	step := func(local byte, by int32) []byte {
		return wt.Join(get(local), wt.Const32(by), ops(wt.I32Add), set(local))
	}
	return plugin(wt.Scorer()).with("score", "iiii>i",
		ops(wt.Loop, wt.Empty),
		get(2), wt.Join(code...), store(wt.F64Store, 0),
		step(1, 128), step(2, 8),
		get(3), wt.Const32(1), ops(wt.I32Sub, opTee, 3, wt.BrIf, 0),
		ops(wt.End), wt.Const32(0))
}

// success is code for the candidate's success rate.
var success = wt.Join(get(1), load(wt.F64Load, 0))

// backoff returns a backoff. The given code computes the wait. Local 0 is the request, and local 1 is free.
func backoff(code ...[]byte) module {
	return plugin(wt.Backoff()).with("backoff", "i>F", code...)
}

// judge returns a judge. The given code writes the ruling. Local 0 is the request, and local 1 the ruling.
func judge(code ...[]byte) module {
	return plugin(wt.Judge()).with("judge", "ii>i", get(1), wt.Join(code...), store(wt.F64Store, 0), wt.Const32(0))
}

// counting increments the f64 at address 16 and leaves it on the stack.
var counting = wt.Join(wt.Const32(0), wt.Const32(0), load(wt.F64Load, 16), wt.ConstF64(1), ops(opAddF64),
	store(wt.F64Store, 16), wt.Const32(0), load(wt.F64Load, 16))
