package engine

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/gateway"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// Intercept has the settings of interception. The tunnels to which a rule with Then.Intercept applies are intercepted
// (gateway.Intercept).
type Intercept struct {
	Authority *intercept.Authority // signs the certificates that clients get; nil for no interception
	Exclude   []string             // patterns of hosts that are never intercepted (rules.ParseHost)
}

// check validates settings that a Go program has made, together with the rules of the same Config.
func (i *Intercept) check(list []rules.Rule) error {
	for n := range list {
		if list[n].Then.Intercept && i.Authority == nil {
			return &core.KeyError{
				Key: fmt.Sprintf("rules[%d].then.intercept", n), Err: errors.New("needs Intercept.Authority"),
			}
		}
	}
	for n, pattern := range i.Exclude {
		if _, err := rules.ParseHost(pattern); err != nil {
			return &core.KeyError{Key: fmt.Sprintf("intercept.exclude[%d]", n), Value: pattern, Err: err}
		}
	}
	return nil
}

// intercept returns the gateway's settings of interception; nil for none.
func (e *Engine) intercept(set *Intercept) *gateway.Intercept {
	if set.Authority == nil {
		return nil
	}
	exclude := make([]string, 0, len(set.Exclude))
	for _, pattern := range set.Exclude {
		if host, err := rules.ParseHost(pattern); err == nil {
			exclude = append(exclude, host)
		}
	}
	return &gateway.Intercept{Authority: set.Authority, Matches: func(host string, port uint16, user string) bool {
		for _, pattern := range exclude {
			if egress.GlobMatches(pattern, host) {
				return false
			}
		}
		q := rules.Request{Host: host, Port: port, Method: http.MethodConnect, User: user}
		route := e.executor.Rules().Route(&q)
		return route.IsIntercepted()
	}}
}
