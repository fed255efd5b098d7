package integration

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A statsd server receives the requests of the gateway, after a reload has given its address.
func TestMetricsArePushed(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	w := start(t, 1, confK)
	w.get() // this request is not sent: the push is not on yet
	w.writeConfig(confK + "\n[metrics]\npush_interval = \"1s\"\nstatsd = \"" + server.LocalAddr().String() + "\"\n")
	status, body, _ := w.call("POST", "/config/reload", "")
	require.Equal(t, 200, status, "%s", body)
	w.get()
	w.get()
	require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Minute)))
	packet, served := make([]byte, 64<<10), 0
	for served < 2 {
		n, _, err := server.ReadFrom(packet)
		require.NoError(t, err, "the requests have not arrived")
		for line := range strings.Lines(string(packet[:n])) {
			if growth, ok := strings.CutPrefix(strings.TrimSpace(line), "whirlpool.requests_total.http.success:"); ok {
				served += int(growth[0] - '0')
			}
		}
	}
	require.Equal(t, 2, served)
}
