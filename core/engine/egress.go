package engine

import (
	"errors"
	"net/netip"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
)

// egressPolicy returns the policy of cfg.Egress, or a *core.KeyError.
func egressPolicy(cfg *Config) (*egress.Policy, error) {
	p, err := egress.New(cfg.Egress)
	if wrong := (*egress.ConfigError)(nil); errors.As(err, &wrong) {
		return nil, &core.KeyError{Key: "egress." + wrong.Key, Err: wrong.Err}
	}
	return p, err
}

// setEgress applies cfg.Egress, which has been checked, to new connections of direct://.
func (e *Engine) setEgress(cfg *Config) {
	if p, err := egressPolicy(cfg); err == nil {
		e.egress.Store(p)
	}
}

// permitAddr returns an error if direct:// must not connect to the given address of a target.
func (e *Engine) permitAddr(to netip.AddrPort) error { return e.egress.Load().CheckAddr(to) }
