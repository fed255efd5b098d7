package wasmhost_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// written is an Output that keeps everything.
type written []string

func (w *written) Log(level wasmhost.Level, text string) {
	*w = append(*w, fmt.Sprint(level, " ", text))
}

func (w *written) Metric(kind wasmhost.MetricKind, name []byte, value float64) {
	*w = append(*w, fmt.Sprint("metric ", kind, " ", string(name), " ", value))
}

var (
	logImport    = w.Import{Module: "whirlpool", Name: "log", Params: w.Repeat(3, w.I32)}
	metricImport = w.Import{Module: "whirlpool", Name: "metric", Params: []byte{w.I32, w.I32, w.I32, w.F64}}
)

// writer assembles scorers that write.
type writer struct {
	module *w.Module
	at     int32
}

// text puts a text into memory and returns its address.
func (wr *writer) text(b []byte) int32 {
	at := wr.at
	wr.module.Data = append(wr.module.Data, w.Data{Offset: at, Bytes: b})
	wr.at += int32(len(b)+7) &^ 7
	return at
}

// write returns code that writes a text to a descriptor.
func (wr *writer) write(descriptor int32, text string) []byte {
	at := wr.text([]byte(text))
	piece := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(at)), uint32(len(text)))
	return w.Join(args(descriptor, wr.text(piece), 1, 8), w.CallTo(0), []byte{w.Drop})
}

// log returns code that writes a log line.
func (wr *writer) log(level int32, text string) []byte {
	return w.Join(args(level, wr.text([]byte(text)), int32(len(text))), w.CallTo(1))
}

func (wr *writer) metric(kind int32, name string, value float64) []byte {
	return w.Join(args(kind, wr.text([]byte(name)), int32(len(name))), w.ConstF64(value), w.CallTo(2))
}

// utf16 puts a string into memory in the form of AssemblyScript.
func (wr *writer) utf16(s string) int32 {
	b := binary.LittleEndian.AppendUint32(nil, uint32(2*len(utf16.Encode([]rune(s)))))
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return wr.text(b) + 4
}

// score runs a scorer with the code once, after its first call.
func (wr *writer) score(t *testing.T, code ...[]byte) (written, error) {
	wr.module.Func("score").Code = w.Join(w.Unless256(w.Join(code...)...), w.Const32(0))
	var out written
	m, err := patient().WithOutput(&out).Load(wr.module.Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()
	require.Empty(t, out)
	return out, m.Score(rows{{}, {}}, make([]float64, 2))
}

func newWriter() *writer {
	g := &writer{module: w.Scorer(), at: 40_000}
	g.module.Imports = []w.Import{wasi("fd_write", "iiii"), logImport, metricImport, abort}
	return g
}

// All output of a call becomes log lines, whether the call fails or not.
func TestTheOutputOfACallIsLogged(t *testing.T) {
	g := newWriter()
	out, err := g.score(t,
		g.write(1, "to the output\nand "), g.log(0, "for debugging"), g.write(1, "more\n\n"),
		g.write(2, "a\x1b[31mb"), g.log(1, "information"), g.log(2, " warning "), g.log(3, "error"), g.log(9, "worse"),
		g.log(-1, strings.Repeat("x", 600)), g.log(1, ""),
		g.metric(0, "calls_total", 1), g.metric(1, "level", -2.5), g.metric(0, "calls_total", -1),
		g.metric(2, "kind", 1), g.metric(1, "no good", 1), g.metric(1, "", 1), g.metric(1, "9", 1),
		g.metric(1, "nan", math.NaN()), g.metric(1, strings.Repeat("n", 65), 1),
	)
	require.NoError(t, err)
	require.Equal(t, written{
		"info to the output", "debug for debugging", "info and more", "info information", "warn warning", "error error",
		"error worse",
		"error " + strings.Repeat("x", 497) + "...",
		"metric 0 calls_total 1", "metric 1 level -2.5",
		`warn the metric "calls_total" is not taken: a counter does not go down`,
		`warn the metric "kind" is not taken: the kind 2 is neither counter (0) nor gauge (1)`,
		`warn the metric "no good" is not taken: a name has 1 to 64 letters, digits and _, and does not begin with a ` +
			`digit`,
		`warn the metric "" is not taken: a name has 1 to 64 letters, digits and _, and does not begin with a digit`,
		`warn the metric "9" is not taken: a name has 1 to 64 letters, digits and _, and does not begin with a digit`,
		`warn the metric "nan" is not taken: the value is not finite`,
		`warn the metric "` + strings.Repeat("n",
			64) + `" is not taken: a name has 1 to 64 letters, digits and _, and does not begin with a digit`,
		"warn a?[31mb", // the end of the call ends the line
	}, out)
}

// The error of a failed call contains the panic, whatever else the call has written before.
func TestThePanicIsInTheError(t *testing.T) {
	trap := []byte{w.Unreachable}
	for name, c := range map[string]struct {
		code func(g *writer) [][]byte
		why  string
	}{
		"nothing": {func(g *writer) [][]byte { return [][]byte{trap} }, ""},
		"output":  {func(g *writer) [][]byte { return [][]byte{g.write(1, "one\ntwo"), trap} }, ": one"},
		"error, then output": {func(g *writer) [][]byte {
			return [][]byte{g.write(1, "one\n"), g.write(2, "two\nthree"), trap}
		}, ": two"},
		"a log line": {func(g *writer) [][]byte {
			return [][]byte{g.write(2, "one\n"), g.log(3, "two"), g.log(2, "three"), g.log(3, "four"), trap}
		}, ": four"},
		"Go": {func(g *writer) [][]byte {
			return [][]byte{g.write(2, "here I am\n"), g.log(3, "odd"), g.write(2, "pan"),
				g.write(2, "ic: the dish ran away [recovered]\n\ngoroutine 1 [running]:\nmain.eat(...)\n\t"),
				g.write(2, "/home/me/mine/main.go:42 +0x5\nmain.score(0x1)\n\t/home/me/mine/other.go:7 +0x9\n"), trap}
		}, ": panic: the dish ran away [recovered] (main.go:42)"},
		"Rust": {func(g *writer) [][]byte {
			return [][]byte{g.write(2, "here I am\n"), g.log(3, "panicked at src/lib.rs:3:4: no spoon"), trap}
		}, ": panicked at src/lib.rs:3:4: no spoon"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newWriter()
			out, err := g.score(t, c.code(g)...)
			require.EqualError(t, err, "trap: wasm error: unreachable"+c.why)
			require.Equal(t, "error score failed: "+err.Error()+"; in $6", out[len(out)-1])
		})
	}
}

// The arguments of AssemblyScript's abort are in the error. Invalid arguments have no other effect.
func TestAbortLogsItsMessage(t *testing.T) {
	g := newWriter()
	_, err := g.score(t, w.Join(args(g.utf16("größer"), g.utf16("src/mine.ts"), 12, 3), w.CallTo(3)))
	require.EqualError(t, err, "trap: the plugin called abort: größer (src/mine.ts:12:3)")
	g = newWriter()
	_, err = g.score(t, w.Join(args(0, g.utf16("src/mine.ts"), 12, 3), w.CallTo(3)))
	require.EqualError(t, err, "trap: the plugin called abort: (src/mine.ts:12:3)")
	for _, at := range []int32{0, 1, 3, 65_532, 65_536, -1, -4, math.MinInt32} {
		g = newWriter()
		_, err = g.score(t, w.Join(args(at, at, at, at), w.CallTo(3)))
		require.ErrorContains(t, err, "trap: the plugin called abort")
	}
}

func TestALogOutsideMemoryEndsTheCall(t *testing.T) {
	g := newWriter()
	_, err := g.score(t, w.Join(args(1, 65_530, 100), w.CallTo(1)))
	require.EqualError(t, err, "trap: log: 100 bytes at 65530 end past the guest's memory")
	_, err = g.score(t, w.Join(args(1, -4, -4), w.ConstF64(1), w.CallTo(2)))
	require.ErrorContains(t, err, "trap: metric: 4294967292 bytes at 4294967292 end past the guest's memory")
	_, err = g.score(t, w.EndlessLoop(g.log(0, "on and on")...))
	require.Equal(t, "fuel", reasonOf(err))
}

// The error names the functions that were running, if the module has their names.
func TestTheStackHasNames(t *testing.T) {
	g := newWriter()
	// the indices of the functions: 4 whirlpool_abi_v1, 5 reserve, 6 score, 7 and 8 the functions added here
	g.module.Add(w.Func{Code: w.CallTo(8)}, w.Func{Code: []byte{w.Unreachable}})
	named := func(index byte, name string) []byte { return w.Vec([]byte{index}, []byte(name)) }
	names := w.Join([]byte{2}, named(6, "score_all"), named(8, "mine::inner"))
	g.module.Custom = map[string][]byte{"name": w.Vec([]byte{1}, names)}
	_, err := g.score(t, w.CallTo(7))
	var fault *wasmhost.Fault
	require.ErrorAs(t, err, &fault)
	require.Equal(t, []string{"mine::inner", "$7", "score_all"}, fault.Stack)

	g = newWriter()
	g.module.Add(w.Func{Code: w.CallTo(7)})
	_, err = g.score(t, w.CallTo(7))
	require.ErrorAs(t, err, &fault)
	require.Len(t, fault.Stack, 11)
	require.Equal(t, "...", fault.Stack[10])
}

// A module that declares its settings gets no other settings.
func TestSettingsAreStated(t *testing.T) {
	build := func(text string) []byte {
		g := newWriter()
		at := g.text(append([]byte(text), 0))
		return g.module.Add(
			w.Func{Export: "describe", Results: []byte{w.I32}, Code: w.Const32(at)},
			w.Func{Export: "configure", Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}, Code: w.Const32(0)},
		).Bytes()
	}
	number := func(x float64) *float64 { return &x }
	text := "margin\tnumber\t0..1\t0.1\tscores nearer than this are equal\nsteps\tinteger\t1..\nmax\tnumber\t..5\n" +
		"eager\tboolean\t\ttrue\nmode\ttext\tfast|slow\tfast\tthe \x1b way\nname\ttext\n"
	m, err := patient().Load(build(text), map[string]any{"margin": 0.5, "steps": 3, "eager": false, "mode": "slow",
		"name": "x"})
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, []wasmhost.Setting{
		{Name: "margin", Type: "number", Min: number(0), Max: number(1), Default: "0.1",
			Text: "scores nearer than this are equal"},
		{Name: "steps", Type: "integer", Min: number(1)},
		{Name: "max", Type: "number", Max: number(5)},
		{Name: "eager", Type: "boolean", Default: "true"},
		{Name: "mode", Type: "text", Values: []string{"fast", "slow"}, Default: "fast", Text: "the ? way"},
		{Name: "name", Type: "text"},
	}, m.Settings())
	for _, c := range []struct {
		config map[string]any
		says   string
	}{
		{map[string]any{"margin": 2}, `the setting margin is "2"; it must be 0 to 1`},
		{map[string]any{"margin": "wide"}, `the setting margin is "wide"; it must be a number`},
		{map[string]any{"margin": true}, `the setting margin is "true"; it must be a number`},
		{map[string]any{"steps": 1.5}, `the setting steps is "1.5"; it must be an integer`},
		{map[string]any{"steps": 0}, `the setting steps is "0"; it must be at least 1`},
		{map[string]any{"max": 6}, `the setting max is "6"; it must be at most 5`},
		{map[string]any{"eager": 1}, `the setting eager is "1"; it must be true or false`},
		{map[string]any{"mode": "odd"}, `the setting mode is "odd"; it must be fast, slow (one of them)`},
		{map[string]any{"margins": 1}, `there is no setting "margins"; there are margin, steps, max, eager, mode, ` +
			`name`},
	} {
		_, err := patient().Load(build(text), c.config)
		require.EqualError(t, err, c.says)
	}
	for _, c := range []struct{ text, says string }{
		{"x", `describe failed: line 1: the setting "x": its type "" is none of number, integer, boolean and text`},
		{"\tnumber", "a setting's name has 1 to 64 characters"},
		{"a\tnumber\nx\tnumber\t1-2", `line 2: the setting "x": its range "1-2" is not of the form 0..1`},
		{"x\tnumber\ta..b", `"a" in its range is not a finite number`},
		{"x\tnumber\t0..1\t3", `its default: the setting x is "3"; it must be 0 to 1`},
		{"x\tboolean\t0..1", "a boolean has no range"},
		{"x\tnumber\t\t\t\t", "more than name, type, range, default and description"},
		{"x\tnumber\nx\ttext", "is declared twice"},
		{strings.Repeat("x", 20_000), "no zero byte at its end, or more than 16384 bytes"},
	} {
		_, err := patient().Load(build(c.text), nil)
		require.ErrorContains(t, err, c.says)
	}
	far := newWriter()
	far.module.Add(w.Func{Export: "describe", Results: []byte{w.I32}, Code: w.Const32(-8)})
	_, err = patient().Load(far.module.Bytes(), nil)
	require.ErrorContains(t, err, "which is past the end of memory")
	none, err := patient().Load(w.Scorer().Bytes(), nil)
	require.NoError(t, err)
	defer none.Close()
	require.Nil(t, none.Settings())
}

// A call that writes nothing allocates nothing. The same is true for a call whose metrics are kept.
func TestMetricsAllocateNothing(t *testing.T) {
	g := newWriter()
	g.module.Func("score").Code = w.Join(g.metric(0, "calls", 1), w.Const32(0))
	m, err := patient().WithOutput(quiet{}).Load(g.module.Bytes(), nil)
	require.NoError(t, err)
	defer m.Close()
	c, scores := rows{{}, {}}, make([]float64, 2)
	var candidates core.Candidates = c
	require.NoError(t, m.Score(candidates, scores))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if m.Score(candidates, scores) != nil {
			t.Error("it failed")
		}
	}))
}

type quiet struct{}

func (quiet) Log(wasmhost.Level, string)                  {}
func (quiet) Metric(wasmhost.MetricKind, []byte, float64) {}
