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

// What a refused request's body says does not decide how the refusal is framed.
func TestARefusalIsFramedByTheRequestsOwnMethod(t *testing.T) {
	w := start(t, 1, "[[gateway.users]]\nname = \"u\"\npassword = \"correcthorse\"\n")
	conn, err := net.Dial("tcp", w.gateway)
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	for range 2 { // the second shows that the first ended where it said
		io.WriteString(conn, "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000\r\n\r\n")
		time.Sleep(50 * time.Millisecond) // the head alone lies in the gateway's buffer
		io.WriteString(conn, strings.Repeat("HEAD ", 600))
		answer, err := http.ReadResponse(r, &http.Request{Method: "POST"})
		require.NoError(t, err)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, 407, answer.StatusCode)
		require.Contains(t, string(body), "proxy_authentication_required")
	}
}
