package proxyhttp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
)

func TestUpgrade(t *testing.T) {
	for lines, want := range map[string]string{
		"Connection: Upgrade|Upgrade: websocket":                      "websocket",
		"upgrade: WebSocket|connection: keep-alive , UPGRADE":         "WebSocket",
		"Connection: close|Connection: upgrade|Upgrade: SPDY/3.1":     "SPDY/3.1",
		"Connection: Upgrade|Upgrade: websocket, tcp":                 "websocket, tcp",
		"Upgrade: websocket":                                          "",
		"Connection: Upgrade":                                         "",
		"Connection: Upgrades|Upgrade: websocket":                     "",
		"Proxy-Connection: Upgrade|Upgrade: websocket":                "",
		"Connection: Upgrade|Upgrade:":                                "",
		"Connection: Upgrade|Upgrade: websocket|Upgrade: tcp":         "",
		"Connection: Upgrade, HTTP2-Settings|Upgrade: h2c":            "",
		"Connection: Upgrade, HTTP2-Settings|Upgrade: websocket, H2C": "",
	} {
		var q http1.Request
		raw := "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + strings.ReplaceAll(lines, "|", "\r\n") + "\r\n\r\n"
		require.NoError(t, http1.NewReader(strings.NewReader(raw)).ReadRequest(&q))
		require.Equal(t, want, string(Upgrade(q.Fields, 1)), lines)
		require.Empty(t, Upgrade(q.Fields, 0), lines)
	}
}
