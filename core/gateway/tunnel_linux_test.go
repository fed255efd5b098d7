package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// A client that has left is found out although nothing reads from it, because its target
// does not read: the tunnel then ends after body_idle. While the client is there, it stays.
func TestATunnelWhoseClientLeftEnds(t *testing.T) {
	const idle = 50 * time.Millisecond
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, tunnelling(func(net.Conn, *bufio.Reader) { <-over }), func(o *options) { o.BodyIdle = idle })
	c := r.connect()
	c.fill(10 * idle) // and it stands for a while
	require.Equal(t, 1, r.Connections())
	c.SetLinger(0)
	c.Close()
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount, "the client has left")
}

// What a target has sent before it stops reading reaches the client although the client goes
// on sending: the response to an upload that is too large, for example.
func TestAResponseOfATargetThatStopsReading(t *testing.T) {
	said := make(chan int, 1)
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
		n := 0
		for err := error(nil); err == nil; { // until nothing more is taken
			c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			var m int
			m, err = c.Write(make([]byte, 64<<10))
			n += m
		}
		_, queued := socket.Progress(socket.Wrap(c))
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		said <- n - queued
	}), nil)
	c := r.connect()
	size := <-said
	c.send("more")
	time.Sleep(50 * time.Millisecond) // so that it meets the end while there is still something to say
	n, err := io.Copy(io.Discard, c.r)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(size))
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount)
}

// Writing the bytes after a CONNECT is watched like every write: the client may leave while
// they wait.
func TestEarlyBytesThatFindNoRoom(t *testing.T) {
	const idle = 50 * time.Millisecond
	dialled := make(chan *net.TCPConn, 1)
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, func(c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		http.ReadRequest(bufio.NewReader(c))
		raw, err := (<-dialled).SyscallConn()
		require.NoError(t, err)
		for full := 0; full < 5; full++ { // what has been sent may yet make room
			time.Sleep(idle / 10)
			raw.Control(func(fd uintptr) {
				for _, size := range []int{64 << 10, 1} {
					for {
						if n, _ := unix.Write(int(fd), make([]byte, size)); n <= 0 {
							break
						}
						full = 0
					}
				}
			})
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		<-over
	}, func(o *options) {
		o.BodyIdle = idle
		o.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				err = c.(*net.TCPConn).SetWriteBuffer(64 << 10) // which then grows no more
				dialled <- c.(*net.TCPConn)
			}
			return c, err
		}
	})
	c := r.ask(connectTo + "hello, world")
	c.established()
	time.Sleep(4 * idle) // its client is there: it may stand still
	require.Equal(t, 1, r.Connections())
	c.SetLinger(0)
	c.Close()
	r.free()
	require.Zero(t, r.recorded.up)
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount, "the client has left")
}
