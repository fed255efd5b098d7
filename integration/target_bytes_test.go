package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The byte counts of a target include the bytes that clients have sent and received, in requests and in tunnels.
func TestBytesOfTargets(t *testing.T) {
	w := start(t, 1, confK)
	bytes := func(host string) float64 {
		return w.getJSON("/targets/" + host)["traffic"].(map[string]any)["bytes"].(float64)
	}
	w.request("POST", "http://plain.test/", strings.Repeat("x", 5000))
	eventually(t, "5000 bytes at plain.test", func() bool { return bytes("plain.test") >= 5000 })
	require.Less(t, bytes("plain.test"), 6000.0)
	require.Zero(t, bytes("other.test"))
}
