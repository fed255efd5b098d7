package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// A client that sends its whole request before it reads gets an early response completely, although the proxy
// has read little of the request. (If the response were larger than the kernel's buffers, such a client would
// also block without a gateway.)
func TestAnEarlyResponseIsReadCompletely(t *testing.T) {
	for _, size := range []int{10, 64 << 10, 128 << 10} {
		for framing, head := range map[string]string{
			"length":  "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n",
			"close":   "\r\n",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(size), 16) + "\r\n",
		} {
			t.Run(framing+" "+strconv.Itoa(size), func(t *testing.T) {
				r := newRig(t, func(c net.Conn) {
					if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
						return
					}
					io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\n"+head+strings.Repeat("a", size))
					if framing == "chunked" {
						io.WriteString(c, "\r\n0\r\n\r\n")
					}
					c.(*net.TCPConn).CloseWrite()
					for raw := socket.Wrap(c); ; time.Sleep(time.Millisecond) {
						if _, queued := socket.Progress(raw); queued == 0 {
							return
						}
					}
				}, nil)
				const upload = 24 << 20
				c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: " + strconv.Itoa(upload) +
					"\r\n\r\n")
				c.send(strings.Repeat("b", upload))
				a, body := c.answer("POST")
				require.Equal(t, 413, a.StatusCode)
				require.Equal(t, size, len(body))
				c.ended()
			})
		}
	}
}
