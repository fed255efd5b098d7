//go:build linux

package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/chart"
)

// Criterion is the verdict on one criterion with one workload.
type Criterion struct {
	ID       string `json:"id"`
	Workload string `json:"workload"`
	Where    string `json:"where"` // virtual, sockets or in process
	Target   string `json:"target"`
	Measured string `json:"measured"`
	Met      bool   `json:"met"`
	Why      string `json:"why,omitempty"` // why the criterion is not met, if the run shows the reason
}

// section is the report on one criterion.
type section struct {
	title, text string
	tables      []*table
	figures     []figure
	criteria    []Criterion
}

// figure is a chart with its file name, without extension.
type figure struct {
	file, alt string
	chart     chart.Chart
}

func (s *section) judge(c Criterion, met bool, why string) {
	c.Met = met
	if !met {
		c.Why = why
	}
	s.criteria = append(s.criteria, c)
}

// sections returns all sections, in the order of the document.
func (d *Data) sections() []*section {
	return []*section{
		d.peersSection(), d.socketsSection(), d.sc001(), d.partsSection(), d.sc002(), d.sc003(), d.sc004(),
		d.sc005(), d.sc006(), d.sc007(), d.sc008(), d.sc009(), d.sc010(),
	}
}

// Criteria returns the verdicts.
func (d *Data) Criteria() (all []Criterion) {
	for _, s := range d.sections() {
		all = append(all, s.criteria...)
	}
	return all
}

// Write writes criteria.md, the charts and results.json into a folder.
func (d *Data) Write(dir string) error {
	figures := filepath.Join(dir, "criteria")
	if err := os.MkdirAll(figures, 0o755); err != nil {
		return err
	}
	sections := d.sections()
	for _, s := range sections {
		for _, f := range s.figures {
			path := filepath.Join(figures, f.file+".svg")
			if err := os.WriteFile(path, []byte(f.chart.SVG()), 0o644); err != nil {
				return err
			}
		}
	}
	results, err := json.MarshalIndent(struct {
		Seed     uint64      `json:"seed"`
		Scale    float64     `json:"scale"`
		Machine  Machine     `json:"machine"`
		Criteria []Criterion `json:"criteria"`
		Runs     []Run       `json:"runs"`
	}{d.Catalog.Seed, d.Catalog.Scale, d.Machine, d.Criteria(), d.Runs()}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(figures, "results.json"), append(results, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "criteria.md"), []byte(d.markdown(sections)), 0o644)
}

const introduction = `# Criteria

Written by ` + "`make criteria`" + `; every number on this page is from that run.
[results.json](criteria/results.json) has all runs.

**Virtual** runs send requests through the real engine. Connections are pipes, and the clock is that of
testing/synctest, so the machine's speed has no influence. **Sockets** runs use the built binary, fakes and clients on
loopback. Each has a control in the same run: the same clients at a good proxy, without a gateway. Envoy and HAProxy
have active health checks (each second, beginning 4 s before the run), least-request balancing, up to three attempts of
2 s and outlier detection. Whirlpool has its defaults, and no statistics at the beginning.

The seed determines faults and luck. The luck of the n-th attempt of a request is a random number, the same for every
proxy: the attempt fails if the number is below the chosen proxy's probability of failure at that moment. So two
gateways differ by their choices only.
The **oracle** reads the trace of faults, but not the luck: it always chooses the proxy that is least
likely to fail at that moment, with as many attempts, and without a wait. The **observer** knows only what attempts can
show: of each proxy, or of each pair of a proxy and a target that bans it, the probability of failure at its own latest
attempt, and how long such a state lasts in the mean. It does not wait either. A gateway knows less, because an attempt
shows a success or a failure, and no probability. A **single attempt** is Whirlpool with
` + "`max_attempts = 1`" + `. **Random rotation** is three attempts through random proxies, with every other part off.
Intervals are 95 % intervals: Wilson's for shares, distribution-free ones for quantiles, bootstrap intervals for shares
of a gap.

`

func (d *Data) markdown(sections []*section) string {
	var b strings.Builder
	b.WriteString(introduction)
	m := d.Machine
	b.WriteString(wrap(fmt.Sprintf("Seed %d, commit %s, %s, %s, %s, %d CPUs, load average %.1f before and %.1f after, "+
		"%.0f s.", d.Catalog.Seed, m.Commit, m.Day, m.Kernel, m.Go, m.CPUs, m.Load[0], m.Load[1], m.Took.Seconds())))
	if m.Nice < 0 && m.Load[0] > 1 {
		b.WriteString("\nThe machine had other work at the same time, with a lower priority.\n")
	}
	if d.Catalog.Scale != 1 {
		fmt.Fprintf(&b, "\nA run with %g of the usual number of requests: the figures are rough.\n", d.Catalog.Scale)
	}
	all := d.Criteria()
	met := 0
	verdicts := &table{header: []string{"", "criterion", "workload", "where", "target", "measured", "if missed: why"}}
	for _, c := range all {
		mark := "**missed**"
		if c.Met {
			mark = "met"
			met++
		}
		verdicts.addRow(mark, c.ID, c.Workload, c.Where, c.Target, c.Measured, c.Why)
	}
	fmt.Fprintf(&b, "\n## Verdicts\n\n%d of %d met.\n\n%s\n%s", met, len(all), wrap(verdictsText), verdicts)
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s", s.title, wrap(s.text))
		for _, f := range s.figures {
			fmt.Fprintf(&b, "\n![%s](criteria/%s.svg)\n", f.alt, f.file)
		}
		for _, t := range s.tables {
			fmt.Fprintf(&b, "\n%s", t)
		}
	}
	return b.String()
}
