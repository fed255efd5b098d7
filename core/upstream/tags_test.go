package upstream

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func TestTags(t *testing.T) {
	many := make([]string, MaxTags+1)
	for i := range many {
		many[i] = strings.Repeat("a", i+1)
	}
	for field, tags := range map[string][]string{
		"": {"a", "B-2_.x"}, "tags[0]": {"a b"}, "tags[1]": {"a", ""}, "tags[2]": {"a", "b", "a"}, "tags[32]": many,
	} {
		spec := Spec{ID: "p", Address: Address{Scheme: HTTP, Host: "a.test:1"}, Tags: tags}
		err := CheckSpec(&spec)
		if field == "" {
			require.NoError(t, err)
			continue
		}
		var bad *SpecError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, field, bad.Field)
		require.Contains(t, bad.Msg, field)
	}
}

// A change of its tags changes the groups of a proxy, and keeps its breaker and statistics.
func TestGroupsOfTags(t *testing.T) {
	p := pool(t, time.Now, nil)
	require.NoError(t, p.Apply([]Spec{{ID: "a", Address: Address{Scheme: HTTP, Host: "a.test:1"}},
		{ID: "b", Address: Address{Scheme: HTTP, Host: "b.test:1"}}}))
	change := func(id string, tags ...string) {
		err := p.UpdateAll(Updates{id: func(s *Spec) error { s.Tags = tags; return nil }})
		require.NoError(t, err)
	}
	ids := func(tag string) (list []string) {
		if g := p.Snapshot().Tag(core.Hash53(tag)); g != nil {
			require.ElementsMatch(t, g.All, g.Mixed)
			for _, u := range g.All {
				require.True(t, u.HasTag(core.Hash53(tag)))
				list = append(list, u.ID())
			}
		}
		return list
	}
	before := p.Snapshot().Get("a")
	change("a", "x", "y")
	change("b", "x")
	require.Equal(t, []string{"a", "b"}, ids("x"))
	require.Equal(t, []string{"a"}, ids("y"))
	require.Empty(t, ids("z"))
	change("a", "y")
	require.Equal(t, []string{"b"}, ids("x"))
	require.Same(t, before, p.Snapshot().Get("a"))
}
