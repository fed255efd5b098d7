package wasmhost_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func load(t testing.TB, m *w.Module) *wasmhost.Module {
	t.Helper()
	loaded, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(m.Bytes(), nil)
	require.NoError(t, err)
	return loaded
}
