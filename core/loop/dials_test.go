package loop

import (
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

type ends struct {
	net.Conn
	local, remote net.Addr
}

func (e ends) LocalAddr() net.Addr  { return e.local }
func (e ends) RemoteAddr() net.Addr { return e.remote }

func TestDials(t *testing.T) {
	at := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	g := New(rand.Uint64)
	dialled := ends{local: at("192.0.2.1", 4000)}
	require.False(t, g.CameBack(ends{remote: at("192.0.2.1", 4000)}))
	end := g.Dialled(dialled)
	require.False(t, g.CameBack(ends{remote: at("192.0.2.1", 4001)}))
	require.False(t, g.CameBack(ends{remote: at("192.0.2.2", 4000)}))
	require.False(t, end())
	require.False(t, g.CameBack(ends{remote: at("192.0.2.1", 4000)}), "the proxy has answered")

	end = g.Dialled(dialled)
	require.True(t, g.CameBack(ends{remote: at("::ffff:192.0.2.1", 4000)}))
	require.True(t, end())
	require.Empty(t, g.dials.back)

	end = g.Dialled(ends{local: &net.UnixAddr{}})
	require.False(t, g.CameBack(ends{remote: &net.UnixAddr{}}))
	require.False(t, end())
	var none *Guard
	end = none.Dialled(dialled)
	require.False(t, none.CameBack(ends{remote: at("192.0.2.1", 4000)}))
	require.False(t, end())
}
