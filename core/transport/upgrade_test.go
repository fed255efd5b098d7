package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// websocketRequest returns a GET request for http://a.test/ with an Upgrade field.
func websocketRequest() *Request {
	q := getRequest()
	q.Upgrade = []byte("websocket")
	return q
}

// After a 101 the connection is a tunnel, in each form, whether the connection is new or was idle. No byte is
// lost, and the connection is not reused.
func TestSwitch(t *testing.T) {
	respond := func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if q.Header.Get("Upgrade") == "" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			io.WriteString(c, switched+q.Header.Get("Connection")+" "+q.Header.Get("Upgrade")+" ")
			io.Copy(c, r)
			return
		}
	}
	for name, way := range routes(t, respond) {
		t.Run(name, func(t *testing.T) {
			tr := New(Config{RootCAs: way.roots})
			t.Cleanup(tr.Close)
			for _, idle := range []bool{false, true} {
				plain, resp := getRequest(), Response{}
				plain.TLS, plain.Authority = way.tls, "example.com:443"
				c := &Control{Deadline: time.Now().Add(10 * time.Second)}
				if idle {
					require.Nil(t, tr.RoundTrip(context.Background(), way.u, c, plain, &resp))
					resp.Finish(c, time.Now())
				}
				q := websocketRequest()
				q.TLS, q.Authority = way.tls, plain.Authority
				require.Nil(t, tr.RoundTrip(context.Background(), way.u, c, q, &resp))
				require.Equal(t, 101, resp.Status)
				require.Equal(t, "websocket", string(resp.Upgrade()))
				tun := resp.Tunnel(c)
				resp.Finish(c, time.Now())
				io.WriteString(tun.Conn, "hello")
				want := "Upgrade websocket hello"
				got := make([]byte, len(want)-len(tun.Early))
				_, err := io.ReadFull(tun.Conn, got)
				require.NoError(t, err)
				require.Equal(t, want, string(tun.Early)+string(got))
				tun.Abort()
			}
			require.EqualValues(t, 2, way.opened.Load())
			for range 2 {
				<-way.conns
			}
		})
	}
}

// A 101 that is not turned into a tunnel ends the connection.
func TestADiscarded101(t *testing.T) {
	tr := New(Config{})
	t.Cleanup(tr.Close)
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, switched)
		io.Copy(io.Discard, c)
	}))
	c, resp := &Control{Deadline: time.Now().Add(10 * time.Second)}, Response{}
	require.Nil(t, tr.RoundTrip(context.Background(), u, c, websocketRequest(), &resp))
	require.True(t, resp.Drain(c))
	resp.Finish(c, time.Now())
	require.Zero(t, tr.pool(u).count)
	require.Zero(t, tr.pool(u).viaRecord.state.Load(), "a 101 shows nothing about Via")
}

// Bytes that arrived together with the response to the CONNECT are not lost. The tunnel's connection is plain
// TCP, so each direction can be closed separately.
func TestA101InOnePacketWithTheTunnel(t *testing.T) {
	tr := New(Config{})
	t.Cleanup(tr.Close)
	u := proxyAt(t, "http://"+coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"+switched+"early")
		io.Copy(io.Discard, c)
	}))
	u.Abilities().RecordMissing(ability.Forward, u.Elapsed(time.Now()), 0, ability.Traffic)
	c, resp := &Control{Deadline: time.Now().Add(10 * time.Second)}, Response{}
	require.Nil(t, tr.RoundTrip(context.Background(), u, c, websocketRequest(), &resp))
	tun := resp.Tunnel(c)
	defer tun.Abort()
	require.Equal(t, "early", string(tun.Early))
	require.IsType(t, &socket.Conn{}, tun.Conn)
}

// The Connection options of an upgrade and of the loop token are in one field, because some servers read only one
// field of a name.
func TestUpgradeHasOneConnectionField(t *testing.T) {
	tr := New(Config{Loop: loop.New(rand.Uint64)})
	t.Cleanup(tr.Close)
	for _, c := range []struct {
		toTarget bool
		want     string
	}{{false, "Connection: Upgrade, Proxy-Loop\r\n"}, {true, "Connection: Upgrade\r\n"}} {
		head := string(tr.appendHead(nil, &persistConn{toTarget: c.toTarget, control: &Control{}}, websocketRequest()))
		require.Equal(t, 1, strings.Count(head, "Connection: "), head)
		require.Contains(t, head, c.want)
		require.Contains(t, head, "\r\nUpgrade: websocket\r\n")
	}
}

// If a proxy removes the Upgrade field, the request is sent once more, through a tunnel. This shows nothing
// about the proxy's abilities. If breaker.blame is "literal", the request is sent only once.
func TestUpgradeByTunnel(t *testing.T) {
	var w ways
	tr := New(Config{})
	t.Cleanup(tr.Close)
	p := poolOf(t, "http://"+coretest.Serve(t, w.serve))
	u := p.Snapshot().All[0]
	open := func(q *Request) (status int, requests string) {
		t.Helper()
		var r Response
		c := &Control{Deadline: time.Now().Add(plenty)}
		require.Nil(t, tr.RoundTrip(context.Background(), u, c, q, &r))
		if r.Status == 101 {
			tun := r.Tunnel(c)
			tun.Abort()
			return 101, w.requests()
		}
		b, err := io.ReadAll(&r.Body)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(r.Status), string(b), "the body of that response")
		r.Finish(c, time.Now())
		return r.Status, w.requests()
	}
	const absolute, tunnel = "GET http://a.test/", ", CONNECT a.test:80"
	post := websocketRequest()
	post.Method, post.Idempotent = []byte("POST"), false
	for _, c := range []struct {
		absolute, connect, inner int
		q                        *Request
		status                   int
		requests                 string
	}{
		{101, 0, 0, websocketRequest(), 101, absolute},
		{426, 200, 101, websocketRequest(), 101, absolute + tunnel + ", GET /"},
		{400, 200, 101, websocketRequest(), 101, absolute + tunnel + ", GET /"},
		{400, 200, 426, websocketRequest(), 400, absolute + tunnel + ", GET /"},
		{426, 403, 0, websocketRequest(), 426, absolute + tunnel},
		{404, 200, 101, websocketRequest(), 404, absolute},
		{426, 200, 101, post, 426, strings.Replace(absolute, "GET", "POST", 1)},
		{426, 200, 101, getRequest(), 426, absolute},
	} {
		w.set(c.absolute, c.connect, c.inner)
		status, requests := open(c.q)
		require.Equal(t, c.status, status, c)
		require.Equal(t, c.requests, requests, c)
		require.Equal(t, ability.Unknown, u.Abilities().State(ability.Forward, u.Elapsed(time.Now())))
		tr.CloseAllIdle()
	}
	// A proxy that only opens tunnels: the first response 405 is compared.
	for _, c := range []struct{ inner, status int }{{101, 101}, {426, 426}, {405, 405}} {
		u.Abilities().Reset()
		w.set(405, 200, c.inner)
		status, requests := open(websocketRequest())
		require.Equal(t, c.status, status)
		require.Equal(t, absolute+tunnel+", GET /", requests)
		require.Equal(t, c.inner != 405, u.Abilities().State(ability.Forward, u.Elapsed(time.Now())) == ability.Cannot)
		tr.CloseAllIdle()
	}
	u.Abilities().Reset()
	learnt := func(u *upstream.Upstream) {
		u.Abilities().RecordMissing(ability.Forward, u.Elapsed(time.Now()), 0, ability.Traffic)
	}
	learnt(u)
	w.set(400, 200, 101)
	status, requests := open(websocketRequest())
	require.Equal(t, 101, status)
	require.Equal(t, "CONNECT a.test:80, GET /", requests)
	w.set(101, 403, 0)
	status, _ = open(websocketRequest())
	require.Equal(t, 101, status)

	u.Abilities().Reset()
	p.SetLiteral(true)
	w.set(426, 200, 101)
	status, requests = open(websocketRequest())
	require.Equal(t, 426, status)
	require.Equal(t, absolute, requests)
}
