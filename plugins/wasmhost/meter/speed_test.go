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

// scoring is a scorer, ready to be called over n candidates as the host does.
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

// What metering costs, as a ratio to the same call without any limit
// (metered/plain) and to wazero's own way to stop a guest (metered/close): all
// three take turns, and the ratio is the median over the rounds, so that what
// else the machine does falls on each alike. ns/op is of a round and says
// nothing.
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

// An endless loop, ended by the fuel of a call over 256 candidates, by default.
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
