package meter_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/meter"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// shapes returns functions whose frames have many sizes. In the middle, each function runs the code in the parameter
// call.
func shapes() map[string]func(call []byte) w.Func {
	load := func(n int) []byte { return w.Join(w.Const32(int32(4*n)), []byte{0x28, 2, 0}) }
	get := func(n int) []byte { return w.Uint([]byte{w.LocalGet}, uint32(n)) }
	store := func(n int, value []byte) []byte {
		return w.Join(w.Const32(int32(4*n)), value, []byte{w.I32Store, 2, 0})
	}
	all := map[string]func(call []byte) w.Func{
		"empty": func(call []byte) w.Func { return w.Func{Code: call} },
	}
	for _, n := range []int{1, 7, 50, 300} {
		var set, use []byte
		for i := range n {
			set = w.Join(set, load(i), w.Uint([]byte{w.LocalSet}, uint32(i)))
			use = w.Join(use, store(i, get(i)))
		}
		locals := []w.Group{{Count: uint32(n), Type: w.I32}}
		all[fmt.Sprint(n, " operands")] = func(call []byte) w.Func {
			var loads []byte
			for i := range n {
				loads = w.Join(loads, load(i))
			}
			return w.Func{Code: w.Join(w.Const32(0), loads, load(n), call, w.Repeat(n, w.I32Add),
				[]byte{w.I32Store, 2, 0})}
		}
		all[fmt.Sprint(n, " operands in a loop that is not entered")] = func(call []byte) w.Func {
			var loads []byte
			for i := range n {
				loads = w.Join(loads, load(i))
			}
			loads = w.Join(w.Const32(0), loads, load(n), call, w.Repeat(n, w.I32Add), []byte{w.I32Store, 2, 0})
			return w.Func{Code: w.Join(load(0), []byte{w.If, w.Empty, w.Loop, w.Empty}, loads, []byte{w.End, w.End},
				call)}
		}
		all[fmt.Sprint(n, " vectors")] = func(call []byte) w.Func {
			loads := w.Repeat(n, w.Join(w.Const32(0), []byte{0xfd, 0, 0, 0})...)
			adds := w.Repeat(n-1, 0xfd, 0x6e)
			return w.Func{Code: w.Join(w.Const32(0), loads, call, adds, []byte{0xfd, 11, 0, 0})}
		}
		all[fmt.Sprint(n, " locals in blocks")] = func(call []byte) w.Func {
			one := w.Join(load(0), []byte{w.If, w.Empty}, set, []byte{w.End}, load(1), []byte{w.If, w.Empty}, call,
				[]byte{w.End}, use)
			return w.Func{Locals: locals, Code: w.Join(set, call, w.Repeat(8, one...))}
		}
		all[fmt.Sprint(n, " locals in loops")] = func(call []byte) w.Func {
			one := w.Join(load(0), []byte{w.If, w.Empty, w.Loop, w.Empty}, set, call, use, load(0),
				[]byte{w.BrIf, 0, w.End, w.End})
			return w.Func{Locals: locals, Code: w.Join(set, call, w.Repeat(8, one...))}
		}
	}
	return all
}

// No function uses more stack than the meter counts: StackPerFuel bytes for each unit of fuel, plus the bytes that the
// function subtracts from the counter of stack.
func TestFramesAreCounted(t *testing.T) {
	for name, shape := range shapes() {
		t.Run(name, func(t *testing.T) {
			const look = 0 // index of the imported function
			m := &w.Module{Memories: []w.Limits{{Min: 1}}, Globals: []w.Global{{Type: w.I32, Init: w.Const32(20)}}}
			m.Imports = []w.Import{{Module: "test", Name: "look"}}
			// f calls the imported function, and then the function of the shape, which calls f again, 20 times deep.
			again := w.Join([]byte{w.GlobalGet, 0}, w.Const32(1), []byte{w.I32Sub, w.GlobalSet, 0, w.GlobalGet, 0})
			m.Funcs = []w.Func{
				{Export: "f", Code: w.Join(w.CallTo(look), again, []byte{w.If, w.Empty}, w.CallTo(2), []byte{w.End})},
				shape(w.CallTo(1)),
			}
			metered, err := meter.Rewrite(m.Bytes(), meter.Cost{Start: 1 << 40, Stack: 1 << 40})
			require.NoError(t, err)
			ctx := context.Background()
			rt := wazero.NewRuntime(ctx)
			defer rt.Close(ctx)
			var f api.Function
			var used, counted []int64
			host := api.GoModuleFunc(func(_ context.Context, guest api.Module, _ []uint64) {
				top := reflect.ValueOf(f).Elem().FieldByName("stackTop").Uint()
				sp := reflect.ValueOf(f).Elem().FieldByName("execCtx").FieldByName("stackPointerBeforeGoCall").Pointer()
				used = append(used, int64(top)-int64(sp))
				fuel := int64(1<<40 - guest.ExportedGlobal(meter.FuelExport).Get())
				stack := int64(1<<40 - guest.ExportedGlobal(meter.StackExport).Get())
				counted = append(counted, fuel*meter.StackPerFuel+stack)
			})
			_, err = rt.NewHostModuleBuilder("test").NewFunctionBuilder().WithGoModuleFunction(host, nil,
				nil).Export("look").Instantiate(ctx)
			require.NoError(t, err)
			guest, err := meter.Instantiate(ctx, rt, metered)
			require.NoError(t, err)
			f = guest.ExportedFunction("f")
			_, err = f.Call(ctx)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(used), 20)
			for i := range used {
				require.LessOrEqual(t, used[i], counted[i], "%d calls deep", i)
			}
			t.Logf("%d bytes a call, %d counted", (used[19]-used[0])/19, (counted[19]-counted[0])/19)
		})
	}
}
