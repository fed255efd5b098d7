//go:build linux

// Command criteria measures the success criteria SC-001 to SC-010. It runs workloads in virtual time through
// the engine. It also runs them on sockets through the built binary, and through Envoy and HAProxy with the
// same faults. It writes criteria.md, charts and results.json. `make criteria` runs it.
//
// Package workload has the workloads and the variants, package faults the traces, package fakes the proxies.
// Packages virtual and sockets run the workloads. Packages stats, chart and report write the page.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/report"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// program is one run of the command.
type program struct {
	root       string // root folder of the repository
	gateway    string // Whirlpool's binary
	envoy      string // Envoy's binary; "" if it is not installed
	out        string
	seed       uint64
	quick      bool
	log        io.Writer
	tmp        string
	stepsBegun int // number of steps that have begun (see progress)
	stepCount  int
}

func main() {
	p := program{root: ".", log: os.Stderr}
	flag.StringVar(&p.gateway, "whirlpool", "bin/whirlpool", "the gateway's binary")
	flag.StringVar(&p.envoy, "envoy", "bin/envoy", "Envoy's binary")
	flag.StringVar(&p.out, "out", "docs", "folder for criteria.md and criteria/")
	flag.Uint64Var(&p.seed, "seed", 1, "of all faults and workloads")
	flag.BoolVar(&p.quick, "quick", false, "a few requests of each workload: the figures are rough")
	flag.Parse()
	data, err := p.run()
	if err == nil {
		err = data.Write(p.out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "criteria:", err)
		os.Exit(1)
	}
	for _, c := range data.Criteria() {
		mark := "missed"
		if c.Met {
			mark = "met"
		}
		fmt.Printf("%-6s  %s, %s: %s (%s)\n", mark, c.ID, c.Workload, c.Measured, c.Target)
	}
}

// quickScale is the scale of the catalog with -quick.
const quickScale = 0.02

// run makes all measurements.
func (p *program) run() (*report.Data, error) {
	var err error
	if p.tmp, err = os.MkdirTemp("", "criteria-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(p.tmp)
	raiseFileLimit()
	scale := 1.0
	if p.quick {
		scale = quickScale
	}
	start := time.Now()
	d := &report.Data{Catalog: workload.New(p.seed, scale), Machine: p.machine()}
	for _, step := range []func(*report.Data) error{p.virtual, p.sockets, p.queries} {
		if err := step(d); err != nil {
			return nil, err
		}
	}
	fmt.Fprintln(p.log)
	d.Machine.Took, d.Machine.Load[1] = time.Since(start), loadAverage()
	return d, nil
}

// progress prints that a step begins.
func (p *program) progress(step string) {
	p.stepsBegun++
	fmt.Fprintf(p.log, "\r\x1b[K%3d/%d  %s", p.stepsBegun, p.stepCount, step)
}

func (p *program) machine() report.Machine {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	commit, _ := exec.Command("git", "-C", p.root, "describe", "--always", "--dirty").Output()
	return report.Machine{
		Kernel: "Linux " + strings.TrimSpace(string(kernel)), Go: runtime.Version(), CPUs: runtime.NumCPU(),
		Load: [2]float64{loadAverage(), 0}, Nice: nice(), Commit: strings.TrimSpace(string(commit)),
		Day: time.Now().UTC().Format(time.DateOnly),
	}
}

// nice returns the nice value of this program's session (sched(7), "the autogroup feature"), or its own nice value
// if the kernel does not group sessions.
func nice() (value int) {
	raw, err := os.ReadFile("/proc/self/autogroup")
	if _, text, ok := strings.Cut(string(raw), " nice "); err == nil && ok {
		fmt.Sscan(text, &value)
		return value
	}
	if reversed, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil {
		value = 20 - reversed // the system call returns 20 - nice
	}
	return value
}

func loadAverage() (one float64) {
	raw, _ := os.ReadFile("/proc/loadavg")
	fmt.Sscan(string(raw), &one)
	return one
}

// raiseFileLimit permits this program and its children as many connections as the system allows.
func raiseFileLimit() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}

// build compiles a package, or its tests, and returns the path of the result. The parameter args has the arguments of
// the go command.
func (p *program) build(file string, args ...string) (string, error) {
	path := filepath.Join(p.tmp, file)
	cmd := exec.Command("go", append(append(args[:1:1], "-o", path), args[1:]...)...)
	cmd.Dir = p.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}
