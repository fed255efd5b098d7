package backoff

import (
	"unsafe"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	_ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // has the exports of all plugins
)

//go:wasmexport backoff
func delay(request unsafe.Pointer) float64 {
	if plugin == nil {
		panic("no backoff: call backoff.Register from an init function")
	}
	return plugin.Delay((*abi.BackoffRequest)(request))
}
