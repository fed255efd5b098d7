//go:build linux && (amd64 || arm64)

package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// newOffPollerRig makes a rig whose connections leave the poller during each long wait. Its proxy responds when release
// is called.
func newOffPollerRig(t *testing.T) (r *rig, arrived chan struct{}, release func()) {
	arrived = make(chan struct{}, 100)
	held := make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	r = newRig(t, answering(func(*http.Request, string) string {
		arrived <- struct{}{}
		<-held
		return reply("200 OK", "hello")
	}), func(o *options) { o.offPoller = true })
	return r, arrived, release
}

// waitOffPoller waits until the connections of n clients are off the poller.
func (r *rig) waitOffPoller(n int64) {
	r.t.Helper()
	r.eventually("the connections are off the poller", func() bool {
		offPoller := int64(0)
		r.eachConn(func(c *connection) {
			c.pollerMu.Lock()
			defer c.pollerMu.Unlock()
			if tcp := tcpBelow(c.netConn); tcp != nil && socket.IsOffPoller(tcp) {
				offPoller++
			}
		})
		return offPoller == n
	})
}

// A client whose connection is off the poller gets its response, and the connection serves further requests, also
// pipelined ones.
func TestClientsOffThePoller(t *testing.T) {
	r, arrived, release := newOffPollerRig(t)
	const get = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
	one, two := r.ask(get), r.ask(get+get)
	<-arrived
	<-arrived
	r.waitOffPoller(2)
	one.send(get) // it arrives while the connection is off the poller
	release()
	for _, c := range []*client{one, one, two, two} {
		a, body := c.answer("GET")
		require.Equal(t, 200, a.StatusCode)
		require.Equal(t, "hello", body)
	}
	one.goesOn()
	two.Close()
	one.Close()
	r.free()
}

// A client whose connection is off the poller gets an interim response at once.
func TestAnInterimResponseToAClientOffThePoller(t *testing.T) {
	arrived, hint, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	r := newRig(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		arrived <- struct{}{}
		<-hint
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
		<-release
		io.WriteString(c, ok("hello"))
	}, func(o *options) {
		o.offPoller = true
		o.rules = []rules.Rule{{When: rules.Conditions{Hosts: []string{"a.test"}}, Then: rules.Actions{
			Routing: rules.Routing{Interim: true}}}}
	})
	c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-arrived
	r.waitOffPoller(1)
	close(hint)
	require.Equal(t, "HTTP/1.1 103 Early Hints", c.line())
	require.Empty(t, c.line())
	close(release)
	a, body := c.answer("GET")
	require.Equal(t, 200, a.StatusCode)
	require.Equal(t, "hello", body)
	c.goesOn()
	c.Close()
	r.free()
}

func TestAClientOffThePollerLeaves(t *testing.T) {
	for name, leave := range map[string]func(c *client){
		"close": func(c *client) { c.Close() },
		"reset": func(c *client) {
			c.TCPConn.SetLinger(0)
			c.Close()
		},
	} {
		r, arrived, _ := newOffPollerRig(t)
		c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		<-arrived
		r.waitOffPoller(1)
		leave(c)
		r.eventually("the request ends", func() bool { return len(r.recorded.Requests()) == 1 })
		require.Equal(t, core.FinalCancelled, r.recorded.Requests()[0].Final, name)
		r.free()
	}
}

// The end of a drain's grace period closes a connection that is off the poller, after a 503.
func TestAShutdownWithClientsOffThePoller(t *testing.T) {
	r, arrived, _ := newOffPollerRig(t)
	c := r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-arrived
	r.waitOffPoller(1)
	over, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	r.listener.Close()
	r.Shutdown(over)
	_, err := io.Copy(io.Discard, c)
	require.NoError(t, err)
	r.free()
}

// close and unread may be called while the connection leaves the poller and rejoins it.
func TestLeavingThePollerAndClosing(t *testing.T) {
	r, arrived, release := newOffPollerRig(t)
	var clients []*client
	for range 20 {
		clients = append(clients, r.ask("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"))
		<-arrived
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				r.eachConn(func(c *connection) { c.hasUnread() })
			}
		}
	})
	r.waitOffPoller(20)
	release()
	r.eachConn((*connection).abort)
	for _, c := range clients {
		io.Copy(io.Discard, c) // a response, or nothing
	}
	close(stop)
	wg.Wait()
	r.free()
}

// A connection must not have the size class of a goroutine's descriptor (449 to 480 bytes). The runtime never frees
// these, so after a burst they would keep the memory between them, 5 MB for 10,000 clients.
func TestTheSizeOfAConnection(t *testing.T) {
	size := unsafe.Sizeof(connection{})
	require.False(t, size > 448 && size <= 480, "%d bytes", size)
}
