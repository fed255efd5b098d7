package selector

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Proxies that cannot serve the request are not chosen while another proxy can, in a pool of any size. This
// is also true for retries. If no proxy can, all proxies are used.
func TestAbilities(t *testing.T) {
	for _, n := range []int{3, 1000} {
		f := newFixture(t, n, 64)
		at := f.pool.Elapsed(f.now)
		cannot := func(i int, kinds ...ability.Kind) {
			for _, k := range kinds {
				f.get(i).Abilities().RecordMissing(k, at, ability.Forever, ability.Check)
			}
		}
		uses := func(q Query) map[string]int {
			used := map[string]int{}
			for range 30 {
				again := q
				id, err := f.choose(&again)
				require.NoError(t, err)
				used[id]++
			}
			return used
		}
		plain := Query{Idempotent: true, Retryable: true}
		connect := Query{Idempotent: true, Retryable: true, Connect: true, Need: ability.NeedTunnel443}
		for i := range n - 2 {
			cannot(i+2, ability.Forward, ability.TunnelTLS, ability.TunnelOther)
		}
		cannot(0, ability.TunnelTLS, ability.TunnelOther)
		cannot(1, ability.Forward)
		used := uses(plain)
		require.Equal(t, 30, used["p0"]+used["p1"])
		require.NotZero(t, used["p0"])
		require.NotZero(t, used["p1"], "through a tunnel")
		require.Equal(t, map[string]int{"p1": 30}, uses(connect))
		connect.Attempt, connect.Tried = 1, []TriedProxy{{Proxy: f.get(1)}}
		require.Equal(t, map[string]int{"p1": 30}, uses(connect), "again through the one that can")
		require.False(t, f.s.HasUntried(&connect, f.now))

		f.settle(f.get(1), core.Failure) // its breaker opens
		connect.Attempt, connect.Tried = 0, nil
		require.Len(t, uses(connect), min(n-1, 30), "no proxy can")
		require.NoError(t, f.s.CheckSelect(&connect, f.now))
	}
}

// If all proxies that can serve the request are at their max_in_flight, the request waits for one of them.
// The other proxies do not matter.
func TestAProxyWithTheAbilityIsBusy(t *testing.T) {
	f := newFixture(t, 2, 64)
	f.get(1).Abilities().RecordMissing(ability.TunnelTLS, 0, ability.Forever, ability.Check)
	err := f.pool.UpdateAll(upstream.Updates{"p0": func(s *upstream.Spec) error {
		s.Extras = &upstream.Extras{MaxInFlight: 1}
		return nil
	}})
	require.NoError(t, err)
	q := Query{Idempotent: true, Connect: true, Need: ability.NeedTunnel443}
	lease, err := f.s.Select(&q, rotation, f.now)
	require.NoError(t, err)
	require.Equal(t, "p0", lease.Proxy.ID())
	_, err = f.s.Select(&q, rotation, f.now)
	require.ErrorIs(t, err, core.ErrAllBusy)
	q.Need = ability.NeedForward
	id, err := f.choose(&q)
	require.NoError(t, err)
	require.Equal(t, "p1", id, "it can forward")
}

// Explorations and probes only use proxies that can serve the request.
func TestExplorationsFollowAbilities(t *testing.T) {
	f := newFixture(t, 2, 256)
	f.get(1).Abilities().RecordMissing(ability.TunnelTLS, 0, ability.Forever, ability.Check)
	f.now = f.now.Add(31e9)
	f.pool.Sweep()
	for range 100 {
		lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true, Need: ability.NeedTunnel443},
			f.favourite(0), f.now)
		require.NoError(t, err)
		require.Equal(t, "p0", lease.Proxy.ID())
		lease.Release()
	}
	lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, f.favourite(0), f.now)
	require.NoError(t, err)
	require.Equal(t, "p1", lease.Proxy.ID(), "a plain request explores it")
	lease.Release()

	f.settle(f.get(1), core.Failure)
	f.now = f.now.Add(10e9)
	f.pool.Sweep()
	require.NotEmpty(t, f.pool.OverdueProbes())
	lease, err = f.s.Select(&Query{Idempotent: true, Need: ability.NeedTunnel443}, f.favourite(0), f.now)
	require.NoError(t, err)
	require.Equal(t, "p0", lease.Proxy.ID())
	lease.Release()
}
