package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// The marks are the changes of the configuration, of the policy and of the plugins in use.
func TestMarks(t *testing.T) {
	now := noon
	e := NewEvents(func() time.Time { return now })
	texts := func(d time.Duration) (list []string) {
		for _, m := range e.marksSince(d) {
			list = append(list, m.Type+": "+m.Text)
		}
		return list
	}
	require.Equal(t, []string{"start: the gateway has started"}, texts(time.Hour))
	now = now.Add(time.Hour)
	e.PolicyChanged(retry.View{Source: retry.SourceRuntime})
	e.ProxyBanned("F1", "", now.Add(time.Hour)) // no change of the configuration
	e.PolicyChanged(retry.View{Source: retry.SourceFile})
	e.ConfigReloaded(ReloadStatus{OK: true})
	e.ConfigReloaded(ReloadStatus{})
	e.PluginActivated("first", "random")
	want := []string{
		"policy: the retry policy has changed", "policy: the retry policy is that of the configuration",
		"reload: the configuration was reloaded",
		"reload: the configuration was not reloaded, because it has errors", "activation: random is used for first",
	}
	require.Equal(t, want, texts(time.Minute))
	require.Len(t, texts(2*time.Hour), len(want)+1)
	for i := range 2 * maxMarks {
		e.PluginActivated("first", fmt.Sprint(i))
	}
	list := texts(2 * time.Hour)
	require.Len(t, list, maxMarks)
	require.Equal(t, "activation: 999 is used for first", list[maxMarks-1])
}
