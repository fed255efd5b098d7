package gateway

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A client that continues to send after its response is read for a limited time, whatever the buffer
// contains.
func TestLingeringEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, sent := range []int{0, 100, 4 << 10, 10 << 10, 2 << 20} {
		client, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		raw, err := l.Accept()
		require.NoError(t, err)
		go client.Write(make([]byte, sent))
		c := newConnection(t.Context(), raw, time.Now, new(atomic.Bool))
		for range 4 { // so that the first buffer is full
			if len(c.reader.Buffered()) < min(sent, 4<<10) {
				require.NoError(t, c.reader.ReadAhead())
			}
		}
		done := make(chan struct{})
		go func() {
			c.linger(false)
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("after %d bytes it reads for ever", sent)
		}
		client.Close()
		raw.Close()
	}
}
