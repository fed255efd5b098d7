package conformance

import "encoding/binary"

// A module by hand: what the tests need of the binary format, WebAssembly 2.0.

const (
	opUnreachable = 0x00
	opLoop        = 0x03
	opIf          = 0x04
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrIf        = 0x0d
	opReturn      = 0x0f
	opDrop        = 0x1a
	opGet         = 0x20
	opSet         = 0x21
	opTee         = 0x22
	opLoadI32     = 0x28
	opLoadF64     = 0x2b
	opStoreI32    = 0x36
	opStoreF64    = 0x39
	opGrow        = 0x40
	opI32         = 0x41
	opEqz         = 0x45
	opGtU         = 0x4b
	opLtF64       = 0x63
	opAdd         = 0x6a
	opSub         = 0x6b
	opAnd         = 0x71
	opF64         = 0x44
	opAddF64      = 0xa0
	opDivF64      = 0xa3
	empty         = 0x40
)

func uleb(v uint32) []byte {
	var b []byte
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func i32(v int32) []byte {
	b := []byte{opI32}
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func f64(bits uint64) []byte { return binary.LittleEndian.AppendUint64([]byte{opF64}, bits) }

func get(local byte) []byte { return []byte{opGet, local} }
func set(local byte) []byte { return []byte{opSet, local} }

func load(op byte, offset uint32) []byte  { return append([]byte{op, 0}, uleb(offset)...) }
func store(op byte, offset uint32) []byte { return append([]byte{op, 0}, uleb(offset)...) }

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func ops(b ...byte) []byte { return b }

// when runs code if the i32 on the stack is not 0.
func when(code ...[]byte) []byte {
	return join(ops(opIf, empty), join(code...), ops(opEnd))
}

// module is a module to be: functions by the name they are exported under.
type module struct {
	pages, table uint32
	imports      [][2]string // functions () -> ()
	functions    map[string]function
	order        []string
}

type function struct {
	params, results []byte
	code            []byte
}

var types = map[byte]byte{'i': 0x7f, 'F': 0x7c}

// with adds or replaces a function; its signature is written like "ii>F".
func (m *module) with(name, signature string, code ...[]byte) *module {
	f := function{code: join(code...)}
	into := &f.params
	for _, c := range []byte(signature) {
		if c == '>' {
			into = &f.results
			continue
		}
		*into = append(*into, types[c])
	}
	if _, there := m.functions[name]; !there {
		m.order = append(m.order, name)
	}
	m.functions[name] = f
	return m
}

// without takes a function out.
func (m *module) without(name string) *module {
	delete(m.functions, name)
	for i, n := range m.order {
		if n == name {
			m.order = append(m.order[:i:i], m.order[i+1:]...)
		}
	}
	return m
}

func sized(b []byte) []byte { return append(uleb(uint32(len(b))), b...) }

func vector(items [][]byte) []byte { return append(uleb(uint32(len(items))), join(items...)...) }

func section(id byte, items [][]byte) []byte {
	if len(items) == 0 {
		return nil
	}
	return append([]byte{id}, sized(vector(items))...)
}

func (m *module) bytes() []byte {
	typ := [][]byte{{0x60, 0, 0}}
	var imports, functions, exports, code [][]byte
	for _, i := range m.imports {
		imports = append(imports, join(sized([]byte(i[0])), sized([]byte(i[1])), ops(0, 0)))
	}
	for n, name := range m.order {
		f := m.functions[name]
		typ = append(typ, join(ops(0x60), sized(f.params), sized(f.results)))
		functions = append(functions, uleb(uint32(n+1)))
		exports = append(exports, join(sized([]byte(name)), ops(0), uleb(uint32(n+len(imports)))))
		code = append(code, sized(join(ops(1, 1, 0x7f), f.code, ops(opEnd)))) // one i32 local
	}
	exports = append(exports, join(sized([]byte("memory")), ops(2, 0)))
	var tables [][]byte
	if m.table > 0 {
		tables = [][]byte{join(ops(0x70, 0), uleb(m.table))}
	}
	return join([]byte("\x00asm\x01\x00\x00\x00"), section(1, typ), section(2, imports), section(3, functions), section(4, tables),
		section(5, [][]byte{join(ops(0), uleb(m.pages))}), section(7, exports), section(10, code))
}

// plugin has what every plugin has, and room for 19 pages.
func plugin() *module {
	m := &module{pages: 20, functions: map[string]function{}}
	return m.with("whirlpool_abi_v1", ">").
		with("reserve", "i>i", get(0), i32(19<<16), ops(opGtU), when(i32(0), ops(opReturn)), i32(1<<16))
}

// scorer gives each candidate the f64 that code leaves; its row is local 1, how
// many are left local 3, and local 4 is free.
func scorer(code ...[]byte) *module {
	step := func(local byte, by int32) []byte { return join(get(local), i32(by), ops(opAdd), set(local)) }
	return plugin().with("score", "iiii>i",
		ops(opLoop, empty),
		get(2), join(code...), store(opStoreF64, 0),
		step(1, 128), step(2, 8),
		get(3), i32(1), ops(opSub, opTee, 3, opBrIf, 0),
		ops(opEnd), i32(0))
}

// success is the candidate's success rate.
var success = join(get(1), load(opLoadF64, 0))

// backoff waits what code leaves; its request is local 0, and local 1 is free.
func backoff(code ...[]byte) *module { return plugin().with("backoff", "i>F", code...) }

// calls counts up the f64 at address 16 and leaves it.
var calls = join(i32(0), i32(0), load(opLoadF64, 16), f64(0x3ff0000000000000), ops(opAddF64), store(opStoreF64, 16), i32(0), load(opLoadF64, 16))
