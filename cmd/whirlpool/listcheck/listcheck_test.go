package listcheck

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// A proxy is mute only if none of its responses has a status, even if all requests fail.
func TestMute(t *testing.T) {
	request, err := health.ParseURL("http://target.test/")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		get, connect string
		mute         bool
	}{
		"nothing":           {mute: true},
		"bytes of SOCKS4":   {get: "\x00\x5b\x00\x00\x00\x00\x00\x00", mute: true},
		"a refused CONNECT": {connect: "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"},
		"a challenge": {connect: "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\n" +
			"Content-Length: 0\r\n\r\n"},
		"a broken body":    {get: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"},
		"another response": {get: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			address := coretest.Serve(t, func(conn net.Conn) {
				q, err := http.ReadRequest(bufio.NewReader(conn))
				switch {
				case err != nil:
				case q.Method == http.MethodConnect:
					_, _ = io.WriteString(conn, c.connect)
				default:
					_, _ = io.WriteString(conn, c.get)
				}
			})
			specs, _, err := proxylist.Parse(strings.NewReader(address+"\n"), proxylist.Options{})
			require.NoError(t, err)
			tr := transport.New(transport.Config{ConnectTimeout: 10 * time.Second})
			defer tr.Close()
			results := Check(context.Background(), specs, tr,
				Options{Request: &request, Parallel: 1, Timeout: 10 * time.Second})
			require.Len(t, results, 1)
			require.False(t, results[0].Good)
			require.NotEmpty(t, results[0].Fault)
			require.Equal(t, c.mute, results[0].Mute, results[0].Fault)
		})
	}
}
