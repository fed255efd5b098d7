package changes_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Shared changes of configured proxies stay in force over reloads, with or without a state folder, also if other fields
// of these proxies change in the configuration. A gateway that gets the changes after its start has the same proxies.
func TestSharedChangesOutlastReloads(t *testing.T) {
	for _, withFolder := range []bool{true, false} {
		t.Run(fmt.Sprintf("state folder: %v", withFolder), func(t *testing.T) {
			r := newRigWithoutAStore(t)
			if withFolder {
				r = newRig(t, t.TempDir())
				r.start()
			}
			shared := map[string]*changes.SharedChange{}
			r.config.Shared = func(key string) *changes.SharedChange { return shared[key] }
			configure := func(r *rig, proxies ...upstream.Spec) {
				r.config.Proxies = proxies
				r.reload()
			}
			configure(r, proxy("a", 1), proxy("b", 1), proxy("c", 1), proxy("d", 1))
			change := func(id string, f func(*upstream.Spec) error) {
				u, err := r.ChangeProxy(id, f, true)
				require.NoError(t, err)
				list, err := r.Shared(u)
				require.NoError(t, err)
				list[0].Persist = true
				shared["proxy/"+id] = &list[0]
			}
			change("a", weight(7))
			change("b", weight(8))
			change("d", weight(1)) // as configured
			shared["proxy/c"] = &changes.SharedChange{Removed: true, Entry: r.Entry("c"), Persist: true}
			require.NoError(t, r.RemoveProxy("c", false, true))
			require.Equal(t, []string{"weight"}, shared["proxy/a"].Fields)
			require.Empty(t, shared["proxy/d"].Fields)

			a, b, c, d := proxy("a", 2), proxy("b", 3), proxy("c", 4), proxy("d", 5)
			a.Region, c.Region = "EU", "EU"
			a.Address.Password = "new"
			b.Address = proxy("elsewhere", 1).Address // another proxy
			before := r.pool.Changes()
			configure(r, a, b, c, d)
			require.Equal(t, uint64(1), r.pool.Changes()-before, "no change is undone for a moment")
			want := map[string]float64{"a": 7, "b": 3, "d": 5}
			require.Equal(t, want, r.weights())
			spec := r.pool.Snapshot().Get("a").Spec()
			require.Equal(t, []string{"EU", "new"}, []string{spec.Region, spec.Address.Password.Reveal()})

			late := newRigWithoutAStore(t) // a gateway that starts with the new configuration
			configure(late, a, b, c, d)
			for _, id := range []string{"a", "b", "c", "d"} {
				ch := *shared["proxy/"+id]
				if ch.Removed {
					require.NoError(t, late.RemoveShared(id, ch, false))
				} else {
					require.NoError(t, late.PutProxies([]changes.ProxyPut{{ID: id, SharedChange: ch}}, false)[0])
				}
			}
			require.Equal(t, want, late.weights())
			require.Equal(t, *spec, *late.pool.Snapshot().Get("a").Spec())

			configure(r, b, d) // a list omits the proxies for a while
			require.Equal(t, map[string]float64{"b": 3, "d": 5}, r.weights())
			a.Region = ""
			configure(r, a, b, c, d)
			require.Equal(t, want, r.weights())
			if withFolder { // and without the cluster, after a restart
				r.config.Shared = nil
				r.start()
				require.Equal(t, want, r.weights())
			}
		})
	}
}

// A change of a proxy adds no proxy to a gateway that does not have the proxy. The removal of a proxy that the API has
// added does not affect a configured proxy.
func TestSharedChangesOfOtherProxies(t *testing.T) {
	r := newRigWithoutAStore(t)
	s := proxy("x", 2)
	value, err := changes.ProxyValue(&s)
	require.NoError(t, err)
	put := []changes.ProxyPut{{ID: "x", SharedChange: changes.SharedChange{
		Value: value, Entry: "elsewhere", Fields: []string{"weight"},
	}}}
	require.NoError(t, r.PutProxies(put, false)[0])
	require.Empty(t, r.weights())
	r.config.Proxies = []upstream.Spec{proxy("x", 1)}
	r.reload()
	require.NoError(t, r.PutProxies(put, false)[0])
	require.NoError(t, r.RemoveShared("x", changes.SharedChange{Removed: true}, false))
	require.Equal(t, map[string]float64{"x": 1}, r.weights())
	put[0].Entry = r.Entry("x")
	put[0].Fields = append(put[0].Fields, "auth")
	require.NoError(t, r.PutProxies(put, false)[0])
	require.Equal(t, map[string]float64{"x": 2}, r.weights())
}

// A shared policy has the changed fields; each gateway takes the other fields from its configuration.
func TestSharedPolicy(t *testing.T) {
	r := newRigWithoutAStore(t)
	attempts := 7
	v, err := r.ChangePolicy(retry.Override{MaxAttempts: &attempts}, false)
	require.NoError(t, err)
	fields, err := r.PolicyFields(&v.Policy)
	require.NoError(t, err)
	require.Equal(t, []string{"max_attempts"}, fields)
	value, err := json.Marshal(&v.Policy)
	require.NoError(t, err)
	r.config.Policy.BaseDelay, r.config.Policy.MaxAttempts = 3, 2
	require.NoError(t, r.config.Policy.Validate(func(string) bool { return true }))
	r.reload()
	require.NoError(t, r.PutPolicy(value, fields, false))
	p := r.policies.Current()
	require.Equal(t, []any{7, 3.0}, []any{p.MaxAttempts, p.BaseDelay})
	require.NoError(t, r.PutPolicy(value, nil, false))
	require.True(t, r.policies.Current().Equal(&r.config.Policy))
	require.Error(t, r.PutPolicy([]byte("x"), nil, false))
}
