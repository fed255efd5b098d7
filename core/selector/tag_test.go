package selector

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// tag sets the tags of proxies, by their numbers.
func (f *fixture) tag(t testing.TB, tags map[int][]string) {
	for i, list := range tags {
		err := f.pool.UpdateAll(upstream.Updates{fmt.Sprintf("p%d", i): func(s *upstream.Spec) error {
			s.Tags = list
			return nil
		}})
		require.NoError(t, err)
	}
}

func tagged(tag string, preferred bool) *Query {
	return &Query{Idempotent: true, Retryable: true, Tag: core.Hash53(tag), TagPreferred: preferred}
}

// Requests with a tag use the proxies with this tag in turn, in a pool of any size.
func TestProxiesWithATag(t *testing.T) {
	for _, n := range []int{6, 1000} {
		f := newFixture(t, n, 64)
		f.tag(t, map[int][]string{1: {"a", "b"}, 3: {"a"}, 5: {"b"}})
		uses := map[string]int{}
		for range 100 {
			for _, q := range []*Query{tagged("a", false), tagged("b", true)} {
				id, err := f.choose(q)
				require.NoError(t, err)
				uses[id]++
			}
		}
		require.Equal(t, map[string]int{"p1": 100, "p3": 50, "p5": 50}, uses, "%d proxies", n)
		_, err := f.choose(tagged("c", false))
		require.Equal(t, &core.TagError{}, err)
		require.Equal(t, &core.TagError{}, f.s.CheckSelect(tagged("c", false), f.now))
		_, err = f.choose(tagged("c", true))
		require.NoError(t, err, "the tag is only preferred")
		f.tag(t, map[int][]string{1: nil, 3: nil})
		_, err = f.choose(tagged("a", false))
		require.Equal(t, &core.TagError{}, err, "the tags were removed")
	}
}

// A preferred tag is for first attempts. If none of its proxies is admissible, and for retries, any proxy is used.
func TestAPreferredTag(t *testing.T) {
	f := newFixture(t, 3, 256)
	f.tag(t, map[int][]string{0: {"a"}})
	q := tagged("a", true)
	f.requireAttempts(t, q, "p0", "p1", "p2", "p0")
	f.settle(f.get(0), core.Failure)
	id, err := f.choose(tagged("a", true))
	require.NoError(t, err)
	require.NotEqual(t, "p0", id, "its breaker is open")
	_, err = f.choose(tagged("a", false))
	require.Equal(t, &core.TagError{Due: f.now.Add(time.Second)}, err)
}

// In every state of the breakers, a request is not sent through a proxy that its tag or its region forbids. It fails
// only if no permitted proxy is admissible. If a permitted proxy with the preferred tag or region is admissible, the
// first attempt uses such a proxy.
func TestTagsAndRegions(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 12).Draw(t, "limit"))
		regions, tags := map[int]string{}, map[int][]string{}
		for i := range n {
			regions[i] = rapid.SampledFrom([]string{"", "us", "eu"}).Draw(t, "region")
			tags[i] = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 0, 2, rapid.ID[string]).Draw(t,
				"tags")
		}
		f.place(outer, regions)
		f.tag(outer, tags)
		var q *Query
		next := func(t *rapid.T) {
			q = wants("us", rapid.SampledFrom([]RegionMode{RegionScored, RegionPreferred, RegionStrict}).Draw(t, "how"))
			if rapid.Bool().Draw(t, "with a tag") {
				q.Tag, q.TagPreferred = core.Hash53("a"), rapid.Bool().Draw(t, "preferred")
			}
		}
		next(t)
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 4_000).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"next request": next,
			"select": func(t *rapid.T) {
				has := func(i int) bool { return q.Tag == 0 || slices.Contains(tags[i], "a") }
				inRegion := func(i int) bool { return q.RegionMode == RegionScored || regions[i] == "us" }
				admissible, best := false, false
				for i := range n {
					if (q.TagPreferred || has(i)) && (q.RegionMode != RegionStrict || inRegion(i)) {
						ok := f.get(i).Breaker().Admissible()
						admissible = admissible || ok
						best = best || ok && has(i) && inRegion(i)
					}
				}
				blocked := f.s.CheckSelect(q, f.now)
				lease, err := f.s.Select(q, rotation, f.now)
				require.Equal(t, admissible, err == nil, "%v", err)
				require.Equal(t, admissible, blocked == nil, "%v", blocked)
				if err != nil {
					switch {
					case q.tagStrict():
						require.IsType(t, &core.TagError{}, err)
					case q.RegionMode == RegionStrict:
						require.IsType(t, &core.RegionError{}, err)
					}
					return
				}
				var i int
				fmt.Sscanf(lease.Proxy.ID(), "p%d", &i)
				require.True(t, q.TagPreferred || has(i), "the tag")
				require.True(t, q.RegionMode != RegionStrict || inRegion(i), "the region")
				if best && q.Attempt == 0 {
					require.True(t, has(i) && inRegion(i), "a first attempt with a proxy that is preferred")
				}
				q.Tried = append(q.Tried, TriedProxy{Proxy: lease.Proxy})
				q.Attempt++
				lease.Release()
			},
		})
	})
}

// A request without a proxy uses Pool.Direct, whatever the state of the pool.
func TestWithoutAProxy(t *testing.T) {
	f := newFixture(t, 1, 256)
	f.settle(f.get(0), core.Failure)
	q := &Query{Idempotent: true, Direct: true}
	for range 3 {
		lease, err := f.s.Select(q, rotation, f.now)
		require.NoError(t, err)
		require.Equal(t, upstream.DirectID, lease.Proxy.ID())
		require.True(t, lease.Proxy.Direct())
		lease.Release()
	}
	require.NoError(t, f.s.CheckSelect(q, f.now))
	require.False(t, f.s.HasUntried(q, f.now))
	require.Nil(t, f.pool.Snapshot().Get(upstream.DirectID), "it is not in the pool")
}

// A preferred region takes precedence over a preferred tag that no proxy of the region has.
func TestAPreferredRegionWithoutThePreferredTag(t *testing.T) {
	f := newFixture(t, 4, 256)
	f.place(t, map[int]string{0: "us", 1: "us", 2: "de", 3: "de"})
	for _, tags := range []map[int][]string{{}, {2: {"city-x"}}} {
		f.tag(t, tags)
		q := tagged("city-x", true)
		q.RegionHash, q.RegionMode = core.RegionHash("us"), RegionPreferred
		for range 20 {
			id, err := f.choose(q)
			require.NoError(t, err)
			require.Contains(t, []string{"p0", "p1"}, id, tags)
		}
	}
	f.tag(t, map[int][]string{1: {"city-x"}, 2: {"city-x"}})
	q := tagged("city-x", true)
	q.RegionHash, q.RegionMode = core.RegionHash("us"), RegionPreferred
	for range 20 {
		id, err := f.choose(q)
		require.NoError(t, err)
		require.Equal(t, "p1", id)
	}
}
