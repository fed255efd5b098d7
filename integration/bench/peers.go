//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is one proxy under test.
type peer struct {
	name string
	// prepare writes its configuration into dir and returns its command line.
	// config is for Whirlpool alone.
	prepare func(dir, addr, config string, threads int, upstreams []string) ([]string, error)
	only    func(benchCase) bool // the cases it takes; nil for all
}

// own reports whether it is this program, and not one to be installed.
func (p *peer) own() bool { return p.name == "whirlpool" || p.name == "floor" || p.name == "before" }

func (b *bench) allPeers() []peer {
	peers := []peer{
		{name: "whirlpool", prepare: b.whirlpool(b.binary)},
		{name: "haproxy", prepare: haproxy},
		{name: "squid", prepare: squid},
		{name: "tinyproxy", prepare: tinyproxy},
		{name: "floor", prepare: theFloor, only: func(c benchCase) bool { return c.plan.Path == "/1024" && !c.dead }},
	}
	if b.before != "" {
		peers = append(peers, peer{name: "before", prepare: b.whirlpool(b.before)})
	}
	return peers
}

func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// whirlpool runs with everything on: its defaults, and a log at level info.
func (b *bench) whirlpool(binary string) func(dir, addr, config string, _ int, upstreams []string) ([]string, error) {
	return func(dir, addr, config string, _ int, upstreams []string) ([]string, error) {
		api, err := freeAddr()
		if err != nil {
			return nil, err
		}
		var s strings.Builder
		fmt.Fprintf(&s, "[gateway]\nlisten = %q\n[api]\nlisten = %q\n[state]\ndir = \"\"\n%s\n", addr, api, config)
		for i, u := range upstreams {
			fmt.Fprintf(&s, "[[proxies]]\nid = \"f%d\"\nurl = \"http://%s\"\n", i, u)
		}
		path, err := write(dir, "koanf.toml", s.String())
		args := []string{binary, "serve", "--config", path}
		if b.profiles != "" {
			args = append(args, "--cpuprofile", filepath.Join(b.profiles, filepath.Base(dir)+".pprof"))
		}
		return args, err
	}
}

// haproxy rotates over the upstreams for each request, keeps their connections
// and tries as often: as near to what Whirlpool does as it comes.
func haproxy(dir, addr, _ string, threads int, upstreams []string) ([]string, error) {
	var s strings.Builder
	fmt.Fprintf(&s, `global
  nbthread %d
  maxconn 9000
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  retries 2
  retry-on conn-failure empty-response response-timeout 502 503 504
  option redispatch 1
frontend in
  bind %s
  default_backend out
backend out
  balance roundrobin
  http-reuse always
`, threads, addr)
	for i, u := range upstreams {
		fmt.Fprintf(&s, "  server f%d %s\n", i, u)
	}
	path, err := write(dir, "haproxy.cfg", s.String())
	return []string{"haproxy", "-db", "-f", path}, err
}

func squid(dir, addr, _ string, threads int, upstreams []string) ([]string, error) {
	if err := os.Chmod(dir, 0o777); err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addr)
	var s strings.Builder
	fmt.Fprintf(&s, `http_port %s:%s
workers %[4]d
cache deny all
access_log none
cache_log %[3]s/cache.log
pid_filename %[3]s/squid.pid
coredump_dir %[3]s
visible_hostname bench
http_access allow all
never_direct allow all
nonhierarchical_direct off
server_persistent_connections on
client_persistent_connections on
shutdown_lifetime 0 seconds
via off
forwarded_for delete
`, host, port, dir, threads)
	for i, u := range upstreams {
		host, port, _ := net.SplitHostPort(u)
		fmt.Fprintf(&s, "cache_peer %s parent %s 0 no-query no-digest round-robin name=f%d\n", host, port, i)
	}
	path, err := write(dir, "squid.conf", s.String())
	return []string{"squid", "--foreground", "-f", path}, err
}

// tinyproxy knows one upstream only; it is here as the simple relay.
func tinyproxy(dir, addr, _ string, _ int, upstreams []string) ([]string, error) {
	host, port, _ := net.SplitHostPort(addr)
	path, err := write(dir, "tinyproxy.conf", fmt.Sprintf(`Listen %s
Port %s
Timeout 60
MaxClients 6000
LogLevel Critical
LogFile "%s/tinyproxy.log"
DisableViaHeader Yes
Upstream http %s
`, host, port, dir, upstreams[0]))
	return []string{"tinyproxy", "-d", "-c", path}, err
}

// theFloor is this program in another role.
func theFloor(_, addr, _ string, threads int, upstreams []string) ([]string, error) {
	return append([]string{self(), "-role", "floor", "-addr", addr, "-threads", strconv.Itoa(threads)},
		upstreams...), nil
}

// running is a started proxy.
type running struct {
	peer
	addr string
	cmd  *exec.Cmd
	dir  string
}

// start starts a proxy: with a CPU for itself if pinned, else with as many
// threads as there are CPUs, where that is to be said.
func start(p peer, pinned bool, config string, upstreams []string) (*running, error) {
	dir, err := os.MkdirTemp("", "bench-"+p.name+"-")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cpu, threads := "", runtime.NumCPU()
	if pinned {
		cpu, threads = proxyCPU, 1
	}
	args, err := p.prepare(dir, addr, config, threads, upstreams)
	if err != nil {
		return nil, err
	}
	r := &running{peer: p, addr: addr, dir: dir, cmd: onCPU(cpu, args...)}
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r.cmd.Stdout, r.cmd.Stderr = out, out
	// Its own process group, so that workers end with it.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return r, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	said, _ := os.ReadFile(filepath.Join(dir, "output"))
	r.stop()
	return nil, fmt.Errorf("%s does not listen on %s after 10 s; it said: %s", p.name, addr, said)
}

func (r *running) stop() {
	done := make(chan struct{})
	go func() { r.cmd.Wait(); close(done) }()
	if r.name == "whirlpool" { // which may have a profile to write
		r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
	}
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-done
	os.RemoveAll(r.dir)
}

// usage is the CPU time (s) and the resident memory (MiB) of the proxy with its
// children.
func (r *running) usage() (cpu, resident float64) {
	group := strconv.Itoa(r.cmd.Process.Pid)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// Fields after the command's name, which may hold anything (proc(5)).
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(f) < 22 || f[2] != group {
			continue
		}
		for _, i := range []int{11, 12} { // utime, stime in clock ticks of 10 ms
			n, _ := strconv.ParseFloat(f[i], 64)
			cpu += n / 100
		}
		pages, _ := strconv.ParseFloat(f[21], 64)
		resident += pages * float64(os.Getpagesize()) / (1 << 20)
	}
	return cpu, resident
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
