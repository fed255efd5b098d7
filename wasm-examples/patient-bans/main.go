// The plugin is a judge. When a host bans a proxy, the proxy is not chosen for this host for a time. With each further
// ban this time doubles.
package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/judge"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
)

func init() {
	p := &patient{}
	configure.Register(p)
	judge.Register(p)
	observe.Register(p)
}

func main() {} // the host does not run main
