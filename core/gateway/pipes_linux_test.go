//go:build amd64 || arm64

package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// Clients that do not read their responses use none of the descriptors that other clients need. When they
// read, they get everything.
func TestPipesLeaveRoomForClients(t *testing.T) {
	const clients, spare = 8, 3
	body := strings.Repeat("whirlpool", 1<<20)
	r := newRig(t, answering(func(*http.Request, string) string { return ok(body) }), func(o *options) {
		o.files = 40 // the limit is 30, and AcquireSpare takes no more than 23 of them
	})
	var all []*client
	for range clients {
		c := r.dial()
		c.SetReadBuffer(64 << 10)
		all = append(all, c)
	}
	r.eventually("all are there", func() bool { return r.Connections() == clients })
	for _, c := range all {
		c.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
	}
	queued := func() (bytes, of int) { // bytes queued for the clients, and the number of these clients
		r.eachConn(func(c *connection) {
			if _, n := socket.Progress(c.netConn); n > 0 {
				bytes, of = bytes+n, of+1
			}
		})
		return bytes, of
	}
	r.eventually("everything stands still", func() bool {
		before, _ := queued()
		time.Sleep(50 * time.Millisecond)
		now, of := queued()
		return before == now && of == clients && r.buffers.pipes.Open() > 0
	})
	require.LessOrEqual(t, r.buffers.pipes.Open(), spare)
	require.True(t, r.Files.HasRoom(r.places.neededFiles()+2, reservedShare), "for the next client")
	for _, c := range all {
		a, err := http.ReadResponse(c.r, nil)
		require.NoError(t, err)
		got, err := io.ReadAll(a.Body)
		require.NoError(t, err)
		require.True(t, body == string(got))
	}
	r.free()
}
