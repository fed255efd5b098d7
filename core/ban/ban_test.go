package ban

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAPairRestsForItsHostOnly(t *testing.T) {
	r := New(DefaultMax)
	require.Nil(t, r.BansOf(7))
	r.Begin(1, 7, Pair{ProxyID: "a", Host: "h", Since: 10, Until: 20})
	until, ok := r.BansOf(7).EndOf(1, 10)
	require.True(t, ok)
	require.EqualValues(t, 20, until)
	for name, c := range map[string]struct{ proxy, host, now uint64 }{
		"another host": {1, 8, 10}, "another proxy": {2, 7, 10}, "its end": {1, 7, 20},
	} {
		_, ok := r.BansOf(c.host).EndOf(c.proxy, time.Duration(c.now))
		require.False(t, ok, name)
	}
	r.Begin(1, 7, Pair{ProxyID: "a", Host: "h", Since: 15, Until: 18})
	r.Begin(1, 7, Pair{ProxyID: "a", Host: "h", Since: 16, Until: 30})
	require.Equal(t, []Pair{{"a", "h", 10, 30}}, r.All(17), "the later end counts")
	require.Zero(t, r.Count(30))
	require.Nil(t, r.BansOf(7))
}

// TestAgainstAModel compares a Table with a map. If the map is full, the pair whose ban ends first is removed.
func TestAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(t, "max")
		r, now := New(limit), time.Duration(0)
		type key struct{ proxy, host uint64 }
		model := map[key]Pair{}
		forget := func() {
			for k, p := range model {
				if p.Until <= now {
					delete(model, k)
				}
			}
		}
		ends := map[time.Duration]bool{} // each end is used once, so that the first one is unique
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				k := key{rapid.Uint64Range(0, 4).Draw(t, "proxy"), rapid.Uint64Range(0, 3).Draw(t, "host")}
				p := Pair{ProxyID: fmt.Sprint(k.proxy), Host: fmt.Sprint(k.host), Since: now,
					Until: now + time.Duration(rapid.IntRange(1, 50).Draw(t, "for"))}
				for ends[p.Until] {
					p.Until++
				}
				ends[p.Until] = true
				r.Begin(k.proxy, k.host, p)
				forget()
				before, rests := model[k]
				switch {
				case rests && p.Until <= before.Until:
					return
				case rests:
					p.Since = before.Since
				case len(model) == limit:
					var first key
					for k, p := range model {
						if f, ok := model[first]; !ok || p.Until < f.Until {
							first = k
						}
					}
					delete(model, first)
				}
				model[k] = p
			},
			"end": func(t *rapid.T) {
				k := key{rapid.Uint64Range(0, 4).Draw(t, "proxy"), rapid.Uint64Range(0, 3).Draw(t, "host")}
				forget()
				_, rests := model[k]
				require.Equal(t, rests, r.End(k.proxy, k.host, now))
				delete(model, k)
			},
			"clear": func(*rapid.T) {
				r.EndAll(now)
				clear(model)
			},
			"wait": func(t *rapid.T) { now += time.Duration(rapid.IntRange(0, 30).Draw(t, "wait")) },
			"": func(t *rapid.T) {
				forget()
				for proxy := range uint64(5) {
					for host := range uint64(4) {
						until, ok := r.BansOf(host).EndOf(proxy, now)
						p, rests := model[key{proxy, host}]
						require.Equal(t, rests, ok, "proxy %d, host %d", proxy, host)
						require.Equal(t, p.Until, until)
					}
				}
				if rapid.Bool().Draw(t, "list") {
					all := r.All(now)
					require.Len(t, all, len(model))
					require.Equal(t, len(model), r.Count(now))
					hosts := map[string]bool{}
					for _, p := range all {
						hosts[p.Host] = true
					}
					kept := 0
					r.hosts.Range(func(any, any) bool { kept++; return true })
					require.Equal(t, len(hosts), kept, "nothing is kept of a host without a pair")
				}
			},
		})
	})
}

// Each change of a ban is reported, with its new end.
func TestChangesAreReported(t *testing.T) {
	r, got := New(DefaultMax), []Pair{}
	r.OnChange(func(p Pair) { got = append(got, p) })
	r.Begin(1, 7, Pair{"a", "h", 10, 20})
	r.Begin(1, 7, Pair{"a", "h", 12, 15})
	r.Begin(1, 7, Pair{"a", "h", 12, 30})
	r.End(1, 7, 14)
	r.End(1, 7, 14)
	require.Equal(t, []Pair{{"a", "h", 10, 20}, {"a", "h", 10, 30}, {"a", "h", 10, 14}}, got)
}

func TestConcurrentUse(t *testing.T) {
	r := New(50)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(2000) {
				now := time.Duration(i)
				r.Begin(i%20, i%10, Pair{ProxyID: "p", Host: "h", Since: now, Until: now + time.Duration(g*10+1)})
				if until, ok := r.BansOf(i%10).EndOf(i%20, now); ok {
					require.Greater(t, until, now)
				}
				if i%100 == 0 {
					r.All(now)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, r.Count(0), 50)
}
