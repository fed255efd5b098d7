//go:build linux

package sockets

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// Overhead compares two measurements of the gateway: with its default configuration (on), and with optionalPartsOff
// (off).
type Overhead struct {
	CPU  float64 // ratio of the CPU time per request, on to off
	Rate float64 // ratio of the requests per second, on to off
}

// OverheadPlan describes a measurement of the cost of retries, breakers and scorers.
type OverheadPlan struct {
	Bench       string // the binary of integration/bench, which provides load and fakes
	Gateway     string // the gateway's binary
	Connections int
	Pairs       int
	Duration    time.Duration // duration of one measurement
}

// optionalPartsOff is a configuration that turns off every part of the gateway that can be turned off.
const optionalPartsOff = "[retry]\nmax_attempts = 1\n[breaker]\nfailure_threshold = 1000000\nblame = \"literal\"\n" +
	"[timeouts]\nadaptive = false\n[health]\nreachability = false\n"

// Run makes the pairs of measurements. The order within the pairs alternates.
func (p *OverheadPlan) Run() (pairs []Overhead, err error) {
	fakes := exec.Command(p.Bench, "-role", "fakes")
	fakes.Stderr = os.Stderr
	in, err := fakes.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := fakes.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := fakes.Start(); err != nil {
		return nil, err
	}
	defer func() { in.Close(); fakes.Wait() }()
	var upstreams []string
	lines := bufio.NewScanner(out)
	for len(upstreams) < 8 && lines.Scan() {
		upstreams = append(upstreams, lines.Text())
	}
	for i := range p.Pairs {
		var cpu, rate [2]float64
		for n := range 2 {
			mode := (i + n) % 2
			config := ""
			if mode == 1 {
				config = optionalPartsOff
			}
			if cpu[mode], rate[mode], err = p.measure(config, upstreams); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, Overhead{cpu[0] / cpu[1], rate[0] / rate[1]})
	}
	return pairs, nil
}

// awaitStart waits until the start of a gateway is complete, at most 5 s. It returns the CPU time (s) of the start.
func awaitStart(r *peers.Running) float64 {
	used, _ := r.Usage()
	for range 25 {
		before := used
		time.Sleep(200 * time.Millisecond)
		if used, _ = r.Usage(); used-before <= 0.01 {
			break
		}
	}
	return used
}

// measure returns the CPU time per request (us) and the requests per second.
func (p *OverheadPlan) measure(config string, upstreams []string) (cpu, rate float64, err error) {
	r, err := peers.Start("whirlpool", peers.Whirlpool(p.Gateway, config), peers.Options{Upstreams: upstreams})
	if err != nil {
		return 0, 0, err
	}
	defer r.Stop()
	start := awaitStart(r)
	load := exec.Command(p.Bench, "-role", "load", "-addr", r.Addr, "-mode", "abs", "-path", "/1024",
		"-conns", strconv.Itoa(p.Connections), "-duration", p.Duration.String())
	load.Stderr = os.Stderr
	raw, err := load.Output()
	if err != nil {
		return 0, 0, err
	}
	var result struct {
		Requests, Failed int
		Seconds          float64
		Error            string
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return 0, 0, err
	}
	if result.Failed > 0 || result.Requests == 0 {
		return 0, 0, fmt.Errorf("%d of %d requests of the load failed: %s", result.Failed, result.Requests,
			result.Error)
	}
	// The load begins before its measured period, so the CPU time covers more requests than result.Requests counts.
	// This does not affect Overhead.CPU: both measurements of a pair are too high by the same factor.
	used, _ := r.Usage()
	return (used - start) * 1e6 / float64(result.Requests), float64(result.Requests) / result.Seconds, nil
}
