package sdk_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
)

func TestHashesAreTheGateways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		require.Equal(t, core.Hash53(a), hash.Of(a))
		require.Equal(t, core.Pair53(core.Hash53(a), core.Hash53(b)), hash.Pair(hash.Of(a), hash.Of(b)))
	})
}
