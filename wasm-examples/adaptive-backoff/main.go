// A backoff that learns how long the outages of targets and proxies last.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/backoff"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
)

func init() {
	a := &adaptive{}
	configure.Register(a)
	backoff.Register(a)
	observe.Register(a)
}

func main() {} // the host does not run it
