package api

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// hostileRequests are requests that no strict parser of HTTP/1.1 accepts. What one server takes for one request, a proxy
// before it may take for two (RFC 9112 section 11.2). Each begins a GET of /healthz.
var hostileRequests = map[string]string{
	"bare LF after the request line":    "GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
	"bare LF after a field":             "GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
	"bare LF at the end":                "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
	"bare CR in a value":                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
	"NUL in a value":                    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
	"NUL in a name":                     "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX\x00: a\r\n\r\n",
	"control character in a value":      "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x01b\r\n\r\n",
	"space before the colon":            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n",
	"space in a name":                   "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX Y: a\r\n\r\n",
	"empty name":                        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
	"field without a colon":             "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX\r\n\r\n",
	"folded field":                      "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
	"space before the first field":      "GET /healthz HTTP/1.1\r\n Host: localhost\r\nHost: localhost\r\n\r\n",
	"no Host":                           "GET /healthz HTTP/1.1\r\nX: y\r\n\r\n",
	"two Hosts":                         "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
	"two spaces in the request line":    "GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"tab in the request line":           "GET\t/healthz\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
	"four words in the request line":    "GET /healthz x HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"HTTP/1.10":                         "GET /healthz HTTP/1.10\r\nHost: localhost\r\n\r\n",
	"HTTP/2.0":                          "GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
	"HTTP/0.9":                          "GET /healthz\r\n\r\n",
	"lower-case version":                "GET /healthz http/1.1\r\nHost: localhost\r\n\r\n",
	"method that is no token":           "G(T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"xchunked":                          "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"chunked, identity":                 "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
	"chunked twice":                     "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"length and chunked":                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"two lengths that differ":           "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\nx",
	"a list of lengths":                 "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0, 0\r\n\r\n",
	"length +1":                         "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\nx",
	"length 0x1":                        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x1\r\n\r\nx",
	"empty length":                      "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\n",
	"chunk size with bare LF":           "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
	"chunk size 0x1":                    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
	"chunk size -1":                     "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
	"chunk without its end":             "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy0\r\n\r\n",
	"chunk size of 17 digits":           "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n",
	"Content-Length hidden by a space":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nGET /",
	"Transfer-Encoding hidden by a tab": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n",
	"chunked with HTTP/1.0":             "GET /healthz HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"space in the target":               "GET /health z HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"control character in the target":   "GET /healthz\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"byte of UTF-8 in a name":           "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX\xc3\xa9: a\r\n\r\n",
}

// The API refuses each with a 4xx or 505 in JSON, and closes the connection.
func TestHostileRequests(t *testing.T) {
	g := newRig(t, nil)
	g.app.Handler() // builds the tree of routes
	for name, raw := range hostileRequests {
		c := &memoryConn{}
		c.in.WriteString(raw + "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		_ = g.app.Server().ServeConn(c) // an error here is also in the response
		r := bufio.NewReader(&c.out)
		a, err := http.ReadResponse(r, nil)
		if !assert.NoError(t, err, name) {
			continue
		}
		body, err := io.ReadAll(a.Body)
		assert.NoError(t, err, name)
		assert.True(t, a.StatusCode >= 400 && a.StatusCode < 500 || a.StatusCode == 505, "%s: %d", name, a.StatusCode)
		assert.Equal(t, "application/json", a.Header.Get("Content-Type"), name)
		assert.True(t, strings.HasPrefix(string(body), "{"), "%s: %s", name, body)
		_, err = r.Peek(1)
		assert.Equal(t, io.EOF, err, "%s: the connection goes on", name)
	}
}
