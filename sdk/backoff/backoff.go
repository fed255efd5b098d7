// Package backoff makes a plugin a backoff. Import it only in a backoff: the import makes the module export the
// function "backoff".
package backoff

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Backoff computes the wait before a retry.
type Backoff interface {
	// Delay returns the wait in seconds: a finite number of at least 0. The host waits for at least req.RetryAfter, but
	// never longer than req.Cap. The host owns the memory of req: do not keep req after the call.
	Delay(req *abi.BackoffRequest) float64
}

//lint:ignore U1000 the export reads it
var plugin Backoff

// Register sets the module's backoff. Call it from an init function: the host does not run main.
func Register(b Backoff) { plugin = b }
