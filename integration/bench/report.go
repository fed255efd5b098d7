//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// report prints the table of medians. If bench.out is set, it also writes the table and a chart to that folder.
func (b *bench) report(cases []benchCase, peers []peer, results map[string]map[string][]sample) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%d rounds of %s, interleaved; medians. %s, %d CPUs shared by load, proxy and %d fakes; in "+
		"pinned cases the proxy has one CPU to itself.\n\n",
		b.rounds, b.duration, kernel(), runtime.NumCPU(), fakes)
	fmt.Fprintf(&s, "| case | proxy | req/s | p50 ms | p99 ms | CPU us/req | MB/s | RSS MiB | failed | req/s : "+
		"haproxy, each round | CPU : haproxy |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range cases {
		reference := results[c.name]["haproxy"]
		for _, p := range peers {
			all := results[c.name][p.name]
			if len(all) == 0 {
				continue
			}
			failed, fault := 0, ""
			for _, x := range all {
				failed += x.Failed
				if x.Error != "" {
					fault = x.Error
				}
			}
			if fault != "" {
				fmt.Fprintf(os.Stderr, "%s, %s: %d failed, for example: %s\n", c.name, p.name, failed, fault)
			}
			fmt.Fprintf(&s, "| %s | %s | %.0f | %.2f | %.2f | %.1f | %.0f | %.0f | %d |", c.name, p.name,
				median(all, rate), median(all, func(x sample) float64 { return x.P50 / 1e3 }),
				median(all, func(x sample) float64 { return x.P99 / 1e3 }),
				median(all, cpu), median(all, func(x sample) float64 { return float64(x.Bytes) / x.Seconds / 1e6 }),
				median(all, func(x sample) float64 { return x.resident }), failed)
			if len(reference) == len(all) && p.name != "haproxy" {
				var ratios []string
				for i := range all {
					ratios = append(ratios, fmt.Sprintf("%.2f", all[i].rate/reference[i].rate))
				}
				fmt.Fprintf(&s, " %s | %.2f |\n", strings.Join(ratios, " "), median(all, cpu)/median(reference, cpu))
			} else {
				s.WriteString(" | |\n")
			}
		}
	}
	if _, err := io.WriteString(os.Stdout, s.String()); err != nil || b.out == "" {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.out, "bench-peers.md"), []byte("Written by integration/bench with: `"+
		strings.Join(os.Args[1:], " ")+"`\n\n"+s.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, "bench-peers.svg"), []byte(chart(cases, peers, results)), 0o644)
}

func rate(s sample) float64 { return s.rate }
func cpu(s sample) float64  { return s.cpu }

func median(all []sample, value func(sample) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	v := make([]float64, len(all))
	for i := range all {
		v[i] = value(all[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// chart draws the requests per second of each peer, as a share of the best peer in each case.
func chart(cases []benchCase, peers []peer, results map[string]map[string][]sample) string {
	colours := map[string]string{"whirlpool": "#0b7a75", "haproxy": "#d08c00", "squid": "#7a5195",
		"tinyproxy": "#999999", "floor": "#d9d9d9"}
	const left, width, bar, gap = 170, 520, 12, 14
	var s strings.Builder
	y := 44
	for _, c := range cases {
		best := 0.0
		for _, p := range peers {
			best = max(best, median(results[c.name][p.name], rate))
		}
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+bar*len(peers)/2+4, c.name)
		for _, p := range peers {
			if len(results[c.name][p.name]) == 0 {
				continue
			}
			v := median(results[c.name][p.name], rate)
			w := 0.0
			if best > 0 {
				w = v / best * width
			}
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" `+
				`class="n">%.0f</text>`+"\n",
				left, y, w, bar-2, colours[p.name], left+w+4, y+bar-3, v)
			y += bar
		}
		y += gap
	}
	var head strings.Builder
	fmt.Fprintf(&head, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" `+
		`font-size="12">`+
		`<style>.n{font-size:9px;fill:#555}</style><rect width="100%%" height="100%%" fill="white"/>`+"\n"+
		`<text x="10" y="18" font-weight="bold">requests a second (median), bars relative to the best in each `+
		`case</text>`+"\n", left+width+60, y+10)
	for i, p := range peers {
		fmt.Fprintf(&head, `<rect x="%d" y="26" width="10" height="10" fill="%s"/><text x="%d" y="35">%s</text>`+"\n",
			left+i*110, colours[p.name], left+i*110+14, p.name)
	}
	return head.String() + s.String() + "</svg>\n"
}

func kernel() string {
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(raw))
}
