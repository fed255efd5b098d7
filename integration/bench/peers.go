//go:build linux

package main

import (
	"path/filepath"
	"strconv"

	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// peer is one proxy under test.
type peer struct {
	name string
	// prepare returns the function that prepares the peer. Only Whirlpool uses the parameters: config has lines of
	// its configuration, and profile is the file of its CPU profile.
	prepare  func(config, profile string) peers.Prepare
	runsCase func(benchCase) bool // reports whether the peer runs a case; nil for all cases
}

// isOwn reports whether the peer belongs to this repository, and need not be installed.
func (p *peer) isOwn() bool { return p.name == "whirlpool" || p.name == "floor" || p.name == "before" }

func (b *bench) allPeers() []peer {
	withoutConfig := func(p peers.Prepare) func(string, string) peers.Prepare {
		return func(string, string) peers.Prepare { return p }
	}
	all := []peer{
		{name: "whirlpool", prepare: b.whirlpool(b.binary)},
		{name: "haproxy", prepare: withoutConfig(peers.HAProxy)},
		{name: "squid", prepare: withoutConfig(peers.Squid)},
		{name: "tinyproxy", prepare: withoutConfig(peers.Tinyproxy)},
		{name: "floor", prepare: withoutConfig(prepareFloor), runsCase: func(c benchCase) bool {
			return c.plan.Path == "/1024" && !c.dead
		}},
	}
	if b.otherBinary != "" {
		all = append(all, peer{name: "before", prepare: b.whirlpool(b.otherBinary)})
	}
	return all
}

func (b *bench) whirlpool(binary string) func(config, profile string) peers.Prepare {
	return func(config, profile string) peers.Prepare {
		if profile == "" {
			return peers.Whirlpool(binary, config)
		}
		return peers.Whirlpool(binary, config, "--cpuprofile", profile)
	}
}

// prepareFloor starts this program in the role floor.
func prepareFloor(s peers.Setup) ([]string, error) {
	return append([]string{self(), "-role", "floor", "-addr", s.Addr, "-threads", strconv.Itoa(s.Threads)},
		s.Upstreams...), nil
}

// start starts a proxy. In a pinned case the proxy has its own CPU.
func (b *bench) start(p peer, c benchCase, upstreams []string) (*peers.Running, error) {
	o := peers.Options{Upstreams: upstreams, Graceful: p.name == "whirlpool"}
	if c.pinned {
		o.CPU = proxyCPU
	}
	profile := ""
	if b.profiles != "" {
		b.profileCount++
		profile = filepath.Join(b.profiles, p.name+"-"+strconv.Itoa(b.profileCount)+".pprof")
	}
	return peers.Start(p.name, p.prepare(b.config+c.config, profile), o)
}
