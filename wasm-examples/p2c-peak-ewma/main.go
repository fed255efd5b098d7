// The plugin is a scorer that learns: the power of two choices with the load of Finagle's peak EWMA.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
)

func init() {
	p := &peakEWMA{}
	configure.Register(p)
	scorer.Register(p)
	observe.Register(p)
}

func main() {} // the host does not run main
