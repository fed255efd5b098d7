package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// check looks at what types do not say.
func (l *loader) check() {
	c := &l.cfg
	within := func(key string, value, low, high float64) {
		if !(value >= low && value <= high) {
			l.fault(key, value, "must be "+decimal(low)+" to "+decimal(high))
		}
	}
	duration := func(key string, d Duration, low, high string) {
		min, _ := parseDuration(low)
		max, _ := parseDuration(high)
		if d < min || d > max {
			l.fault(key, d.String(), fmt.Sprintf("must be %s to %s", low, high))
		}
	}
	for _, a := range []struct{ key, listen string }{{"gateway.listen", c.Gateway.Listen}, {"api.listen", c.API.Listen}} {
		if err := checkListen(a.listen); err != nil {
			l.fault(a.key, a.listen, err.Error())
		}
	}
	within("gateway.replay_limit", float64(c.Gateway.ReplayLimit), 0, 1<<30)
	within("gateway.max_connections", float64(c.Gateway.MaxConnections), 0, 1<<24)
	duration("gateway.drain_grace", c.Gateway.DrainGrace, "0s", "1h")
	duration("timeouts.connect", c.Timeouts.Connect, "10ms", "10m")
	duration("timeouts.attempt", c.Timeouts.Attempt, "10ms", "1h")
	duration("timeouts.body_idle", c.Timeouts.BodyIdle, "100ms", "24h")
	within("retry_budget.ratio", c.RetryBudget.Ratio, 0, 1000)
	within("retry_budget.min_per_second", c.RetryBudget.MinPerSecond, 0, 1e9)
	duration("selection.memory", c.Selection.Memory, "0s", "24h")
	within("selection.max_candidates", float64(c.Selection.MaxCandidates), 1, 1<<16)
	within("metrics.retention_hours", float64(c.Metrics.RetentionHours), 1, metrics.MaxRetentionHours)
	within("plugins.max_faults", float64(c.PluginHost.MaxFaults), 1, 1e6)
	l.breaker("breaker", c.Breaker)
	if c.Breaker.Blame != BlameEvidence && c.Breaker.Blame != BlameLiteral {
		l.fault("breaker.blame", c.Breaker.Blame, "must be evidence or literal")
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		l.fault("log.level", c.Log.Level, "must be debug, info, warn or error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		l.fault("log.format", c.Log.Format, "must be text or json")
	}
	l.people()
}

// decimal writes a limit out, without an exponent.
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// breaker checks a breaker's settings and reports whether they are good.
func (l *loader) breaker(key string, b Breaker) bool {
	before := len(l.faults)
	if b.FailureThreshold < 1 {
		l.fault(key+".failure_threshold", b.FailureThreshold, "must be at least 1")
	}
	if b.WindowDuration <= 0 {
		l.fault(key+".window_duration", b.WindowDuration, "must be above 0")
	}
	if b.TimeoutDuration <= 0 {
		l.fault(key+".timeout_duration", b.TimeoutDuration, "must be above 0")
	}
	if b.MaxTimeout < 0 {
		l.fault(key+".max_timeout", b.MaxTimeout, "must be at least 0")
	}
	return len(l.faults) == before
}

// people checks users and keys.
func (l *loader) people() {
	c := &l.cfg
	if len(c.Gateway.Users) == 0 && checkListen(c.Gateway.Listen) == nil && !Loopback(c.Gateway.Listen) {
		c.Warnings = append(c.Warnings, "everybody who reaches "+c.Gateway.Listen+" may use the gateway: there are no [[gateway.users]]")
	}
	seen := map[string]bool{}
	for i, u := range c.Gateway.Users {
		key := fmt.Sprintf("gateway.users[%d]", i)
		switch {
		case u.Name == "" || strings.ContainsRune(u.Name, ':'):
			l.fault(key+".name", nil, "must be a name without ':'")
		case u.Password == "":
			l.fault(key+".password", nil, "is missing")
		case seen[u.Name]:
			l.fault(key+".name", nil, "is there twice")
		}
		seen[u.Name] = true
	}
	owners := map[upstream.Secret]int{}
	for i, k := range c.API.Keys {
		key := fmt.Sprintf("api.keys[%d]", i)
		first, twice := owners[k.Key]
		switch {
		case len(k.Key) < 8:
			l.fault(key+".key", nil, "must have at least 8 characters, such as `openssl rand -hex 24` gives")
		case twice:
			l.fault(key+".key", nil, fmt.Sprintf("is that of api.keys[%d] already", first))
		}
		owners[k.Key] = i
		if k.Role != "read" && k.Role != "admin" {
			l.fault(key+".role", k.Role, "must be read or admin")
		}
	}
	if len(c.API.Keys) == 0 && checkListen(c.API.Listen) == nil && !Loopback(c.API.Listen) {
		l.fault("api.listen", c.API.Listen, "without keys the API listens on loopback only; add [[api.keys]] with name, key and role = \"admin\", or listen on 127.0.0.1")
	}
}

func checkListen(listen string) error {
	_, port, err := net.SplitHostPort(listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 {
		return errors.New("must be host:port to listen at")
	}
	return nil
}
