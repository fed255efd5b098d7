package wasmhost_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// wanting adds the export judge_wants to a judge. The export returns the given text.
func wanting(m *w.Module, text string) *w.Module {
	const at = 64
	m.Data = append(m.Data, w.Data{Offset: at, Bytes: append([]byte(text), 0)})
	return m.Add(w.Func{Export: "judge_wants", Results: []byte{w.I32}, Code: w.Const32(at)})
}

func excerpt(body string, fields ...string) *core.Excerpt {
	e := &core.Excerpt{Body: []byte(body), Length: int64(len(body)), Whole: true}
	for i := 0; i < len(fields); i += 2 {
		e.Fields = append(e.Fields, core.ExcerptField{Name: fields[i], Value: []byte(fields[i+1])})
	}
	return e
}

func TestRulings(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		kind, rest float64
		want       core.Ruling
		reason     string
	}{
		{kind: 0, rest: -1},
		{kind: 1, want: core.Ruling{Kind: core.RulingRetry}},
		{kind: 2, rest: inf, want: core.Ruling{Kind: core.RulingOtherProxy}},
		{kind: 4, want: core.Ruling{Kind: core.RulingTargetFault}},
		{kind: 3, want: core.Ruling{Kind: core.RulingBanned, BanTime: 10 * time.Minute}},
		{kind: 3, rest: 1e-9, want: core.Ruling{Kind: core.RulingBanned, BanTime: time.Second}},
		{kind: 3, rest: 90.5, want: core.Ruling{Kind: core.RulingBanned, BanTime: 90500 * time.Millisecond}},
		{kind: 3, rest: 1e300, want: core.Ruling{Kind: core.RulingBanned, BanTime: 24 * time.Hour}},
		{kind: 3, rest: -1, reason: wasmhost.ReasonNegativeDelay},
		{kind: 3, rest: math.NaN(), reason: wasmhost.ReasonNotFinite},
		{kind: 3, rest: inf, reason: wasmhost.ReasonNotFinite},
		{kind: 5, reason: wasmhost.ReasonRuling},
		{kind: -1, reason: wasmhost.ReasonRuling},
		{kind: 0.5, reason: wasmhost.ReasonRuling},
		{kind: 256, reason: wasmhost.ReasonRuling},
		{kind: math.NaN(), reason: wasmhost.ReasonRuling},
	} {
		live := w.OnlyInRealCalls(0, w.Rules(c.kind, c.rest)...) // so the first call rules fine
		m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(w.Judge(live...).Bytes(), nil)
		require.NoError(t, err)
		got, err := m.Rule(&core.JudgeRequest{Now: 1.8e9}, excerpt(""))
		var f *wasmhost.Fault
		if c.reason != "" {
			require.ErrorAs(t, err, &f, "%+v", c)
			require.Equal(t, c.reason, f.Reason)
		} else {
			require.NoError(t, err)
		}
		require.Equal(t, c.want, got, "%+v", c)
		m.Close()
	}
}

// The records have the layout of sdk/ABI.md.
func TestTheLayoutOfAResponse(t *testing.T) {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Compile(wanting(w.Judge(), "body 100\nfield A").Bytes())
	require.NoError(t, err)
	defer m.Close()
	p, err := m.Probe()
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Rule(&core.JudgeRequest{}, excerpt(strings.Repeat("z", 2000))) // bytes that must have no effect
	require.NoError(t, err)
	e := excerpt("<html>", "a", "1.5", "set-cookie", "id=über")
	_, err = p.Rule(&core.JudgeRequest{Now: 1, Whole: 10}, e)
	require.NoError(t, err)

	u32 := func(at uint32) uint32 {
		b, err := p.Read(at, 4)
		require.NoError(t, err)
		return binary.LittleEndian.Uint32(b)
	}
	f64 := func(at uint32) float64 {
		b, err := p.Read(at, 8)
		require.NoError(t, err)
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	text := func(at uint32) string {
		b, err := p.Read(u32(at), u32(at+4)+1)
		require.NoError(t, err)
		require.Zero(t, b[len(b)-1], "a zero byte follows")
		require.Zero(t, u32(at)%abi.Alignment)
		return string(b[:len(b)-1])
	}
	const base = w.RegionAt
	require.Equal(t, []float64{1, 10}, []float64{f64(base), f64(base + 72)})
	require.EqualValues(t, 2, u32(base+84))
	require.Equal(t, "<html>", text(base+88))
	pairs := u32(base + 80)
	require.Equal(t, []string{"a", "1.5", "set-cookie", "id=über"},
		[]string{text(pairs), text(pairs + 8), text(pairs + abi.PairSize), text(pairs + abi.PairSize + 8)})
	require.Equal(t, 1.5, f64(pairs+16))
	require.True(t, math.IsNaN(f64(pairs+abi.PairSize+16)))
	require.Zero(t, f64(base+abi.JudgeRequestSize), "a ruling begins as fine")
}

// For the largest possible response, the host reserves no more bytes than sdk/ABI.md states.
func TestTheLargestResponse(t *testing.T) {
	only := func(room int32) []byte { // returns a judge with a region of at most room bytes
		m := w.Judge()
		m.Func("reserve").Code = w.Join([]byte{w.LocalGet, 0}, w.Const32(room), []byte{0x4b, w.If, w.Empty}, // gt_u
			w.Const32(0), []byte{w.Return, w.End}, w.Const32(w.RegionAt))
		return m.Bytes()
	}
	e := excerpt(strings.Repeat("b", abi.MaxBody))
	for range core.MaxExcerptFields {
		e.Fields = append(e.Fields, core.ExcerptField{Name: "set-cookie",
			Value: []byte(strings.Repeat("v", core.MaxExcerptValue))})
	}
	load := func(room int32) *wasmhost.Module {
		m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(only(room), nil)
		require.NoError(t, err)
		t.Cleanup(m.Close)
		return m
	}
	_, err := load(abi.JudgeRoom).Rule(&core.JudgeRequest{}, e)
	require.NoError(t, err)
	_, err = load(abi.JudgeRoom-4096).Rule(&core.JudgeRequest{}, e)
	require.ErrorContains(t, err, "reserve(20480) returned 0")
}

func TestWants(t *testing.T) {
	host := wasmhost.New(wasmhost.DefaultLimits(), "")
	m, err := host.Load(wanting(w.Judge(),
		"body 8192\nfield Server\nfield server\nstatus 403\nstatus 500-599\n").Bytes(),
		nil)
	require.NoError(t, err)
	defer m.Close()
	wants := m.ExcerptSpec()
	require.Equal(t, &core.ExcerptSpec{Body: 8192, Fields: []string{"server"}, Statuses: []core.Range{{First: 403,
		Last: 403},
		{First: 500, Last: 599}}}, wants)
	require.Equal(t, []bool{true, false, true, true, false},
		[]bool{wants.IncludesStatus(403), wants.IncludesStatus(404), wants.IncludesStatus(500),
			wants.IncludesStatus(599), wants.IncludesStatus(600)})

	m, err = host.Load(w.Judge().Bytes(), nil)
	require.NoError(t, err)
	require.Equal(t, &core.ExcerptSpec{}, m.ExcerptSpec(), "a module without judge_wants")
	require.True(t, m.ExcerptSpec().IncludesStatus(200))
	m.Close()

	for text, says := range map[string]string{
		"body 8193":                        `line 1: "8193" is not a number from 0 to 8192`,
		"body":                             `line 1: "" is not a number`,
		"\nfield a b":                      `line 2: "a b" is not a name of a header field`,
		"field ":                           `line 1: "" is not a name`,
		"status 99":                        `line 1: "99" is not a number from 100 to 999`,
		"status 500-400":                   `line 1: "400" is not a number from 500 to 999`,
		"cookies":                          `line 1: "cookies" is none of body, field and status`,
		strings.Repeat("z", 9999):          "is none of body, field and status",
		fieldLines(33):                     "it asks for more than 32 header fields",
		strings.Repeat("status 200\n", 33): "more than 32 lines about statuses",
	} {
		_, err := host.Load(wanting(w.Judge(), text).Bytes(), nil)
		require.ErrorContains(t, err, "judge_wants failed: ")
		require.ErrorContains(t, err, says)
		require.Less(t, len(err.Error()), 1000)
	}
}

func fieldLines(n int) (lines string) {
	for i := range n {
		lines += "field x" + strings.Repeat("y", i) + "\n"
	}
	return lines
}

// A module of one kind cannot be used as another kind.
func TestKindsAreNotConfused(t *testing.T) {
	judge := load(t, w.Judge())
	scorer := load(t, w.Scorer(w.Scores(1)...))
	require.ErrorIs(t, judge.Score(rows(make([]core.Candidate, 2)), make([]float64, 2)), wasmhost.ErrNotReady)
	_, err := judge.Delay(&core.BackoffRequest{})
	require.ErrorIs(t, err, wasmhost.ErrNotReady)
	_, err = scorer.Rule(&core.JudgeRequest{}, excerpt(""))
	require.ErrorIs(t, err, wasmhost.ErrNotReady)
	require.Nil(t, scorer.ExcerptSpec())
	require.Equal(t, wasmhost.Judge, judge.Description().Kind)
}

func TestAllocOfARuling(t *testing.T) {
	m := load(t, wanting(w.Judge(w.Rules(3, 60)...), "body 8192\nfield server"))
	r, e := &core.JudgeRequest{Status: 403}, excerpt(strings.Repeat("x", 8192), "server", "nginx", "retry-after", "120")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if ruling, err := m.Rule(r, e); err != nil || ruling.BanTime != time.Minute {
			t.Fatal(ruling, err)
		}
	}))
}
