//go:build !race

package engine_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// A request on a client connection and a proxy connection that have been used before allocates nothing, from
// its parsing to its recording. The tests of package plugins do the same with WebAssembly. It does not run
// under the race detector, where sync.Pool drops items at random.
func TestARequestOverSocketsAllocatesNothing(t *testing.T) {
	reply := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	e := newEngine(t, nil, "http://"+coretest.Serve(t, func(c net.Conn) {
		for buf := make([]byte, 4096); ; { // each request comes in one piece
			if _, err := c.Read(buf); err != nil {
				return
			}
			c.Write(reply)
		}
	}))
	l, err := socket.Listen(context.Background(), "127.0.0.1:0")
	require.NoError(t, err)
	go e.Serve(l)
	defer e.Shutdown(context.Background())
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	buf := make([]byte, 4096)
	for _, request := range []string{
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
		"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody",
	} {
		ask := []byte(request)
		once := func() {
			if _, err := client.Write(ask); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < 5 || string(buf[n-5:n]) != "hello"; {
				m, err := client.Read(buf[n:])
				if err == io.EOF || err != nil {
					t.Fatal(err)
				}
				n += m
			}
		}
		for range 2000 { // until the list of finished requests is full
			once()
		}
		require.Zero(t, testing.AllocsPerRun(500, once), request)
	}
}
