package scorer

import (
	"unsafe"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	_ "github.com/whirlpool-proxy/whirlpool/sdk/internal/guest" // has the exports of all plugins
)

//go:wasmexport score
func score(request, candidates, scores unsafe.Pointer, count uint32) uint32 {
	if plugin == nil {
		panic("no scorer: call scorer.Register from an init function")
	}
	to := unsafe.Slice((*float64)(scores), count)
	clear(to)
	plugin.Score((*abi.RankRequest)(request), unsafe.Slice((*abi.Candidate)(candidates), count), to)
	return abi.StatusOK
}
