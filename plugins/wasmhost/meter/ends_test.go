package meter_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// program draws random valid code with every control instruction. Most of this code never ends by itself.
type program struct {
	t     *rapid.T
	funcs int // number of functions that may be called, each (i32) -> i32
	left  int // number of statements that may still be drawn
}

const numbers = 4 // number of locals, including the parameter

func (p *program) pick(what string, n int) int { return rapid.IntRange(0, n-1).Draw(p.t, what) }

func (p *program) local() byte { return byte(p.pick("local", numbers)) }

// block draws statements inside the given number of blocks, without the function's own block.
func (p *program) block(labels int) (code []byte) {
	for n := p.pick("statements", 5); n >= 0 && p.left > 0; n-- {
		p.left--
		next, ends := p.statement(labels)
		code = append(code, next...)
		if ends {
			return code
		}
	}
	return code
}

func (p *program) statement(labels int) (code []byte, ends bool) {
	l := p.local()
	label := func() []byte { return w.Uint(nil, uint32(p.pick("label", labels))) }
	switch p.pick("statement", 15) {
	case 0, 1: // updates the local like a random number generator
		return w.Join([]byte{w.LocalGet, l}, w.Const32(1103515245), []byte{w.I32Mul}, w.Const32(12345),
			[]byte{w.I32Add, w.LocalSet, p.local()}), false
	case 2:
		return w.Join([]byte{w.Block, w.Empty}, p.block(labels+1), []byte{w.End}), false
	case 3, 4:
		return w.Join([]byte{w.Loop, w.Empty}, p.block(labels+1), []byte{w.End}), false
	case 5:
		return w.Join([]byte{w.LocalGet, l, w.If, w.Empty}, p.block(labels+1), []byte{0x05}, p.block(labels+1),
			[]byte{w.End}), false
	case 6:
		return w.Join([]byte{w.Br}, label()), true
	case 7:
		return w.Join([]byte{w.LocalGet, l, w.BrIf}, label()), false
	case 8:
		return p.table(l, labels), true
	case 9: // the form in which Go compiles a function
		return p.dispatch(l, labels), false
	case 10:
		return w.Join([]byte{w.LocalGet, l}, w.CallTo(uint32(p.pick("callee", p.funcs))),
			[]byte{w.LocalSet, p.local()}), false
	case 11:
		return []byte{w.LocalGet, l, w.Return}, true
	case 14: // a tail call
		return w.Uint([]byte{w.LocalGet, l, w.ReturnCall}, uint32(p.pick("callee", p.funcs))), true
	case 12: // a branch to the function's own label, with its result
		return w.Uint([]byte{w.LocalGet, l, w.Br}, uint32(labels)), true
	}
	return append(w.Uint([]byte{w.LocalGet, l, w.LocalGet, p.local(), w.BrIf}, uint32(labels)), w.Drop), false
}

func (p *program) table(l byte, labels int) []byte {
	n := p.pick("targets", 4)
	code := w.Uint(w.Join([]byte{w.LocalGet, l}, w.Const32(3), []byte{0x71, w.BrTable}), uint32(n)) // and
	for range n + 1 {
		code = w.Uint(code, uint32(p.pick("label", labels)))
	}
	return code
}

func (p *program) dispatch(l byte, labels int) []byte {
	blocks := 1 + p.pick("blocks", 4)
	code := append([]byte{w.Loop, w.Empty}, w.Repeat(blocks, w.Block, w.Empty)...)
	code = append(code, w.LocalGet, l)
	n := p.pick("targets", 5)
	code = w.Uint(append(code, w.BrTable), uint32(n))
	reach := blocks + p.pick("beyond", 2)*(labels+1) // only the blocks, or also the loop and the blocks around it
	for range n + 1 {
		code = w.Uint(code, uint32(p.pick("label", reach)))
	}
	for i := range blocks {
		code = append(append(code, w.End), p.block(labels+blocks-i)...)
		if p.pick("again", 2) == 0 {
			code = w.Uint(append(code, w.Br), uint32(blocks-1-i))
		}
	}
	return append(code, w.End)
}

func draw(t *rapid.T) []byte {
	p := &program{t: t, funcs: 3, left: 60}
	m := &w.Module{}
	for range p.funcs {
		m.Add(w.Func{Params: []byte{w.I32}, Results: []byte{w.I32}, Locals: []w.Group{{Count: numbers - 1,
			Type: w.I32}},
			Code: w.Join([]byte{w.Block, w.Empty}, p.block(1), []byte{w.End, w.LocalGet, p.local()})})
	}
	m.Funcs[0].Export = "f"
	return m.Bytes()
}

// All code ends when its fuel is used up. If the fuel suffices, it has the same results as without metering.
func TestEveryProgramEnds(t *testing.T) {
	ended, spent := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		code := draw(t)
		metered, err := meter.Rewrite(code, meter.Cost{Start: 20_000})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		rt := wazero.NewRuntimeWithConfig(ctx,
			wazero.NewRuntimeConfig().WithCoreFeatures(meter.Features).WithCloseOnContextDone(true))
		defer rt.Close(context.Background())
		guest, err := meter.Instantiate(ctx, rt, metered)
		require.NoError(t, err)
		got, err := guest.ExportedFunction("f").Call(ctx, 7)
		require.NoError(t, ctx.Err(), "it did not end")
		fuel := int64(guest.ExportedGlobal(meter.FuelExport).(api.MutableGlobal).Get())
		if err != nil {
			require.Negative(t, fuel, "%v", err)
			spent++
			return
		}
		ended++
		require.GreaterOrEqual(t, fuel, int64(0))
		plain, err := rt.InstantiateWithConfig(ctx, code, wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		want, err := plain.ExportedFunction("f").Call(ctx, 7)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
	t.Logf("%d ended by themselves, %d by their fuel", ended, spent)
	require.Positive(t, ended)
	require.Positive(t, spent)
}

// With slices of any size, a program has the same results, and ends at the same instruction if there is too
// little fuel.
func TestTheSizeOfASliceChangesNoResult(t *testing.T) {
	asked := 0
	rapid.Check(t, func(t *rapid.T) {
		code := draw(t)
		total := int64(rapid.IntRange(0, 20_000).Draw(t, "fuel"))
		first := rapid.Int64Range(0, total).Draw(t, "first")
		run := func(first, slice int64) (result []uint64, left int64, failed bool) {
			metered, err := meter.Rewrite(code, meter.Cost{Start: first})
			require.NoError(t, err)
			ctx := context.Background()
			rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(meter.Features))
			defer rt.Close(ctx)
			guest, err := meter.Instantiate(ctx, rt, metered)
			require.NoError(t, err)
			budget := &meter.Budget{Left: total - first, Slice: slice}
			result, err = guest.ExportedFunction("f").Call(meter.WithBudget(ctx, budget), 7)
			asked += budget.Asked
			left = budget.Left + int64(guest.ExportedGlobal(meter.FuelExport).Get())
			return result, left, err != nil
		}
		want, left, failed := run(total, 1)
		got, gotLeft, gotFailed := run(first, rapid.Int64Range(1, 3000).Draw(t, "slice"))
		require.Equal(t, want, got)
		require.Equal(t, failed, gotFailed)
		require.Equal(t, left, gotLeft)
	})
	require.Positive(t, asked)
}
