package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// warnOfContradictions adds a warning for each valid setting that another valid setting makes useless. A setting that
// is not set (isSet) gets no warning.
func (l *loader) warnOfContradictions() {
	c := &l.cfg
	total := time.Duration(0)
	if c.Policy.Timeout != nil {
		total = time.Duration(*c.Policy.Timeout * float64(time.Second))
	}
	for _, pair := range []struct {
		useless bool
		key     string // the warning is about this key, and is given only if the key is set
		text    string
	}{
		{c.Timeouts.Connect > c.Timeouts.Attempt, "timeouts.connect", fmt.Sprintf(
			"%s is longer than timeouts.attempt (%s), which ends the attempt first", c.Timeouts.Connect,
			c.Timeouts.Attempt)},
		{total > 0 && time.Duration(c.Timeouts.Attempt) > total, "timeouts.attempt", fmt.Sprintf(
			"%s is longer than retry.timeout (%s), which ends the request first", c.Timeouts.Attempt, total)},
		{total > 0 && time.Duration(c.Queue.MaxWait) > total, "queue.max_wait", fmt.Sprintf(
			"%s is longer than retry.timeout (%s), which ends the request first", c.Queue.MaxWait, total)},
		{c.Policy.MaxBackoffDelay < c.Policy.BaseDelay, "retry.base_delay", fmt.Sprintf(
			"%gs is longer than retry.max_backoff_delay (%gs), which is used in its place", c.Policy.BaseDelay,
			c.Policy.MaxBackoffDelay)},
		{!c.Policy.Hedge.Off() && c.Policy.MaxAttempts == 1, "retry.hedge",
			"has no effect: a hedge is a second attempt, and retry.max_attempts is 1"},
		{!c.Policy.Hedge.Off() && c.Policy.HedgeBudget == 0, "retry.hedge",
			"has no effect: retry.hedge_budget is 0"},
		{c.Breaker.Blame == BlameEvidence && c.Breaker.MaxTimeout > 0 &&
			c.Breaker.MaxTimeout < c.Breaker.TimeoutDuration, "breaker.timeout_duration", fmt.Sprintf(
			"%s is longer than breaker.max_timeout (%s), so further trips do not lengthen the time",
			c.Breaker.TimeoutDuration, c.Breaker.MaxTimeout)},
		{c.Health.URL != "" && c.Health.Timeout > c.Health.Interval, "health.timeout", fmt.Sprintf(
			"%s is longer than health.interval (%s)", c.Health.Timeout, c.Health.Interval)},
		{c.Health.URL == "" && c.Health.Expect != HealthExpect{}, "health.expect",
			"has no effect: health.url is empty, so there are no checks"},
		{c.Gateway.MaxConnections > 0 && c.Gateway.MaxPerClient > c.Gateway.MaxConnections,
			"gateway.max_connections_per_client", fmt.Sprintf("%d is more than gateway.max_connections (%d)",
				c.Gateway.MaxPerClient, c.Gateway.MaxConnections)},
		{c.Log.AccessFile != "" && c.Log.Access == "off", "log.access_file",
			"has no effect: log.access is off"},
	} {
		if pair.useless && l.isSet(pair.key) {
			l.addWarning(pair.key, pair.text)
		}
	}
	l.warnOfBothLists("egress.allow", c.Egress.Allow, c.Egress.Deny)
	for i, u := range c.Gateway.Users {
		l.warnOfBothLists(fmt.Sprintf("gateway.users[%d].allow", i), u.Allow, u.Deny)
	}
	l.warnOfSameProxies()
}

// addWarning adds a warning with the place where the key was set.
func (l *loader) addWarning(key, text string) {
	l.cfg.Warnings = append(l.cfg.Warnings, l.locateFault(key, nil, text).String())
}

// isSet reports whether the file, an environment variable or a flag sets a key.
func (l *loader) isSet(key string) bool {
	_, inFile := l.lines[key]
	_, flag := l.src.Overrides[key]
	return inFile || flag || l.fromEnv[key] != ""
}

// warnOfBothLists adds a warning for each rule that is in both lists, allow and deny. The parameter key is the key of
// the list allow.
func (l *loader) warnOfBothLists(key string, allow, deny []string) {
	for _, rule := range allow {
		if slices.Contains(deny, rule) {
			l.addWarning(key, fmt.Sprintf("%q is also in deny, which is stronger", rule))
		}
	}
}

// warnOfSameProxies adds a warning for each proxy of [[proxies]] or --proxy that has the same address as an earlier
// one. It adds one more warning if a proxy list contains such an address, too. Proxies whose credentials have a
// template get no warning, because their exit addresses can differ.
func (l *loader) warnOfSameProxies() {
	keysByAddress := map[upstream.Address]string{}
	for i, p := range l.cfg.Proxies {
		a, err := upstream.ParseAddress(string(p.URL))
		if err == nil {
			l.warnIfRepeated(keysByAddress, fmt.Sprintf("proxies[%d].url", i), a)
		}
	}
	for i, u := range l.src.URLs {
		if spec, err := proxylist.ParseLine(u); err == nil {
			l.warnIfRepeated(keysByAddress, fmt.Sprintf("--proxy[%d]", i), spec.Address)
		}
	}
	shared := 0
	for _, s := range l.cfg.specs[min(len(l.cfg.specs), len(l.cfg.Proxies)+len(l.src.URLs)):] {
		if _, twice := keysByAddress[s.Address]; twice {
			shared++
		}
	}
	if shared > 0 {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("%d proxies of the lists are also in [[proxies]] or "+
			"--proxy; each of them gets the requests of two proxies", shared))
	}
}

// warnIfRepeated adds a warning for the given key if an earlier proxy has the same address. Otherwise it adds the
// address and the key to the map, which holds the earlier proxies.
func (l *loader) warnIfRepeated(earlierKeys map[upstream.Address]string, key string, a upstream.Address) {
	if a.HasTemplates() {
		return
	}
	if earlierKey, twice := earlierKeys[a]; twice {
		l.addWarning(key, "is also "+strings.TrimSuffix(earlierKey, ".url")+
			"; as two proxies it gets twice as many requests, and has two breakers")
		return
	}
	earlierKeys[a] = key
}
