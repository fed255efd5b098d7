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

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// vendor is an HTTP proxy that records the logins of its requests and the number of its connections.
type vendor struct {
	mu     sync.Mutex
	logins []string
	conns  int
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
		v.logins = append(v.logins, string(login))
		v.mu.Unlock()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

// send sends requests, one for each session, and returns the logins and the number of connections.
func (v *vendor) send(t *testing.T, u *upstream.Upstream, tr *Transport, sessions ...string) ([]string, int) {
	v.mu.Lock()
	v.logins, v.conns = nil, 0
	v.mu.Unlock()
	for _, session := range sessions {
		c := Control{Deadline: time.Now().Add(time.Minute), Session: session, Region: "us"}
		var resp Response
		require.Nil(t, tr.RoundTrip(t.Context(), u, &c, getRequest(), &resp))
		resp.Finish(&c, time.Now())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins, v.conns
}

// A connection is reused only by requests that log in with the same values.
func TestLoginsWithTemplates(t *testing.T) {
	v := &vendor{}
	address := coretest.Serve(t, v.serve)
	random := uint64(0)
	tr := New(Config{Rand: func() uint64 { random++; return random }})
	t.Cleanup(tr.Close)
	at := func(login string) *upstream.Upstream { return proxyAt(t, "http://"+login+"@"+address) }

	logins, conns := v.send(t, at("u-{region}-{session}:p"), tr, "a", "b", "a", "b")
	require.Equal(t, []string{"u-us-a:p", "u-us-b:p", "u-us-a:p", "u-us-b:p"}, logins)
	require.Equal(t, 2, conns)

	logins, conns = v.send(t, at("u-{session}:p"), tr, "", "")
	require.NotEqual(t, logins[0], logins[1])
	require.Regexp(t, `^u-[a-z2-7]{13}:p$`, logins[0])
	require.Equal(t, 2, conns)

	logins, conns = v.send(t, at("u:{rand8}"), tr, "a", "a")
	require.NotEqual(t, logins[0], logins[1])
	require.Regexp(t, `^u:[a-z2-7]{8}$`, logins[0])
	require.Equal(t, 2, conns)

	logins, conns = v.send(t, at("u-{city}:p"), tr, "a", "b", "")
	require.Equal(t, []string{"u-{city}:p", "u-{city}:p", "u-{city}:p"}, logins)
	require.Equal(t, 1, conns)
}
