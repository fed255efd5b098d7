package breaker

import (
	"fmt"
	"time"
)

// Config holds the settings of a breaker.
type Config struct {
	FailureThreshold int           // failures within the window that open the breaker, >= 1
	WindowDuration   time.Duration // length of the sliding window, both ends included; > 0
	TimeoutDuration  time.Duration // time that the breaker stays open, > 0
	MaxTimeout       time.Duration // longest open time after repeated trips; no effect below TimeoutDuration
	// ProbeWait is the time that a breaker may be half-open without a probe (see ProbeOverdue). The value 0 and values
	// above TimeoutDuration stand for TimeoutDuration.
	ProbeWait time.Duration

	probeTimeout time.Duration // time that a probe may hold the half-open breaker; 0 stands for defaultProbeTimeout
}

// DefaultProbeWait is the usual Config.ProbeWait.
const DefaultProbeWait = 5 * time.Second

// Default returns the default settings: 5 failures within 60 s open the breaker for 30 s. After repeated trips it is
// open for up to 45 s, so a proxy that has recovered is used again within a minute.
func Default() Config {
	return Config{
		FailureThreshold: 5, WindowDuration: time.Minute, TimeoutDuration: 30 * time.Second,
		MaxTimeout: 45 * time.Second, ProbeWait: DefaultProbeWait,
	}
}

const (
	defaultProbeTimeout = 10 * time.Second
	// The probe timeout is longer than the attempt timeout by probeSlack. In this time, an attempt that has reached its
	// timeout is reported as a failure.
	probeSlack = time.Second
)

// WithAttemptTimeout returns c with a probe timeout for attempts that last at most d (> 0). The probe timeout
// is d plus one second.
func (c Config) WithAttemptTimeout(d time.Duration) Config {
	c.probeTimeout = d + probeSlack
	return c
}

// WithProbeTimeoutOf returns c with the probe timeout of the configuration other.
func (c Config) WithProbeTimeoutOf(other Config) Config {
	c.probeTimeout = other.probeTimeout
	return c
}

// Validate returns an error for the first field out of range.
func (c Config) Validate() error {
	switch {
	case c.FailureThreshold < 1:
		return fmt.Errorf("failure_threshold is %d; it must be at least 1", c.FailureThreshold)
	case c.WindowDuration <= 0:
		return fmt.Errorf("window_duration is %v; it must be above 0", c.WindowDuration)
	case c.TimeoutDuration <= 0:
		return fmt.Errorf("timeout_duration is %v; it must be above 0", c.TimeoutDuration)
	case c.MaxTimeout < 0:
		return fmt.Errorf("max_timeout is %v; it must be at least 0", c.MaxTimeout)
	}
	return nil
}
