package meter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind is the kind of an import or export (WebAssembly 2.0, sections 5.5.5 and 5.5.10).
type Kind byte

// The kinds.
const (
	Function Kind = iota
	Table
	Memory
	Global
)

// Import is one import. Params and Results are value types in the binary format. They are set only if the
// import is a function.
type Import struct {
	Module, Name    string
	Kind            Kind
	Params, Results []byte
}

// Export is one export.
type Export struct {
	Name            string
	Kind            Kind
	Index           uint32
	Params, Results []byte // set only if the export is a function
}

// Info has the declarations of a module.
type Info struct {
	Imports        []Import
	Exports        []Export
	Functions      int    // number of functions, without imports
	MemoryMin      uint32 // pages
	MemoryMax      uint32 // pages; 65536, the whole address space, if the module declares no maximum
	TableMin       uint32 // minimum number of elements of all tables together
	Elements       uint32 // number of elements of all element segments together
	Globals        int    // number of globals, imports included
	DataBytes      int
	CustomSections []string // names of custom sections
	types          []signature
	funcs          []uint32 // index of the type of each function, imported functions first
	mutableGlobals int      // number of mutable globals
	start          *uint32  // the start function
}

type signature struct{ params, results []byte }

// String returns the kind as in WebAssembly's text format.
func (k Kind) String() string {
	switch k {
	case Function:
		return "func"
	case Table:
		return "table"
	case Memory:
		return "memory"
	case Global:
		return "global"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Signature returns a function's type as text: (i32, f64) -> i32.
func Signature(params, results []byte) string {
	text := "(" + typeNames(params) + ")"
	if len(results) > 0 {
		text += " -> " + typeNames(results)
	}
	return text
}

func typeNames(types []byte) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = typeName(t)
	}
	return strings.Join(names, ", ")
}

func typeName(t byte) string {
	switch t {
	case 0x7f:
		return "i32"
	case 0x7e:
		return "i64"
	case 0x7d:
		return "f32"
	case 0x7c:
		return "f64"
	case 0x7b:
		return "v128"
	case 0x70:
		return "funcref"
	case 0x6f:
		return "externref"
	}
	return fmt.Sprintf("type %#x", t)
}

// HasExport reports whether the module has an export with this name.
func (i *Info) HasExport(name string) bool {
	for _, e := range i.Exports {
		if e.Name == name {
			return true
		}
	}
	return false
}

// Inspect reads a module's declarations. It does not validate the code. If it returns an error, it also returns the
// declarations that precede the error in the module.
func Inspect(module []byte) (Info, error) {
	list, err := sections(module)
	info, malformed := inspect(list)
	if err == nil {
		err = malformed
	}
	return info, err
}

func inspect(list []section) (Info, error) {
	var i Info
	for _, s := range list {
		r := &reader{b: s.body}
		i.readSection(r, s)
		if r.err == nil && r.remaining() > 0 && s.id != secCustom && s.id != secCode && s.id != secDataCount {
			r.fail("bytes after its last element")
		}
		if r.err != nil {
			return i, fmt.Errorf("section %d: %w", s.id, r.err)
		}
	}
	for n := range i.Exports {
		e := &i.Exports[n]
		if e.Kind != Function {
			continue
		}
		var ok bool
		if e.Params, e.Results, ok = i.signature(e.Index); !ok {
			return i, fmt.Errorf("the export %q is not a function of the module", e.Name)
		}
	}
	return i, nil
}

// signature returns the parameters and results of a function. It returns false if there is no such function.
func (i *Info) signature(function uint32) (params, results []byte, ok bool) {
	if int(function) >= len(i.funcs) || int(i.funcs[function]) >= len(i.types) {
		return nil, nil, false
	}
	t := i.types[i.funcs[function]]
	return t.params, t.results, true
}

func (i *Info) readSection(r *reader, s section) {
	switch s.id {
	case secCustom:
		i.CustomSections = append(i.CustomSections, r.name())
	case secType:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			if c := r.byte(); c != 0x60 {
				r.fail("the type %#x is not a function type", c)
				return
			}
			i.types = append(i.types, signature{r.valueTypes(), r.valueTypes()})
		}
	case secImport:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			i.readImport(r)
		}
	case secFunction:
		n := r.count()
		i.Functions = int(n)
		for ; n > 0 && r.err == nil; n-- {
			i.funcs = append(i.funcs, r.u32())
		}
	case secTable:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.referenceType()
			low, _, _ := r.readLimits()
			i.TableMin = addSaturating(i.TableMin, low)
		}
	case secMemory:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			i.readMemory(r)
		}
	case secGlobal:
		n := r.count()
		i.Globals += int(n)
		for ; n > 0 && r.err == nil; n-- {
			r.valueType()
			i.mutableGlobals += int(r.byte() & 1)
			readConstant(r)
		}
	case secStart:
		index := r.u32()
		i.start = &index
	case secExport:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			i.Exports = append(i.Exports, readExport(r))
		}
	case secElement:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			i.Elements = addSaturating(i.Elements, readElement(r))
		}
	case secData:
		i.DataBytes = len(s.body)
		for n := r.count(); n > 0 && r.err == nil; n-- {
			readData(r)
		}
	}
}

func readExport(r *reader) Export {
	e := Export{Name: r.name(), Kind: Kind(r.byte())}
	switch {
	case e.Kind == Function:
		e.Index = r.functionIndex()
	case e.Kind > Global:
		r.fail("the kind %d of an export is unknown", e.Kind)
	default:
		e.Index = r.u32()
	}
	return e
}

// readElement reads one element segment (WebAssembly 2.0, section 5.5.12). It returns the number of elements in the
// segment, because wazero allocates memory for them. It leaves the validation of the elements to wazero.
func readElement(r *reader) (count uint32) {
	flags := r.u32()
	if flags > 7 {
		r.fail("the kind %d of an element segment is unknown", flags)
		return 0
	}
	passive, explicit, expressions := flags&1 != 0, flags&2 != 0, flags&4 != 0
	if !passive {
		if explicit {
			r.u32() // table
		}
		readConstant(r)
	}
	switch {
	case !passive && !explicit:
	case expressions:
		r.referenceType()
	default:
		r.byte() // the kind of the elements: functions
	}
	count = r.count()
	for n := count; n > 0 && r.err == nil; n-- {
		if expressions {
			readConstant(r)
		} else {
			r.functionIndex()
		}
	}
	return count
}

// readData reads one data segment (WebAssembly 2.0, section 5.5.14).
func readData(r *reader) {
	switch flags := r.u32(); flags {
	case 0:
		readConstant(r)
	case 1:
	case 2:
		r.u32() // memory
		readConstant(r)
	default:
		r.fail("the kind %d of a data segment is unknown", flags)
	}
	r.bytes(r.u32())
}

// readConstant reads a constant expression.
func readConstant(r *reader) {
	for r.err == nil {
		switch op := r.byte(); op {
		case opEnd:
			return
		case opI32Const:
			r.leb(32, true)
		case opI64Const:
			r.leb(64, true)
		case opF32Const:
			r.bytes(4)
		case opF64Const:
			r.bytes(8)
		case opGlobalGet:
			r.u32()
		case opRefFunc:
			r.functionIndex()
		case opRefNull:
			r.referenceType()
		case opVector: // v128.const
			r.u32()
			r.bytes(16)
		case opI32Add, opI32Sub, opI32Mul, opI64Add, opI64Sub, opI64Mul: // extended constant expressions
		default:
			r.fail("the opcode %#x may not be in a constant expression", op)
		}
	}
}

// The subsections of the "name" section that the metered module keeps.
const (
	nameOfModule     = 0
	namesOfFunctions = 1
)

// skipText reads a name, which must be UTF-8.
func (r *reader) skipText() {
	if !utf8.ValidString(r.name()) {
		r.fail("a name is not UTF-8")
	}
}

func addSaturating(a, b uint32) uint32 {
	if a+b < a {
		return 1<<32 - 1
	}
	return a + b
}

// maxPages is the maximum number of pages of a memory with 32-bit addresses.
const maxPages = 1 << 16

func (i *Info) readMemory(r *reader) {
	low, high, bounded := r.readLimits()
	if !bounded {
		high = maxPages
	}
	i.MemoryMin, i.MemoryMax = addSaturating(i.MemoryMin, low), addSaturating(i.MemoryMax, high)
}

func (i *Info) readImport(r *reader) {
	imp := Import{Module: r.name(), Name: r.name(), Kind: Kind(r.byte())}
	switch imp.Kind {
	case Function:
		t := r.u32()
		if int(t) >= len(i.types) {
			r.fail("the type %d does not exist", t)
			return
		}
		imp.Params, imp.Results = i.types[t].params, i.types[t].results
		i.funcs = append(i.funcs, t)
	case Table:
		r.referenceType()
		low, _, _ := r.readLimits()
		i.TableMin = addSaturating(i.TableMin, low)
	case Memory:
		i.readMemory(r)
	case Global:
		r.valueType()
		i.mutableGlobals += int(r.byte() & 1)
		i.Globals++
	default:
		r.fail("an import of the unknown kind %d", imp.Kind)
		return
	}
	i.Imports = append(i.Imports, imp)
}
