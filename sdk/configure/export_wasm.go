package configure

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/internal/guest"
)

// refused is the status that Configure returns for settings with an error.
const refused = 1

//go:wasmexport configure
func configure(address, count uint32) uint32 {
	if plugin == nil {
		panic("nobody takes the settings: call configure.Register from an init function")
	}
	s := &Settings{list: make([]Setting, count)}
	text := guest.Copy()
	for i, p := range guest.Records[abi.Pair](address, count) {
		s.list[i] = Setting{text.At(p.Key, p.KeyLength), text.At(p.Value, p.ValueLength)}
	}
	if err := Apply(plugin, s); err != nil {
		println(err.Error()) // the host includes the text in its error
		return refused
	}
	return abi.StatusOK
}
