package config

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/otlp"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/cluster/redisstore"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/metrics/push"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// checkValues adds a fault for each value that breaks a rule. It leaves out the rules that the types and range tags of
// Config express: these were checked before.
func (l *loader) checkValues() {
	c := &l.cfg
	for _, a := range []struct{ key, listen string }{{"gateway.listen", c.Gateway.Listen},
		{"api.listen", c.API.Listen}} {
		if err := checkListen(a.listen); err != nil {
			l.addFault(a.key, a.listen, err.Error())
		}
	}
	if c.Gateway.Listen == c.API.Listen && !strings.HasSuffix(c.API.Listen, ":0") {
		l.addFault("api.listen", c.API.Listen, "is also gateway.listen; each of them needs an address of its own")
	}
	l.checkBreaker("breaker", c.Breaker)
	if c.Breaker.Blame != BlameEvidence && c.Breaker.Blame != BlameLiteral {
		l.addFault("breaker.blame", c.Breaker.Blame, "must be evidence or literal")
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		l.addFault("log.level", c.Log.Level, "must be debug, info, warn or error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		l.addFault("log.format", c.Log.Format, "must be text or json")
	}
	if _, err := accesslog.ParseFilter(c.Log.Access); err != nil {
		l.addFault("log.access", c.Log.Access, err.Error())
	}
	if c.Log.AccessFormat != accesslog.JSON && c.Log.AccessFormat != accesslog.Combined {
		l.addFault("log.access_format", c.Log.AccessFormat, "must be json or combined")
	}
	if c.Log.AccessFile != "" {
		c.Log.AccessFile = l.resolvePath(c.Log.AccessFile)
	}
	if c.Traces.Endpoint != "" {
		if err := otlp.CheckEndpoint(string(c.Traces.Endpoint)); err != nil {
			l.addFault("traces.endpoint", nil, err.Error()) // without the value, because a URL may contain a secret
		}
	}
	l.checkMetrics()
	l.checkCluster()
	l.checkHealth()
	l.checkEgress()
	l.openGeo()
	l.checkLimits()
	l.checkRules()
	l.checkAccess()
}

func (l *loader) checkMetrics() {
	m := &l.cfg.Metrics
	for key, address := range map[string]string{"statsd": m.Statsd, "m3": m.M3} {
		if address == "" {
			continue
		}
		if err := push.CheckAddress(address); err != nil {
			l.addFault("metrics."+key, address, err.Error())
		}
	}
	if strings.ContainsAny(m.StatsdPrefix, ":|@# \t\n") {
		l.addFault("metrics.statsd_prefix", m.StatsdPrefix, "must have none of the characters : | @ # and no spaces")
	}
	for key, tag := range map[string]string{"m3_service": m.M3Service, "m3_env": m.M3Env} {
		if tag == "" {
			l.addFault("metrics."+key, tag, "must not be empty")
		}
	}
}

// checkHealth checks the rules for [health] that the range tags of Health do not express.
func (l *loader) checkHealth() {
	s := l.cfg.Health.settings()
	for _, wrong := range s.Check() {
		if key := "health." + wrong.Key; !l.hasFault(key) {
			l.addFault(key, nil, wrong.Msg) // without the value, because a URL may contain a secret
		}
	}
}

func (l *loader) checkCluster() {
	c := &l.cfg.Cluster
	if c.URL != "" {
		if err := redisstore.CheckURL(string(c.URL)); err != nil {
			l.addFault("cluster.url", nil, err.Error()) // without the value, because a URL may contain a password
		}
	}
	if c.Limits != LimitsShared && c.Limits != LimitsPerNode {
		l.addFault("cluster.limits", c.Limits, `must be "shared" or "node"`)
	}
	for key, name := range map[string]string{"cluster.name": c.Name, "cluster.node": c.Node} {
		if !clusterName.MatchString(name) || key == "cluster.name" && name == "" {
			l.addFault(key, name, "must be 1 to 64 letters, digits, dots, hyphens and underscores")
		}
	}
}

// clusterName matches the valid names of clusters and nodes, and "" (the default).
var clusterName = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

func (l *loader) checkEgress() {
	e := &l.cfg.Egress
	l.checkTargetRules("egress.allow", e.Allow)
	l.checkTargetRules("egress.deny", e.Deny)
	if e.Default != "" && e.Default != egress.DefaultAllow && e.Default != egress.DefaultDeny {
		l.addFault("egress.default", e.Default, `must be "allow" or "deny"`)
	}
}

// checkBreaker checks the settings of a breaker, and reports whether they are valid. The parameter key is the key of
// the table with these settings.
func (l *loader) checkBreaker(key string, b Breaker) bool {
	faultCount := len(l.faults)
	if b.FailureThreshold < 1 {
		l.addFault(key+".failure_threshold", b.FailureThreshold, "must be at least 1")
	}
	if b.WindowDuration <= 0 {
		l.addFault(key+".window_duration", b.WindowDuration, "must be above 0")
	}
	if b.TimeoutDuration <= 0 {
		l.addFault(key+".timeout_duration", b.TimeoutDuration, "must be above 0")
	}
	if b.MaxTimeout < 0 {
		l.addFault(key+".max_timeout", b.MaxTimeout, "must be at least 0")
	}
	return len(l.faults) == faultCount
}

func (l *loader) checkAccess() {
	c := &l.cfg
	if len(c.Gateway.Users) == 0 && checkListen(c.Gateway.Listen) == nil && !Loopback(c.Gateway.Listen) {
		c.Warnings = append(c.Warnings, "everybody who reaches "+
			c.Gateway.Listen+" may use the gateway: there are no [[gateway.users]]")
	}
	l.checkOverrideMode("gateway.override", c.Gateway.Override)
	seen := map[string]bool{}
	for i, u := range c.Gateway.Users {
		key := fmt.Sprintf("gateway.users[%d]", i)
		switch {
		case u.Name == "" || strings.ContainsRune(u.Name, ':'):
			l.addFault(key+".name", nil, "must be a name without ':'")
		case seen[u.Name]:
			l.addFault(key+".name", nil, "is used by two users; each name must be different")
		}
		l.checkPassword(key, &u)
		l.checkOverrideMode(key+".override", u.Override)
		l.checkTargetRules(key+".allow", u.Allow)
		l.checkTargetRules(key+".deny", u.Deny)
		if _, err := core.ParsePriority(u.Priority); u.Priority != "" && err != nil {
			l.addFault(key+".priority", u.Priority, "must be high, normal or low")
		}
		if strings.ContainsFunc(u.Name, unicode.IsControl) {
			l.addFault(key+".name", nil, "has a control character")
		}
		if slices.Contains(u.Regions, "") {
			l.addFault(key+".regions", nil, "contains an empty name")
		}
		seen[u.Name] = true
	}
	owners := map[upstream.Secret]int{}
	for i, k := range c.API.Keys {
		key := fmt.Sprintf("api.keys[%d]", i)
		first, isRepeated := owners[k.Key]
		switch {
		case k.Certificate != "" && k.Key != "":
			l.addFault(key+".certificate", nil, "is set beside key; make two entries")
		case k.Certificate != "" && c.API.TLS.ClientCA == "":
			l.addFault(key+".certificate", nil, "needs api.tls.client_ca, the authority of client certificates")
		case k.Certificate != "" || l.unset[key+".key"]:
		case len(k.Key) < 8:
			l.addFault(key+".key", nil, "must have at least 8 characters, such as `openssl rand -hex 24` gives")
		case isRepeated:
			l.addFault(key+".key", nil,
				fmt.Sprintf("is also the key of api.keys[%d]; each key must be different", first))
		}
		owners[k.Key] = i
		if k.Role != "read" && k.Role != "admin" {
			l.addFault(key+".role", k.Role, "must be read or admin")
		}
	}
	if len(c.API.Keys) == 0 && checkListen(c.API.Listen) == nil && !Loopback(c.API.Listen) {
		l.addFault("api.listen", c.API.Listen, "without keys the API listens on loopback only; add [[api.keys]] with "+
			"name, key and role = \"admin\", or listen on 127.0.0.1")
	}
}

func (l *loader) checkOverrideMode(key, mode string) {
	if _, err := retry.ParseOverrideMode(mode); err != nil {
		l.addFault(key, mode, err.Error())
	}
}

// checkTargetRules checks the egress rules in a list (package egress). The parameter key is the key of the list.
func (l *loader) checkTargetRules(key string, rules []string) {
	for i := range rules {
		if err := access.CheckRules(rules[i : i+1]); err != nil {
			l.addFault(fmt.Sprintf("%s[%d]", key, i), nil, err.Error())
		}
	}
}

func checkListen(listen string) error {
	_, port, err := net.SplitHostPort(listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 {
		return errors.New("must be host:port, such as 127.0.0.1:8888, with a port of at most 65535")
	}
	return nil
}
