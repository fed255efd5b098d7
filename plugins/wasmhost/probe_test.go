package wasmhost_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

type rows []core.Candidate

func (r rows) Len() int { return len(r) }
func (r rows) Fill(req *core.RankRequest, out []core.Candidate) {
	*req = core.RankRequest{Count: float64(len(r))}
	copy(out, r)
}

func TestProbe(t *testing.T) {
	host := wasmhost.New(wasmhost.DefaultLimits(), "")
	m, err := host.Compile(builtin.Modules()["performance"])
	require.NoError(t, err)
	defer m.Close()
	p, err := m.Probe()
	require.NoError(t, err)
	defer p.Close()

	scores := make([]float64, 2)
	require.NoError(t, p.Score(rows{{SuccessRate: 1}, {SuccessRate: 0.5}}, scores))
	require.InDeltaSlice(t, []float64{1, 0.65}, scores, 1e-9)
	limits := m.Limits()
	limit := limits.Fuel + 2*wasmhost.FuelPerCandidate
	require.Less(t, p.Fuel(), limit)
	require.NoError(t, p.Score(rows{{}, {}}, scores))
	require.Greater(t, p.Fuel(), limit-200, "two candidates take a few dozen instructions")

	pages := p.Pages()
	at, err := p.Reserve(3 << 16)
	require.NoError(t, err)
	require.NotZero(t, at)
	require.Greater(t, p.Pages(), pages)
	require.NoError(t, p.Write(at, []byte{1, 2, 3}))
	got, err := p.Read(at+1, 2)
	require.NoError(t, err)
	require.Equal(t, []byte{2, 3}, got)
	require.Error(t, p.Write(p.Pages()<<16-1, []byte{1, 2}))
}

func TestExamineReportsAllFaults(t *testing.T) {
	host := wasmhost.New(wasmhost.Limits{ModuleBytes: 1000}, "")
	_, found := host.Examine([]byte("\x00asm\x01\x00\x00\x00"))
	var checks []string
	for _, f := range found {
		checks = append(checks, f.Check)
	}
	require.Equal(t, []string{wasmhost.CheckVersion, wasmhost.CheckExports, wasmhost.CheckExports,
		wasmhost.CheckExports}, checks)
	_, found = host.Examine(make([]byte, 1001))
	require.Len(t, found, 1)
	require.Equal(t, wasmhost.CheckSize, found[0].Check)
	_, found = host.Examine([]byte("no module"))
	require.Equal(t, wasmhost.CheckParses, found[0].Check)
}
