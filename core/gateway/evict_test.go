package gateway

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// A client that does not send a complete head in time gets a 408, however it distributes the bytes over time.
func TestAHeadThatTakesTooLong(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.Head = 200 * time.Millisecond
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	for _, first := range []string{"G", "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: "} {
		c := r.ask(first)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for { // until the gateway closes the connection
				if _, err := io.WriteString(c, "A"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		a, body := c.answer("GET")
		require.Equal(t, 408, a.StatusCode)
		require.Contains(t, body, "timeouts.head")
		c.Close()
		<-done
	}
	c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, _ := c.answer("GET")
	require.Equal(t, 200, a.StatusCode)
	time.Sleep(2 * 200 * time.Millisecond) // an idle client may wait for a longer time
	c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, _ = c.answer("GET")
	require.Equal(t, 200, a.StatusCode)
	c.Close()
	r.free()
}

// At the limits of connections and of file descriptors, the connections that have waited longest for a
// request are closed to make room for a new client. A client with a request in flight stays.
func TestWaitingClientsMakeRoom(t *testing.T) {
	for name, limit := range map[string]func(o *options){
		"connections": func(o *options) { o.MaxConnections = 20 },
		"descriptors": func(o *options) { o.files = 24 },
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			hold, held := make(chan struct{}), make(chan struct{})
			r := newRig(t, answering(func(q *http.Request, _ string) string {
				if q.URL.Path == "/held" {
					held <- struct{}{}
					<-hold
				}
				return ok("")
			}), func(o *options) {
				limit(o)
				o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
			busy := r.ask("GET http://a.test/held HTTP/1.1\r\nHost: a.test\r\n\r\n")
			<-held
			for i := range 60 {
				ahead.Add(int64(minWait)) // so that the earlier clients have waited for long enough
				if i%2 == 0 {
					r.ask("GET http://a.test/ HTTP/1.1\r\nX: ") // a part of a head
				} else {
					r.dial() // nothing
				}
				c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
				a, _ := c.answer("GET")
				require.Equal(t, 200, a.StatusCode, "client %d", i)
			}
			close(hold)
			a, _ := busy.answer("GET")
			require.Equal(t, 200, a.StatusCode)
		})
	}
}

// A client that has sent nothing, or a part of a head, for a while takes one descriptor. While there is a descriptor
// for each client, such a client is not closed, and its request is served when it arrives.
func TestSilentClientsTakeOneDescriptorEach(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.files = 40
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	const request = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	silent := make([]*client, r.files.Limit()-4) // the other places are for requests, one of which may just have ended
	for i := range silent {
		if silent[i] = r.dial(); i%2 == 1 {
			silent[i].send(request[:20])
		}
		r.eventually("it is admitted", func() bool { return r.Connections() == i+1 })
		ahead.Add(int64(minWait))
	}
	served := func(c *client, places int) {
		a, _ := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		c.Close()
		r.eventually("its place is free", func() bool { return r.Connections() == places })
	}
	served(r.ask(request), len(silent))
	for i, c := range silent {
		rest := request
		if i%2 == 1 {
			rest = request[20:]
		}
		c.send(rest)
		served(c, len(silent)-1-i)
	}
	r.free()
}

// If no file descriptor is free, a client whose whole head has arrived takes the place of a client whose head is
// incomplete, even if this head began a short time ago. A client whose own head is incomplete does not get this place.
func TestAWholeHeadTakesThePlaceOfAnUnfinishedOne(t *testing.T) {
	const head = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	var ahead atomic.Int64
	begun := time.Now()
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.files = 40
		o.now = func() time.Time { return begun.Add(time.Duration(ahead.Load())) }
	})
	partial := func() *client { return r.ask(head[:20]) }
	for i := range int(r.files.Limit()) / 2 {
		partial()
		r.eventually("its first bytes are read", func() bool {
			n := 0
			r.eachConn(func(c *connection) {
				if c.readControl.currentWait().kind == headWait {
					n++
				}
			})
			return n == i+1
		})
	}
	ahead.Add(int64(minReadyWait))
	for range 5 {
		a, _ := r.ask(head).answer("GET")
		require.Equal(t, 200, a.StatusCode)
		partial() // takes the place
	}
	// Requests through the pool may have closed more unfinished heads, so that some places are free.
	r.eventually("an unfinished head is refused", func() bool {
		c := partial()
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		a, err := http.ReadResponse(c.r, &http.Request{Method: "GET"})
		return err == nil && a.StatusCode == 503
	})
}

// The gateway can serve a client at once if the first message of the client's protocol is whole.
func TestReadyClients(t *testing.T) {
	hello := string(clientHello(t, &tls.Config{ServerName: "site.test"}))
	r := newRig(t, nil, nil)
	l, err := socket.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for sent, want := range map[string]bool{
		"": false,
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n":         false,
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n":     true,
		"\r\nGET http://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n":      true,
		"\r\n\r\nGET http://a.test/":                              false,
		"POST http://a.test/ HTTP/1.1\r\nHost: a\r\n\r\nthe body": true,
		"GET http://a.test/" + strings.Repeat("x", maxPeekedHead): true,
		"\x05":         false,
		"\x05\x02\x00": false,
		"\x05\x01\x00": true,
		"\x16\x00":     false,
		hello:          false, // there is no TLS
	} {
		client, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer client.Close()
		raw, err := l.Accept()
		require.NoError(t, err)
		defer raw.Close()
		_, err = io.WriteString(client, sent)
		require.NoError(t, err)
		c := newConnection(t.Context(), raw, time.Now, &r.draining)
		r.eventually("the bytes are there", func() bool {
			return socket.Unread(tcpBelow(c.base)) == len(sent)
		})
		require.Equal(t, want, (&acceptor{Server: r.Server}).isReady(c), "%.60q", sent)
		c.netConn = tls.Server(c.netConn, &tls.Config{})
		require.Equal(t, sent == hello, (&acceptor{Server: r.Server}).isReady(c), "%.60q over TLS", sent)
	}
}

// A client that has sent its request in time is not closed because the gateway has not read it yet.
func TestAnUnreadRequestIsNotEvicted(t *testing.T) {
	r := newRig(t, nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := func(sends string) *connection { // it is not served
		client, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { client.Close() })
		_, err = io.WriteString(client, sends)
		require.NoError(t, err)
		raw, err := l.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { raw.Close() })
		c := newConnection(t.Context(), raw, time.Now, &r.draining)
		c.readControl.setCurrentWait(requestWait, time.Unix(1, 0))
		r.places.addConn(c)
		return c
	}
	sent := accepted("GET http://a.test/ HTTP/1.1\r\n")
	accepted("")
	r.eventually("the bytes are there", sent.hasUnread)
	require.True(t, r.Evict())
	require.False(t, r.Evict())
	require.Equal(t, []*connection{sent}, r.places.allConns())
	r.places.removeConn(sent)
}

// A client that has sent nothing gets a 503 when its place is needed, because it may be about to send its first
// request.
func TestAnEvictedClientThatHasSentNothing(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	silent, idle := r.dial(), r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	a, _ := idle.answer("GET")
	require.Equal(t, 200, a.StatusCode)
	r.eventually("both are waited for", func() bool { return r.Connections() == 2 })
	for range 2 {
		ahead.Add(int64(minWait))
		r.eventually("one is closed", r.Evict)
	}
	a, body := silent.answer("GET")
	require.Equal(t, 503, a.StatusCode)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.True(t, json.Valid([]byte(body)), body)
	rest, err := io.ReadAll(idle.r)
	require.NoError(t, err)
	require.Empty(t, rest)
	r.free()
}

// Simultaneous calls of evict count each connection once.
func TestEvictionsAtOnce(t *testing.T) {
	var ahead atomic.Int64
	begun := time.Now()
	r := newRig(t, nil, func(o *options) { // the clock stands still while the clients connect
		o.now = func() time.Time { return begun.Add(time.Duration(ahead.Load())) }
	})
	for range 30 {
		r.dial()
	}
	r.eventually("all are there", func() bool { return r.Connections() == 30 })
	require.False(t, r.Evict(), "they have not waited for long enough")
	ahead.Store(int64(minWait))
	r.eventually("none is left", func() bool {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { r.Evict() })
		}
		wg.Wait()
		ahead.Add(int64(minWait)) // because the first wait of a connection may begin late
		return r.Connections() <= 0
	})
	r.wg.Wait() // until each connection's goroutine has ended
	require.Zero(t, r.Connections())
}
