package wasmhost_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// Every permitted import returns, and gives access to nothing.
func TestWASIReachesNothing(t *testing.T) {
	t.Setenv("WHIRLPOOL_TEST_SECRET", "x")
	const untouched = 0xffffffffffffffff
	ones := bytes.Repeat([]byte{0xff}, 64)
	subscription := make([]byte, 48) // a subscription to a clock, for an hour
	subscription[24+5] = 0x34        // at least 2^42 ns
	file := make([]byte, 48)
	file[8] = 1 // that a file may be read
	const end = 65530
	i64 := w.Const64
	for _, c := range []struct {
		name, params string
		args         []byte
		code         uint32 // code of the error
		at           int32  // address of the result
		out          uint64
		data         []byte // bytes at address 128
	}{
		{name: "args_sizes_get", params: "ii", args: args(8, 16), at: 8, out: 0xffffffff00000000},
		{name: "args_sizes_get", params: "ii", args: args(8, 16), at: 16, out: 0xffffffff00000000},
		{name: "args_sizes_get", params: "ii", args: args(8, end+4), code: 21, at: 24, out: untouched},
		{name: "args_get", params: "ii", args: args(8, 16), at: 8, out: untouched},
		{name: "environ_sizes_get", params: "ii", args: args(8, 16), at: 8, out: 0xffffffff00000000},
		{name: "environ_get", params: "ii", args: args(8, 16), at: 16, out: untouched},
		{name: "clock_time_get", params: "iIi", args: w.Join(args(0), i64(0), args(8)), at: 8, out: 1_000_000},
		{name: "clock_time_get", params: "iIi", args: w.Join(args(1), i64(0), args(8)), at: 8, out: 1_000_000},
		{name: "clock_time_get", params: "iIi", args: w.Join(args(1), i64(0), args(end)), code: 21, at: 8,
			out: untouched},
		{name: "clock_res_get", params: "ii", args: args(0, 8), at: 8, out: 1_000_000},
		{name: "random_get", params: "ii", args: args(8, 8), at: 8, out: 0xe220a8397b1dcdaf},
		{name: "random_get", params: "ii", args: args(8, 3), at: 8, out: 0xffffffffff1dcdaf},
		{name: "random_get", params: "ii", args: args(end, 100), code: 21, at: 8, out: untouched},
		{name: "sched_yield", at: 8, out: untouched},
		{name: "poll_oneoff", params: "iiii", args: args(128, 8, 1, 48), at: 48, out: 0xffffffff00000001,
			data: subscription},
		{name: "poll_oneoff", params: "iiii", args: args(128, 8, 1, 48), at: 16, out: 0, data: subscription},
		{name: "poll_oneoff", params: "iiii", args: args(128, 8, 1, 48), at: 16, out: 1<<16 | 8, data: file},
		{name: "poll_oneoff", params: "iiii", args: args(128, 8, 0, 48), code: 28, at: 48, out: untouched},
		{name: "poll_oneoff", params: "iiii", args: args(end, 8, 1, 48), code: 21, at: 48, out: untouched},
		{name: "fd_write", params: "iiii", args: args(1, 128, 2, 8), at: 8, out: 0xffffffff00000000 | 16,
			data: []byte{0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0}},
		{name: "fd_write", params: "iiii", args: args(2, 128, 0, 8), at: 8, out: 0xffffffff00000000},
		{name: "fd_write", params: "iiii", args: args(1, 128, 1, 8), code: 21, at: 8, out: untouched,
			data: []byte{0, 0, 0, 0, 0, 0, 2, 0}},
		{name: "fd_write", params: "iiii", args: args(3, 128, 1, 8), code: 8, at: 8, out: untouched},
		{name: "fd_write", params: "iiii", args: args(0, 128, 1, 8), code: 8, at: 8, out: untouched},
		{name: "fd_read", params: "iiii", args: args(0, 128, 1, 8), at: 8, out: 0xffffffff00000000},
		{name: "fd_read", params: "iiii", args: args(3, 128, 1, 8), code: 8, at: 8, out: untouched},
		{name: "fd_read", params: "iiii", args: args(1, 128, 1, 8), code: 58, at: 8, out: untouched},
		{name: "fd_close", params: "i", args: args(1), at: 8, out: untouched},
		{name: "fd_close", params: "i", args: args(5), code: 8, at: 8, out: untouched},
		{name: "fd_seek", params: "iIii", args: w.Join(args(0), i64(1), args(0, 8)), code: 70, at: 8, out: untouched},
		{name: "fd_seek", params: "iIii", args: w.Join(args(9), i64(1), args(0, 8)), code: 8, at: 8, out: untouched},
		{name: "fd_fdstat_get", params: "ii", args: args(0, 8), at: 8, out: 2},
		{name: "fd_fdstat_get", params: "ii", args: args(3, 8), code: 8, at: 8, out: untouched},
		{name: "fd_fdstat_get", params: "ii", args: args(0, end), code: 21, at: 8, out: untouched},
		{name: "fd_fdstat_set_flags", params: "ii", args: args(1, 0), at: 8, out: untouched},
		{name: "fd_fdstat_set_flags", params: "ii", args: args(7, 0), code: 8, at: 8, out: untouched},
		{name: "fd_prestat_get", params: "ii", args: args(3, 8), code: 8, at: 8, out: untouched},
		{name: "fd_prestat_dir_name", params: "iii", args: args(3, 8, 8), code: 8, at: 8, out: untouched},
	} {
		m := w.Scorer(w.Join(
			[]byte{w.LocalGet, 2}, c.args, w.CallTo(0), []byte{0xb8, w.F64Store, 3, 0}, // f64.convert_i32_u
			// i64.load, i64.shr_u, f64.convert_i64_u
			[]byte{w.LocalGet, 2}, w.Const32(c.at), []byte{0x29, 3, 0}, i64(32), []byte{0x88, 0xba, w.F64Store, 3, 8},
			[]byte{w.LocalGet, 2}, w.Const32(c.at), []byte{0x28, 2, 0, 0xb8, w.F64Store, 3, 16})...) // i32.load
		m.Imports = []w.Import{wasi(c.name, c.params)}
		m.Data = []w.Data{{Offset: 0, Bytes: ones}, {Offset: 128, Bytes: c.data}}
		loaded, err := wasmhost.New(wasmhost.DefaultLimits(), "").Compile(m.Bytes())
		require.NoError(t, err, c.name)
		begin := time.Now()
		for range 2 { // each instance gets the same bytes
			p, err := loaded.Probe()
			require.NoError(t, err, c.name)
			scores := make([]float64, 3)
			require.NoError(t, p.Score(make(rows, 3), scores), c.name)
			require.EqualValues(t, c.code, scores[0], "%s: the error", c.name)
			require.Equal(t, c.out, uint64(scores[1])<<32|uint64(scores[2]), "%s: what it wrote", c.name)
			p.Close()
		}
		require.Less(t, time.Since(begin), within, c.name)
		loaded.Close()
	}
}

// The error of a call has the last output of a guest before the guest ended, on one line.
func TestTheLastOutputIsInTheError(t *testing.T) {
	code := w.Unless256(w.Join(args(2, 200, 1, 8), w.CallTo(0), []byte{w.Drop, w.Unreachable})...)
	m := w.Scorer(code...)
	m.Imports = []w.Import{wasi("fd_write", "iiii")}
	said := []byte("no proxy\x1b[31m in sight\nand more")
	m.Data = []w.Data{{Offset: 200, Bytes: []byte{208, 0, 0, 0, byte(len(said)), 0, 0, 0}}, {Offset: 208, Bytes: said}}
	loaded := load(t, m)
	defer loaded.Close()
	err := loaded.Score(rows{{}, {}}, make([]float64, 2))
	require.EqualError(t, err, "trap: wasm error: unreachable: no proxy?[31m in sight")
}

// pointed are the imports with addresses as parameters.
var pointed = []struct{ name, params string }{
	{"args_sizes_get", "ii"}, {"environ_sizes_get", "ii"}, {"clock_res_get", "ii"}, {"clock_time_get", "iIi"},
	{"random_get", "ii"}, {"poll_oneoff", "iiii"}, {"fd_write", "iiii"}, {"fd_read", "iiii"}, {"fd_fdstat_get", "ii"},
}

// FuzzWASI: for all parameters and memory contents, the call ends soon, in the same way as in any other
// instance, and the host's own code does not fail.
func FuzzWASI(f *testing.F) {
	for i := range pointed {
		f.Add(uint8(i), uint32(8), uint32(128), uint32(1), uint32(16), []byte{128, 0, 0, 0, 8, 0, 0, 0})
		f.Add(uint8(i), uint32(65530), uint32(8), uint32(1), uint32(65530), []byte{}) // the memory ends at 65536
		f.Add(uint8(i), uint32(1), uint32(65530), uint32(0xffffffff), uint32(0xfffffff8),
			[]byte{0xff, 0xff, 0xff, 0xff})
	}
	host := wasmhost.New(wasmhost.DefaultLimits(), "")
	f.Fuzz(func(t *testing.T, which uint8, a, b, c, d uint32, data []byte) {
		call := pointed[int(which)%len(pointed)]
		var code []byte
		for i, p := range call.params {
			n := int32([]uint32{a, b, c, d}[i])
			if p == 'I' {
				code = append(code, w.Const64(int64(n))...)
			} else {
				code = append(code, w.Const32(n)...)
			}
		}
		m := w.Scorer(w.Join(
			[]byte{w.LocalGet, 2}, code, w.CallTo(0), []byte{0xb8, w.F64Store, 3, 0}, // f64.convert_i32_u
			// i64.load, f64.convert_i64_u
			[]byte{w.LocalGet, 2}, w.Const32(16), []byte{0x29, 3, 0, 0xba, w.F64Store, 3, 8})...)
		m.Imports = []w.Import{wasi(call.name, call.params)}
		m.Data = []w.Data{{Offset: 128, Bytes: data[:min(len(data), 512)]}}
		loaded, err := host.Compile(m.Bytes())
		require.NoError(t, err)
		defer loaded.Close()
		begin := time.Now()
		var first []float64
		var said string
		for i := range 2 {
			p, err := loaded.Probe()
			require.NoError(t, err)
			scores := make([]float64, 2)
			if err = p.Score(make(rows, 2), scores); err != nil {
				var fault *wasmhost.Fault
				require.ErrorAs(t, err, &fault)
				require.NotContains(t, err.Error(), "runtime error", "%s(%d, %d, %d, %d)", call.name, a, b, c, d)
				scores = append(scores[:0], -1)
				if i > 0 {
					require.EqualError(t, err, said)
				}
				said = err.Error()
			}
			p.Close()
			if i > 0 {
				require.Equal(t, first, scores)
			}
			first = scores
		}
		require.Less(t, time.Since(begin), within)
	})
}
