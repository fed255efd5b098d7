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

// The target does not read, so the gateway does not read from the client. If the client leaves
// nevertheless, the gateway detects this, and the tunnel ends after body_idle. Otherwise the tunnel
// stays open.
func TestATunnelWhoseClientLeftEnds(t *testing.T) {
	const idle = 50 * time.Millisecond
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, tunnelling(func(net.Conn, *bufio.Reader) { <-over }), func(o *options) { o.BodyIdle = idle })
	c := r.connect()
	c.fill(10 * idle) // and the tunnel stalls for a while
	require.Equal(t, 1, r.Connections())
	c.SetLinger(0)
	c.Close()
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount, "the client has left")
}

// The client does not read, so the gateway does not read from the target. If the target ends the tunnel nevertheless,
// the gateway detects this, and the tunnel ends after body_idle. Otherwise the tunnel stays open.
func TestATunnelWhoseTargetLeftEnds(t *testing.T) {
	const idle = 50 * time.Millisecond
	leave, full := make(chan struct{}), make(chan struct{})
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
		for err := error(nil); err == nil; { // until the gateway accepts no more bytes
			c.SetWriteDeadline(time.Now().Add(10 * idle))
			_, err = c.Write(make([]byte, 64<<10))
		}
		close(full)
		<-leave
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}), func(o *options) { o.BodyIdle = idle })
	r.connect()
	<-full
	require.Equal(t, 1, r.Connections())
	close(leave)
	r.free()
}

// The bytes that a target has sent before it stops reading reach a client that continues to send. An example
// is the response to an upload that is too large.
func TestAResponseOfATargetThatStopsReading(t *testing.T) {
	said := make(chan int, 1)
	r := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) {
		n := 0
		for err := error(nil); err == nil; { // until the other side accepts no more bytes
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
	time.Sleep(50 * time.Millisecond) // so that the gateway meets the end while there are still bytes to forward
	n, err := io.Copy(io.Discard, c.r)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(size))
	r.free()
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount)
}

// Writing the bytes after a CONNECT is checked like every write: the client may leave while these bytes wait.
func TestEarlyBytesMayStall(t *testing.T) {
	const idle = 50 * time.Millisecond
	dialled := make(chan *net.TCPConn, 1)
	over := make(chan struct{})
	defer close(over)
	r := newRig(t, func(c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		http.ReadRequest(bufio.NewReader(c))
		raw, err := (<-dialled).SyscallConn()
		require.NoError(t, err)
		for full := 0; full < 10; full++ { // because sent bytes may make room
			time.Sleep(idle / 2)
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
				err = c.(*net.TCPConn).SetWriteBuffer(64 << 10) // so that the buffer does not grow any more
				dialled <- c.(*net.TCPConn)
			}
			return c, err
		}
	})
	c := r.ask(connectTo + "hello, world")
	c.established()
	time.Sleep(4 * idle) // the client is still connected, so the tunnel may stall
	require.Equal(t, 1, r.Connections())
	c.SetLinger(0)
	c.Close()
	r.free()
	require.Zero(t, r.recorded.up)
	require.Zero(t, r.proxy.Breaker().Snapshot().FailureCount, "the client has left")
}
