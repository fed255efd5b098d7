//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/report"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/sockets"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// run is one run on sockets.
type run struct {
	workload *workload.Workload
	gateway  sockets.Gateway
}

// rounds returns the number of rounds in which each gateway runs each of Catalog.PeerWorkloads once.
func (p *program) rounds() int {
	if p.quick {
		return 1
	}
	return 3
}

// moreColdStarts returns the number of further rounds of the cold start, with Whirlpool only. Three rounds are too few
// to distinguish 10 wasted attempts from 12.
func (p *program) moreColdStarts() int {
	if p.quick {
		return 0
	}
	return 6
}

// gateways returns Whirlpool and the peers that are installed.
func (p *program) gateways() []sockets.Gateway {
	list := []sockets.Gateway{{Name: report.Whirlpool, Prepare: peers.Whirlpool(p.gateway, "")}}
	for _, peer := range []struct {
		binary  string
		gateway sockets.Gateway
	}{
		{p.envoy, sockets.Gateway{Name: report.Envoy, Prepare: peers.Envoy(p.envoy), Checks: true}},
		{"haproxy", sockets.Gateway{Name: report.HAProxy, Prepare: peers.HAProxy, Checks: true}},
	} {
		if _, err := exec.LookPath(peer.binary); err != nil {
			fmt.Fprintf(p.log, "%s is not installed (%s); it is left out\n", peer.gateway.Name, peer.binary)
			continue
		}
		list = append(list, peer.gateway)
	}
	return list
}

// plan returns the runs on sockets. In each round, each scene runs without a gateway (the control), and then once
// through each gateway. So the runs of the gateways are interleaved. With -quick, gateways other than Whirlpool run
// only the cold start, because their health checks need seconds before each run.
func (p *program) plan(c workload.Catalog, gateways []sockets.Gateway) (runs []run) {
	addRuns := func(w *workload.Workload) {
		for i, g := range gateways {
			if i == 0 || !p.quick || w.Name == c.ColdStart().Name {
				runs = append(runs, run{w, g})
			}
		}
	}
	for range p.rounds() {
		for _, w := range c.PeerWorkloads() {
			runs = append(runs, run{w.Control(), sockets.Gateway{Name: report.Direct}})
			addRuns(w)
		}
	}
	for range p.moreColdStarts() {
		w := c.ColdStart()
		runs = append(runs, run{w.Control(), sockets.Gateway{Name: report.Direct}}, run{w, gateways[0]})
	}
	for _, w := range workload.SocketWorkloads(c) {
		addRuns(w)
	}
	return runs
}

// sockets makes all runs on sockets.
func (p *program) sockets(d *report.Data) error {
	gateways := p.gateways()
	for _, g := range gateways {
		d.Gateways = append(d.Gateways, g.Name)
	}
	runs := p.plan(d.Catalog, gateways)
	p.stepCount += len(runs) + 2
	bench := sockets.Bench{Settle: 4 * time.Second}
	if p.quick {
		bench.Settle = 2 * time.Second
	}
	d.Sockets = map[string]map[string][]*sockets.Result{}
	for _, r := range runs {
		p.progress("sockets: " + r.workload.Name + ", " + r.gateway.Name)
		result, err := bench.Run(r.workload, r.gateway)
		if err != nil {
			return err
		}
		byGateway := d.Sockets[r.workload.Name]
		if byGateway == nil {
			byGateway = map[string][]*sockets.Result{}
			d.Sockets[r.workload.Name] = byGateway
		}
		byGateway[r.gateway.Name] = append(byGateway[r.gateway.Name], result)
	}
	if err := p.overhead(d); err != nil {
		return err
	}
	p.progress("sockets: changes of the policy")
	changes := 200
	if p.quick {
		changes = 20
	}
	var err error
	d.Policy, err = bench.Policy(p.gateway, changes)
	return err
}

func (p *program) overhead(d *report.Data) error {
	p.progress("sockets: overhead")
	bench, err := p.build("bench", "build", "./integration/bench")
	if err != nil {
		return err
	}
	plan := sockets.OverheadPlan{
		Bench: bench, Gateway: p.gateway, Connections: 1000, Pairs: 12, Duration: 1500 * time.Millisecond,
	}
	if p.quick {
		plan.Connections, plan.Pairs, plan.Duration = 100, 1, 300*time.Millisecond
	}
	d.Overhead, err = plan.Run()
	return err
}
