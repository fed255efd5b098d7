package simulate

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Style is the set of characters for plots.
type Style struct {
	levels []rune // characters of a cell, from empty to full
	bar    string
}

// Unicode draws with block elements.
func Unicode() Style { return Style{[]rune(" ▁▂▃▄▅▆▇█"), "█"} }

// ASCII draws with ASCII characters, for terminals without Unicode.
func ASCII() Style { return Style{[]rune(" .:-=+*#%@"), "#"} }

// cell returns the character for a share from 0 to 1. A share above 0 is never blank.
func (s Style) cell(share float64) string {
	last := len(s.levels) - 1
	i := int(math.Round(share * float64(last)))
	if share > 0 {
		i = max(i, 1)
	}
	return string(s.levels[min(max(i, 0), last)])
}

// maxRows is the maximum number of proxies in a plot. A plot shows the proxies with the largest shares.
const maxRows = 12

// Write writes the report as text: a table of scorers, a table of shares, and a plot of each scorer's shares over time.
func (sc ScorerReport) Write(out io.Writer, s Style) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "scorer\tsuccess\tmean latency\tmean cost\tregret\trefused\n")
	for _, x := range sc.Results {
		fmt.Fprintf(w, "%s\t%.2f %%\t%.3g ms\t%.3f\t%.1f\t%d\n",
			x.Scorer, 100*x.SuccessRate, 1000*x.Latency, x.Cost, x.Regret, x.Refused)
	}
	shown := sc.busiestProxies()
	fmt.Fprintf(w, "\nshare of requests")
	for _, x := range sc.Results {
		fmt.Fprintf(w, "\t%s", x.Scorer)
	}
	fmt.Fprintln(w)
	for _, i := range shown {
		fmt.Fprintf(w, "%s", sc.Proxies[i])
		for _, x := range sc.Results {
			fmt.Fprintf(w, "\t%.1f %%", 100*x.Shares[i])
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(sc.Proxies) - len(shown); n > 0 {
		fmt.Fprintf(out, "(and %d proxies that were chosen less)\n", n)
	}
	width := 0
	for _, i := range shown {
		width = max(width, len([]rune(sc.Proxies[i])))
	}
	width = min(width, 30)
	fmt.Fprintf(out, "\n%d requests in %.0f s; each column is %.4g s, its height the share of the requests in it\n",
		sc.Requests, sc.Duration, sc.Duration/Columns)
	for _, x := range sc.Results {
		fmt.Fprintf(out, "\n%s\n", x.Scorer)
		for _, i := range shown {
			var line strings.Builder
			for _, share := range x.Timeline[i] {
				line.WriteString(s.cell(share))
			}
			fmt.Fprintf(out, "  %-*.*s |%s|\n", width, width, sc.Proxies[i], line.String())
		}
	}
	return sc.writeFaults(out)
}

func (sc ScorerReport) writeFaults(out io.Writer) error {
	var err error
	for _, x := range sc.Results {
		if x.Faults > 0 {
			_, err = fmt.Fprintf(out, "\n%s failed in %d calls, and the rotation answered for it; the last: %s\n",
				x.Scorer, x.Faults, x.LastFault)
		}
	}
	return err
}

// busiestProxies returns the indices of the proxies with the largest shares in the result of any scorer, in the order
// of the trace.
func (sc ScorerReport) busiestProxies() []int {
	largestShare := func(i int) (share float64) {
		for _, x := range sc.Results {
			share = max(share, x.Shares[i])
		}
		return share
	}
	list := make([]int, len(sc.Proxies))
	for i := range list {
		list[i] = i
	}
	slices.SortStableFunc(list, func(a, b int) int {
		switch x, y := largestShare(a), largestShare(b); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	list = list[:min(len(list), maxRows)]
	slices.Sort(list)
	return list
}

// barWidth is the length of the longest bar.
const barWidth = 40

// Write writes the report as text: a table of waits, a table of results in outages, and a plot of the mean waits.
func (b BackoffReport) Write(out io.Writer, s Style) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "wait (s) before")
	for _, x := range b.Results {
		fmt.Fprintf(w, "\t%s", x.Backoff)
	}
	fmt.Fprintln(w)
	for n := range maxRetries {
		fmt.Fprintf(w, "retry %d", n+1)
		for _, x := range b.Results {
			fmt.Fprintf(w, "\t%s", x.Delays[n])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\n%d outages, %.0f s on average\trecovered\tretries\tlate (s)\n", b.Outages, b.Down)
	for _, x := range b.Results {
		fmt.Fprintf(w, "%s\t%.1f %%\t%.2f\t%.2f\n", x.Backoff, 100*x.Recovered, x.Retries, x.Late)
	}
	fmt.Fprintf(w, "\nmean wait (s), %d attempts at most", b.Policy.MaxAttempts)
	for _, x := range b.Results {
		fmt.Fprintf(w, "\t%s", x.Backoff)
	}
	fmt.Fprintf(w, "\t%s\n", bestFixed)
	for _, t := range b.Traffic {
		fmt.Fprintf(w, "%s", t.Kind)
		for _, x := range t.Results {
			fmt.Fprintf(w, "\t%.2f", x.Wait)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	width, longest := 0, 0.0
	for _, x := range b.Results {
		width = max(width, len(x.Backoff))
		for _, d := range x.Delays {
			longest = max(longest, d.Mean)
		}
	}
	for n := range maxRetries {
		fmt.Fprintf(out, "\nretry %d\n", n+1)
		for _, x := range b.Results {
			bar := 0
			if longest > 0 {
				bar = int(math.Round(x.Delays[n].Mean / longest * barWidth))
			}
			fmt.Fprintf(out, "  %-*s |%s %.2f\n", width, x.Backoff, strings.Repeat(s.bar, bar), x.Delays[n].Mean)
		}
	}
	var err error
	for _, x := range b.Results {
		if x.Faults > 0 {
			_, err = fmt.Fprintf(out, "\n%s failed in %d calls, and exponential answered for it; the last: %s\n",
				x.Backoff, x.Faults, x.LastFault)
		}
	}
	return err
}

// String returns the mean and, if the delays differ, their range.
func (d Delay) String() string {
	if d.Max-d.Min < 0.005 {
		return fmt.Sprintf("%.2f", d.Mean)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", d.Mean, d.Min, d.Max)
}
