//go:build linux

package peers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Running is a started peer.
type Running struct {
	Addr string

	cmd      *exec.Cmd
	name     string
	dir      string
	sendTERM bool
}

// Options are the options of Start.
type Options struct {
	Upstreams []string
	Checks    bool   // see Setup.Checks
	CPU       string // the only CPU that the peer may use (taskset(1)); "" for all
	Graceful  bool   // Stop sends SIGTERM and waits up to 5 s, because the peer may have to write a profile
}

// startTimeout is the maximum time until a peer listens.
const startTimeout = time.Minute

// Start starts a peer and waits until it listens.
func Start(name string, prepare Prepare, o Options) (*Running, error) {
	dir, err := os.MkdirTemp("", "peer-"+name+"-")
	if err != nil {
		return nil, err
	}
	r := &Running{name: name, dir: dir, sendTERM: o.Graceful}
	if err := r.start(prepare, o); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *Running) start(prepare Prepare, o Options) (err error) {
	if r.Addr, err = FreeAddr(); err != nil {
		return err
	}
	threads := runtime.NumCPU()
	if o.CPU != "" {
		threads = 1
	}
	args, err := prepare(Setup{Dir: r.dir, Addr: r.Addr, Threads: threads, Upstreams: o.Upstreams, Checks: o.Checks})
	if err != nil {
		return err
	}
	cmd := OnCPU(o.CPU, args...)
	out, err := os.Create(filepath.Join(r.dir, "output"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// The peer gets its own process group, so that its worker processes end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.cmd = cmd
	return r.WaitFor(r.Addr)
}

// WaitFor waits until the peer listens on an address, at most startTimeout.
func (r *Running) WaitFor(addr string) error {
	for begun := time.Now(); time.Since(begun) < startTimeout; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return nil
		}
	}
	written, _ := os.ReadFile(filepath.Join(r.dir, "output"))
	return fmt.Errorf("%s does not listen on %s after %v; its output: %s",
		r.name, addr, startTimeout, written)
}

// Stop ends the peer and removes its files.
func (r *Running) Stop() {
	defer os.RemoveAll(r.dir)
	if r.cmd == nil {
		return
	}
	done := make(chan struct{})
	go func() { r.cmd.Wait(); close(done) }()
	if r.sendTERM {
		r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
	}
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-done
}

// Usage returns the CPU time (s) and the resident memory (MiB) of the peer and its child processes.
func (r *Running) Usage() (cpu, resident float64) {
	group := strconv.Itoa(r.cmd.Process.Pid)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// Only the fields after the command's name are parsed, because the name may contain any
		// characters (proc(5)).
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

// OnCPU returns a command that runs on the given CPU only (taskset(1)), or on all CPUs if cpu is
// "".
func OnCPU(cpu string, args ...string) *exec.Cmd {
	if cpu != "" {
		args = append([]string{"taskset", "-c", cpu}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// FreeAddr tries the ports after 10,000 + firstPort. portsTried is the number of ports that it has tried.
var (
	firstPort  = rand.IntN(portRange)
	portsTried atomic.Int64
)

const portRange = 22_000

// FreeAddr returns an address on loopback on which nothing listens. The port is below the range of ports that the
// kernel assigns to outgoing connections. Two calls never return the same address, even if nothing listens on the
// first address yet.
func FreeAddr() (string, error) {
	var err error
	for range 1000 {
		var l net.Listener
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+(firstPort+int(portsTried.Add(1)))%portRange))
		if err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	return "", err
}
