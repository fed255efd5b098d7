package wasmhost

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
)

const (
	wasiModule = "wasi_snapshot_preview1"
	envModule  = "env"
	envAbort   = "abort" // import of AssemblyScript
)

// The fuel that a call of a host function costs. The code of host functions is not metered.
const (
	hostCallFuel = 100
	hostItemFuel = 10 // fuel per buffer or subscription
	hostByteFuel = 4  // bytes per unit of fuel
)

// The WASI errors (snapshot 1) that the functions return.
const (
	wasiOK     = 0
	wasiBadf   = 8
	wasiFault  = 21
	wasiInval  = 28
	wasiNotsup = 58
	wasiSpipe  = 70
)

// allowedImports are the WASI functions that modules of standard Go, TinyGo and AssemblyScript import, by name. They
// give access to nothing outside the module. There are no files, sockets or environment variables. The clock is a
// counter without relation to the real time, the random bytes are a fixed sequence, and written lines go to the
// plugin's log.
var allowedImports = map[string]wasiFunc{
	"args_get":          {"ii", func(*hostState, []uint64) uint32 { return wasiOK }},
	"args_sizes_get":    {"ii", (*hostState).writeEmptyList},
	"environ_get":       {"ii", func(*hostState, []uint64) uint32 { return wasiOK }},
	"environ_sizes_get": {"ii", (*hostState).writeEmptyList},
	"clock_res_get":     {"ii", func(w *hostState, p []uint64) uint32 { return w.put64(p[1], clockStep) }},
	"clock_time_get":    {"iIi", (*hostState).clock},
	"random_get":        {"ii", (*hostState).random},
	"sched_yield":       {"", func(*hostState, []uint64) uint32 { return wasiOK }},
	"poll_oneoff":       {"iiii", (*hostState).poll},
	"proc_exit":         {"i", nil}, // has no result
	"fd_write":          {"iiii", (*hostState).write},
	"fd_read":           {"iiii", (*hostState).read},
	"fd_close":          {"i", (*hostState).checkStandardFile},
	"fd_seek": {"iIii", func(w *hostState, p []uint64) uint32 {
		return w.resultIfStandardFile(p,
			wasiSpipe)
	}},
	"fd_fdstat_get":       {"ii", (*hostState).describe},
	"fd_fdstat_set_flags": {"ii", (*hostState).checkStandardFile},
	"fd_prestat_get":      {"ii", func(*hostState, []uint64) uint32 { return wasiBadf }},
	"fd_prestat_dir_name": {"iii", func(*hostState, []uint64) uint32 { return wasiBadf }},
}

// wasiFunc is a WASI function: the types of its parameters (i for i32, I for i64, d for f64) and its implementation,
// which returns a WASI error number.
type wasiFunc struct {
	params string
	call   func(w *hostState, p []uint64) uint32
}

// clockStep is the time by which each reading advances the clock of an instance: 1 ms, in ns.
const clockStep = 1_000_000

// hostState is the state of the host functions of one instance.
type hostState struct {
	now         uint64 // ns
	randomState uint64

	output outputCollector
	in     *instance
}

// provideImports provides the host functions that the module imports.
func (m *Module) provideImports(ctx context.Context) error {
	builders := map[string]wazero.HostModuleBuilder{
		meter.ImportModule: m.importMeter(m.runtime.NewHostModuleBuilder(meter.ImportModule)),
	}
	for _, f := range m.compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		if _, own := hostImports[name]; module == hostModule && !own { // importMeter adds it
			continue
		}
		b := builders[module]
		if b == nil {
			b = m.runtime.NewHostModuleBuilder(module)
			builders[module] = b
		}
		call, params, results := hostFunc(module, name)
		b.NewFunctionBuilder().WithGoModuleFunction(call, params, results).Export(name)
	}
	for module, b := range builders {
		if _, err := b.Instantiate(ctx); err != nil {
			return fmt.Errorf("the imports of %s: %w", module, err)
		}
	}
	return nil
}

func hostFunc(module, name string) (call api.GoModuleFunc, params, results []api.ValueType) {
	if f, ok := hostImports[name]; ok && module == hostModule {
		return func(ctx context.Context, _ api.Module, p []uint64) {
			w := &caller(ctx).host
			w.chargeFuel(hostCallFuel)
			f.call(w, p)
		}, valueTypes(f.params), nil
	}
	if module == envModule {
		return func(ctx context.Context, _ api.Module,
			p []uint64) {
			caller(ctx).host.abort(p)
		}, valueTypes(abortParams), nil
	}
	f := allowedImports[name]
	if f.call == nil {
		return func(_ context.Context, _ api.Module, p []uint64) {
			panic(fmt.Errorf("the plugin ended itself with code %d", uint32(p[0])))
		}, valueTypes(f.params), nil
	}
	return func(ctx context.Context, _ api.Module, p []uint64) {
		w := &caller(ctx).host
		w.chargeFuel(hostCallFuel)
		for i, c := range f.params {
			if c == 'i' {
				p[i] &= math.MaxUint32 // clears the upper half, which is undefined
			}
		}
		p[0] = uint64(f.call(w, p))
	}, valueTypes(f.params), []api.ValueType{api.ValueTypeI32}
}

func valueTypes(letters string) []api.ValueType {
	out := make([]api.ValueType, len(letters))
	for i, c := range letters {
		out[i] = api.ValueTypeI32
		switch c {
		case 'I':
			out[i] = api.ValueTypeI64
		case 'd':
			out[i] = api.ValueTypeF64
		}
	}
	return out
}

// chargeFuel subtracts n from the call's fuel. It ends the call if too little fuel is left.
func (h *hostState) chargeFuel(n uint64) {
	left := int64(h.in.fuel.Get()) - int64(min(n, math.MaxInt32))
	if left < 0 {
		left = h.in.refuel(left)
	}
	h.in.fuel.Set(uint64(left))
}

// memoryBytes returns bytes of the module's memory, or nil if some of them are outside the memory.
func (h *hostState) memoryBytes(address, size uint64) []byte {
	mem := h.in.memory
	if mem == nil || size > uint64(mem.Size()) {
		return nil
	}
	b, ok := mem.Read(uint32(address), uint32(size))
	if !ok {
		return nil
	}
	return b
}

func (h *hostState) put32(address uint64, v uint32) uint32 {
	b := h.memoryBytes(address, 4)
	if b == nil {
		return wasiFault
	}
	binary.LittleEndian.PutUint32(b, v)
	return wasiOK
}

func (h *hostState) put64(address uint64, v uint64) uint32 {
	b := h.memoryBytes(address, 8)
	if b == nil {
		return wasiFault
	}
	binary.LittleEndian.PutUint64(b, v)
	return wasiOK
}

// writeEmptyList implements args_sizes_get and environ_sizes_get with empty lists.
func (h *hostState) writeEmptyList(p []uint64) uint32 {
	if err := h.put32(p[0], 0); err != wasiOK {
		return err
	}
	return h.put32(p[1], 0)
}

func (h *hostState) clock(p []uint64) uint32 {
	h.now += clockStep
	return h.put64(p[2], h.now)
}

// random fills memory with random bytes (SplitMix64). Their sequence is the same in every instance.
func (h *hostState) random(p []uint64) uint32 {
	h.chargeFuel(p[1] / hostByteFuel)
	b := h.memoryBytes(p[0], p[1])
	if b == nil && p[1] > 0 {
		return wasiFault
	}
	for len(b) > 0 {
		h.randomState += 0x9e3779b97f4a7c15
		z := h.randomState
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		var eight [8]byte
		binary.LittleEndian.PutUint64(eight[:], z^z>>31)
		b = b[copy(b, eight[:]):]
	}
	return wasiOK
}

// poll advances the clock by the shortest timeout of the subscriptions, without a wait. Subscriptions to files fail.
func (h *hostState) poll(p []uint64) uint32 {
	const subscription, event = 48, 32
	n := p[2]
	h.chargeFuel(n * hostItemFuel)
	in, out := h.memoryBytes(p[0], n*subscription), h.memoryBytes(p[1], n*event)
	switch {
	case n == 0:
		return wasiInval
	case in == nil || out == nil:
		return wasiFault
	}
	wait := uint64(math.MaxUint64)
	for i := range n {
		s, e := in[i*subscription:], out[i*event:]
		kind, failed := s[8], uint16(wasiBadf)
		if kind == 0 { // a clock: its id, timeout, precision and flags follow
			failed = wasiOK
			timeout := binary.LittleEndian.Uint64(s[24:])
			if s[40]&1 != 0 { // the timeout is absolute
				timeout -= min(timeout, h.now)
			}
			wait = min(wait, timeout)
		}
		user := [8]byte(s)
		clear(e[:event])
		copy(e, user[:])
		binary.LittleEndian.PutUint16(e[8:], failed)
		e[10] = kind
	}
	if wait != math.MaxUint64 {
		h.now += wait
	}
	return h.put32(p[3], uint32(n))
}

// checkStandardFile returns an error unless the descriptor is one of the three standard files.
func (h *hostState) checkStandardFile(p []uint64) uint32 { return h.resultIfStandardFile(p, wasiOK) }

// resultIfStandardFile returns the given result for the descriptor of a standard file, and an error for any other
// descriptor.
func (h *hostState) resultIfStandardFile(p []uint64, result uint32) uint32 {
	if p[0] > 2 {
		return wasiBadf
	}
	return result
}

// describe implements fd_fdstat_get. The standard files are readable and writable character devices.
func (h *hostState) describe(p []uint64) uint32 {
	const characters, mayReadOrWrite = 2, 1<<1 | 1<<6
	b := h.memoryBytes(p[1], 24)
	switch {
	case p[0] > 2:
		return wasiBadf
	case b == nil:
		return wasiFault
	}
	clear(b)
	b[0] = characters
	binary.LittleEndian.PutUint64(b[8:], mayReadOrWrite)
	return wasiOK
}

// write implements fd_write. It splits the written bytes into log lines.
func (h *hostState) write(p []uint64) uint32 {
	n := p[2]
	h.chargeFuel(n * hostItemFuel)
	list := h.memoryBytes(p[1], n*8)
	switch {
	case p[0] != 1 && p[0] != 2:
		return wasiBadf
	case list == nil && n > 0:
		return wasiFault
	}
	total := uint32(0)
	for ; len(list) > 0; list = list[8:] {
		size := binary.LittleEndian.Uint32(list[4:])
		b := h.memoryBytes(uint64(binary.LittleEndian.Uint32(list)), uint64(size))
		if b == nil && size > 0 {
			return wasiFault
		}
		h.output.write(int(p[0]), b)
		total += size
	}
	return h.put32(p[3], total)
}

// read implements fd_read. Standard input is always at its end.
func (h *hostState) read(p []uint64) uint32 {
	switch p[0] {
	case 0:
		return h.put32(p[3], 0)
	case 1, 2:
		return wasiNotsup
	}
	return wasiBadf
}
