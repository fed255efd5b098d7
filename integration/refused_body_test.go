package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The method in the body of a refused request does not change the framing of the error response.
func TestARefusalIsFramedByTheRequestsOwnMethod(t *testing.T) {
	w := start(t, 1, "[[gateway.users]]\nname = \"u\"\npassword = \"correcthorse\"\n")
	conn, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(eventTimeout))
	r := bufio.NewReader(conn)
	for range 2 { // the second request shows that the first response ended correctly
		io.WriteString(conn, "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000\r\n\r\n")
		time.Sleep(50 * time.Millisecond) // so that the gateway's buffer contains only the head
		io.WriteString(conn, strings.Repeat("HEAD ", 600))
		answer, err := http.ReadResponse(r, &http.Request{Method: "POST"})
		require.NoError(t, err)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, 407, answer.StatusCode)
		require.Contains(t, string(body), "proxy_authentication_required")
	}
}
