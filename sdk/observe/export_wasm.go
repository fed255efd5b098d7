package observe

import (
	"unsafe"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	_ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // has the exports of all plugins
)

//go:wasmexport observe
func observe(observation unsafe.Pointer) {
	if plugin == nil {
		panic("no observer: call observe.Register from an init function")
	}
	plugin.Observe((*abi.Observation)(observation))
}
