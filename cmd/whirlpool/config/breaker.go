package config

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// Breaker is the [breaker] section.
type Breaker struct {
	FailureThreshold int      `koanf:"failure_threshold" json:"failure_threshold"`
	WindowDuration   Duration `koanf:"window_duration" json:"window_duration"`
	TimeoutDuration  Duration `koanf:"timeout_duration" json:"timeout_duration"`
	MaxTimeout       Duration `koanf:"max_timeout" json:"max_timeout"` // only with BlameEvidence
	Blame            string   `koanf:"blame" json:"blame"`             // BlameEvidence or BlameLiteral
}

// The values of breaker.blame. BlameEvidence: a breaker opens when the failures of its proxy are evidence that the
// proxy is worse than the other proxies. BlameLiteral: a breaker opens after breaker.failure_threshold failures.
const (
	BlameEvidence = "evidence"
	BlameLiteral  = "literal"
)

// OwnBreaker has the breaker settings of one proxy. If a field is nil, the setting of [breaker] applies.
type OwnBreaker struct {
	FailureThreshold *int      `koanf:"failure_threshold" json:"failure_threshold,omitempty"`
	WindowDuration   *Duration `koanf:"window_duration" json:"window_duration,omitempty"`
	TimeoutDuration  *Duration `koanf:"timeout_duration" json:"timeout_duration,omitempty"`
	MaxTimeout       *Duration `koanf:"max_timeout" json:"max_timeout,omitempty"`
}

// mergeOver returns a copy of b with the settings of o. A setting that o does not have is as in b.
func (o *OwnBreaker) mergeOver(b Breaker) Breaker {
	if o.FailureThreshold != nil {
		b.FailureThreshold = *o.FailureThreshold
	}
	if o.WindowDuration != nil {
		b.WindowDuration = *o.WindowDuration
	}
	if o.TimeoutDuration != nil {
		b.TimeoutDuration = *o.TimeoutDuration
	}
	if o.MaxTimeout != nil {
		b.MaxTimeout = *o.MaxTimeout
	}
	return b
}

func (b Breaker) config() breaker.Config {
	c := breaker.Config{
		FailureThreshold: b.FailureThreshold,
		WindowDuration:   time.Duration(b.WindowDuration), TimeoutDuration: time.Duration(b.TimeoutDuration),
	}
	if b.Blame == BlameEvidence {
		c.MaxTimeout, c.ProbeWait = time.Duration(b.MaxTimeout), breaker.DefaultProbeWait
	}
	return c
}
