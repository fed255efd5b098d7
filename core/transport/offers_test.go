package transport

import (
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

const socksOK = "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"

// A proxy that is a gateway takes the loop tokens, and its response decides how the handshake ends. Any other proxy
// does not take them.
func TestSOCKSTokens(t *testing.T) {
	plain := upstream.Address{Scheme: upstream.SOCKS5, Host: "p.test:1080"}
	login := upstream.Address{Scheme: upstream.SOCKS5, Host: "p.test:1080", Username: "me", Password: "secret"}
	request := "\x05\x01\x00\x03\x06a.test\x00\x50"
	for name, x := range map[string]struct {
		address    upstream.Address
		sent, gets string
	}{
		"another proxy": {plain, "\x05\x02\x00\xd7" + request, "\x05\x00" + socksOK},
		"a gateway":     {plain, "\x05\x02\x00\xd7\x01\x00\x03tok" + request, "\x05\xd7\x01\x00\x00" + socksOK},
		"a gateway with users": {login, "\x05\x03\x00\x02\xd7\x01\x00\x03tok\x01\x02me\x06secret" + request,
			"\x05\xd7\x01\x00\x02\x01\x00" + socksOK},
	} {
		c := &scriptedConn{in: strings.NewReader(x.gets)}
		offer := tokenOffer{tokens: []byte("tok")}
		require.NoError(t, socksHandshake(c, x.address, "a.test:80", &offer), name)
		require.Equal(t, x.sent, c.out.String(), name)
		require.Equal(t, name != "another proxy", offer.accepted, name)
		for i := range len(x.gets) {
			require.Error(t, socksHandshake(&scriptedConn{in: strings.NewReader(x.gets[:i])}, x.address, "a.test:80",
				&tokenOffer{tokens: []byte("tok")}), "%s: cut after %d bytes", name, i)
		}
	}
	for name, x := range map[string]struct {
		gets  string
		cause any
	}{
		"it has come back":      {"\x05\xd7\x01\x01\x00", verdict.ProxyLoop},
		"too many gateways":     {"\x05\xd7\x01\x02\x00", verdict.TunnelRefused},
		"all proxies lead back": {"\x05\xd7\x01\x00\x00\x05\xd7\x00\x01\x00\x00\x00\x00\x00\x00", verdict.ProxyLoop},
		"an unknown status":     {"\x05\xd7\x01\x09\x00", verdict.ProxyProtocol},
		"an unknown version":    {"\x05\xd7\x02\x00\x00", verdict.ProxyProtocol},
		"tokens again":          {"\x05\xd7\x01\x00\xd7", verdict.ProxyProtocol},
	} {
		err := socksHandshake(&scriptedConn{in: strings.NewReader(x.gets)}, plain, "a.test:80",
			&tokenOffer{tokens: []byte("tok")})
		require.Error(t, err, name)
		require.Equal(t, x.cause, socksFailure(err).Cause, name)
	}
	err := socksHandshake(&scriptedConn{in: strings.NewReader("\x05\xd7")}, plain, "a.test:80", &tokenOffer{})
	require.Equal(t, verdict.ProxyProtocol, socksFailure(err).Cause, "the method was not offered")
}

// Proxies that do not accept an unknown method lose one attempt. From then on they are greeted without it.
func TestProxiesThatRefuseOffers(t *testing.T) {
	for name, greet := range map[string]func(c net.Conn) bool{
		"the list is not read": func(c net.Conn) bool {
			var hello [3]byte
			io.ReadFull(c, hello[:])
			c.Write([]byte("\x05\x00"))
			var version [1]byte
			io.ReadFull(c, version[:])
			return version[0] == 5
		},
		"the connection is closed": func(c net.Conn) bool {
			hello := make([]byte, 100)
			n, _ := c.Read(hello)
			if string(hello[:n]) != "\x05\x01\x00" {
				return false
			}
			c.Write([]byte("\x05\x00"))
			io.ReadFull(c, hello[:1])
			return true
		},
		"no method is acceptable": func(c net.Conn) bool {
			hello := make([]byte, 100)
			n, _ := c.Read(hello)
			if string(hello[:n]) != "\x05\x01\x00" {
				c.Write([]byte("\x05\xff"))
				return false
			}
			c.Write([]byte("\x05\x00"))
			io.ReadFull(c, hello[:1])
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int64
			u := proxyAt(t, "socks5://"+coretest.Serve(t, func(c net.Conn) {
				connections.Add(1)
				if greet(c) {
					io.WriteString(c, socksOK)
					io.Copy(io.Discard, c)
				}
			}))
			tr := New(Config{Loop: loop.New(rand.Uint64)})
			defer tr.Close()
			open := func() *verdict.Error {
				tun, verr := tr.OpenTunnel(t.Context(), u, &Control{Deadline: time.Now().Add(time.Minute)}, "a.test:80")
				if verr == nil {
					tun.Abort()
				}
				return verr
			}
			require.NotNil(t, open())
			for range 3 {
				require.Nil(t, open())
			}
			require.EqualValues(t, 4, connections.Load())
		})
	}
}

func TestTokenOffers(t *testing.T) {
	tokens := &tokenOffer{tokens: []byte("t")}
	taken, none := &tokenOffer{tokens: []byte("t"), accepted: true}, &tokenOffer{}
	broke := &verdict.Error{Cause: verdict.TunnelBroke}
	refused := &verdict.Error{Cause: verdict.TunnelRefused}
	for name, x := range map[string]struct {
		from  int32
		offer *tokenOffer
		err   *verdict.Error
		to    int32
	}{
		"the first offer succeeds":     {offersUntested, tokens, nil, offersAccepted},
		"the proxy refuses the target": {offersUntested, tokens, refused, offersAccepted},
		"a gateway takes it and fails": {offersUntested, taken, broke, offersAccepted},
		"the first offer fails":        {offersUntested, tokens, broke, offersDoubted},
		"a later offer fails":          {offersAccepted, tokens, broke, offersAccepted},
		"without an offer as well":     {offersDoubted, none, broke, offersUntested},
		"without an offer it succeeds": {offersDoubted, none, nil, offersRefused},
		"a late success":               {offersDoubted, tokens, nil, offersAccepted},
		"it stays":                     {offersRefused, none, broke, offersRefused},
	} {
		var o tokenOffers
		o.state.Store(x.from)
		o.recordHandshake(x.offer, x.err)
		require.Equal(t, x.to, o.state.Load(), name)
	}
}
