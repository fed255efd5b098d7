package config

import (
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/health"
)

// Health is the [health] section.
type Health struct {
	Reachability bool         `koanf:"reachability" json:"reachability"` // only with BlameEvidence
	URL          CheckURL     `koanf:"url" json:"url"`
	Interval     Duration     `koanf:"interval" json:"interval" range:"100ms,24h"`
	Jitter       float64      `koanf:"jitter" json:"jitter" range:"0,1"`
	Timeout      Duration     `koanf:"timeout" json:"timeout" range:"10ms,5m"`
	Expect       HealthExpect `koanf:"expect" json:"expect"`
	Exit         string       `koanf:"exit" json:"exit"`
}

// HealthExpect is the key expect of [health]; see health.Expectation.
type HealthExpect struct {
	Status int    `koanf:"status" json:"status"`
	Header string `koanf:"header" json:"header"`
	Body   string `koanf:"body" json:"body"`
}

// CheckURL is the URL of health checks, or the URL of the collector of traces. Its text form masks the query, which
// may contain a secret.
type CheckURL string

// MarshalText masks the query.
func (u CheckURL) MarshalText() ([]byte, error) {
	text, _, hasQuery := strings.Cut(string(u), "?")
	if hasQuery {
		text += "?***"
	}
	return []byte(text), nil
}

func (h *Health) settings() health.Settings {
	return health.Settings{
		URL: string(h.URL), Interval: time.Duration(h.Interval), Jitter: h.Jitter, Timeout: time.Duration(h.Timeout),
		Expect: health.Expectation(h.Expect), Exit: h.Exit,
	}
}
