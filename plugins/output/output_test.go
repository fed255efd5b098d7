package output_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func TestLinesAreKeptUpToABound(t *testing.T) {
	now := time.Unix(1e9, 0)
	var heard []uint64
	o := output.New(func() time.Time { return now }, func(l output.Line) { heard = append(heard, l.Number) })
	require.Empty(t, o.Lines(0))
	for i := range 150 { // at most 100 lines at once
		o.Log(wasmhost.LevelInfo, fmt.Sprint("line ", i))
	}
	lines := o.Lines(0)
	require.Len(t, lines, output.MaxLines)
	require.Equal(t, output.Line{Number: 1, At: now, Level: wasmhost.LevelInfo, Text: "line 0"}, lines[0])
	require.Equal(t, "line 99", lines[99].Text)

	now = now.Add(100 * time.Millisecond) // time for two more lines
	o.Log(wasmhost.LevelError, "late")
	lines = o.Lines(100)
	require.Len(t, lines, 2)
	require.Equal(t, "50 lines were not kept: at most 20 a second are", lines[0].Text)
	require.Equal(t, "error  late", lines[1].String())
	require.Len(t, o.Lines(0), output.MaxLines)
	require.EqualValues(t, 3, o.Lines(0)[0].Number, "the oldest are gone")
	require.Len(t, heard, 102)
}

func TestMetrics(t *testing.T) {
	o := output.New(time.Now, nil)
	o.Metric(wasmhost.Counter, []byte("calls"), 2)
	o.Metric(wasmhost.Counter, []byte("calls"), 3)
	o.Metric(wasmhost.Gauge, []byte("calls"), 1) // the metric remains a counter
	o.Metric(wasmhost.Gauge, []byte("level"), 7)
	o.Metric(wasmhost.Gauge, []byte("level"), -4)
	require.Equal(t, []output.Metric{{"calls", wasmhost.Counter, 6}, {"level", wasmhost.Gauge, -4}}, o.Metrics())
	for i := range 40 {
		o.Metric(wasmhost.Gauge, fmt.Append(nil, "more", i), 1)
	}
	require.Len(t, o.Metrics(), output.MaxMetrics)
	require.Len(t, o.Lines(0), 1)
	require.Contains(t, o.Lines(0)[0].Text, "the metric more18 is not taken")
	name := []byte("calls")
	require.Zero(t, testing.AllocsPerRun(100, func() { o.Metric(wasmhost.Counter, name, 1) }))
}
