package transport

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

func viaFields(values ...string) (fields []http1.Field) {
	fields = append(fields, http1.Field{Name: []byte("Server"), Value: []byte("x")})
	for _, v := range values {
		fields = append(fields, http1.Field{Name: []byte("Via"), Value: []byte(v), Kind: http1.Via})
	}
	return fields
}

func TestViaName(t *testing.T) {
	same := func(a, b []http1.Field) bool {
		x, _ := viaName(a)
		y, _ := viaName(b)
		return x == y
	}
	want := viaFields("1.1 proxyhost")
	require.True(t, same(want, viaFields("1.0 proxyhost (squid/5.7)")))
	require.True(t, same(want, viaFields("1.1 proxyhost:18080")), "Apache inserts the target's port")
	require.True(t, same(want, viaFields("1.1 cdn, HTTP/1.1 proxyhost")))
	require.True(t, same(want, viaFields("1.1\tproxyhost\t(x)")))
	require.True(t, same(want, viaFields("1.1 cdn", "1.1 proxyhost")))
	require.False(t, same(want, viaFields("1.1 proxyhost", "1.1 cdn")))
	for _, odd := range []string{"", ",", " ", "x", "1.1 ", ", ,", ":"} {
		_, given := viaName(viaFields(odd))
		require.True(t, given, odd)
	}
	_, given := viaName(viaFields())
	require.False(t, given)
}

// A response with an error and without Via is the proxy's own if the proxy has not relayed a response yet, and all
// other proxies add a Via.
func TestOthersAddVia(t *testing.T) {
	for name, x := range map[string]struct {
		others  [][]string // values of Via in the responses through the other proxies; none for no Via
		literal bool
		want    bool
	}{
		"each with its name":       {others: [][]string{{"1.1 a"}, {"1.1 b"}}, want: true},
		"one of three without Via": {others: [][]string{{"1.1 a"}, {"1.1 b"}, {}}},
		"the Via of a cache":       {others: [][]string{{"1.1 cdn"}, {"1.1 cdn"}}},
		"only one other":           {others: [][]string{{"1.1 a"}}},
		"no other":                 {},
		"breaker.blame is literal": {others: [][]string{{"1.1 a"}, {"1.1 b"}}, literal: true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{})
			t.Cleanup(tr.Close)
			for i, via := range x.others {
				p := tr.pool(proxyAt(t, fmt.Sprintf("http://127.0.0.1:%d", i+2)))
				for j := range viaSamples {
					p.viaRecord.add(viaFields(via...), fmt.Sprintf("t%d:80", j))
				}
			}
			pool := upstream.NewPool(upstream.PoolConfig{Literal: x.literal, Breaker: breaker.Default(), Now: time.Now})
			spec := upstream.Spec{Address: upstream.Address{Scheme: upstream.HTTP, Host: "127.0.0.1:1"}}
			require.NoError(t, pool.Apply([]upstream.Spec{spec}))
			u := pool.Snapshot().All[0]
			r := Response{t: tr, pool: tr.pool(u), pc: &persistConn{}}
			r.Status, r.Fields = 404, viaFields()
			r.setFacts(&Control{}, getRequest(), u)
			require.Equal(t, x.want, r.ErrorPage != nil)
			r.Fields = viaFields("1.1 a")
			r.ErrorPage = nil
			r.setFacts(&Control{}, getRequest(), u)
			require.Nil(t, r.ErrorPage, "relayed")
			r.pool.viaRecord.add(viaFields(), "t:80")
			r.Fields = viaFields()
			r.setFacts(&Control{}, getRequest(), u)
			require.Nil(t, r.ErrorPage, "the proxy adds no Via")
		})
	}
}

func TestViaHabit(t *testing.T) {
	add := func(h *viaRecord, n int, target string, via ...string) {
		for range n {
			h.add(viaFields(via...), target)
		}
	}
	state := func(h *viaRecord) viaState { return viaState(h.state.Load()) }
	var h viaRecord
	add(&h, 7, "a:80", "1.1 p")
	require.False(t, state(&h).isKnown())
	add(&h, 100, "a:80", "1.1 p")
	require.True(t, state(&h).isKnown())
	require.False(t, state(&h).isConsistent(), "all responses are of one target, whose cache may have added it")
	add(&h, 1, "b:80", "1.1 cdn, 1.1 p")
	require.True(t, state(&h).isConsistent())
	add(&h, 1, "a:80", "1.1 other")
	require.False(t, state(&h).isConsistent())
	require.False(t, state(&h).lacksVia())
	add(&h, 100, "a:80", "1.1 p")
	require.False(t, state(&h).isConsistent(), "the state is final")

	var bare viaRecord
	add(&bare, 9, "a:80", "1.1 p")
	add(&bare, 1, "b:80")
	require.True(t, state(&bare).lacksVia())
	add(&bare, 100, "c:80", "1.1 p")
	require.True(t, state(&bare).lacksVia())
	require.False(t, state(&bare).isConsistent())
}

// A response without Via is recorded, whatever is recorded at the same time.
func TestViaHabitConcurrently(t *testing.T) {
	for range 200 {
		var h viaRecord
		var all sync.WaitGroup
		for g := range 4 {
			all.Go(func() {
				for i := range 12 {
					if g == 0 && i == 4 {
						h.add(viaFields(), "a:80")
					}
					h.add(viaFields("1.1 p"), fmt.Sprintf("%d:80", i%3))
				}
			})
		}
		all.Wait()
		require.True(t, viaState(h.state.Load()).lacksVia())
	}
}

// A name is not unique if two proxies of the pool add it, or if there is no other proxy.
func TestHasUniqueVia(t *testing.T) {
	tr := New(Config{})
	addProxy := func(via ...string) *idlePool {
		u := &upstream.Upstream{}
		p := newIdlePool(upstream.Address{})
		tr.pools.Store(u, p)
		for i := range viaSamples {
			p.viaRecord.add(viaFields(via...), fmt.Sprintf("%d:80", i%2))
		}
		return p
	}
	first := addProxy("1.1 p")
	require.True(t, viaState(first.viaRecord.state.Load()).isConsistent())
	require.False(t, tr.hasUniqueVia(first), "there is no other proxy to compare with")
	unknown := newIdlePool(upstream.Address{})
	tr.pools.Store(&upstream.Upstream{}, unknown)
	require.False(t, tr.hasUniqueVia(first), "the habit of the other proxy is unknown")
	addProxy()
	require.True(t, tr.hasUniqueVia(first))
	addProxy("1.1 q")
	require.True(t, tr.hasUniqueVia(first))
	unknown.viaRecord.add(viaFields("1.1 p"), "a:80")
	require.False(t, tr.hasUniqueVia(first), "another proxy adds the same name")
}
