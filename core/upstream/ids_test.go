package upstream

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// If the pool gives ids to proxies, each proxy keeps the id that it had. No proxy gets the id of a proxy that the API
// added.
func TestReconfigureKeepsIDs(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	api := specs(t, "http://api@h:1")
	api[0].Source = SourceAPI
	_, err := p.Add(api)
	require.NoError(t, err)
	for _, step := range []struct {
		urls []string
		want []string
	}{
		{[]string{"http://a@h:1", "http://b@h:1"}, []string{"h:1-2", "h:1-3"}},
		{[]string{"http://b@h:1"}, []string{"h:1-3"}},
		{[]string{"http://x@h:1", "http://b@h:1"}, []string{"h:1-2", "h:1-3"}},
		{[]string{"http://b:new@h:1", "direct://", "http://api@h:1"}, []string{"h:1-3", "direct", "h:1"}},
		{[]string{"http://b@h:1", "http://b@h:1", "direct://"}, []string{"h:1-3", "h:1", "direct"}},
	} {
		require.NoError(t, p.Apply(specs(t, step.urls...)))
		var ids []string
		for _, s := range p.Snapshot().specs() {
			if s.Source != SourceAPI {
				ids = append(ids, s.ID)
			}
		}
		require.Equal(t, step.want, ids, step.urls)
	}
}

func TestPlaceOf(t *testing.T) {
	for id, want := range map[string]string{
		"h:1": "h:1", "h:1-2": "h:1", "h:1-1": "h:1-1", "h:1-x": "h:1-x", "h-2:1": "h-2:1", "direct-12": "direct",
		"direct": "direct", "": "", "[fe80::1%eth-2]:80": "[fe80::1%eth-2]:80", "h:1-2-3": "h:1-2",
	} {
		require.Equal(t, want, placeOf(id), id)
	}
}

// A list that is read again uses the texts of the pool, if the address is the same.
func TestShareTexts(t *testing.T) {
	p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	old := Address{Scheme: HTTP, Host: "192.0.2.1:80", Username: "ann", Password: "pw"}
	require.NoError(t, p.Apply([]Spec{{ID: "192.0.2.1:80", Address: old}}))
	a := Address{Scheme: HTTP, Host: strings.Clone(old.Host), Username: strings.Clone("ann"), Password: "pw"}
	p.ShareTexts(&a)
	require.Equal(t, old, a)
	require.Same(t, unsafe.StringData(old.Host), unsafe.StringData(a.Host))
	for _, other := range []Address{{Scheme: HTTP, Host: "192.0.2.1:80"}, {Scheme: HTTP, Host: "192.0.2.2:80"}} {
		before := other
		p.ShareTexts(&other)
		require.Equal(t, before, other)
	}
}
