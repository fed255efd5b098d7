package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusedRequestsAreReported(t *testing.T) {
	for name, x := range map[string]struct {
		sent   string
		change func(*options)
		want   string
	}{
		"malformed head": {"GET http://a.test/ HTTP/1.1\r\nX : a\r\n\r\n", nil, "http malformed_request"},
		"target":         {"GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", nil, "http bad_target"},
		"tunnel": {"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", nil,
			"connect bad_target"},
		"kept body": {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", nil,
			"http malformed_request"},
		"streamed body": {"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"4000\r\n" + strings.Repeat("x", 0x4000) + "\r\nx\r\n", func(o *options) { o.ReplayLimit = 1 },
			"http malformed_request"},
		"SOCKS5":          {"\x05\x01\x07", nil, "socks5 proxy_authentication_required"},
		"SOCKS5, command": {"\x05\x01\x00\x05\x02\x00\x01\x01\x01\x01\x01\x00\x50", nil, "socks5 malformed_request"},
		"no place":        {closing, func(o *options) { o.files = 1 }, "http too_many_connections"},
		"served":          {closing, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), x.change)
			c := r.ask(x.sent)
			_, err := io.Copy(io.Discard, c.r)
			require.NoError(t, err)
			r.recorded.mu.Lock()
			defer r.recorded.mu.Unlock()
			require.Equal(t, x.want, strings.Join(r.recorded.refused, ", "))
		})
	}
}
