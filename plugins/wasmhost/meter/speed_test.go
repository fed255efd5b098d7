package meter

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// scoring returns a function that calls a scorer with n candidates, as the host does.
func scoring(t testing.TB, module []byte, rc wazero.RuntimeConfig, n int) func() {
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, rc)
	t.Cleanup(func() { rt.Close(ctx) })
	guest := instantiate(t, rt, module)
	rows := uint64(abi.RankRequestSize)
	scores := rows + uint64(n)*abi.CandidateSize
	room, err := guest.ExportedFunction(abi.Reserve).Call(ctx, scores+uint64(n)*abi.ScoreSize)
	require.NoError(t, err)
	base := room[0]
	view, ok := guest.ExportedMemory(abi.Memory).Read(uint32(base), uint32(scores))
	require.True(t, ok)
	for at := 0; at < len(view); at += 8 {
		binary.LittleEndian.PutUint64(view[at:], math.Float64bits(float64(at%97)/97))
	}
	score := guest.ExportedFunction(abi.Score)
	fuel, _ := guest.ExportedGlobal(FuelExport).(api.MutableGlobal)
	stack := make([]uint64, 4)
	return func() {
		if fuel != nil {
			fuel.Set(plenty)
		}
		stack[0], stack[1], stack[2], stack[3] = base, base+rows, base+scores, uint64(n)
		if err := score.CallWithStack(ctx, stack); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkScorer measures the cost of metering. It compares a metered call with the same call without any
// limit (metered/plain), and with wazero's own way to stop a guest (metered/close). The three alternate, so
// that other load on the machine affects all of them. Each figure is the median of the rounds' ratios. ns/op
// is the time of a round and has no meaning.
func BenchmarkScorer(b *testing.B) {
	for _, name := range []string{"performance", "cost_aware"} {
		for _, n := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				plain := builtin.Modules()[name]
				metered, err := Rewrite(plain, Cost{Start: plenty})
				require.NoError(b, err)
				ways := []func(){
					scoring(b, plain, wazero.NewRuntimeConfig(), n),
					scoring(b, metered, wazero.NewRuntimeConfig(), n),
					scoring(b, plain, wazero.NewRuntimeConfig().WithCloseOnContextDone(true), n),
				}
				var toPlain, toClose, alone []float64
				for b.Loop() {
					var took [3]float64
					for i, call := range ways {
						call()
						begun := time.Now()
						for range 50 {
							call()
						}
						took[i] = float64(time.Since(begun)) / 50
					}
					alone = append(alone, took[1])
					toPlain = append(toPlain, took[1]/took[0])
					toClose = append(toClose, took[1]/took[2])
				}
				b.ReportMetric(median(alone), "ns/call")
				b.ReportMetric(median(toPlain), "metered/plain")
				b.ReportMetric(median(toClose), "metered/close")
			})
		}
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// The benchmark runs an endless loop until the default fuel of a call with 256 candidates is used up.
func BenchmarkEndless(b *testing.B) {
	module, err := Rewrite(build(endless["loop"]...), Cost{})
	require.NoError(b, err)
	ctx := context.Background()
	rt := wazero.NewRuntime(ctx)
	defer rt.Close(ctx)
	guest := instantiate(b, rt, module)
	fuel := guest.ExportedGlobal(FuelExport).(api.MutableGlobal)
	f := guest.ExportedFunction("f")
	for b.Loop() {
		fuel.Set(3_000_000 + 256*4_000)
		if _, err := f.Call(ctx, 0); err == nil {
			b.Fatal("it came back")
		}
	}
}
