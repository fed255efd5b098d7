package tolerance

import _ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // has the exports of all plugins

//go:wasmexport tolerance
func tolerance() float64 {
	if plugin == nil {
		panic("no tolerance: call tolerance.Register from an init function")
	}
	return plugin.Tolerance()
}
