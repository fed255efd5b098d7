package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

const closing = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"

// Clients that stop sending their bodies are also closed to make room, whether the bodies are kept or
// streamed.
func TestStalledBodiesMakeRoom(t *testing.T) {
	for name, body := range map[string]string{
		"kept":     "Content-Length: 1000\r\n\r\nx",
		"chunked":  "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"streamed": "Content-Length: 5000000\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
				o.files = 40
				o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
			for i := range 60 {
				r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + body)
				r.eventually("it is waited for", func() bool {
					n := 0
					r.eachConn(func(c *connection) {
						if c.readControl.currentWait().kind == bodyWait {
							n++
						}
					})
					return n == r.Connections()
				})
				ahead.Add(int64(minBodyWait))
				c := r.ask(closing)
				a, _ := c.answer("GET")
				require.Equal(t, 200, a.StatusCode, "client %d", i)
				c.Close()
				r.eventually("its place is free", func() bool {
					n := 0
					r.eachConn(func(c *connection) {
						if c.readControl.currentWait().kind != bodyWait {
							n++
						}
					})
					return n == 0
				})
			}
		})
	}
}

// Clients whose bodies come a few bytes at a time make room, too.
func TestSlowBodiesMakeRoom(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.files = 40
		o.MinBodyRate = 100
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	// The times since which the gateway has waited for the bodies; nil if it waits for something else.
	bodies := func() (waits []int64) {
		r.eachConn(func(c *connection) {
			if a := c.readControl.currentWait(); a.kind == bodyWait {
				waits = append(waits, a.start)
			}
		})
		if len(waits) != r.Connections() {
			return nil
		}
		return waits
	}
	for range 20 {
		slow := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nx")
		r.eventually("it is waited for", func() bool { return bodies() != nil })
		for range 4 {
			ahead.Add(int64(minBodyWait / 2))
			before := bodies()
			slow.send("x")
			r.eventually("the byte has arrived", func() bool {
				now := bodies()
				return now != nil && !slices.Equal(before, now)
			})
		}
		for _, since := range bodies() {
			require.GreaterOrEqual(t, r.Now().UnixNano()-since, int64(minBodyWait))
		}
		c := r.ask(closing)
		a, _ := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		c.Close()
		r.eventually("its place is free", func() bool { return bodies() != nil })
	}
}

// If another body has been silent for longer than this body is late, this body is not closed: it continues after a
// pause.
func TestAResumedBodyStaysBeforeASilentOne(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.MinBodyRate = 100
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	bodies := func() (waits []int64) { // the times since which the gateway has waited for the bodies
		r.eachConn(func(c *connection) {
			if w := c.readControl.currentWait(); w.kind == bodyWait {
				waits = append(waits, w.start)
			}
		})
		return waits
	}
	post := "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20\r\n\r\n"
	resumed := r.ask(post + "0123456789")
	r.eventually("its body is waited for", func() bool { return len(bodies()) == 1 })
	ahead.Add(int64(6 * time.Second))
	r.ask(post + "0123456789") // and then nothing
	r.eventually("its body is waited for", func() bool { return len(bodies()) == 2 })
	ahead.Add(int64(4 * time.Second))
	before := bodies()
	resumed.send("01234")
	r.eventually("the bytes have arrived", func() bool {
		now := bodies()
		return len(now) == 2 && !slices.Equal(before, now)
	})
	require.True(t, r.Evict()) // the silent one
	resumed.send("56789")
	a, _ := resumed.answer("POST")
	require.Equal(t, 200, a.StatusCode)
}

// If all clients have a request in flight, the next client gets a 503. When a client leaves, the next one
// gets its place.
func TestAClientWithoutAPlaceGetsA503(t *testing.T) {
	for name, c := range map[string]struct {
		limit   func(o *options)
		clients int
		why     string
	}{
		"connections": {func(o *options) { o.MaxConnections = 6 }, 6, reasonMaxConnections},
		"descriptors": {func(o *options) { o.files = 20 }, 7, reasonNoFiles}, // 15 are shared out
		"one client":  {func(o *options) { o.MaxPerClient = 6 }, 6, reasonMaxPerClient},
	} {
		t.Run(name, func(t *testing.T) {
			hold, held := make(chan struct{}), make(chan struct{})
			r := newRig(t, answering(func(*http.Request, string) string {
				held <- struct{}{}
				<-hold
				return ok("")
			}), c.limit)
			var all []*client
			for range c.clients {
				all = append(all, r.ask(closing))
				<-held
			}
			for range 100 {
				next := r.ask(closing)
				a, body := next.answer("GET")
				require.Equal(t, 503, a.StatusCode)
				require.Equal(t, "1", a.Header.Get("Retry-After"))
				require.Contains(t, body, c.why)
				next.Close()
			}
			close(hold)
			for _, c := range all {
				a, _ := c.answer("GET")
				require.Equal(t, 200, a.StatusCode)
				c.Close()
			}
			go func() { <-held }()
			r.eventually("there is a place", func() bool {
				next := r.ask(closing)
				a, _ := next.answer("GET")
				next.Close()
				return a.StatusCode == 200
			})
			r.free()
			r.eventually("every descriptor is free", func() bool {
				for r.files.Used() > 0 && r.CloseSparePipe() {
				}
				r.Transport.CloseAllIdle()
				return r.files.Used() == 0
			})
		})
	}
}

// A client without a place waits for at most maxPlaceWaits waits, even if the requests of all other clients have just
// begun. (The clock of this test stands still.)
func TestYoungRequestsDelayNoRefusal(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	defer close(hold)
	began := time.Now()
	r := newRig(t, answering(func(*http.Request, string) string {
		held <- struct{}{}
		<-hold
		return ok("")
	}), func(o *options) {
		o.files = 20 // 15 are shared out
		o.now = func() time.Time { return began }
	})
	for range 7 {
		r.ask(closing)
		<-held
	}
	a, body := r.ask(closing).answer("GET")
	require.Equal(t, 503, a.StatusCode)
	require.Contains(t, body, reasonNoFiles)
}

// A client that has waited in the listener's queue for as long as maxPlaceWaits waits is refused at once, if it has no
// place then. The next client does not wait for it.
func TestTheTimeInTheQueueCountsForTheWait(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the time in the queue is not known")
	}
	hold := make(chan struct{})
	held := make(chan struct{}, 100)
	defer close(hold)
	r := newRig(t, answering(func(*http.Request, string) string {
		held <- struct{}{}
		<-hold
		return ok("")
	}), func(o *options) { o.files = 20 }) // 15 are shared out
	for range 7 {
		r.ask(closing)
		<-held
	}
	queue, err := socket.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer queue.Close()
	client, err := net.Dial("tcp", queue.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	raw, err := queue.Accept()
	require.NoError(t, err)
	defer raw.Close()
	a := acceptor{Server: r.Server}
	c := newConnection(t.Context(), raw, r.Now, &r.draining)
	r.eventually("it has waited for long", func() bool {
		return socket.SinceReceived(raw) >= maxPlaceWaits*placeWait
	})
	require.Equal(t, reasonNoFiles, a.findPlace(c))
	require.Zero(t, a.waitCounts)

	r.eventually("a client that has just sent something waits", func() bool {
		_, err = client.Write([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, reasonNoFiles, a.findPlace(c))
		return a.waitCounts[0] > 0
	})
}

// A SOCKS5 client without a place gets the reply "general failure", whether or not it offers to authenticate, and even
// if many others are being refused at the same time.
func TestASOCKS5ClientWithoutAPlace(t *testing.T) {
	const failure = "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"
	for name, limit := range map[string]func(o *options){
		"connections": func(o *options) { o.MaxConnections = 4 },
		"descriptors": func(o *options) { o.files = 14 }, // 11 are shared out
		"one client":  func(o *options) { o.MaxPerClient = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			hold, held := make(chan struct{}), make(chan struct{}, 100)
			defer close(hold)
			r := newRig(t, answering(func(*http.Request, string) string {
				held <- struct{}{}
				<-hold
				return ok("")
			}), limit)
			r.ask(closing)
			<-held
			for c := r.ask(closing); ; c = r.ask(closing) {
				c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := c.r.Peek(1); err == nil {
					break // a 503: no place is left
				}
			}
			for range 10 {
				for greeting, answer := range map[string]string{
					"\x05\x01\x00":     "\x05\x00",
					"\x05\x02\x00\x02": "\x05\x00",
					"\x05\x01\x02":     "\x05\x02\x01\x00",
					"\x05\x01\x01":     "\x05\xff",
				} {
					var c *client
					r.eventually("the greeting arrives in time", func() bool {
						c = r.dial()
						c.send(greeting)
						first, err := c.r.Peek(1)
						require.NoError(t, err)
						if first[0] == 'H' {
							c.Close()
						}
						return first[0] != 'H'
					})
					c.receive(answer[:2])
					if answer != "\x05\xff" {
						c.send(socksTarget)
						c.receive(answer[2:] + failure)
					}
					c.Close()
				}
			}
		})
	}
}

// dialFrom is dial from another address of this machine.
func (r *rig) dialFrom(address string) *client {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	c, err := d.DialContext(r.t.Context(), "tcp", r.listener.Addr().String())
	if err != nil {
		r.t.Skip("this machine has one loopback address only")
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return newClient(r.t, c.(*net.TCPConn))
}

// A client that holds most connections leaves some places to others, unless it is on this machine.
func TestOneClientDoesNotTakeEveryPlace(t *testing.T) {
	r := newRig(t, nil, func(o *options) { o.files = 132 }) // 100 are shared out, 3 kept for others
	from := func(address string) *connection { return &connection{client: netip.MustParseAddr(address)} }
	for n := 0; r.checkPlace(from("10.0.0.1")).reason == ""; n++ {
		c := from("10.0.0.1")
		r.places.addConn(c)
		defer r.places.removeConn(c)
		r.places.countActive(true)
		defer r.places.countActive(false)
	}
	require.Equal(t, 48, r.Connections())
	require.Equal(t, placeCheck{reason: reasonNoFiles, hasMajority: true}, r.checkPlace(from("10.0.0.1")))
	require.Equal(t, placeCheck{}, r.checkPlace(from("10.0.0.2")))
	for range 48 {
		c := from("127.0.0.1")
		r.places.addConn(c)
		defer r.places.removeConn(c)
	}
	require.Equal(t, placeCheck{reason: reasonNoFiles}, r.checkPlace(from("127.0.0.1")))
}

// A client with too many connections gets a response with this reason. To make room for it, its own idle
// connections are closed, not those of other clients.
func TestTheClientsOwnIdleConnectionsMakeRoom(t *testing.T) {
	var ahead atomic.Int64
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.MaxPerClient = 3
		o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	other := r.dialFrom("127.0.0.2") // has waited longest
	for range 20 {
		c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		a, _ := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		ahead.Add(int64(minWait))
	}
	other.send(closing)
	a, _ := other.answer("GET")
	require.Equal(t, 200, a.StatusCode)
}
