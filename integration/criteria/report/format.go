//go:build linux

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/stats"
)

// formatShare formats a share with its interval.
func formatShare(i stats.Interval) string {
	if math.IsNaN(i.Value) {
		return "-"
	}
	return fmt.Sprintf("%s %% (%s to %s)", formatPercentage(100*i.Value), formatPercentage(100*i.Low),
		formatPercentage(100*i.High))
}

// formatPercentage formats a percentage. The nearer it is to 0 or 100, the more digits it gets.
func formatPercentage(v float64) string {
	distance := min(math.Abs(v), math.Abs(100-v))
	switch {
	case distance == 0:
		return fmt.Sprintf("%.0f", v)
	case distance < 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// formatMS formats milliseconds.
func formatMS(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 1000:
		return fmt.Sprintf("%.2f s", v/1000)
	case v >= 10:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}

// formatMSInterval formats milliseconds with their interval.
func formatMSInterval(i stats.Interval) string {
	if math.IsNaN(i.Value) {
		return "-"
	}
	return fmt.Sprintf("%s (%s to %s)", formatMS(i.Value), formatMS(i.Low), formatMS(i.High))
}

// medianAndWorst formats the values of rounds: the median and, if it differs from the median, the worst (largest)
// value.
func medianAndWorst(values []float64, format func(float64) string) string {
	if len(values) == 0 {
		return "-"
	}
	median, worst := format(stats.Median(slices.Clone(values))), format(slices.Max(values))
	if median == worst {
		return median
	}
	return median + ", worst " + worst
}

// formatCount formats a number with thousands separators.
func formatCount(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func formatNumber(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return formatCount(int(math.Round(v)))
}

// table is a table in Markdown.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) addRow(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(t.header)
	b.WriteString(strings.Repeat("|---", len(t.header)) + "|\n")
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

// columns is the maximum length of a line of text.
const columns = 118

// wrap breaks a text into lines, each with a newline at its end.
func wrap(text string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		length := len([]rune(word))
		switch {
		case column == 0:
		case column+1+length > columns:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += length
	}
	return b.String() + "\n"
}
