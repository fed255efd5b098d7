package gateway

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A request whose body arrives byte by byte gets a 408 with the reason, whether it is kept or streamed. Its pauses
// are shorter than body_idle.
func TestASlowBodyGetsA408(t *testing.T) {
	for name, framing := range map[string]string{
		"kept":     "Content-Length: 1000",
		"streamed": "Content-Length: 5000000",
		"chunked":  "Transfer-Encoding: chunked",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answering(nil), func(o *options) {
				o.MinBodyRate, o.BodyGrace = 1_000_000, 300*time.Millisecond
			})
			c := r.ask("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + framing + "\r\n\r\n")
			go func() {
				piece := "x"
				if name == "chunked" {
					piece = "1\r\nx\r\n"
				}
				for { // until the gateway closes the connection
					if _, err := io.WriteString(c, piece); err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			a, body := c.answer(http.MethodPost)
			require.Equal(t, 408, a.StatusCode)
			require.Contains(t, body, "gateway.min_body_rate")
			c.Close()
			r.free()
		})
	}
}
