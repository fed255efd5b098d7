package wasmhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf16"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// hostModule is the name of the module from which plugins import the host functions beyond WASI.
const hostModule = meter.ImportModule

// hostImports are the functions of hostModule by name. They have no results.
var hostImports = map[string]hostImport{
	abi.Log:    {"iii", (*hostState).log},
	abi.Metric: {"iiid", (*hostState).metric},
}

// hostImport is a function of hostModule. The field params has a letter for the type of each parameter, as in wasiFunc.
type hostImport struct {
	params string
	call   func(w *hostState, p []uint64)
}

const abortParams = "iiii"

// importSignature returns the signature of an import. It returns false if modules must not import the function.
func importSignature(module, name string) (signature string, ok bool) {
	params, results := "", ""
	switch {
	case module == wasiModule:
		var f wasiFunc
		f, ok = allowedImports[name]
		params = f.params
		if f.call != nil {
			results = "i"
		}
	case module == hostModule:
		var f hostImport
		f, ok = hostImports[name]
		params = f.params
	case module == envModule && name == envAbort:
		params, ok = abortParams, true
	}
	return meter.Signature(valueTypes(params), valueTypes(results)), ok
}

// log implements the import log(level, address, length).
func (h *hostState) log(p []uint64) {
	level, text := Level(int32(p[0])), h.mustRead(abi.Log, p[1], p[2])
	h.chargeFuel(uint64(len(text)) / hostByteFuel)
	if level < LevelDebug || level > LevelError {
		level = LevelError
	}
	source := explainNothing
	line := printable(string(text[:min(len(text), MaxLine+1)]))
	switch {
	case line == "":
		return
	case level == LevelError && panicPattern.MatchString(line):
		source = explainPanic
	case level == LevelError:
		source = explainLogged
	}
	h.output.addLine(level, source, line)
}

// metric implements the import metric(kind, name, length, value).
func (h *hostState) metric(p []uint64) {
	kind, name, value := MetricKind(int32(p[0])), h.mustRead(abi.Metric, p[1], p[2]), math.Float64frombits(p[3])
	h.chargeFuel(uint64(len(name)) / hostByteFuel)
	var fault string
	switch {
	case kind != Counter && kind != Gauge:
		fault = fmt.Sprintf("the kind %d is neither counter (0) nor gauge (1)", kind)
	case !isMetricName(name):
		fault = fmt.Sprintf("a name has 1 to %d letters, digits and _, and does not begin with a digit", MaxName)
	case !(math.Abs(value) <= math.MaxFloat64):
		fault = "the value is not finite"
	case kind == Counter && value < 0:
		fault = "a counter does not go down"
	}
	switch out := h.output.output; {
	case out == nil:
	case fault != "":
		out.Log(LevelWarn, fmt.Sprintf("the metric %q is not taken: %s",
			printable(string(name[:min(len(name), MaxName)])), fault))
	default:
		out.Metric(kind, name, value)
	}
}

func isMetricName(name []byte) bool {
	for i, c := range name {
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(name) > 0 && len(name) <= MaxName
}

// mustRead returns bytes of the module's memory. It ends the call if some of these bytes are outside the memory.
func (h *hostState) mustRead(function string, address, size uint64) []byte {
	b := h.memoryBytes(address&math.MaxUint32, size&math.MaxUint32)
	if b == nil && size&math.MaxUint32 > 0 {
		panic(fmt.Errorf("%s: %d bytes at %d end past the guest's memory", function, uint32(size), uint32(address)))
	}
	return b
}

// abort implements AssemblyScript's import abort(message, file, line, column).
func (h *hostState) abort(p []uint64) {
	text := h.utf16(p[0])
	if file := h.utf16(p[1]); file != "" {
		text += fmt.Sprintf(" (%s:%d:%d)", file, uint32(p[2]), uint32(p[3]))
	}
	if text = printable(text); text != "" {
		h.output.addLine(LevelError, explainPanic, text)
	}
	panic(errors.New("the plugin called abort"))
}

// utf16 returns the AssemblyScript string at an address, or "" if the string is outside the memory. The four bytes
// before the string hold its length in bytes.
func (h *hostState) utf16(address uint64) string {
	address &= math.MaxUint32
	const head = 4
	if address < head {
		return ""
	}
	size := h.memoryBytes(address-head, head)
	if size == nil {
		return ""
	}
	b := h.memoryBytes(address, min(uint64(binary.LittleEndian.Uint32(size)), 2*MaxLine)&^1)
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
