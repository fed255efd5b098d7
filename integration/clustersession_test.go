package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// TestS163SessionsMoveOnAllNodes: one gateway moves a session to another proxy. The session then uses this proxy at
// all gateways, even at a gateway that starts later. The session still uses the proxy after the store has failed.
func TestS163SessionsMoveOnAllNodes(t *testing.T) {
	t.Parallel()
	patient := strings.Replace(confCluster, `attempt = "1s"`, "attempt = \"30s\"\nadaptive = false", 1)
	c := startGateways(t, 3, 3, patient) // a session that moves because the machine is slow would disturb the test
	session := []string{"X-Whirlpool-Session", "s1; ttl=1h"}
	before := c.nodes[0].get(session...)
	require.Equal(t, 200, before.status)
	for _, w := range c.nodes {
		require.Equal(t, before.proxy(), w.get(session...).proxy(), "by rendezvous hashing")
	}
	for _, f := range c.fakes {
		f.SetScript(func(_ int, r *http.Request) lab.Behaviour {
			if f.Name == before.proxy() && r.Header.Get("X-Fail") != "" {
				return lab.Challenge()
			}
			return lab.OK()
		})
	}
	moved := c.nodes[0].get(append(session, "X-Fail", "1")...)
	require.Equal(t, 200, moved.status)
	require.Equal(t, before.proxy(), moved.header.Get("X-Whirlpool-Session-Moved"))
	require.NotEqual(t, before.proxy(), moved.proxy())
	follows := func(w *whirl) bool { return w.get(session...).proxy() == moved.proxy() }
	took := c.everywhere("the move", follows)
	t.Logf("the session has moved everywhere %v after the response", took)
	c.nodes[1].kill()
	c.nodes[1].startProcess()
	c.everywhere("after a restart", follows)
	c.store.kill()
	c.everywhere("alone", (*whirl).isAlone)
	for _, w := range c.nodes {
		require.True(t, follows(w), "without the store")
	}
}
