// Package observe makes a plugin one that learns: the host reports finished attempts to it. Import it only
// for that. A module that learns has one instance, and its calls run one after the other. Any other module
// has as many instances as calls run at the same time, and must not keep values from one call to the next.
package observe

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Observer receives finished attempts.
type Observer interface {
	// Observe receives each finished attempt that shows something about its proxy. The host owns the memory of o:
	// copy the parts that you keep. Keep a limited amount, because proxies and hosts come and go.
	Observe(o *abi.Observation)
}

//lint:ignore U1000 the export reads it
var plugin Observer

// Register sets the Observer. Call it from an init function: the host does not run main.
func Register(o Observer) { plugin = o }
