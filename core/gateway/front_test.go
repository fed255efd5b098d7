package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/proxyhttp"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
)

// lineFront is a front for another protocol: the client sends "host:port" and a line break. After the
// response "+" it has a tunnel.
type lineFront struct {
	server *Server
	conn   *connection
}

func (f lineFront) respondNoPlace() { io.WriteString(&f.conn.writer, "full\r\n") }

func (f lineFront) serve() {
	for !strings.Contains(string(f.conn.reader.Buffered()), "\n") {
		if f.conn.reader.ReadAhead() != nil {
			return
		}
	}
	line, _, _ := strings.Cut(string(f.conn.reader.Buffered()), "\n")
	f.conn.reader.Discard(len(line) + 1)
	f.conn.readControl.setPhase(phaseBusy)
	var to proxyhttp.Authority
	if err := to.Set([]byte(line), ""); err != nil {
		io.WriteString(&f.conn.writer, "-\r\n")
		return
	}
	policy := f.server.Policies.Current()
	in := executor.Request{
		ID: f.server.NewID(), Policy: policy, GlobalPolicy: policy, Host: to.Host, Target: to.Target, WantsTunnel: true,
		Idempotent: true,
		Replayable: true, Listener: core.ListenConnect,
	}
	var control transport.Control
	defer context.AfterFunc(f.conn.ctx, control.Interrupt.Cancel)()
	var x executor.Exchange
	defer x.Abandon()
	call := proxyhttp.TunnelSender{Transport: f.server.Transport, Control: &control, Authority: to.HostPort}
	end := executor.Run(f.conn.ctx, f.server.Executor, &x, &in, &call)
	switch {
	case end.Tunnel != nil:
		greeting := pooledBuffer{pool: f.server.writeBuffers}
		greeting.buf = append(greeting.get(), "+\r\n"...)
		f.server.serveTunnel(f.conn, end.Tunnel, end.Response, &call, &greeting)
	case end.Relay != nil:
		io.WriteString(&f.conn.writer, "-\r\n")
	default:
		end.Refusal.Close(0, f.server.Now())
	}
}

// A second front works beside the HTTP front. Both use the same listener, connections, executor and tunnels.
func TestAnotherFront(t *testing.T) {
	r := newRig(t, tunnelling(func(c net.Conn, b *bufio.Reader) { io.Copy(c, b) }), nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go r.accept(l, func(s *Server, c *connection) front { return lineFront{s, c} })
	dial := func(send string) *client {
		raw, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { raw.Close() })
		c := &client{raw.(*net.TCPConn), t, bufio.NewReader(raw)}
		c.send(send)
		return c
	}
	require.Equal(t, "-", dial("nowhere\n").line())
	c := dial("a.test:443\nearly\r\n")
	require.Equal(t, "+", c.line())
	require.Equal(t, "early", c.line())
	c.send("more\r\n")
	require.Equal(t, "more", c.line())
	c.CloseWrite()
	c.ended()
	r.free()
	require.Equal(t, []string{"success"}, r.recorded.finals())

	r.connect().Close() // HTTP still works
	r.free()
	shut, idle := make(chan struct{}), dial("")
	r.eventually("it is there", func() bool { return r.Connections() > 0 })
	go func() {
		defer close(shut)
		r.Shutdown(context.Background())
	}()
	idle.ended()
	<-shut
	require.Equal(t, "full", dial("").line())
}
