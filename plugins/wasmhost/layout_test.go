package wasmhost

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func TestCoreAndABIHaveTheSameRecords(t *testing.T) {
	for _, pair := range [][2]any{
		{core.RankRequest{}, abi.RankRequest{}}, {core.Candidate{}, abi.Candidate{}},
		{core.BackoffRequest{}, abi.BackoffRequest{}}, {core.Observation{}, abi.Observation{}},
	} {
		a, b := reflect.TypeOf(pair[0]), reflect.TypeOf(pair[1])
		require.Equal(t, a.NumField(), b.NumField(), a.Name())
		for i := range a.NumField() {
			require.Equal(t, a.Field(i).Name, b.Field(i).Name)
			require.Equal(t, a.Field(i).Offset, b.Field(i).Offset)
			require.Equal(t, reflect.Float64, b.Field(i).Type.Kind())
		}
	}
}
