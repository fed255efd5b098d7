package integration

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A request whose response is being relayed is listed as streaming.
func TestARelayedResponseIsStreaming(t *testing.T) {
	w := start(t, 1, "")
	w.fakes[0].SetBehaviour(lab.Behaviour{Pieces: 1 << 20, Interval: eventTimeout})
	q, err := http.NewRequest("GET", "http://origin.test/", nil)
	require.NoError(t, err)
	r, err := w.client.Transport.RoundTrip(q)
	require.NoError(t, err)
	defer r.Body.Close()
	_, err = io.ReadFull(r.Body, make([]byte, 1))
	require.NoError(t, err)
	eventually(t, "the request is streaming", func() bool { return len(w.requests("streaming")) == 1 })
}
