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
	prepare func(config, profile string) peers.Prepare
	only    func(benchCase) bool // reports whether the peer runs a case; nil for all cases
}

// own reports whether the peer belongs to this repository, and need not be installed.
func (p *peer) own() bool { return p.name == "whirlpool" || p.name == "floor" || p.name == "before" }

func (b *bench) allPeers() []peer {
	plain := func(p peers.Prepare) func(string, string) peers.Prepare {
		return func(string, string) peers.Prepare { return p }
	}
	all := []peer{
		{name: "whirlpool", prepare: b.whirlpool(b.binary)},
		{name: "haproxy", prepare: plain(peers.HAProxy)},
		{name: "squid", prepare: plain(peers.Squid)},
		{name: "tinyproxy", prepare: plain(peers.Tinyproxy)},
		{name: "floor", prepare: plain(theFloor), only: func(c benchCase) bool {
			return c.plan.Path == "/1024" && !c.dead
		}},
	}
	if b.before != "" {
		all = append(all, peer{name: "before", prepare: b.whirlpool(b.before)})
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

// theFloor starts this program in the role floor.
func theFloor(s peers.Setup) ([]string, error) {
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
		b.measured++
		profile = filepath.Join(b.profiles, p.name+"-"+strconv.Itoa(b.measured)+".pprof")
	}
	return peers.Start(p.name, p.prepare(b.config+c.config, profile), o)
}
