package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// post is the beginning of a request with a body.
const post = "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n"

// More clients than the process has descriptors begin a body and then send nothing. Other clients are served, or get a
// 503 until the connections of the first clients may be closed.
func TestStalledBodiesLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"Content-Length: 100000\r\n\r\nx", "Content-Length: 5000000\r\n\r\nx",
		"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
	} {
		w := start(t, 2, "")
		w.stop()
		w.fileLimit = 64
		w.startProcess()
		for range 150 {
			c, err := net.Dial("tcp", w.gateway)
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, post+body)
			require.NoError(t, err)
		}
		eventually(t, "a client is served", func() bool {
			status, sentAfter, err := w.getOnce()
			if err != nil && sentAfter >= 10*time.Millisecond {
				return false // on a loaded machine: the 503 came before the request was sent, and was lost
			}
			require.NoError(t, err, "without a place there is a 503")
			require.Contains(t, []int{200, 503}, status)
			return status == 200
		})
		require.NotNil(t, w.getJSON("/proxies")["proxies"], "the API responds as well")
	}
}

// Clients that announce bodies and send little of them take only memory for the bytes that they have sent. The gateway
// returns the memory to the system when the clients have left.
func TestAnnouncedBodiesTakeNoMemory(t *testing.T) {
	t.Parallel()
	const clients, sent, announced = 200, 20_000, 1_000_000
	w := start(t, 1, confK)
	w.get()
	before := w.resident()
	var all []net.Conn
	for range clients {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		_, err = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", post, announced, strings.Repeat("x", sent))
		require.NoError(t, err)
		all = append(all, c)
	}
	// This client is served after the gateway has read most of the bytes that the others have sent.
	require.Equal(t, 200, w.do("POST", strings.Repeat("x", announced)).status)
	grown := w.resident() - before
	require.Less(t, grown, clients*announced/4>>10, "KiB; they have announced %d", clients*announced>>10)
	for _, c := range all {
		c.Close()
	}
	eventually(t, "the memory goes back", func() bool { return w.resident() < before+before/2 })
}

// A client beyond max_connections_per_client gets a 503 that names the setting.
func TestClientsPerAddress(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[gateway]\nmax_connections_per_client = 3\n")
	for range 3 {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, post+"Content-Length: 10\r\n\r\nx")
		require.NoError(t, err)
	}
	var r *http.Response
	eventually(t, "the three have been accepted", func() bool {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(eventTimeout))
		_, err = io.WriteString(c, "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		require.NoError(t, err)
		r, err = http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		return r.StatusCode == 503
	})
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "gateway.max_connections_per_client")
}
