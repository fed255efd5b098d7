// The plugin is a judge. A proxy that a host bans rests: it is not chosen for this host. Each time that the host bans
// it again, it rests for longer.
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
