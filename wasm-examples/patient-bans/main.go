// The plugin is a judge that makes a proxy rest for longer each time that a host bans it.
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
