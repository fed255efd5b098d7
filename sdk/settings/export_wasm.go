package settings

import (
	"unsafe"

	_ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // has the exports of all plugins
)

//go:wasmexport describe
func describe() unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(stated)) }
