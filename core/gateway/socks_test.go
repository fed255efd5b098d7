package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/socks5"
)

// Messages of SOCKS5 clients.
const (
	socksHello   = "\x05\x01\x00"                       // no authentication
	socksTarget  = "\x05\x01\x00\x03\x06a.test\x01\xbb" // CONNECT a.test:443
	socksSuccess = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

// receive reads len(want) bytes and requires that they are want.
func (c *client) receive(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(c.r, got)
	require.NoError(c.t, err)
	require.Equal(c.t, want, string(got))
}

// A SOCKS5 client gets a tunnel on the gateway's port, whether its messages arrive in pieces or not, and with
// every type of address.
func TestSOCKS5(t *testing.T) {
	targets := make(chan string, 1)
	r := newRig(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		targets <- q.Host
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(c, b)
	}, nil)
	for target, request := range map[string]string{
		"a.test:443":          socksTarget,
		"192.0.2.1:80":        "\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50",
		"[2001:db8::1]:65535": "\x05\x01\x00\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\xff\xff",
	} {
		for name, send := range map[string]func(c *client){
			"in turn": func(c *client) {
				c.send(socksHello)
				c.receive("\x05\x00")
				c.send(request)
				c.receive(socksSuccess)
				c.send("early")
			},
			"at once": func(c *client) {
				c.send(socksHello + request + "early")
				c.receive("\x05\x00" + socksSuccess)
			},
			"by bytes": func(c *client) {
				for _, b := range []byte(socksHello + request + "early") {
					c.send(string([]byte{b}))
				}
				c.receive("\x05\x00" + socksSuccess)
			},
		} {
			t.Run(target+" "+name, func(t *testing.T) {
				c := r.dial()
				c.t = t
				send(c)
				c.receive("early")
				require.Equal(t, target, <-targets)
				c.CloseWrite()
				c.ended()
			})
		}
	}
	r.free()
	for _, final := range r.recorded.finals() {
		require.Equal(t, "success", final)
	}
	r.connect().Close() // HTTP still works on the same port
}

// A request that cannot be carried out gets the appropriate reply of RFC 1928, and the connection ends.
func TestSOCKS5Refusals(t *testing.T) {
	status := make(chan string, 1)
	r := newRig(t, answering(func(*http.Request, string) string { return reply(<-status, "no") }), nil)
	for name, c := range map[string]struct {
		status, send, reply string
	}{
		"BIND":                      {"", socksHello + "\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", "\x05\x00\x05\x07"},
		"UDP":                       {"", socksHello + "\x05\x03\x00\x01\xc0\x00\x02\x01\x00\x50", "\x05\x00\x05\x07"},
		"unknown address":           {"", socksHello + "\x05\x01\x00\x02\xc0\x00\x02\x01\x00\x50", "\x05\x00\x05\x08"},
		"a host that is not a name": {"", socksHello + "\x05\x01\x00\x03\x03a b\x01\xbb", "\x05\x00\x05\x01"},
		"no port":                   {"", socksHello + "\x05\x01\x00\x03\x06a.test\x00\x00", "\x05\x00\x05\x01"},
		"no acceptable method":      {"", "\x05\x01\x01", "\x05\xff"},
		"the proxy forbids it":      {"403 Forbidden", socksHello + socksTarget, "\x05\x00\x05\x02"},
		"the proxy cannot":          {"502 Bad Gateway", socksHello + socksTarget, "\x05\x00\x05\x04"},
	} {
		if c.status != "" {
			status <- c.status
		}
		client := r.ask(c.send)
		got, err := io.ReadAll(client.r)
		require.NoError(t, err, name)
		require.Equal(t, c.reply, string(got[:min(len(got), len(c.reply))]), name)
	}
	r.free()

	c := r.ask(socksHello + "\x04\x01") // another version of SOCKS
	c.receive("\x05\x00\x05\x01")
	io.Copy(io.Discard, c.r)
}

// If there are users, a SOCKS5 client needs a name and a password (RFC 1929). Otherwise it may send any.
func TestSOCKS5Users(t *testing.T) {
	echo := tunnelling(func(c net.Conn, b *bufio.Reader) { io.Copy(c, b) })
	login := func(name, password string) string {
		return "\x01" + string([]byte{byte(len(name))}) + name + string([]byte{byte(len(password))}) + password
	}
	r := newRig(t, echo, func(o *options) { o.Users = []User{{Name: "ann", Password: "open sesame"}} })
	c := r.ask("\x05\x02\x00\x02" + login("ann", "open sesame") + socksTarget)
	c.receive("\x05\x02\x01\x00" + socksSuccess)
	c.Close()
	for _, wrong := range []string{login("ann", "open"), login("", ""), login("bob", "open sesame")} {
		c = r.ask("\x05\x01\x02" + wrong + socksTarget)
		c.receive("\x05\x02\x01\x01")
		c.ended()
	}
	c = r.ask(socksHello)
	c.receive("\x05\xff")
	c.ended()
	r.free()

	r = newRig(t, echo, nil)
	r.ask("\x05\x01\x02" + login("ann", "any") + socksTarget).receive("\x05\x02\x01\x00" + socksSuccess)
	r.ask("\x05\x02\x02\x00" + socksTarget).receive("\x05\x00" + socksSuccess)
}

// If a SOCKS5 client leaves, its request is recorded as one without a response, as with CONNECT.
func TestASOCKS5ClientLeaves(t *testing.T) {
	asked, left := make(chan struct{}, 1), make(chan struct{})
	r := newRig(t, func(c net.Conn) {
		io.ReadAtLeast(c, make([]byte, 1000), 1)
		asked <- struct{}{}
		<-left
	}, nil)
	defer close(left)
	c := r.ask(socksHello + socksTarget)
	c.receive("\x05\x00")
	<-asked
	c.Close()
	require.Eventually(t, func() bool { return len(r.recorded.Requests()) == 1 }, patience, time.Millisecond)
	e := r.recorded.Requests()[0]
	require.Equal(t, core.FinalCancelled, e.Final)
	require.Zero(t, e.Status)
}

// A SOCKS5 proxy that leads back to the gateway is detected at the first request: SOCKS5 clients get a failure, and
// others a 508. The gateway dials once.
func TestASOCKS5ProxyThatLeadsBack(t *testing.T) {
	for name, ask := range map[string]func(c *client){
		"SOCKS5": func(c *client) {
			c.send(socksHello + socksTarget)
			c.receive("\x05\x00\x05\x01")
		},
		"CONNECT": func(c *client) {
			c.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
			a, body := c.answer("GET")
			require.Equal(c.t, 508, a.StatusCode)
			require.Contains(c.t, body, "leads back to it")
		},
		"GET": func(c *client) {
			c.send(closing)
			a, body := c.answer("GET")
			require.Equal(c.t, 508, a.StatusCode)
			require.Contains(c.t, body, "leads back to it")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int64
			var to atomic.Pointer[string]
			r := newRig(t, nil, func(o *options) {
				o.MaxConnections, o.marks = 50, true
				o.url = "socks5h://relay.test:1080"
				o.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
					dials.Add(1)
					return (&net.Dialer{}).DialContext(ctx, network, *to.Load())
				}
			})
			address := r.listener.Addr().String()
			to.Store(&address)
			c := r.dial()
			c.t = t
			ask(c)
			require.EqualValues(t, 1, dials.Load())
		})
	}
}

// A gateway that is a SOCKS5 client sends its tokens before it logs in. They are passed on to the next gateway. A list
// that is not a list of tokens is not passed on.
func TestSOCKS5Tokens(t *testing.T) {
	const token = "00112233445566778899aabbccddeeff"
	passed := make(chan string, 1)
	r := newRig(t, tunnelsThatReport(passed), func(o *options) {
		o.marks = true
		o.Users = []User{{Name: "ann", Password: "open sesame"}}
	})
	send := func(tokens string) *client {
		return r.ask("\x05\x03\x00\x02\xd7" + string(socks5.AppendTokens(nil, []byte(tokens))) +
			"\x01\x03ann\x0bopen sesame" + socksTarget)
	}
	for tokens, want := range map[string]string{
		token: token + ", ", token + ", " + token: token + ", " + token + ", ", "": "", "nonsense": "",
	} {
		c := send(tokens)
		c.receive("\x05\xd7\x01\x00\x02\x01\x00" + socksSuccess)
		own, ok := strings.CutPrefix(<-passed, want)
		require.True(t, ok, tokens)
		require.Len(t, own, 32)
		c.Close()
	}
	back := string(r.Loop.Append(nil, []byte(token)))
	c := send(back)
	c.receive("\x05\xd7\x01\x01\x02")
	c.ended()
	c = send(token + strings.Repeat(", "+token, 15))
	c.receive("\x05\xd7\x01\x02\x02")
	c.ended()
	c = r.ask("\x05\x01\xd7" + string(socks5.AppendTokens(nil, []byte(token))))
	c.receive("\x05\xd7\x01\x00\xff")
	c.ended()
	c = r.ask("\x05\x02\x00\xd7\x01\xff\xff")
	c.receive("\x05\xd7")
	c.ended()
}

// tunnelsThatReport opens each tunnel, and reports the tokens of its CONNECT.
func tunnelsThatReport(tokens chan<- string) func(net.Conn) {
	return func(c net.Conn) {
		b := bufio.NewReader(c)
		q, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		tokens <- q.Header.Get("Proxy-Loop")
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(c, b)
	}
}
