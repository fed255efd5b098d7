package meter

import (
	"errors"
	"fmt"
)

// The ids of the sections (WebAssembly 2.0, section 5.5.2).
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
)

// sectionOrder returns a number that increases from section to section of a valid module. The ids do not, because the
// section DataCount precedes Code.
func sectionOrder(id byte) int {
	switch id {
	case secDataCount:
		return 2*secElement + 1
	}
	return 2 * int(id)
}

// maxCount is the maximum number of items in one vector of a module.
const maxCount = 1 << 20

var errShort = errors.New("the module ends too early")

// reader reads a module's bytes. It keeps the first error. After an error, all reads return zero.
type reader struct {
	b   []byte
	pos int
	err error

	functions *[]funcReference // if not nil, the method functionIndex appends the indices that it reads
}

// funcReference is a place in the input that holds the index of a function.
type funcReference struct {
	from, to int
	index    uint32
}

// functionIndex reads the index of a function. If r.functions is set, it records where the index is.
func (r *reader) functionIndex() uint32 {
	from := r.pos
	index := r.u32()
	if r.functions != nil && r.err == nil {
		*r.functions = append(*r.functions, funcReference{from, r.pos, index})
	}
	return index
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: "+format, append([]any{r.pos}, args...)...)
	}
}

func (r *reader) remaining() int { return len(r.b) - r.pos }

func (r *reader) byte() byte {
	if r.err != nil {
		return 0
	}
	if r.pos >= len(r.b) {
		r.err = errShort
		return 0
	}
	r.pos++
	return r.b[r.pos-1]
}

func (r *reader) bytes(n uint32) []byte {
	if r.err != nil {
		return nil
	}
	if uint64(n) > uint64(r.remaining()) {
		r.err = errShort
		return nil
	}
	r.pos += int(n)
	return r.b[r.pos-int(n) : r.pos]
}

// leb reads a LEB128 number of at most the given number of bits. A negative number is extended to 64 bits.
func (r *reader) leb(bits uint, signed bool) uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		c := r.byte()
		if r.err != nil {
			return 0
		}
		v |= uint64(c&0x7f) << min(shift, 63)
		if c&0x80 == 0 {
			if signed && c&0x40 != 0 && shift+7 < 64 {
				v |= ^uint64(0) << (shift + 7)
			}
			return v
		}
		if shift+7 >= bits+(7-bits%7)%7 {
			r.fail("a number is longer than %d bits", bits)
			return 0
		}
	}
}

func (r *reader) u32() uint32 {
	v := r.leb(32, false)
	if v > 0xffffffff {
		r.fail("a number is larger than 32 bits")
		return 0
	}
	return uint32(v)
}

// count reads the length of a vector. It fails if the vector has more elements than bytes are left, or more than
// maxCount.
func (r *reader) count() uint32 {
	n := r.u32()
	switch {
	case uint64(n) > uint64(r.remaining()):
		r.fail("a vector has %d elements, but only %d bytes are left", n, r.remaining())
		return 0
	case n > maxCount:
		r.fail("a vector has %d elements; at most %d are allowed", n, maxCount)
		return 0
	}
	return n
}

func (r *reader) name() string { return string(r.bytes(r.u32())) }

func (r *reader) readLimits() (low, high uint32, bounded bool) {
	flag := r.byte()
	low = r.u32()
	switch flag {
	case 0:
		return low, 0, false
	case 1:
		return low, r.u32(), true
	}
	r.fail("limits of the unknown kind %#x: shared and 64-bit memories are not supported", flag)
	return 0, 0, false
}

// The functions below accept only the types of WebAssembly 2.0. wazero also accepts some types of disabled features.
// Such a type has more bytes than the meter would read. The meter would then read different instructions than wazero.

func isValueType(t byte) bool { return t >= typeV128 && t <= typeI32 || isReferenceType(t) }

func isReferenceType(t byte) bool { return t == typeFuncref || t == typeExternref }

func (r *reader) valueType() {
	if t := r.byte(); r.err == nil && !isValueType(t) {
		r.fail("the value type %#x is not of WebAssembly 2.0", t)
	}
}

func (r *reader) valueTypes() []byte {
	n := r.count()
	from := r.pos
	for ; n > 0 && r.err == nil; n-- {
		r.valueType()
	}
	return r.b[from:r.pos]
}

func (r *reader) referenceType() byte {
	t := r.byte()
	if r.err == nil && !isReferenceType(t) {
		r.fail("the reference type %#x is not of WebAssembly 2.0", t)
	}
	return t
}

// blockType reads the type of a block: empty, a value type, or the index of one of the module's types.
func (r *reader) blockType(types int) {
	t := int64(r.leb(33, true))
	short := byte(t & 0x7f)
	if t >= int64(types) || t < -64 || t < 0 && short != blockEmpty && !isValueType(short) {
		r.fail("the block type %d does not exist", t)
	}
}

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendS64(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func appendBytes(b, p []byte) []byte { return append(appendU32(b, uint32(len(p))), p...) }

// section is one section of the input.
type section struct {
	id   byte
	body []byte
}

var magic = [8]byte{0, 'a', 's', 'm', 1, 0, 0, 0}

// sections splits a module into its sections (WebAssembly 2.0, section 5.5.16).
func sections(module []byte) ([]section, error) {
	if len(module) < len(magic) || [8]byte(module[:8]) != magic {
		return nil, errors.New("the module does not begin with the magic number and version 1 of the binary format")
	}
	r := &reader{b: module, pos: 8}
	var out []section
	last := 0
	for r.remaining() > 0 && r.err == nil {
		id := r.byte()
		body := r.bytes(r.u32())
		if r.err != nil {
			break
		}
		if id > secDataCount {
			r.fail("the section %d is not of WebAssembly 2.0", id)
			break
		}
		if id != secCustom {
			if sectionOrder(id) <= last {
				r.fail("the section %d is out of order", id)
				break
			}
			last = sectionOrder(id)
		}
		out = append(out, section{id, body})
	}
	return out, r.err
}
