package settings

import (
	"unsafe"

	_ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // exports what every plugin must
)

//go:wasmexport describe
func describe() unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(stated)) }
