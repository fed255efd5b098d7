// Package backoff makes a plugin a backoff. Import it for that only: the
// module then exports backoff.
package backoff

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Backoff says how long to wait before a retry.
type Backoff interface {
	// Delay is the wait in seconds: finite, at least 0. The host clamps it to
	// req.Cap and raises it to req.RetryAfter. req is the host's memory: do not
	// keep it.
	Delay(req *abi.BackoffRequest) float64
}

//lint:ignore U1000 the export reads it
var plugin Backoff

// Register names the module's backoff. Call it from an init function: the host
// does not run main.
func Register(b Backoff) { plugin = b }
