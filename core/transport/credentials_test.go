package transport

import (
	"encoding/base64"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// vendor is an HTTP proxy that records the credentials of its requests and the number of its connections.
type vendor struct {
	mu    sync.Mutex
	used  []string
	conns int
}

func (v *vendor) serve(c net.Conn) {
	v.mu.Lock()
	v.conns++
	v.mu.Unlock()
	for {
		head := readRequest(c)
		_, value, found := strings.Cut(head, "Proxy-Authorization: Basic ")
		if !found {
			return
		}
		value, _, _ = strings.Cut(value, "\r\n")
		login, _ := base64.StdEncoding.DecodeString(value)
		v.mu.Lock()
		v.used = append(v.used, string(login))
		v.mu.Unlock()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

// send sends one request for each of the sessions. It returns the credentials that the vendor got and the number of its
// connections.
func (v *vendor) send(t *testing.T, u *upstream.Upstream, tr *Transport, sessions ...string) ([]string, int) {
	v.mu.Lock()
	v.used, v.conns = nil, 0
	v.mu.Unlock()
	for _, session := range sessions {
		c := Control{Deadline: time.Now().Add(time.Minute), Session: session, Region: "us"}
		var resp Response
		require.Nil(t, tr.RoundTrip(t.Context(), u, &c, getRequest(), &resp))
		resp.Finish(&c, time.Now())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.used, v.conns
}

// A client cannot insert other options of the vendor with a region, and a new region of the proxy is used at once.
func TestTheRegionOfALogin(t *testing.T) {
	of := func(own, asked string) string {
		spec := upstream.Spec{ID: "p", Region: own, Address: upstream.Address{Username: "u-cc-{region}"}}
		require.True(t, spec.Address.AnyRegion())
		spec.Address.Scheme, spec.Address.Host, spec.Weight = upstream.HTTP, "b.test:1", 1
		p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
		require.NoError(t, p.Apply([]upstream.Spec{spec}))
		u := p.Snapshot().All[0]
		c := Control{Region: asked}
		a := (&Transport{cfg: Config{Rand: func() uint64 { return 0 }}}).addressFor(u, &c)
		require.Contains(t, credentialsKey(u, &c, ""), strings.TrimPrefix(a.Username, "u-cc-"))
		return a.Username
	}
	require.Equal(t, "u-cc-us", of("eu-west", "us"))
	require.Equal(t, "u-cc-eu-west", of("eu-west", ""))
	for _, bad := range []string{"us-session-x", "us.x", "us x", "us:x", "\u00fc", strings.Repeat("a", 33)} {
		require.Equal(t, "u-cc-eu", of("eu", bad), bad)
	}
}

// A connection is reused only by requests that log in with the same values.
func TestLoginsWithTemplates(t *testing.T) {
	v := &vendor{}
	address := coretest.Serve(t, v.serve)
	random := uint64(0)
	tr := New(Config{Rand: func() uint64 { random++; return random }})
	t.Cleanup(tr.Close)
	at := func(login string) *upstream.Upstream { return proxyAt(t, "http://"+login+"@"+address) }

	used, conns := v.send(t, at("u-{region}-{session}:p"), tr, "a", "b", "a", "b")
	require.Equal(t, []string{"u-us-a:p", "u-us-b:p", "u-us-a:p", "u-us-b:p"}, used)
	require.Equal(t, 2, conns)

	used, conns = v.send(t, at("u-{session}:p"), tr, "", "")
	require.NotEqual(t, used[0], used[1])
	require.Regexp(t, `^u-[a-z2-7]{13}:p$`, used[0])
	require.Equal(t, 2, conns)

	used, conns = v.send(t, at("u:{rand8}"), tr, "a", "a")
	require.NotEqual(t, used[0], used[1])
	require.Regexp(t, `^u:[a-z2-7]{8}$`, used[0])
	require.Equal(t, 2, conns)

	used, conns = v.send(t, at("u-{city}:p"), tr, "a", "b", "")
	require.Equal(t, []string{"u-{city}:p", "u-{city}:p", "u-{city}:p"}, used)
	require.Equal(t, 1, conns)
}
