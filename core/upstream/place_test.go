package upstream_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A proxy without a region gets that of its exit address, and is then in the group of this region.
func TestTheRegionOfAnExitAddress(t *testing.T) {
	own := priced("own", "")
	own.Region = "eu"
	p := newCostPool(t, priced("a", ""), own)
	a := p.Snapshot().Get("a")
	region := func(name string) (ids []string) {
		if g := p.Snapshot().Region(core.Hash53(name)); g != nil {
			for _, u := range g.All {
				ids = append(ids, u.ID())
			}
		}
		return ids
	}
	checked := func(u *upstream.Upstream, exit string) {
		u.SetLastCheck(&upstream.CheckReport{Passed: true, Exit: netip.MustParseAddr(exit)})
		p.Sweep()
	}
	checked(a, "192.0.2.1")
	require.Empty(t, a.Region(), "no function is set")
	p.SetLocate(func(a netip.Addr) string {
		return map[string]string{"192.0.2.1": "us",
			"192.0.2.2": "de"}[a.String()]
	})
	require.Equal(t, "us", a.Region())
	require.Equal(t, []string{"a"}, region("us"))
	changes := p.Changes()
	checked(a, "192.0.2.1")
	require.Equal(t, changes, p.Changes(), "the pool is published again only after a change")
	checked(a, "192.0.2.2")
	checked(p.Snapshot().Get("own"), "192.0.2.1")
	require.Equal(t, []string{"a"}, region("de"))
	require.Empty(t, region("us"))
	require.Equal(t, []string{"own"}, region("eu"), "its own region comes first")
	err := p.UpdateAll(upstream.Updates{"a": func(s *upstream.Spec) error { s.Weight = 2; return nil }})
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, region("de"), "a change of the proxy keeps it")
	err = p.UpdateAll(upstream.Updates{"a": func(s *upstream.Spec) error { s.Region = "fr"; return nil }})
	require.NoError(t, err)
	require.Equal(t, "fr", a.Region())
	err = p.UpdateAll(upstream.Updates{"a": func(s *upstream.Spec) error { s.Region = ""; return nil }})
	require.NoError(t, err)
	require.Equal(t, "de", a.Region())
	p.SetLocate(nil)
	require.Empty(t, a.Region())
	require.Empty(t, region("de"))
}
