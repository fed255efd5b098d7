package upstream

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// Attempts that a draining proxy refuses count as in flight for a moment. If a removal reads such a count, a
// sweep completes the removal.
func TestADrainAlwaysEnds(t *testing.T) {
	for range 200 {
		p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
		require.NoError(t, p.Apply(specs(t, "http://a.test:1")))
		u := p.Snapshot().All[0]
		begun, removed := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 0; ; n++ {
				if lease, ok := u.Acquire(time.Time{}); ok {
					lease.Release()
				}
				if n == 0 {
					close(begun)
				}
				select {
				case <-removed:
					return
				default:
				}
			}
		})
		<-begun
		require.NoError(t, p.Remove(u.ID(), true))
		close(removed)
		wg.Wait()
		p.Sweep()
		require.Empty(t, p.Snapshot().All)
	}
}

// After any sequence of reloads, additions, changes, removals, attempts and sweeps the pool has the
// proxies of the model. OnRemove is called once for each removed proxy, after its last attempt.
func TestThePoolAgainstAModel(outer *testing.T) {
	type member struct {
		u        *Upstream
		api      bool
		draining bool
	}
	rapid.Check(outer, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		inFlight, gone := map[*Upstream]int{}, map[*Upstream]bool{}
		p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: func() time.Time { return now },
			OnRemove: func(u *Upstream) {
				if gone[u] || inFlight[u] > 0 {
					t.Fatalf("%s is given up with %d attempts running, before: %v", u.ID(), inFlight[u], gone[u])
				}
				gone[u] = true
			}})
		var members []member
		var left []*Upstream // removed proxies
		var leases []Lease
		leave := func(match func(member) bool) {
			members = slices.DeleteFunc(members, func(m member) bool {
				if match(m) {
					left = append(left, m.u)
					return true
				}
				return false
			})
		}
		find := func(id string) int { return slices.IndexFunc(members, func(m member) bool { return m.u.ID() == id }) }
		id := rapid.Map(rapid.IntRange(0, 5), func(n int) string { return fmt.Sprintf("p%d", n) })
		spec := func(source string) Spec {
			return Spec{
				ID: id.Draw(t, "id"), Source: source, Weight: 1,
				Address: Address{Scheme: HTTP, Host: fmt.Sprintf("h%d:1", rapid.IntRange(0, 1).Draw(t, "host"))},
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"reload": func(*rapid.T) {
				var list []Spec
				for range rapid.IntRange(0, 4).Draw(t, "proxies") {
					if s := spec("config"); !slices.ContainsFunc(list, func(o Spec) bool { return o.ID == s.ID }) {
						list = append(list, s)
					}
				}
				require.NoError(t, p.Apply(list))
				var next []member
				for _, s := range list {
					u := p.Snapshot().Get(s.ID)
					if i := find(s.ID); i >= 0 && !members[i].draining && members[i].u.Spec().Address == s.Address {
						require.Same(t, members[i].u, u, "it stays as it is")
					}
					next = append(next, member{u: u})
				}
				for _, m := range members {
					if (m.api || m.draining) && !slices.ContainsFunc(list,
						func(s Spec) bool { return s.ID == m.u.ID() }) {
						next = append(next, m)
					}
				}
				leave(func(m member) bool {
					return !slices.ContainsFunc(next, func(n member) bool {
						return n.u == m.u
					})
				})
				members = next
			},
			"add": func(*rapid.T) {
				s := spec(SourceAPI)
				added, err := p.Add([]Spec{s})
				if find(s.ID) >= 0 {
					require.ErrorIs(t, err, core.ErrConflict)
					return
				}
				require.NoError(t, err)
				members = append(members, member{u: added[0], api: true})
			},
			"update": func(*rapid.T) {
				s := spec("")
				err := p.UpdateAll(Updates{s.ID: func(o *Spec) error { o.Address = s.Address; return nil }})
				switch i := find(s.ID); {
				case i < 0:
					require.ErrorIs(t, err, core.ErrNotFound)
				case members[i].draining:
					require.ErrorIs(t, err, ErrDraining)
				default:
					require.NoError(t, err)
					u := p.Snapshot().Get(s.ID)
					if old := members[i].u; old != u {
						left = append(left, old)
					}
					members[i].u = u
				}
			},
			"remove": func(*rapid.T) {
				name, drain := id.Draw(t, "id"), rapid.Bool().Draw(t, "drain")
				err := p.Remove(name, drain)
				i := find(name)
				if i < 0 {
					require.ErrorIs(t, err, core.ErrNotFound)
					return
				}
				require.NoError(t, err)
				if u := members[i].u; drain && inFlight[u] > 0 {
					members[i].draining = true
				} else {
					leave(func(m member) bool { return m.u == u })
				}
			},
			"acquire": func(*rapid.T) {
				if len(members) == 0 {
					return
				}
				m := rapid.SampledFrom(members).Draw(t, "member")
				lease, ok := m.u.Acquire(now)
				require.Equal(t, !m.draining, ok)
				if ok {
					leases = append(leases, lease)
					inFlight[m.u]++
				}
			},
			"release": func(*rapid.T) {
				if len(leases) == 0 {
					return
				}
				i := rapid.IntRange(0, len(leases)-1).Draw(t, "lease")
				inFlight[leases[i].Proxy]--
				leases[i].Release()
				leases = slices.Delete(leases, i, i+1)
			},
			"sweep": func(*rapid.T) {
				p.Sweep()
				leave(func(m member) bool { return m.draining && inFlight[m.u] == 0 })
				for _, u := range left {
					require.Equal(t, inFlight[u] == 0, gone[u], "%s, which has left", u.ID())
				}
			},
			"": func(*rapid.T) {
				var want []*Upstream
				for _, m := range members {
					want = append(want, m.u)
					require.Equal(t, m.draining, m.u.Draining())
					require.False(t, gone[m.u])
				}
				require.ElementsMatch(t, want, p.Snapshot().All)
			},
		})
	})
}
