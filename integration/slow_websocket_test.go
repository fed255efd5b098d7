package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slowTarget starts a target of WebSockets. It responds with 200 to /, and not at all to /hang. To all other paths it
// responds with 101. After that, it sends 8 MiB to /flood, each received byte back to /echo, and nothing to other
// paths. When leave is closed, it ends the connections of /flood.
func slowTarget(t *testing.T, leave <-chan struct{}) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); close(done) })
	serve := func(c net.Conn) {
		defer c.Close()
		go func() { <-done; c.Close() }()
		r := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			switch q.URL.Path {
			case "/":
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				continue
			case "/hang":
				io.Copy(io.Discard, r)
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			switch q.URL.Path {
			case "/flood":
				go c.Write(make([]byte, 8<<20))
				<-leave
				c.(*net.TCPConn).SetLinger(0)
				return
			case "/echo":
				io.Copy(c, r)
			default:
				io.Copy(io.Discard, r)
			}
			<-done // the target does not end its direction
			return
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// handshake returns the head of a WebSocket's handshake.
func handshake(url, host string) string {
	return "GET " + url + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

// responseHead reads the head of a response, and not more.
func responseHead(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(eventTimeout))
	var b strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(b.String(), "\r\n\r\n"); b.Write(one) {
		_, err := io.ReadFull(c, one)
		require.NoError(t, err, "after %q", b.String())
	}
	return b.String()
}

// Clients of WebSockets, in absolute form and through CONNECT, read nothing, send a byte at a time, stop in a frame, or
// never end their handshake. Other clients are served meanwhile. The connections of the slow clients end at their
// limits, and leave nothing behind.
func TestS161SlowWebSocketClients(t *testing.T) {
	t.Parallel()
	const each, limit = 15, 150
	w := start(t, 0, confK+allowLoopback+fmt.Sprintf("[gateway]\nmax_connections_per_client = %d\n"+
		"[timeouts]\nhead = \"1s\"\nbody_idle = \"1s\"\nattempt = \"1m\"\n[[proxies]]\nurl = \"direct://\"\n", limit))
	leave := make(chan struct{})
	target := slowTarget(t, leave)
	var all []net.Conn
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: eventTimeout}
		c, err := d.Dial("tcp", w.gateway)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	send := func(text string) net.Conn {
		c := dial("127.0.0.1")
		_, err := io.WriteString(c, text)
		require.NoError(t, err)
		return c
	}
	connect := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
	open := func(tunnel bool, path string) net.Conn {
		var c net.Conn
		if tunnel {
			c = send(connect)
			require.Contains(t, responseHead(t, c), " 200 ")
			io.WriteString(c, handshake(path, target))
		} else {
			c = send(handshake("ws://"+target+path, target))
		}
		require.Contains(t, responseHead(t, c), " 101 ")
		all = append(all, c)
		return c
	}
	inFlight := func() string {
		return regexp.MustCompile(`(?m)^whirlpool_requests_in_flight (.*)$`).FindStringSubmatch(w.scrape())[1]
	}
	served := func() { // a client of another address
		c := dial("127.0.0.2")
		defer c.Close()
		fmt.Fprintf(c, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, target)
		require.Contains(t, responseHead(t, c), " 200 ")
	}
	served()
	before := w.resources()

	var unfinished, hung []net.Conn
	for range each {
		for _, tunnel := range []bool{false, true} {
			open(tunnel, "/flood")
			echo := open(tunnel, "/echo")
			for range 3 {
				_, err := echo.Write([]byte{0x81})
				require.NoError(t, err)
				_, err = io.ReadFull(echo, make([]byte, 1))
				require.NoError(t, err)
			}
			io.WriteString(open(tunnel, "/quiet"), "\x81\xfe\xff") // a part of a frame's header
		}
		for _, head := range []string{handshake("ws://"+target+"/echo", target), connect} {
			unfinished = append(unfinished, send(head[:len(head)-2]))
		}
		head := handshake("ws://"+target+"/hang", target)
		hung = append(hung, send(strings.TrimSuffix(head, "\r\n")+"X-Whirlpool-Retry: timeout=1\r\n\r\n"))
		served()
	}
	for _, c := range unfinished {
		require.Contains(t, responseHead(t, c), " 408 ")
		c.Close()
	}
	for _, c := range hung {
		require.Contains(t, responseHead(t, c), " 504 ")
		c.Close()
	}
	eventually(t, "only the tunnels are left", func() bool { return inFlight() == fmt.Sprint(len(all)) })
	during := w.resources()
	clients := float64(len(all))
	t.Logf("%v clients: %v before, %v during", clients, before, during)
	require.Less(t, during[0]-before[0], clients*(256<<10), "bytes of memory")
	require.Less(t, during[1]-before[1], 2*clients+20, "goroutines")
	require.Less(t, during[2]-before[2], 4*clients+20, "descriptors; a pipe has two")

	// The address reaches its limit. Another one is served.
	for n := 0; ; n++ {
		require.LessOrEqual(t, len(all), limit, "number %d", n)
		c := send(handshake("ws://"+target+"/quiet", target))
		if head := responseHead(t, c); strings.Contains(head, " 503 ") {
			require.Contains(t, head, "max_connections_per_client")
			c.Close()
			break
		}
		all = append(all, c)
	}
	require.Len(t, all, limit)
	served()

	// If the target ends a tunnel, the client has body_idle to read the rest.
	close(leave)
	eventually(t, "the clients that read nothing are disconnected", func() bool {
		return inFlight() == fmt.Sprint(limit-2*each)
	})
	served()
	// If the client ends its direction, the tunnel ends after body_idle.
	for _, c := range all {
		c.(*net.TCPConn).CloseWrite()
	}
	eventually(t, "all have ended", func() bool { return inFlight() == "0" })
	eventually(t, "goroutines and descriptors are back", func() bool {
		after := w.resources()
		return after[1] < before[1]+10 && after[2] < before[2]+10
	})
	served()
}
