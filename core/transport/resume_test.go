package transport

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A second connection to a TLS proxy resumes the first one's session.
func TestSessionsAreResumed(t *testing.T) {
	serve, roots := serveTLS(t, func(c net.Conn) {
		readRequest(c)
		response := "HTTP/1.1 200 OK\r\n\r\nnew"
		if c.(*tls.Conn).ConnectionState().DidResume {
			response = "HTTP/1.1 200 OK\r\n\r\nresumed"
		}
		io.WriteString(c, response)
	})
	address := coretest.Serve(t, serve)
	tr := New(Config{RootCAs: roots})
	connect := func(u *upstream.Upstream) string {
		tun, verr := tr.OpenTunnel(t.Context(), u, &Control{Deadline: time.Now().Add(10 * time.Second)}, "a.test:443")
		require.Nil(t, verr)
		defer tun.Conn.Close()
		rest, err := io.ReadAll(tun.Conn)
		require.NoError(t, err)
		return string(tun.Early) + string(rest)
	}
	u := proxyAt(t, "https://user:first@"+address)
	require.Equal(t, "new", connect(u))
	require.Equal(t, "resumed", connect(u))
	// The session is not used for another proxy, nor for the same proxy with other credentials.
	require.Equal(t, "new", connect(proxyAt(t, "https://user:second@"+address)))
}

// A TLS session with a target is not used through another proxy, because the target could link the requests.
func TestSessionsAreNotShared(t *testing.T) {
	serve, roots := serveTLS(t, func(c net.Conn) {
		readRequest(c)
		response := "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nnew"
		if c.(*tls.Conn).ConnectionState().DidResume {
			response = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nresumed"
		}
		io.WriteString(c, response)
	})
	through := func(c net.Conn) { // proxy and target on one connection
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		serve(c)
	}
	tr := New(Config{RootCAs: roots})
	connect := func(u *upstream.Upstream) string {
		q := getRequest()
		q.TLS, q.Authority = true, "127.0.0.1:443"
		c, resp := &Control{Deadline: time.Now().Add(10 * time.Second)}, &Response{}
		require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, resp))
		body, err := io.ReadAll(&resp.Body)
		require.NoError(t, err)
		resp.Finish(c, time.Now())
		return string(body)
	}
	a, b := proxyAt(t, "http://"+coretest.Serve(t, through)), proxyAt(t, "http://"+coretest.Serve(t, through))
	require.Equal(t, "new", connect(a))
	require.Equal(t, "resumed", connect(a))
	require.Equal(t, "new", connect(b))
}
