package transport

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/internal/coretest"
)

// A second connection to a TLS proxy resumes the first one's session.
func TestSessionsAreResumed(t *testing.T) {
	serve, roots := secured(t, func(c net.Conn) {
		readRequest(c)
		answer := "HTTP/1.1 200 OK\r\n\r\nnew"
		if c.(*tls.Conn).ConnectionState().DidResume {
			answer = "HTTP/1.1 200 OK\r\n\r\nresumed"
		}
		io.WriteString(c, answer)
	})
	u := one(t, "https://"+coretest.Serve(t, serve))
	tr := New(Config{RootCAs: roots})
	for _, want := range []string{"new", "resumed"} {
		tun, f := tr.Tunnel(t.Context(), u, &Control{Deadline: time.Now().Add(10 * time.Second)}, "a.test:443")
		require.Nil(t, f)
		rest, err := io.ReadAll(tun.Conn)
		require.NoError(t, err)
		require.Equal(t, want, string(tun.Early)+string(rest))
		tun.Conn.Close()
	}
}
