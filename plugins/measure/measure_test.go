package measure_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/measure"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// ticking returns a clock that advances by 100 us with each reading. The measured times are therefore
// artificial and the rounds end; the fuel is real.
func ticking() func() time.Time {
	at := time.Unix(0, 0)
	return func() time.Time {
		at = at.Add(100 * time.Microsecond)
		return at
	}
}

func run(t *testing.T, name string) (measure.Report, []string) {
	var steps []string
	r, err := measure.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), builtin.Modules()[name], measure.Options{
		Now: ticking(), RoundTime: time.Millisecond, Rounds: 3, Progress: func(s string) { steps = append(steps, s) },
	})
	require.NoError(t, err)
	return r, steps
}

func TestScorer(t *testing.T) {
	r, steps := run(t, "cost_aware")
	require.Equal(t, []string{"load", "1 candidates", "10 candidates", "100 candidates", "1000 candidates"}, steps)
	require.Equal(t, "performance", r.Builtin)
	require.Len(t, r.Rows, 4)
	for i, row := range r.Rows {
		require.Empty(t, row.Error)
		require.Positive(t, row.Nanos)
		require.InDelta(t, row.Nanos/row.Builtin, row.Ratio, 1e-9)
		require.Positive(t, row.Fuel)
		require.Equal(t, int64(3_000_000+4000*row.Candidates), row.FuelLimit)
		if i > 0 {
			require.Greater(t, row.Fuel, r.Rows[i-1].Fuel)
		}
	}
	require.InDelta(t, float64(r.Rows[3].Fuel-r.Rows[0].Fuel)/999, r.FuelPerCandidate, 1e-9)
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	require.Len(t, lines, 6)
	require.Contains(t, lines[0], "performance")
	require.Contains(t, lines[5], "fuel a candidate")
}

func TestABuiltInIsAsFastAsItself(t *testing.T) {
	r, _ := run(t, "performance")
	for _, row := range r.Rows {
		require.InDelta(t, 1, row.Ratio, 0.5, "the same calls on a clock of steps")
	}
}

func TestBackoff(t *testing.T) {
	r, _ := run(t, "linear")
	require.Equal(t, "exponential", r.Builtin)
	require.Len(t, r.Rows, 1)
	require.Positive(t, r.Rows[0].Fuel)
	require.Zero(t, r.FuelPerCandidate)
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	require.NotContains(t, b.String(), "a candidate;")
}

func TestModulesThatDoNotLoad(t *testing.T) {
	_, err := measure.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), []byte("no"),
		measure.Options{Now: ticking(), Rounds: 1})
	var check *wasmhost.CheckError
	require.ErrorAs(t, err, &check)
}

// A scorer that cannot reserve memory for 1,000 candidates is measured up to its limit.
func TestAScorerWithLittleMemory(t *testing.T) {
	small := wasmtest.Scorer(wasmtest.Scores(1)...)
	// gt_u
	small.Func("reserve").Code = wasmtest.Join([]byte{wasmtest.LocalGet, 0}, wasmtest.Const32(60_000),
		[]byte{0x4b, wasmtest.If, wasmtest.Empty},
		wasmtest.Const32(0), []byte{wasmtest.Return, wasmtest.End}, wasmtest.Const32(wasmtest.RegionAt))
	r, err := measure.Run(wasmhost.New(wasmhost.DefaultLimits(), ""), small.Bytes(),
		measure.Options{Now: ticking(), RoundTime: time.Millisecond, Rounds: 1})
	require.NoError(t, err)
	require.Empty(t, r.Rows[2].Error)
	require.Contains(t, r.Rows[3].Error, "memory")
	require.InDelta(t, float64(r.Rows[2].Fuel-r.Rows[0].Fuel)/99, r.FuelPerCandidate, 1e-9)
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	require.Contains(t, b.String(), "memory: reserve")
}
