//go:build linux

package report

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/stats"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

func TestFormats(t *testing.T) {
	require.Equal(t, "99.85 % (99.10 to 100)", formatShare(stats.Interval{Value: 0.9985, Low: 0.991, High: 1}))
	require.Equal(t, "50.0 % (0.50 to 97.3)", formatShare(stats.Interval{Value: 0.5, Low: 0.005, High: 0.973}))
	require.Equal(t, "-", formatShare(stats.Interval{Value: math.NaN()}))
	require.Equal(t, "1.50 s", formatMS(1500))
	require.Equal(t, "15 ms", formatMS(15.2))
	require.Equal(t, "1.5 ms", formatMS(1.52))
	require.Equal(t, "-", formatMS(math.NaN()))
	for n, s := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -999: "-999"} {
		require.Equal(t, s, formatCount(n))
	}
	require.Equal(t, "-", medianAndWorst(nil, formatMS))
	require.Equal(t, "2", medianAndWorst([]float64{2}, formatNumber))
	require.Equal(t, "2, worst 9", medianAndWorst([]float64{9, 2, 1}, formatNumber))
}

func TestTable(t *testing.T) {
	x := &table{header: []string{"a", "b"}}
	x.addRow("1", "2")
	require.Equal(t, "| a | b |\n|---|---|\n| 1 | 2 |\n", x.String())
}

// wrap keeps every word. No line is too long, or shorter than necessary.
func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringMatching("[a-zä%]{1,130}")).Draw(t, "words")
		text := wrap(strings.Join(words, " "))
		require.Equal(t, words, append([]string{}, strings.Fields(text)...))
		for _, line := range strings.Split(text, "\n") {
			if strings.Contains(line, " ") {
				require.LessOrEqual(t, len([]rune(line)), columns)
			}
		}
	})
}

func TestTheReasonOfALostRequest(t *testing.T) {
	o := &workload.Outcome{Served: []bool{true, true}, Attempts: []uint8{1, 1}}
	runs := map[string]*workload.Outcome{workload.Default: o, workload.ObserverName: o, workload.OracleName: o}
	bad := faults.State{Fails: 1}
	w := &workload.Workload{Requests: 2, Rate: 0.1, Targets: 1,
		Pool: faults.Pool{faults.SteadyProxy(bad), faults.SteadyProxy(bad), faults.SteadyProxy(faults.State{})}}
	require.Empty(t, describeLosses(w, runs))
	w.Requests = 4
	const then = "; at their targets 2.0 of 3 proxies failed in the mean, and 0 of them began within 2s after a " +
		"proxy had changed"
	o = &workload.Outcome{Served: []bool{true, false, false, false}, Attempts: []uint8{1, 3, 1, 1}, AllBreakersOpen: 1}
	runs[workload.Default] = o
	const failed = "3 requests failed (the observer: 0, the oracle: 0): "
	require.Equal(t, failed+"1 while every breaker was open, 1 after fewer than 3 "+
		"attempts (a suspect target), 1 after 3 attempts"+then, describeLosses(w, runs))
	o.AllBreakersOpen = 2
	require.Equal(t, failed+"2 while every breaker was open, 1 after 3 attempts"+then,
		describeLosses(w, runs))
}

// A criterion that is not met has a reason. A criterion that is met has none.
func TestJudge(t *testing.T) {
	s := &section{}
	s.judge(Criterion{ID: "a"}, true, "why")
	s.judge(Criterion{ID: "b"}, false, "why")
	require.Equal(t, []Criterion{{ID: "a", Met: true}, {ID: "b", Why: "why"}}, s.criteria)
}
