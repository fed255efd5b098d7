// The plugin is a scorer that learns: Thompson sampling. Each proxy is an arm of a Bernoulli bandit, and the
// weight of old attempts decreases.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
)

func init() {
	t := &thompson{}
	configure.Register(t)
	scorer.Register(t)
	observe.Register(t)
}

func main() {} // the host does not run main
