package meter

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Instantiate starts a metered module, and calls its start function. The host gives it no more fuel than the
// module's counter holds at first, unless ctx has a budget (WithBudget).
func Instantiate(ctx context.Context, rt wazero.Runtime, metered []byte) (api.Module, error) {
	if rt.Module(ImportModule) == nil {
		if err := host(ctx, rt); err != nil {
			return nil, err
		}
	}
	guest, err := rt.InstantiateWithConfig(ctx, metered, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return nil, err
	}
	if start := guest.ExportedFunction(StartExport); start != nil {
		if _, err := start.Call(ctx); err != nil {
			return nil, err
		}
	}
	return guest, nil
}

func host(ctx context.Context, rt wazero.Runtime) error {
	refuel := api.GoModuleFunc(func(ctx context.Context, guest api.Module, p []uint64) {
		budget, _ := ctx.Value(budgetKey{}).(*Budget)
		left := int64(p[0])
		if budget == nil || left+budget.Left < 0 {
			guest.ExportedGlobal(FuelExport).(api.MutableGlobal).Set(p[0])
			panic(errors.New("out of fuel"))
		}
		grant := min(budget.Left, max(budget.Slice, budget.Slice-left))
		budget.Left -= grant
		budget.Asked++
		p[0] = uint64(left + grant)
	})
	stack := api.GoModuleFunc(func(_ context.Context, guest api.Module, _ []uint64) {
		guest.ExportedGlobal(StackExport).(api.MutableGlobal).Set(1 << 20)
	})
	one := []api.ValueType{api.ValueTypeI64}
	_, err := rt.NewHostModuleBuilder(ImportModule).
		NewFunctionBuilder().WithGoModuleFunction(refuel, one, one).Export(RefuelImport).
		NewFunctionBuilder().WithGoModuleFunction(refuel, RefuelLoopValues(),
		RefuelLoopValues()).Export(RefuelLoopImport).
		NewFunctionBuilder().WithGoModuleFunction(stack, nil, nil).Export(StackImport).
		Instantiate(ctx)
	return err
}

// Budget is the fuel of a call in addition to the module's counter.
type Budget struct {
	Left, Slice int64
	Asked       int // number of slices that the host has given
}

type budgetKey struct{}

// WithBudget gives the calls with the returned context more fuel, in slices.
func WithBudget(ctx context.Context, b *Budget) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

// instantiate does the same as Instantiate, for a module that must start.
func instantiate(t testing.TB, rt wazero.Runtime, metered []byte) api.Module {
	t.Helper()
	guest, err := Instantiate(context.Background(), rt, metered)
	require.NoError(t, err)
	return guest
}
