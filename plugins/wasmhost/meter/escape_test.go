package meter

import (
	"testing"

	"github.com/stretchr/testify/require"

	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// Code that wazero and the meter would read as different instructions is refused. In each case, an endless
// loop is hidden in bytes that are immediates for the meter.
func TestAmbiguousCodeIsRefused(t *testing.T) {
	hidden := w.Join([]byte{w.End}, w.SpinLoop, []byte{w.Block, w.Empty}, w.Repeat(6, 0x01))
	fifteen, sixteen := hidden, append(hidden, 0x01)
	within := func(parts ...[]byte) []byte {
		return w.Join([]byte{w.Block, w.Empty, w.Br, 0}, w.Join(parts...), []byte{w.End})
	}
	for name, c := range map[string]struct {
		code []byte
		says string
	}{
		"v128.const, its opcode over-long": {within([]byte{0xfd, 0x8c, 0x00}, sixteen), "more bytes than it needs"},
		"a vector opcode in five bytes": {within([]byte{0xfd, 0x8d, 0x80, 0x80, 0x80, 0x00}, sixteen),
			"more bytes than it needs"},
		"select of a (ref null 28)": {within([]byte{0x1c, 1, 0x63, 0x1c, 0x0f}, fifteen), "value type 0x63"},
		"select of a (ref 28)":      {within([]byte{0x1c, 1, 0x64, 0x1c, 0x0f}, fifteen), "value type 0x64"},
		"a block of a (ref null 28)": {within([]byte{w.Block, 0x63, 0x1c, 0x0f}, fifteen, []byte{w.End}),
			"block type -29"},
		"the same, over-long": {within([]byte{w.Block, 0xe3, 0xff, 0xff, 0xff, 0x7f, 0x1c, 0x0f},
			fifteen, []byte{w.End}), "block type -29"},
		"a block of a type that is not there": {within([]byte{w.Block, 0x3f, w.End}), "block type 63"},
		"a ref.null of a type":                {within([]byte{0xd0, 0x80, 0x1c, 0x0f}, fifteen), "reference type 0x80"},
	} {
		t.Run(name, func(t *testing.T) {
			m := w.Scorer(c.code...)
			for i := range 40 { // that many types
				m.Add(w.Func{Params: w.Repeat(i, w.I32)})
			}
			_, err := Rewrite(m.Bytes(), Cost{})
			require.ErrorContains(t, err, c.says)
		})
	}
	for name, change := range map[string]func(m *w.Module){
		"a parameter of a (ref 0)": func(m *w.Module) { m.Add(w.Func{Params: []byte{0x64, 0}}) },
		"a local of a (ref 0)":     func(m *w.Module) { m.Add(w.Func{Locals: []w.Group{{Count: 1, Type: 0x64}}}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := w.Scorer()
			change(m)
			_, err := Rewrite(m.Bytes(), Cost{})
			require.ErrorContains(t, err, "value type 0x64")
		})
	}
}
