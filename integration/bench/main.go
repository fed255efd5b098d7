//go:build linux

// Command bench compares Whirlpool with other proxies, with the same fakes and the same load. It interleaves
// the runs on one machine and reports medians and ratios. `make bench-peers` runs it.
//
// It starts itself in other roles: as the fakes, which are the upstream proxies (-role fakes), as the load
// (-role load), and as a minimal proxy (-role floor). In this way the CPU time of each role can be
// measured.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	var (
		role     = flag.String("role", "", "internal: fakes, load or floor")
		binary   = flag.String("whirlpool", "bin/whirlpool", "the gateway's binary")
		before   = flag.String("before", "", "another build's binary, to be measured beside it")
		rounds   = flag.Int("rounds", 3, "interleaved rounds; the median counts")
		duration = flag.Duration("duration", 3*time.Second, "of one measurement")
		caseList = flag.String("cases", "", "comma-separated prefixes of the cases to run; empty for all")
		peerList = flag.String("peers", "", "comma-separated peers to run; empty for all installed")
		out      = flag.String("out", "", "folder for the table (bench-peers.md) and the chart (bench-peers.svg)")
		profiles = flag.String("profiles", "", "folder for CPU profiles of Whirlpool, one a measurement")
		config   = flag.String("config", "", "more lines for Whirlpool's configuration file")
		plan     loadPlan
	)
	flag.StringVar(&plan.Addr, "addr", "", "internal: where the load goes")
	flag.StringVar(&plan.Mode, "mode", "", "internal: abs, tunnel, connect, upload")
	flag.StringVar(&plan.Path, "path", "/1024", "internal: what is asked for")
	flag.IntVar(&plan.Conns, "conns", 64, "internal: connections")
	flag.IntVar(&plan.Rate, "rate", 0, "internal: requests a second, all connections together; 0 for a closed loop")
	threads := flag.Int("threads", 1, "internal: of the floor")
	flag.IntVar(&plan.Status, "status", 200, "internal: the status of a good answer")
	flag.Parse()
	var err error
	switch *role {
	case "fakes":
		err = serveFakes()
	case "floor":
		err = serveFloor(plan.Addr, *threads, flag.Args())
	case "load":
		plan.Duration = *duration
		err = plan.run(os.Stdout)
	default:
		b := bench{binary: *binary, otherBinary: *before, rounds: *rounds, duration: *duration, out: *out,
			config:   *config,
			profiles: *profiles,
			cases:    splitList(*caseList), peers: splitList(*peerList)}
		err = b.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
