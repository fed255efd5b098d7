// Package observe makes a plugin one that learns: it hears how attempts end.
// Import it for that only. A module that learns has one instance, whose calls
// take turns; any other has as many as calls run at once, and keeps nothing
// from call to call.
package observe

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Observer hears how attempts end.
type Observer interface {
	// Observe is told of each finished attempt that says something about its
	// proxy. o is the host's memory: copy what you keep, and keep a bounded
	// amount: proxies and hosts come and go.
	Observe(o *abi.Observation)
}

//lint:ignore U1000 the export reads it
var plugin Observer

// Register names who hears. Call it from an init function: the host does not
// run main.
func Register(o Observer) { plugin = o }
