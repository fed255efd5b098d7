// Package doctor checks whether a machine can run the gateway: limits, ports, clock, permissions, the state folder and
// name resolution. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The results of a check.
const (
	OK   = "ok"
	Warn = "warn" // the gateway can run, but a change would make it run better
	Fail = "fail" // the gateway cannot start, or cannot do its work
)

// Finding is the result of one check.
type Finding struct {
	Check  string `json:"check"`
	Result string `json:"result"` // OK, Warn or Fail
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // how to repair the fault; "" if Result is OK
}

// Setup has the values of the configuration that the checks need.
type Setup struct {
	File           string   // the configuration file; "" for none
	Secrets        bool     // File has passwords or keys in plain text
	KeyFiles       []string // files with the private keys of TLS
	StateDir       string   // "" for none
	Listen         []Listen
	MaxConnections int      // maximum number of clients at the same time; 0 for no limit
	Hosts          []string // the hosts of the proxies
}

// Listen is an address at which the gateway listens.
type Listen struct {
	Key     string // key of the address, such as gateway.listen
	Address string // host:port
}

// Machine has the functions with which the checks observe the machine. Tests replace them.
type Machine struct {
	Files   fs.FS // the root of the file system
	Stat    func(path string) (fs.FileInfo, error)
	Create  func(dir string) error // creates and removes a file in a folder
	Free    func(dir string) (bytes uint64, err error)
	Limit   func() (soft, hard uint64, err error) // limits on open files; errors.ErrUnsupported if there are none
	Listen  func(address string) error            // listens at the address, and closes the listener
	Lookup  func(ctx context.Context, host string) error
	Now     func() time.Time
	Synced  func() (synced, known bool) // state of the clock; known is false if it is not reported
	Running bool                        // a gateway responds at the API's address
	NoModes bool                        // Stat does not report who may read a file
}

// Check makes all checks, and returns their findings.
func Check(ctx context.Context, m *Machine, s *Setup) []Finding {
	findings := []Finding{m.openFiles(s)}
	for _, l := range s.Listen {
		findings = append(findings, m.port(l))
	}
	findings = append(findings, m.clock())
	findings = append(findings, m.permissions(s)...)
	findings = append(findings, m.stateFolder(s), m.names(ctx, s))
	return append(findings, m.kernel()...)
}

// filesPerClient is the number of file descriptors that a client needs: one for its own connection, and one for the
// connection to the proxy of its request.
const filesPerClient = 2

// fewFiles is the number of file descriptors that the gateway should have if the number of its clients has no limit.
const fewFiles = 4096

// spareFiles is the number of file descriptors that the gateway needs for everything except clients and their
// requests.
const spareFiles = 128

func (m *Machine) openFiles(s *Setup) Finding {
	const name = "open files"
	soft, hard, err := m.Limit()
	if errors.Is(err, errors.ErrUnsupported) {
		return Finding{name, OK, "this system reports no limit", ""}
	}
	if err != nil {
		return Finding{name, Warn, "the limit is unknown: " + err.Error(), "compare it with docs/operations.md"}
	}
	usable := max(soft, hard) // the gateway raises its soft limit
	needed := uint64(fewFiles)
	if s.MaxConnections > 0 {
		needed = uint64(s.MaxConnections*filesPerClient + spareFiles)
	}
	text := fmt.Sprintf("%d are allowed", usable)
	if usable >= needed {
		return Finding{name, OK, text, ""}
	}
	return Finding{name, Warn, fmt.Sprintf("%s, %d are needed for %d clients", text, needed,
		(needed-spareFiles)/filesPerClient),
		fmt.Sprintf("ulimit -n %d, or LimitNOFILE=%d in the systemd unit", needed, needed)}
}

func (m *Machine) port(l Listen) Finding {
	err := m.Listen(l.Address)
	switch {
	case err == nil:
		return Finding{l.Key, OK, l.Address + " is free", ""}
	case m.Running && errors.Is(err, addressInUse):
		return Finding{l.Key, OK, l.Address + " is in use by a running gateway", ""}
	case errors.Is(err, addressInUse):
		return Finding{l.Key, Fail, l.Address + " is in use by another program",
			"stop it (" + showListeners + " shows it), or change " + l.Key}
	case errors.Is(err, fs.ErrPermission):
		return Finding{l.Key, Fail, l.Address + ": " + err.Error(),
			"use a port from 1024 on, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit"}
	}
	return Finding{l.Key, Fail, l.Address + ": " + err.Error(), "change " + l.Key}
}

// earliest is a time in the past. If a clock shows a time before earliest, the clock is wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const clockAdvice = "run chronyd or systemd-timesyncd; TLS, metrics by hour and bans by time need it"

func (m *Machine) clock() Finding {
	const name = "clock"
	now := m.Now()
	if now.Before(earliest) {
		return Finding{name, Fail, "it shows " + now.UTC().Format(time.RFC3339), clockAdvice}
	}
	synced, known := m.Synced()
	switch {
	case !known:
		return Finding{name, OK, now.UTC().Format(time.RFC3339) + "; whether it is synchronized is unknown", ""}
	case !synced:
		return Finding{name, Warn, now.UTC().Format(time.RFC3339) + ", not synchronized", clockAdvice}
	}
	return Finding{name, OK, now.UTC().Format(time.RFC3339) + ", synchronized", ""}
}

// The method permissions checks the files that hold secrets.
func (m *Machine) permissions(s *Setup) (findings []Finding) {
	secret := slices.Clone(s.KeyFiles)
	if s.Secrets && s.File != "" {
		secret = append([]string{s.File}, secret...)
	}
	for _, path := range secret {
		info, err := m.Stat(path)
		switch {
		case err != nil:
			findings = append(findings, Finding{"permissions", Fail, err.Error(), "make it readable for the gateway"})
		case !m.NoModes && info.Mode().Perm()&0o007 != 0:
			findings = append(findings, Finding{"permissions", Warn, fmt.Sprintf("%s has secrets and the mode %s", path,
				info.Mode().Perm()), "chmod 640 " + path})
		}
	}
	if findings == nil {
		text := fmt.Sprintf("%d files with secrets", len(secret))
		if m.NoModes && len(secret) > 0 {
			text += "; who may read them is unknown"
		}
		findings = []Finding{{"permissions", OK, text, ""}}
	}
	return findings
}

// lowSpace is the minimum free space in bytes that the file system of the state folder should have.
const lowSpace = 100 << 20

func (m *Machine) stateFolder(s *Setup) Finding {
	const name = "state folder"
	if s.StateDir == "" {
		return Finding{name, Warn, "there is none: changes through the API and metrics end with the process",
			"set [state] dir"}
	}
	dir := s.StateDir
	if _, err := m.Stat(dir); errors.Is(err, fs.ErrNotExist) { // the gateway will create dir
		dir = filepath.Dir(filepath.Clean(dir))
	}
	if err := m.Create(dir); err != nil {
		return Finding{name, Fail, err.Error(), "make " + dir +
			" writable for the gateway's user, or change [state] dir"}
	}
	free, err := m.Free(dir)
	if err == nil && free < lowSpace {
		return Finding{name, Warn, fmt.Sprintf("%s has %d MiB of free space", dir, free>>20), "free some space"}
	}
	text := s.StateDir + " is writable"
	if err != nil {
		text += "; its free space is unknown"
	}
	return Finding{name, OK, text, ""}
}

// The limits for the look-ups of host names.
const (
	maxLookups  = 20
	lookupTime  = 5 * time.Second
	slowLookup  = time.Second
	shownErrors = 3
)

const lookupAdvice = "check /etc/resolv.conf; the gateway looks the names up at each new connection"

// The method names looks up the host names of proxies, at most maxLookups of them. It ignores hosts that are addresses.
func (m *Machine) names(ctx context.Context, s *Setup) Finding {
	const name = "resolver"
	var hosts []string
	for _, h := range s.Hosts {
		if net.ParseIP(strings.Trim(h, "[]")) == nil && !slices.Contains(hosts, h) && len(hosts) < maxLookups {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		return Finding{name, OK, "no proxy has a name to look up", ""}
	}
	var failed []string
	slowest := time.Duration(0)
	for _, h := range hosts {
		start := m.Now()
		lookupCtx, cancel := context.WithTimeout(ctx, lookupTime)
		if err := m.Lookup(lookupCtx, h); err != nil {
			failed = append(failed, h)
		}
		cancel()
		slowest = max(slowest, m.Now().Sub(start))
	}
	switch {
	case len(failed) > 0:
		result := Warn
		if len(failed) == len(hosts) {
			result = Fail
		}
		return Finding{name, result, fmt.Sprintf("%d of %d names cannot be looked up: %s", len(failed), len(hosts),
			strings.Join(failed[:min(len(failed), shownErrors)], ", ")), lookupAdvice}
	case slowest > slowLookup:
		return Finding{name, Warn, fmt.Sprintf("the slowest of %d names took %s", len(hosts),
			slowest.Round(time.Millisecond)), lookupAdvice}
	}
	return Finding{name, OK, fmt.Sprintf("%d names looked up, the slowest in %s", len(hosts),
		slowest.Round(time.Millisecond)), ""}
}

// The minimum values of kernel settings for a gateway with many clients or proxies.
const (
	minBacklog = 1024      // connections that wait to be accepted
	minPorts   = 16384     // local ports for connections to proxies
	minMemory  = 128 << 20 // bytes
)

// The method kernel checks settings of the Linux kernel, which it reads from files. On a system without these files it
// checks nothing.
func (m *Machine) kernel() (findings []Finding) {
	warn := func(check, text, advice string) { findings = append(findings, Finding{check, Warn, text, advice}) }
	if n, ok := m.readNumbers("proc/sys/net/core/somaxconn"); ok && n[0] < minBacklog {
		warn("backlog", fmt.Sprintf("net.core.somaxconn is %d", n[0]), fmt.Sprintf(
			"sysctl -w net.core.somaxconn=%d; otherwise a burst of clients is refused", minBacklog))
	}
	if n, ok := m.readNumbers("proc/sys/net/ipv4/ip_local_port_range"); ok && len(n) == 2 && n[1]-n[0] < minPorts {
		warn("ports to proxies", fmt.Sprintf("net.ipv4.ip_local_port_range has %d ports", n[1]-n[0]+1),
			`sysctl -w net.ipv4.ip_local_port_range="10240 65535"`)
	}
	count, hasCount := m.readNumbers("proc/sys/net/netfilter/nf_conntrack_count")
	maxCount, hasMax := m.readNumbers("proc/sys/net/netfilter/nf_conntrack_max")
	if hasCount && hasMax && count[0] > maxCount[0]*8/10 {
		warn("conntrack", fmt.Sprintf("%d of %d entries are in use", count[0], maxCount[0]), fmt.Sprintf(
			"sysctl -w net.netfilter.nf_conntrack_max=%d", 2*maxCount[0]))
	}
	if n, ok := m.readNumbers("sys/fs/cgroup/memory.max"); ok && n[0] < minMemory {
		warn("memory", fmt.Sprintf("the control group allows %d MiB", n[0]>>20),
			fmt.Sprintf("allow %d MiB, or lower gateway.replay_memory", minMemory>>20))
	}
	if _, err := fs.Stat(m.Files, "proc/sys/net"); err != nil {
		return append(findings, Finding{"kernel", OK, "not checked: this system has no settings in /proc/sys/net", ""})
	}
	if findings == nil {
		findings = []Finding{{"kernel", OK, "backlog, ports, conntrack and memory are large enough", ""}}
	}
	return findings
}

// readNumbers reads the numbers in a file. It returns false if the file is missing or empty, or contains a word that is
// no number, such as "max".
func (m *Machine) readNumbers(path string) (list []int64, ok bool) {
	text, err := fs.ReadFile(m.Files, path)
	if err != nil {
		return nil, false
	}
	for _, word := range strings.Fields(string(text)) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, false
		}
		list = append(list, n)
	}
	return list, len(list) > 0
}
