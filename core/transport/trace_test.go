package transport

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// A proxy gets its credentials, but not with a TRACE, whose response may show them to the client. A 407 to a TRACE does
// not mean that the proxy refuses its credentials.
func TestATraceHasNoCredentials(t *testing.T) {
	heads := make(chan http.Header, 4)
	u := proxyAt(t, "http://user:secret@"+coretest.Serve(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			heads <- q.Header
			io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n"+
				"X-Squid-Error: ERR_CACHE_ACCESS_DENIED 0\r\n"+
				"Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n\r\n")
		}
	}))
	tr := New(Config{})
	defer tr.Close()
	send := func(method string) (f verdict.Facts) {
		q := &Request{Method: []byte(method), Target: []byte("http://a.test/"), Path: []byte("/"),
			Authority: "a.test:80", Idempotent: true}
		c, resp := &Control{Deadline: time.Now().Add(plenty)}, &Response{}
		require.Nil(t, tr.RoundTrip(t.Context(), u, c, q, resp))
		require.Equal(t, 407, resp.Status)
		resp.AddFacts(&f)
		resp.Finish(c, time.Now())
		return f
	}
	trace := func() {
		f := send("TRACE")
		require.False(t, f.HasChallenge)
		require.True(t, f.NoCredentials)
		require.Equal(t, verdict.NoErrorPage, f.ErrorPage)
		require.Empty(t, (<-heads).Get("Proxy-Authorization"))
	}
	trace()
	f := send("GET")
	require.True(t, f.HasChallenge)
	for _, scheme := range []string{"Basic ", "Digest "} {
		sent := (<-heads).Get("Proxy-Authorization")
		require.True(t, strings.HasPrefix(sent, scheme), sent)
	}
	trace()
	require.Empty(t, heads)
}
