package gateway

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newPlaces returns places, and a function that adds a connection on which the client must send something and
// has waited for a time.
func newPlaces(now time.Time) (*places, func(client string, what int64, waited time.Duration) *connection) {
	p := &places{}
	p.init()
	return p, func(client string, what int64, waited time.Duration) *connection {
		c := &connection{client: netip.MustParseAddr(client)}
		c.read.setAwaited(what, now.Add(-waited))
		if what == awaitsBody || what == awaitsNothing {
			c.read.phase.Store(busy)
		}
		p.add(c)
		return c
	}
}

// Idle clients are removed first, then those with an unfinished head, then those that send nothing more of a
// body. Of each kind, those that have waited longest are removed first. Clients that have waited only for a
// short time, and those with a request in flight, stay.
func TestWhoLeavesFirst(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	add("10.0.0.1", awaitsBody, minBodyWait-time.Millisecond)
	add("10.0.0.1", awaitsHead, minHeadWait-time.Millisecond)
	add("10.0.0.1", awaitsRequest, minWait-time.Millisecond)
	add("10.0.0.1", awaitsNothing, time.Hour)
	var order []*connection
	for _, what := range []int64{awaitsRequest, awaitsHead, awaitsBody} {
		order = append(order, add("10.0.0.1", what, 2*time.Hour), add("10.0.0.1", what, time.Hour))
	}
	for i, want := range order {
		require.Equal(t, []*connection{want}, p.oldest(now, netip.Addr{}), "number %d", i)
	}
	require.Empty(t, p.oldest(now, netip.Addr{}))
	require.EqualValues(t, 4, p.clients.Load())
	add("10.0.0.1", awaitsRequest, time.Hour)
	require.Empty(t, p.oldest(now, netip.Addr{}), "nobody is looked for so soon after nobody was found")
	require.Len(t, p.oldest(now.Add(evictAgain), netip.Addr{}), 1)
}

// Of many connections a 64th is removed at once. A search can be limited to one client's connections.
func TestWhoLeavesTogether(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	for range 640 {
		add("10.0.0.1", awaitsRequest, time.Hour)
	}
	mine := add("10.0.0.2", awaitsHead, time.Minute)
	require.Len(t, p.oldest(now, netip.Addr{}), 11)
	require.Equal(t, []*connection{mine}, p.oldest(now, mine.client))
	require.Empty(t, p.oldest(now, mine.client))
	require.NotEmpty(t, p.oldest(now, netip.Addr{}), "the search for one client has no effect on others")
	n, most := p.ofClient(mine.client)
	require.Zero(t, n)
	require.False(t, most)
	_, most = p.ofClient(netip.MustParseAddr("10.0.0.1"))
	require.True(t, most)
}

func TestClientOf(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3:80":                 "10.1.2.3",
		"[::ffff:10.1.2.3]:80":        "10.1.2.3",
		"[2001:db8:1:2:3:4:5:6]:1234": "2001:db8:1:2::",
		"[fe80::1%eth0]:80":           "fe80::",
	} {
		require.Equal(t, want, clientOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))).String())
	}
	require.False(t, clientOf(&net.UnixAddr{}).IsValid())
}

// Places are free soon if a quarter of the clients have just connected or have a young request.
func TestSoonFree(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	require.False(t, p.soonFree(now), "without clients")
	for range 3 {
		add("10.0.0.1", awaitsRequest, minWait)
		add("10.0.0.1", awaitsBody, time.Hour)
	}
	add("10.0.0.1", awaitsRequest, minWait-time.Millisecond)
	require.False(t, p.soonFree(now), "one of seven")
	c := add("10.0.0.1", awaitsRequest, maxWaited-time.Millisecond)
	require.False(t, p.soonFree(now), "the client has been silent for longer than minWait")
	c.read.enter(busy)
	require.True(t, p.soonFree(now), "two of eight")
	require.False(t, p.soonFree(now.Add(time.Millisecond)))
}
