//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// bench is one run of the comparison.
type bench struct {
	binary       string
	otherBinary  string // path of the binary of another build to measure; may be empty
	rounds       int
	duration     time.Duration
	out          string
	config       string
	profiles     string
	profileCount int // number of measurements so far, for the names of the profiles
	cases, peers []string
}

// benchCase is one kind of load.
type benchCase struct {
	name   string
	plan   loadPlan
	config string // lines that are added to Whirlpool's configuration
	// pinned is set if the proxy has a CPU of its own. The load and the fakes share another CPU, and do not use it
	// fully. The requests per second therefore depend on the proxy, and not on the scheduler.
	pinned bool
	dead   bool // nothing listens on the addresses of the upstream proxies
}

func (b *bench) allCases() []benchCase {
	return []benchCase{
		{name: "abs 1KB c64", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 64}},
		{name: "tunnel 1KB c64", plan: loadPlan{Mode: "tunnel", Path: "/1024", Conns: 64}},
		{name: "connect 1KB c64", plan: loadPlan{Mode: "connect", Path: "/1024", Conns: 64}},
		{name: "abs 1KB c64 pinned", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 64}, pinned: true},
		{name: "tunnel 1KB c64 pinned", plan: loadPlan{Mode: "tunnel", Path: "/1024", Conns: 64}, pinned: true},
		{name: "connect 1KB c64 pinned", plan: loadPlan{Mode: "connect", Path: "/1024", Conns: 64}, pinned: true},
		{name: "abs 1KB c1", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 1}},
		{name: "abs 1KB c1000", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 1000}},
		{name: "abs 1KB c5000", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 5000}},
		{name: "tunnel 1KB c1000", plan: loadPlan{Mode: "tunnel", Path: "/1024", Conns: 1000}},
		{name: "abs 100KB c64", plan: loadPlan{Mode: "abs", Path: "/102400", Conns: 64}},
		{name: "tunnel 100KB c64", plan: loadPlan{Mode: "tunnel", Path: "/102400", Conns: 64}},
		{name: "abs faults10% c64", plan: loadPlan{Mode: "abs", Path: "/faults/1024", Conns: 64}},
		{name: "503 all open c64", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 64, Status: 503},
			config: openBreakers, dead: true},
		{name: "abs open 5000/s c64", plan: loadPlan{Mode: "abs", Path: "/1024", Conns: 64, Rate: 5000}},
		{name: "download 64MB c4", plan: loadPlan{Mode: "abs", Path: "/67108864", Conns: 4}},
		{name: "upload 32MB c4", plan: loadPlan{Mode: "upload", Path: "/2", Conns: 4}},
	}
}

// openBreakers is a configuration with which one refused connection opens a breaker for an hour. A run is shorter
// than an hour.
const openBreakers = "[breaker]\nfailure_threshold = 1\ntimeout_duration = \"1h\"\n[retry]\nmax_attempts = 1\n"

// sample is one measurement of one case through one peer.
type sample struct {
	loadResult
	rate     float64 // requests/s
	cpu      float64 // CPU time of the proxy per request, us
	resident float64 // resident memory at the end of the load, MiB
}

func (b *bench) run() error {
	raiseFileLimit()
	shared, stop, err := startFakes("")
	if err != nil {
		return err
	}
	defer stop()
	pinned, stop, err := startFakes(otherCPU)
	if err != nil {
		return err
	}
	defer stop()
	var selected []peer
	for _, p := range b.allPeers() {
		if b.peers != nil && !slices.Contains(b.peers, p.name) {
			continue
		}
		if _, err := exec.LookPath(p.name); err != nil && !p.isOwn() {
			fmt.Fprintf(os.Stderr, "%s is not installed; left out\n", p.name)
			continue
		}
		selected = append(selected, p)
	}
	var cases []benchCase
	for _, c := range b.allCases() {
		if b.cases == nil || slices.ContainsFunc(b.cases, func(s string) bool { return strings.HasPrefix(c.name, s) }) {
			cases = append(cases, c)
		}
	}
	results := map[string]map[string][]sample{} // by case and peer
	total, done := b.rounds*len(cases)*len(selected), 0
	for round := range b.rounds {
		for _, c := range cases {
			if results[c.name] == nil {
				results[c.name] = map[string][]sample{}
			}
			for i := range selected {
				// Each round begins with another peer: the next one of the list.
				p := selected[(i+round)%len(selected)]
				done++
				if p.runsCase != nil && !p.runsCase(c) {
					continue
				}
				upstreams := shared
				if c.pinned {
					upstreams = pinned
				}
				fmt.Fprintf(os.Stderr, "\r%3d/%d  %-20s %-10s", done, total, c.name, p.name)
				s, err := b.measure(c, p, upstreams)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, p.name, err)
				}
				results[c.name][p.name] = append(results[c.name][p.name], s)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	return b.report(cases, selected, results)
}

func (b *bench) measure(c benchCase, p peer, upstreams []string) (sample, error) {
	if c.dead {
		upstreams = slices.Clone(upstreams)
		for i := range upstreams {
			var err error
			if upstreams[i], err = peers.FreeAddr(); err != nil {
				return sample{}, err
			}
		}
	}
	r, err := b.start(p, c, upstreams)
	if err != nil {
		return sample{}, err
	}
	defer r.Stop()
	cpu := ""
	if c.pinned {
		cpu = otherCPU
	}
	cmd := peers.OnCPU(cpu, self(), "-role", "load", "-addr", r.Addr, "-mode", c.plan.Mode, "-path", c.plan.Path,
		"-status", fmt.Sprint(max(c.plan.Status, 200)),
		"-conns", fmt.Sprint(c.plan.Conns), "-rate", fmt.Sprint(c.plan.Rate), "-duration", b.duration.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	time.Sleep(warmup)
	before, _ := r.Usage()
	time.Sleep(b.duration)
	after, resident := r.Usage()
	var s sample
	if err := json.NewDecoder(out).Decode(&s.loadResult); err != nil {
		return sample{}, err
	}
	if err := cmd.Wait(); err != nil {
		return sample{}, err
	}
	s.rate = float64(s.Requests) / s.Seconds
	s.cpu = (after - before) * 1e6 / float64(max(s.Requests, 1))
	s.resident = resident
	return s, nil
}

// The CPUs of pinned cases: the proxy's CPU, and the CPU of load and fakes.
const (
	proxyCPU = "0"
	otherCPU = "1"
)

// startFakes starts the upstream proxies in a separate process.
func startFakes(cpu string) (addrs []string, stop func(), err error) {
	cmd := peers.OnCPU(cpu, self(), "-role", "fakes")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	lines := bufio.NewScanner(out)
	for len(addrs) < fakes && lines.Scan() {
		addrs = append(addrs, lines.Text())
	}
	return addrs, func() { in.Close(); cmd.Wait() }, lines.Err()
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// raiseFileLimit permits the child processes 5,000 connections and more.
func raiseFileLimit() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}
