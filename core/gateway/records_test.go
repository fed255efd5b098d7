package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// tlsRecord returns a record of the given type with n bytes.
func tlsRecord(kind byte, n int) string {
	return string([]byte{kind, 3, 3, byte(n >> 8), byte(n)}) + strings.Repeat("x", n)
}

// The place at which a stream is read in pieces does not matter.
func TestRecords(t *testing.T) {
	const large = 16 << 10
	whole := tlsRecord(22, 100) + tlsRecord(20, 1) + tlsRecord(23, 3000)
	for name, c := range map[string]struct {
		stream string
		within bool
	}{
		"nothing":                   {"", false},
		"whole records":             {whole, false},
		"a part of a header":        {whole + "\x17\x03", true},
		"a header":                  {whole + "\x17\x03\x03\x00\x01", true},
		"a part of a body":          {whole[:len(whole)-1], true},
		"an empty record":           {whole + tlsRecord(23, 0), false},
		"then no TLS":               {whole + "HTTP/1.1 200 OK", false},
		"another version":           {whole + "\x17\x02\x03\x00\x05x", false},
		"a record that is too long": {whole + "\x17\x03\x03\xff\xff\x00", false},
		"below the limit": {
			strings.Repeat(tlsRecord(23, large-5), 3) + tlsRecord(23, large-5)[:large-1], true,
		},
		"beyond the limit": {strings.Repeat(tlsRecord(23, large-5), 4) + "\x17", false},
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			r := recordFollower{active: true}
			for rest := c.stream; rest != ""; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "n")
				r.follow([]byte(rest[:n]))
				rest = rest[n:]
			}
			require.Equal(t, c.within, r.endsInRecord())
		}))
	}
}

func TestRecordsAllocateNothing(t *testing.T) {
	p := []byte(tlsRecord(22, 100) + tlsRecord(23, 3000))
	require.Zero(t, testing.AllocsPerRun(10, func() {
		r := recordFollower{active: true}
		r.follow(p)
	}))
}

// A tunnel is cut if the proxy's side ends it within a TLS record of the target while the client wants more.
func TestCutTunnels(t *testing.T) {
	hello := string(clientHello(t, &tls.Config{ServerName: "a.test"}))
	part := tlsRecord(22, 100) + tlsRecord(23, 3000)[:2000]
	for name, c := range map[string]struct {
		send, reply string
		literal     bool
		end         func(proxy *net.TCPConn, c *client) // nil: the proxy closes the tunnel
		cut         bool
	}{
		"within a record":         {send: hello, reply: part, cut: true},
		"within the first header": {send: hello, reply: "\x16\x03", cut: true},
		"by a reset": {send: hello, reply: part, cut: true, end: func(proxy *net.TCPConn, _ *client) {
			proxy.SetLinger(0)
			proxy.Close()
		}},
		"after a record":           {send: hello, reply: tlsRecord(22, 100) + tlsRecord(23, 3000)},
		"after 60 KiB":             {send: hello, reply: strings.Repeat(tlsRecord(23, 10_000), 6) + "\x17", cut: true},
		"after 70 KiB":             {send: hello, reply: strings.Repeat(tlsRecord(23, 10_000), 7) + "\x17"},
		"without a ClientHello":    {send: "hello", reply: part},
		"by early data":            {send: hello + "x", reply: part},
		"with bytes of no TLS":     {send: hello, reply: tlsRecord(22, 100) + "goodbye"},
		"with breakers that count": {send: hello, reply: part, literal: true},
		"after the client": {send: hello, reply: part, end: func(proxy *net.TCPConn, c *client) {
			c.Close()
			io.Copy(io.Discard, proxy)
			proxy.Close()
		}},
		"after the client's sending side": {send: hello, reply: part, end: func(proxy *net.TCPConn, c *client) {
			c.CloseWrite()
			io.Copy(io.Discard, proxy)
			proxy.Close()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log coretest.Log
			proxy, over := make(chan *net.TCPConn), make(chan struct{})
			defer close(over)
			sent := c.send
			r := newRig(t, tunnelling(func(c net.Conn, b *bufio.Reader) {
				io.ReadFull(b, make([]byte, len(sent)))
				proxy <- c.(*net.TCPConn)
				<-over
			}), func(o *options) {
				patient(o)
				o.log = slog.NewTextHandler(&log, nil)
				if !c.literal {
					o.targets = noSuspects{}
				}
			})
			client := r.connect()
			client.send(c.send)
			p := <-proxy
			io.WriteString(p, c.reply)
			_, err := io.ReadFull(client.r, make([]byte, len(c.reply)))
			require.NoError(t, err)
			if c.end == nil {
				p.Close()
			} else {
				c.end(p, client)
			}
			client.r.ReadByte() // until the gateway has ended the tunnel
			client.Close()
			r.free()
			require.Equal(t, c.cut, strings.Contains(log.String(), "tunnel cut"), log.String())
		})
	}
}
