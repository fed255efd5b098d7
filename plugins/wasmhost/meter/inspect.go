package meter

import "fmt"

// Kind is what an import or export is (WebAssembly 2.0, 5.5.5 and 5.5.10).
type Kind byte

// The kinds.
const (
	Function Kind = iota
	Table
	Memory
	Global
)

// Import is one import. Params and Results are value types as the binary
// format writes them, of functions only.
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
	Params, Results []byte // of functions
}

// Info is what a module says of itself.
type Info struct {
	Imports   []Import
	Exports   []Export
	Functions int    // its own
	MemoryMin uint32 // pages
	TableMin  uint32 // elements of all tables together
	DataBytes int
	Custom    []string // names of custom sections
	types     []signature
	funcs     []uint32 // type of each function, imports first
	globals   int      // imports first
}

type signature struct{ params, results []byte }

// Exported reports whether the module exports that name.
func (i *Info) Exported(name string) bool {
	for _, e := range i.Exports {
		if e.Name == name {
			return true
		}
	}
	return false
}

// Inspect reads a module's declarations. It does not validate its code.
func Inspect(module []byte) (Info, error) {
	list, err := sections(module)
	if err != nil {
		return Info{}, err
	}
	return inspect(list)
}

func inspect(list []section) (Info, error) {
	var i Info
	for _, s := range list {
		r := &in{b: s.body}
		i.section(r, s)
		if r.err == nil && r.left() > 0 && s.id != secCustom && s.id != secElement && s.id != secCode && s.id != secData && s.id != secGlobal && s.id != secStart && s.id != secDataCount {
			r.fail("bytes are left over")
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
		if int(e.Index) >= len(i.funcs) || int(i.funcs[e.Index]) >= len(i.types) {
			return i, fmt.Errorf("the export %q is no function of the module", e.Name)
		}
		t := i.types[i.funcs[e.Index]]
		e.Params, e.Results = t.params, t.results
	}
	return i, nil
}

func (i *Info) section(r *in, s section) {
	switch s.id {
	case secCustom:
		i.Custom = append(i.Custom, r.name())
	case secType:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			if c := r.byte(); c != 0x60 {
				r.fail("the type %#x is no function's", c)
				return
			}
			i.types = append(i.types, signature{r.bytes(r.u32()), r.bytes(r.u32())})
		}
	case secImport:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			i.importOne(r)
		}
	case secFunction:
		n := r.count()
		i.Functions = int(n)
		for ; n > 0 && r.err == nil; n-- {
			i.funcs = append(i.funcs, r.u32())
		}
	case secTable:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.byte()
			low, _, _ := r.limits()
			i.TableMin = addUpTo(i.TableMin, low)
		}
	case secMemory:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			low, _, _ := r.limits()
			i.MemoryMin = addUpTo(i.MemoryMin, low)
		}
	case secGlobal:
		i.globals += int(r.count())
	case secExport:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			e := Export{Name: r.name(), Kind: Kind(r.byte()), Index: r.u32()}
			if e.Kind > Global {
				r.fail("an export of the unknown kind %d", e.Kind)
			}
			i.Exports = append(i.Exports, e)
		}
	case secData:
		i.DataBytes = len(s.body)
	}
}

func addUpTo(a, b uint32) uint32 {
	if a+b < a {
		return 1<<32 - 1
	}
	return a + b
}

func (i *Info) importOne(r *in) {
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
		r.byte()
		low, _, _ := r.limits()
		i.TableMin = addUpTo(i.TableMin, low)
	case Memory:
		low, _, _ := r.limits()
		i.MemoryMin = addUpTo(i.MemoryMin, low)
	case Global:
		r.byte()
		r.byte()
		i.globals++
	default:
		r.fail("an import of the unknown kind %d", imp.Kind)
		return
	}
	i.Imports = append(i.Imports, imp)
}
