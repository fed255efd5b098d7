package transport

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// On a busy machine, the first deadline of a handshake with a proxy may pass before the first write. The message is
// sent nevertheless. Otherwise the attempt would wait in vain, and be charged to the proxy.
func TestHandshakeAfterItsFirstDeadline(t *testing.T) {
	for scheme, serve := range map[string]func(net.Conn){
		"http": func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				io.Copy(io.Discard, c)
			}
		},
		"socks5": func(c net.Conn) {
			for _, step := range []struct {
				length int
				reply  string
			}{{3, "\x05\x00"}, {18, "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"}} {
				if _, err := io.ReadFull(c, make([]byte, step.length)); err != nil {
					return
				}
				io.WriteString(c, step.reply)
			}
			io.Copy(io.Discard, c)
		},
	} {
		t.Run(scheme, func(t *testing.T) {
			var behind atomic.Int64
			tr := New(Config{
				Now: func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) },
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					defer behind.Store(int64(time.Minute)) // from now on, deadlines near the present have passed
					return (&net.Dialer{}).DialContext(ctx, network, address)
				},
			})
			defer tr.Close()
			end := time.Now().Add(20 * time.Second)
			c := &Control{Deadline: end, CurrentDeadline: func() time.Time {
				behind.Store(0) // the second deadline is in the future
				return end
			}}
			proxy := proxyAt(t, scheme+"://"+coretest.Serve(t, serve))
			tun, verr := tr.OpenTunnel(t.Context(), proxy, c, "target.test:443")
			require.Nil(t, verr)
			tun.Conn.Close()
		})
	}
}
