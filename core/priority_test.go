package core_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func TestPriorities(t *testing.T) {
	for _, p := range core.Priorities() {
		got, err := core.ParsePriority(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	for _, name := range []string{"", "High", "urgent", " low"} {
		_, err := core.ParsePriority(name)
		require.ErrorContains(t, err, "it must be high, normal or low", name)
	}
	for _, c := range []struct{ asked, limit, want core.Priority }{
		{core.AnyPriority, core.AnyPriority, core.PriorityNormal},
		{core.AnyPriority, core.PriorityHigh, core.PriorityNormal},
		{core.AnyPriority, core.PriorityLow, core.PriorityLow},
		{core.PriorityHigh, core.AnyPriority, core.PriorityHigh},
		{core.PriorityHigh, core.PriorityNormal, core.PriorityNormal},
		{core.PriorityLow, core.PriorityHigh, core.PriorityLow},
	} {
		require.Equal(t, c.want, c.asked.AtMost(c.limit), c)
	}
}
