package wasmhost_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// slow are loops that take long for their number of instructions: moves of values where branches meet are no
// instructions, and some instructions call code of wazero.
func slow() map[string]*w.Module {
	many := func(code ...byte) *w.Module {
		m := w.Scorer(w.Unless256(w.EndlessLoop(w.Repeat(200, code...)...)...)...)
		m.Tables, m.Elements = []w.Limits{{Min: 10}}, []uint32{0}
		return m
	}
	get := func(n int) (code []byte) {
		for i := range n {
			code = w.Uint(append(code, w.LocalGet), uint32(i))
		}
		return code
	}
	all := map[string]*w.Module{
		"memory.grow of nothing": many(w.Join(w.Const32(0), []byte{w.MemoryGrow, 0, w.Drop})...),
		"table.grow of nothing":  many(w.Join([]byte{0xd0, 0x70}, w.Const32(0), []byte{0xfc, 15, 0, w.Drop})...),
		"ref.func":               many(w.Join(w.Const32(0), []byte{0xd2, 0, 0x26, 0})...),
	}
	for name, n := range map[string]int{"100 values": 100, "1,000 values": 1000} {
		wide := w.Repeat(n, w.I64)
		// A loop that takes all values and repeats with each value in the place of the next one.
		around := w.Func{Params: wide, Results: wide, Code: w.Join(get(n), []byte{w.Loop, 3}, w.Const64(1),
			[]byte{w.Br, 0, w.End})}
		all[name+" around a loop"] = w.Scorer(w.Unless256(w.Join(w.Repeat(n, 0x42, 0), w.CallTo(added),
			w.Repeat(n, w.Drop))...)...).Add(around)
		// The same loop with locals in place of values. Instructions that set the locals are charged only if they run.
		var set []byte
		for i := range n {
			set = w.Uint(append(w.Uint(append(set, w.LocalGet), uint32((i+1)%n)), w.LocalSet), uint32(i))
		}
		// eqz
		never := w.Join([]byte{w.LocalGet, 0, 0x50, w.If, w.Empty, w.Loop, w.Empty}, set,
			[]byte{w.LocalGet, 0, 0x50, w.BrIf, 0, w.End, w.End})
		// add
		use := w.Join(get(n), w.Repeat(n-1, 0x7c), []byte{w.Drop})
		meet := w.Func{Params: wide, Code: w.Join(w.EndlessLoop(w.Join(never, never,
			[]byte{w.LocalGet, 0, 0x50, w.BrIf, 1})...), use)}
		all[name+" where ways meet"] = w.Scorer(w.Unless256(w.Join(w.Repeat(n, 0x42, 1),
			w.CallTo(added))...)...).Add(meet)
	}
	return all
}

// No loop takes much longer per unit of fuel than any other.
func TestAUnitOfFuelIsShort(t *testing.T) {
	const limit = 30 * time.Millisecond
	limits := wasmhost.DefaultLimits()
	limits.Fuel = 1_000_000
	limits.Wait, limits.CallTimeout, limits.StartTimeout = time.Minute, time.Minute, time.Minute
	host := wasmhost.New(limits, "")
	for name, module := range slow() {
		t.Run(name, func(t *testing.T) {
			m, err := host.Load(module.Bytes(), nil)
			require.NoError(t, err)
			defer m.Close()
			best := time.Hour // the best of many runs, because the machine may be busy
			for run := 0; run < 10 || run < 200 && best >= limit; run++ {
				begin := time.Now()
				err := m.Score(rows{{}, {}}, make([]float64, 2))
				best = min(best, time.Since(begin))
				require.Equal(t, "fuel", reasonOf(err), "%v", err)
			}
			t.Log(best)
			require.Less(t, best, limit)
		})
	}
}
