// A scorer that learns: Thompson sampling over the proxies, each a Bernoulli
// bandit whose past fades.
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

func main() {} // the host does not run it
