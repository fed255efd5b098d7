// Package observe makes a plugin learn: the host reports finished attempts to it. Import the package only
// in such a plugin. A module that learns has a single instance, whose calls run one after the other. Any
// other module may have several instances, and must not keep values from one call to the next.
package observe

import "github.com/whirlpool-proxy/whirlpool/sdk/abi"

// Observer receives finished attempts.
type Observer interface {
	// Observe receives each finished attempt that shows something about its proxy. The host owns the memory of o:
	// copy the parts that you keep. Limit the amount of data that you keep, because new proxies and hosts appear
	// all the time.
	Observe(o *abi.Observation)
}

//lint:ignore U1000 the export reads it
var plugin Observer

// Register sets the plugin's Observer. Call it from an init function: the host does not run main.
func Register(o Observer) { plugin = o }
