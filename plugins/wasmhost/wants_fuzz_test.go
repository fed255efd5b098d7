package wasmhost

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func FuzzWants(f *testing.F) {
	f.Add("body 8192\nfield server\nstatus 403\nstatus 500-599\n")
	f.Add("field \nstatus -\nbody -1")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := parseExcerptSpec(text)
		if err != nil {
			require.Less(t, len(err.Error()), 700)
			return
		}
		require.True(t, w.Body >= 0 && w.Body <= abi.MaxBody)
		require.LessOrEqual(t, len(w.Fields), abi.MaxFieldNames)
		require.LessOrEqual(t, len(w.Statuses), abi.MaxStatuses)
		for _, r := range w.Statuses {
			require.True(t, 100 <= r.First && r.First <= r.Last && r.Last <= 999)
		}
		for _, name := range w.Fields {
			require.Regexp(t, "^[!-9;-~]{1,64}$", name)
		}
	})
}
