package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
)

// healthy returns a machine on which all checks succeed.
func healthy() *Machine {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	return &Machine{
		Files: fstest.MapFS{}, Now: func() time.Time { return now },
		Stat:   func(string) (fs.FileInfo, error) { return fileInfo(0o600), nil },
		Create: func(string) error { return nil },
		Free:   func(string) (uint64, error) { return 1 << 40, nil },
		Limit:  func() (soft, hard uint64, err error) { return 1024, 1 << 20, nil },
		Listen: func(string) error { return nil },
		Lookup: func(context.Context, string) error { return nil },
		Synced: func() (synced, known bool) { return true, true },
	}
}

type fileInfo fs.FileMode

func (f fileInfo) Name() string       { return "f" }
func (f fileInfo) Size() int64        { return 0 }
func (f fileInfo) Mode() fs.FileMode  { return fs.FileMode(f) }
func (f fileInfo) ModTime() time.Time { return time.Time{} }
func (f fileInfo) IsDir() bool        { return false }
func (f fileInfo) Sys() any           { return nil }

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *Machine, s *Setup)
		want   Finding // the only finding that is not OK; zero for none
	}{
		"healthy": {func(*Machine, *Setup) {}, Finding{}},
		"few files": {func(m *Machine, s *Setup) {
			m.Limit = func() (soft, hard uint64, err error) { return 1024, 2048, nil }
		}, Finding{"open files", Warn, "2048 are allowed, 4096 are needed for 1984 clients",
			"ulimit -n 4096, or LimitNOFILE=4096 in the systemd unit"}},
		"few clients": {func(m *Machine, s *Setup) {
			m.Limit = func() (soft, hard uint64, err error) { return 1024, 2048, nil }
			s.MaxConnections = 900
		}, Finding{}},
		"an unknown limit": {func(m *Machine, _ *Setup) {
			m.Limit = func() (soft, hard uint64, err error) { return 0, 0, errors.New("no") }
		}, Finding{"open files", Warn, "the limit is unknown: no", "compare it with docs/operations.md"}},
		"a port in use": {func(m *Machine, _ *Setup) { m.Listen = only("h:2", addressInUse) },
			Finding{"api.listen", Fail, "h:2 is in use by another program",
				"stop it (" + showListeners + " shows it), or change api.listen"}},
		"a running gateway": {func(m *Machine, _ *Setup) {
			m.Listen, m.Running = only("h:2", addressInUse), true
		}, Finding{}},
		"a low port": {func(m *Machine, _ *Setup) { m.Listen = only("h:1", fs.ErrPermission) },
			Finding{"gateway.listen", Fail, "h:1: permission denied",
				"use a port from 1024 on, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit"}},
		"another address": {func(m *Machine, _ *Setup) { m.Listen = only("h:1", errors.New("no such address")) },
			Finding{"gateway.listen", Fail, "h:1: no such address", "change gateway.listen"}},
		"a wrong clock": {func(m *Machine, _ *Setup) { m.Now = func() time.Time { return time.Unix(0, 0) } },
			Finding{"clock", Fail, "it shows 1970-01-01T00:00:00Z", clockAdvice}},
		"a free clock": {func(m *Machine, _ *Setup) { m.Synced = func() (a, b bool) { return false, true } },
			Finding{"clock", Warn, "2026-11-29T12:00:00Z, not synchronized", clockAdvice}},
		"an unknown clock": {func(m *Machine, _ *Setup) { m.Synced = func() (a, b bool) { return false, false } },
			Finding{}},
		"a public file": {func(m *Machine, s *Setup) {
			s.Secrets = true
			m.Stat = func(string) (fs.FileInfo, error) { return fileInfo(0o644), nil }
		}, Finding{"permissions", Warn, "k.toml has secrets and the mode -rw-r--r--", "chmod 640 k.toml"}},
		"no key": {func(m *Machine, s *Setup) {
			s.KeyFiles = []string{"key"}
			m.Stat = func(string) (fs.FileInfo, error) { return nil, errors.New("no key") }
		}, Finding{"permissions", Fail, "no key", "make it readable for the gateway"}},
		"no state": {func(_ *Machine, s *Setup) { s.StateDir = "" }, Finding{"state folder", Warn,
			"there is none: changes through the API and metrics end with the process", "set [state] dir"}},
		"a new state folder": {func(m *Machine, s *Setup) {
			m.Stat = func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist }
			m.Create = only("/var/lib", nil)
		}, Finding{}},
		"a new state folder with a slash": {func(m *Machine, s *Setup) {
			s.StateDir += "/"
			m.Stat = func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist }
			m.Create = only("/var/lib", nil)
		}, Finding{}},
		"a read-only state folder": {func(m *Machine, s *Setup) { m.Create = only("/var/lib/w", fs.ErrPermission) },
			Finding{"state folder", Fail, "permission denied",
				"make /var/lib/w writable for the gateway's user, or change [state] dir"}},
		"a full disk": {func(m *Machine, s *Setup) { m.Free = func(string) (uint64, error) { return 5 << 20, nil } },
			Finding{"state folder", Warn, "/var/lib/w has 5 MiB of free space", "free some space"}},
		"a wrong name": {func(m *Machine, s *Setup) {
			m.Lookup = func(_ context.Context, host string) error { return only("b", errors.New("none"))(host) }
		}, Finding{"resolver", Warn, "1 of 2 names cannot be looked up: b", lookupAdvice}},
		"no resolver": {func(m *Machine, s *Setup) {
			m.Lookup = func(context.Context, string) error { return errors.New("none") }
		}, Finding{"resolver", Fail, "2 of 2 names cannot be looked up: a, b", lookupAdvice}},
		"a slow resolver": {func(m *Machine, s *Setup) {
			now := m.Now()
			m.Now = func() time.Time { return now }
			m.Lookup = func(context.Context, string) error {
				now = now.Add(2 * time.Second)
				return nil
			}
		}, Finding{"resolver", Warn, "the slowest of 2 names took 2s", lookupAdvice}},
		"no names": {func(_ *Machine, s *Setup) { s.Hosts = []string{"10.0.0.1", "[::1]"} }, Finding{}},
		"a short backlog": {file("proc/sys/net/core/somaxconn", "128\n"), Finding{"backlog", Warn,
			"net.core.somaxconn is 128", "sysctl -w net.core.somaxconn=1024; otherwise a burst of clients is refused"}},
		"few ports": {file("proc/sys/net/ipv4/ip_local_port_range", "40000\t50000\n"), Finding{"ports to proxies", Warn,
			"net.ipv4.ip_local_port_range has 10001 ports", `sysctl -w net.ipv4.ip_local_port_range="10240 65535"`}},
		"little memory": {file("sys/fs/cgroup/memory.max", "67108864\n"), Finding{"memory", Warn,
			"the control group allows 64 MiB", "allow 128 MiB, or lower gateway.replay_memory"}},
		"no limit of memory": {file("sys/fs/cgroup/memory.max", "max\n"), Finding{}},
		"a full conntrack": {func(m *Machine, _ *Setup) {
			m.Files = fstest.MapFS{"proc/sys/net/netfilter/nf_conntrack_count": {Data: []byte("900\n")},
				"proc/sys/net/netfilter/nf_conntrack_max": {Data: []byte("1000\n")}}
		}, Finding{"conntrack", Warn, "900 of 1000 entries are in use",
			"sysctl -w net.netfilter.nf_conntrack_max=2000"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := healthy(), &Setup{File: "k.toml", StateDir: "/var/lib/w", Hosts: []string{"a", "b", "a"},
				Listen: []Listen{{"gateway.listen", "h:1"}, {"api.listen", "h:2"}}}
			c.change(m, s)
			var bad []Finding
			for _, f := range Check(t.Context(), m, s) {
				if f.Result != OK {
					bad = append(bad, f)
				}
			}
			if c.want == (Finding{}) {
				require.Empty(t, bad)
				return
			}
			require.Equal(t, []Finding{c.want}, bad)
		})
	}
}

// only returns a function that fails with err for one argument. If err is nil, the function fails for all other
// arguments instead.
func only(argument string, err error) func(string) error {
	return func(s string) error {
		if err == nil && s != argument {
			return errors.New(s + " is not " + argument)
		}
		if s == argument {
			return err
		}
		return nil
	}
}

func file(path, text string) func(*Machine, *Setup) {
	return func(m *Machine, _ *Setup) { m.Files = fstest.MapFS{path: {Data: []byte(text)}} }
}

// If the system does not report a value, the finding is OK, and its text states this.
func TestUnknown(t *testing.T) {
	m := healthy()
	m.NoModes, m.Stat = true, func(string) (fs.FileInfo, error) { return fileInfo(0o666), nil }
	m.Limit = func() (soft, hard uint64, err error) { return 0, 0, errors.ErrUnsupported }
	m.Free = func(string) (uint64, error) { return 0, errors.ErrUnsupported }
	m.Synced = func() (synced, known bool) { return false, false }
	require.Equal(t, []Finding{
		{"open files", OK, "this system reports no limit", ""},
		{"clock", OK, "2026-11-29T12:00:00Z; whether it is synchronized is unknown", ""},
		{"permissions", OK, "1 files with secrets; who may read them is unknown", ""},
		{"state folder", OK, "/var/lib/w is writable; its free space is unknown", ""},
		{"resolver", OK, "no proxy has a name to look up", ""},
		{"kernel", OK, "not checked: this system has no settings in /proc/sys/net", ""},
	}, Check(t.Context(), m, &Setup{File: "k.toml", Secrets: true, StateDir: "/var/lib/w"}))
}

func TestThisMachine(t *testing.T) {
	m, dir := ThisMachine(), t.TempDir()
	require.NoError(t, m.Create(dir))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Error(t, m.Create(filepath.Join(dir, "none")))
	free, err := m.Free(dir)
	require.NoError(t, err)
	require.NotZero(t, free)
	soft, hard, err := m.Limit()
	require.NoError(t, err)
	require.True(t, soft > 0 && soft <= hard)
	require.NoError(t, m.Listen("127.0.0.1:0"))
	require.NoError(t, m.Lookup(t.Context(), "localhost"))
}
