package wasmhost

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Description holds the declarations in a module's sections.
type Description struct {
	Kind       Kind     `json:"kind"`
	ABIVersion int      `json:"abi_version"`
	Exports    []string `json:"exports"`
	Imports    []string `json:"imports"`
	Size       int      `json:"size"`         // bytes
	MemoryMin  uint32   `json:"memory_pages"` // minimum memory, in pages of 64 KiB
	Functions  int      `json:"functions"`
	Learns     bool     `json:"learns"`     // the module exports observe
	WantsPool  bool     `json:"wants_pool"` // the module exports pool_changed
}

// The checks that do not run the module, in the order in which Examine makes them.
const (
	CheckSize       = "size"
	CheckParses     = "parses"
	CheckImports    = "imports"
	CheckVersion    = "version"
	CheckExports    = "exports"
	CheckSignatures = "signatures"
	CheckMemory     = "memory"
	CheckTable      = "table"
)

// Finding is one error in a module's declarations.
type Finding struct {
	Check string // name of the check, such as CheckSize
	Msg   string // the error, and what to change
}

// signatures has the types of the exports that the host calls.
var signatures = map[string]string{
	abi.VersionExport: "()", abi.Reserve: "(i32) -> i32", abi.Score: "(i32, i32, i32, i32) -> i32",
	abi.Backoff:    "(i32) -> f64",
	abi.Initialize: "()", abi.Configure: "(i32, i32) -> i32", abi.PoolChanged: "(i32, i32)", abi.Observe: "(i32)",
	abi.Tolerance: "() -> f64",
	abi.Describe:  "() -> i32",
	abi.Judge:     "(i32, i32) -> i32", abi.JudgeWants: "() -> i32",
}

// Describe reads a module's declarations without running it. The error is a *CheckError with the first finding of
// Examine.
func (h *Host) Describe(code []byte) (Description, error) {
	d, found := h.Examine(code)
	if len(found) > 0 {
		return d, &CheckError{Msg: found[0].Msg}
	}
	return d, nil
}

// Examine reads a module's declarations without running it. It returns the findings in the order of the checks.
func (h *Host) Examine(code []byte) (Description, []Finding) {
	d := Description{Size: len(code), Exports: []string{}, Imports: []string{}}
	var findings []Finding
	addFinding := func(check, format string, args ...any) {
		findings = append(findings, Finding{check, shorten(fmt.Sprintf(format, args...))})
	}
	if len(code) > h.limits.ModuleBytes {
		addFinding(CheckSize, "the module has %d bytes; at most %d are taken", len(code), h.limits.ModuleBytes)
		return d, findings
	}
	info, err := meter.Inspect(code)
	if err != nil {
		addFinding(CheckParses, "this is not a module of WebAssembly 2.0: %v", err)
		return d, findings
	}
	d.Functions, d.MemoryMin = info.Functions, info.MemoryMin
	if n := len(info.Imports); n > maxImports {
		addFinding(CheckImports, "the module has %d imports; at most %d are taken", n, maxImports)
	}
	for _, imp := range info.Imports[:min(len(info.Imports), maxImports)] {
		name := imp.Module + "." + imp.Name
		d.Imports = append(d.Imports, name)
		want, ok := importSignature(imp.Module, imp.Name)
		switch got := meter.Signature(imp.Params, imp.Results); {
		case !ok || imp.Kind != meter.Function:
			addFinding(CheckImports,
				"the module imports %q; a plugin may import only the functions that sdk/ABI.md lists",
				name)
		case got != want:
			addFinding(CheckImports, "the module imports %q with the signature %s; it must be %s", name, got, want)
		}
	}
	functions := map[string]string{} // signatures by name
	for _, e := range info.Exports {
		d.Exports = append(d.Exports, e.Name)
		if e.Kind == meter.Function {
			functions[e.Name] = meter.Signature(e.Params, e.Results)
			if v, ok := cutVersion(e.Name); ok {
				d.ABIVersion = max(d.ABIVersion, v)
			}
		}
		if e.Name == abi.Memory && e.Kind != meter.Memory {
			addFinding(CheckExports, "the export %q is not a memory", abi.Memory)
		}
	}
	switch {
	case d.ABIVersion == 0:
		addFinding(CheckVersion, "the module exports no function %s, which states the version of the ABI that it was "+
			"built for", abi.VersionExport)
	case functions[abi.VersionExport] == "":
		addFinding(CheckVersion, "the module was built for version %d of the ABI; this host speaks version %d",
			d.ABIVersion,
			abi.Version)
	default:
		d.ABIVersion = abi.Version
	}
	if !info.HasExport(abi.Memory) {
		addFinding(CheckExports, "the module does not export its memory as %q", abi.Memory)
	}
	if functions[abi.Reserve] == "" {
		addFinding(CheckExports, "the module does not export %s%s", abi.Reserve, signatures[abi.Reserve])
	}
	d.Learns, d.WantsPool = functions[abi.Observe] != "", functions[abi.PoolChanged] != ""
	for _, kind := range Kinds() {
		switch {
		case functions[mainExports[kind]] == "":
		case d.Kind == "":
			d.Kind = kind
		default:
			addFinding(CheckExports, "the module exports both %s and %s; it must be one kind of plugin",
				mainExports[d.Kind],
				mainExports[kind])
		}
	}
	if d.Kind == "" {
		addFinding(CheckExports, "the module exports neither %s (a scorer) nor %s (a backoff) nor %s (a judge)",
			abi.Score,
			abi.Backoff, abi.Judge)
	}
	for _, name := range slices.Sorted(maps.Keys(signatures)) {
		if got, want := functions[name], signatures[name]; got != "" && got != want {
			addFinding(CheckSignatures, "the export %s has the signature %s; it must be %s", name, got, want)
		}
	}
	if info.MemoryMin > h.limits.MemoryPages {
		addFinding(CheckMemory, "the module wants %d pages of memory; at most %d are given", info.MemoryMin,
			h.limits.MemoryPages)
	}
	if info.Globals > maxGlobals {
		addFinding(CheckMemory, "the module has %d globals; at most %d are taken", info.Globals, maxGlobals)
	}
	if info.Elements > h.limits.TableSize {
		addFinding(CheckTable, "the module has %d elements in its segments; at most %d are taken", info.Elements,
			h.limits.TableSize)
	}
	if info.TableMin > h.limits.TableSize {
		addFinding(CheckTable, "the module wants a table of %d; at most %d are given", info.TableMin,
			h.limits.TableSize)
	}
	return d, findings
}

// maxImports is the maximum number of a module's imports. Each import takes 30 bytes in every instance. There are only
// 21 different functions to import.
const maxImports = 1_000

// maxGlobals is the maximum number of a module's globals. Each global takes 100 bytes in every instance.
const maxGlobals = 10_000

func cutVersion(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, abi.VersionPrefix)
	v, err := strconv.Atoi(digits)
	return v, ok && err == nil && v > 0
}
