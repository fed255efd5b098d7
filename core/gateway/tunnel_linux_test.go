package gateway

import (
	"bufio"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A client that has left is noticed although nobody reads from it, as its target
// takes nothing: then its tunnel stands no longer than a body. As long as the
// client is there it may stand.
func TestATunnelWhoseClientLeftStandsNoLonger(t *testing.T) {
	const idle, size = 50 * time.Millisecond, 32 << 20
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, tunnelling(func(net.Conn, *bufio.Reader) { <-over }), func(o *options) { o.BodyIdle = idle })
	c := r.connect()
	c.SetWriteDeadline(time.Now().Add(10 * idle)) // it is full, and stands for a while
	n, err := c.Write(make([]byte, size))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, size)
	require.Equal(t, 1, r.Connections())
	c.SetLinger(0)
	c.Close()
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount, "the client has left")
}
