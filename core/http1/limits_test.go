package http1

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A trailer section may have as many fields as a header section: 200 in a request, 1000 in a response. The
// limit counts only the trailers.
func TestTheNumberOfTrailersIsLimited(t *testing.T) {
	for name, c := range map[string]struct {
		answers bool
		limit   int
	}{
		"request": {false, MaxFields}, "response": {true, MaxResponseFields},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{0, 1, c.limit - 1, c.limit, c.limit + 1, 2 * c.limit} {
				for _, data := range []string{"", "5\r\nhello\r\n", strings.Repeat("1\r\nx\r\n", 2*c.limit)} {
					r := NewReader(strings.NewReader(data + "0\r\n" + strings.Repeat("T: v\r\n", n) + "\r\nnext"))
					r.responses = c.answers
					var b Body
					b.Start(r, Chunked, 0)
					_, err := io.Copy(io.Discard, &b)
					var bad *ProtocolError
					require.Equal(t, n > c.limit, errors.As(err, &bad), "%d trailers: %v", n, err)
					require.Equal(t, n <= c.limit, b.Done())
					if b.Done() {
						require.Equal(t, "next", string(r.Buffered()))
					}
				}
			}
		})
	}
}

// HTTP/1.0 has no chunked framing (RFC 9112 section 6.1), but squid, HAProxy and curl read chunks in such a response. A
// response that also has a Content-Length is refused. In a response without a body, Transfer-Encoding has no effect.
// The connection always ends.
func TestTransferEncodingInHTTP10(t *testing.T) {
	const te = "Transfer-Encoding: chunked\r\n"
	for _, c := range []struct {
		method, status, fields string
		refused                bool
		framing                Framing
	}{
		{"GET", "200 OK", te, false, Chunked},
		{"POST", "201 Created", te, false, Chunked},
		{"GET", "404 Not Found", te, false, Chunked},
		{"GET", "200 OK", te + "Content-Length: 0\r\n", true, 0},
		{"GET", "200 OK", "Content-Length: 5\r\n" + te, true, 0},
		{"GET", "200 OK", te + "Connection: keep-alive\r\n", false, Chunked},
		{"CONNECT", "403 Forbidden", te, false, Chunked},
		{"HEAD", "200 OK", te, false, NoBody},
		{"GET", "304 Not Modified", te, false, NoBody},
		{"GET", "204 No Content", te, false, NoBody},
		{"CONNECT", "200 OK", te, false, NoBody},
	} {
		for _, end := range []string{"\r\n", "\n"} { // the second is repaired first
			raw := "HTTP/1.0 " + c.status + "\r\n" + c.fields + end + "0\r\n\r\n"
			var p Response
			err := NewReader(strings.NewReader(raw)).ReadResponse(&p, []byte(c.method))
			if c.refused {
				var bad *ProtocolError
				require.ErrorAs(t, err, &bad, "%s %s", c.method, raw)
				continue
			}
			require.NoError(t, err, "%s %s", c.method, raw)
			require.Equal(t, c.framing, p.Framing)
			require.EqualValues(t, -1, p.Length)
			require.True(t, p.Close)
		}
	}
}
