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

// wire sends bytes to an address and reads one answer.
func wire(t *testing.T, addr, raw string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.WriteString(c, raw)
	require.NoError(t, err)
	method, _, _ := strings.Cut(raw, " ")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	require.NoError(t, err, "%.100q", raw)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r, string(body)
}

// What is sent to the API's port that is no request for the API: it never
// proxies, and what it cannot read it does not quote.
func TestS12TheAPIIsNoProxy(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	for raw, want := range map[string]int{
		"CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n":                                                                                 421,
		"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n":                                                                                     404,
		"GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n":                                                                                   421,
		"GET /api/v1/retry/policy HTTP/1.1\r\nHost: rebound.example\r\n\r\n":                                                                              421,
		"GET /api/v1/proxies HTTP/1.1\r\nHost: rebound.example\r\nX-Forwarded-Host: localhost\r\n\r\n":                                                    421,
		"GET /api/v1/proxies HTTP/1.1\r\nHost: rebound.example\r\nForwarded: host=localhost\r\n\r\n":                                                      421,
		"PUT /api/v1/retry/policy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n{":  415,
		"POST /api/v1/plugins?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/wasm\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n{": 415,
		"GET /healthz HTTP/1.0\r\n\r\n":                     200,
		"GET /healthz HTTP/1.1\r\nHost: [::1]:8889\r\n\r\n": 200,
		"canary\r\n\r\n":                                    400,
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer canary\r\nContent-Length: -1\r\n\r\n":    400,
		"GET /" + strings.Repeat("a", 20_000) + " HTTP/1.1\r\nHost: localhost\r\n\r\n":                              431,
		"PUT /api/v1/retry/policy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{":              413,
		"POST /api/v1/circuit-breakers/F1/reset HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n": 403,
	} {
		r, body := wire(t, w.api, raw)
		require.Equal(t, want, r.StatusCode, "%.100q: %s", raw, body)
		require.NotContains(t, body, "canary")
		require.Equal(t, "application/json", r.Header.Get("Content-Type"))
		require.True(t, strings.HasPrefix(body, "{"), body)
	}
	require.Zero(t, w.arrivals())
	require.NotContains(t, w.log.String(), "canary")

	// And the gateway serves nothing of the API.
	for _, path := range []string{"/", "/api/v1/retry/policy", "/metrics", "/healthz"} {
		r, body := wire(t, w.gateway, "GET "+path+" HTTP/1.1\r\nHost: "+w.api+"\r\n\r\n")
		require.Equal(t, 400, r.StatusCode)
		require.Contains(t, body, "HTTP proxy")
		require.Equal(t, "not_retryable", r.Header.Get("X-Whirlpool-Outcome"))
		require.NotEmpty(t, r.Header.Get("Proxy-Status"))
	}
}
