package gateway

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// newPlaces returns places, and a function that adds a connection on which the client must send something and
// has waited for a time.
func newPlaces(now time.Time) (*places, func(client string, what int64, waited time.Duration) *connection) {
	p := &places{}
	p.init()
	return p, func(client string, what int64, waited time.Duration) *connection {
		c := &connection{client: netip.MustParseAddr(client)}
		c.readControl.setCurrentWait(what, now.Add(-waited))
		if what == bodyWait || what == noWait {
			c.readControl.phase.Store(phaseBusy)
		}
		p.addConn(c)
		return c
	}
}

// Idle clients are removed first, then clients with an incomplete head, then clients that have stopped sending a body.
// Within each kind, the clients that have waited longest are removed first. Clients that have waited only for a short
// time, and clients with a request in flight, stay.
func TestTheOrderOfRemoval(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	add("10.0.0.1", bodyWait, minBodyWait-time.Millisecond)
	add("10.0.0.1", headWait, minHeadWait-time.Millisecond)
	add("10.0.0.1", requestWait, minWait-time.Millisecond)
	add("10.0.0.1", noWait, time.Hour)
	var order []*connection
	for _, what := range []int64{requestWait, headWait, bodyWait} {
		order = append(order, add("10.0.0.1", what, 2*time.Hour), add("10.0.0.1", what, time.Hour))
	}
	for i, want := range order {
		require.Same(t, want, p.removeEvictable(now, netip.Addr{}, false), "number %d", i)
	}
	require.Nil(t, p.removeEvictable(now, netip.Addr{}, false))
	require.EqualValues(t, 4, p.clients.Load())
	add("10.0.0.1", requestWait, time.Hour)
	require.Nil(t, p.removeEvictable(now, netip.Addr{}, false), "nobody is looked for so soon after nobody was found")
	require.NotNil(t, p.removeEvictable(now.Add(searchPause), netip.Addr{}, false))
}

func TestTheOrderOfRemovalOfOneClient(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	for range 640 {
		add("10.0.0.1", requestWait, time.Hour)
	}
	mine := add("10.0.0.2", headWait, time.Minute)
	require.NotNil(t, p.removeEvictable(now, netip.Addr{}, false))
	require.Same(t, mine, p.removeEvictable(now, mine.client, false))
	require.Nil(t, p.removeEvictable(now, mine.client, false))
	require.NotNil(t, p.removeEvictable(now, netip.Addr{}, false), "the search for one client has no effect on others")
	n, most := p.countForClient(mine.client)
	require.Zero(t, n)
	require.False(t, most)
	_, most = p.countForClient(netip.MustParseAddr("10.0.0.1"))
	require.True(t, most)
}

// The result of one search is used for many removals. A connection stays if its client has sent something since, and
// one that has ended is not removed again.
func TestOneSearchForManyRemovals(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	var all []*connection
	for i := range 6 {
		all = append(all, add("10.0.0.1", requestWait, time.Hour-time.Duration(i)*time.Minute))
	}
	require.Same(t, all[0], p.removeEvictable(now, netip.Addr{}, false))
	first := add("10.0.0.1", requestWait, 2*time.Hour)
	all[1].readControl.setCurrentWait(requestWait, now) // another request was served
	all[2].readControl.setPhase(phaseBusy)
	require.True(t, p.removeConn(all[3]))
	require.False(t, p.removeConn(all[3]))
	require.Same(t, all[4], p.removeEvictable(now, netip.Addr{}, false))
	later := now.Add(searchLifetime)
	require.Same(t, first, p.removeEvictable(later, netip.Addr{}, false), "the next search finds it")
	p.dropEvictable(&p.evictSearches[0], p.evictSearches[0].validUntil)
	require.Same(t, all[5], p.removeEvictable(later, netip.Addr{}, false))
	require.Nil(t, p.removeEvictable(later, netip.Addr{}, false))
	require.ElementsMatch(t, []*connection{all[1], all[2]}, p.allConns())
}

func TestTheListOfPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Now()
		p, add := newPlaces(now)
		var want []*connection
		t.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) { want = append(want, add("10.0.0.1", requestWait, time.Hour)) },
			"remove": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("there is none")
				}
				i := rapid.IntRange(0, len(want)-1).Draw(t, "i")
				require.True(t, p.removeConn(want[i]))
				want = slices.Delete(want, i, i+1)
			},
			"evict": func(t *rapid.T) {
				if c := p.removeEvictable(now, netip.Addr{}, false); c != nil {
					require.Contains(t, want, c)
					want = slices.DeleteFunc(want, func(w *connection) bool { return w == c })
				}
			},
			"": func(t *rapid.T) {
				require.ElementsMatch(t, want, p.allConns())
				require.EqualValues(t, len(want), p.clients.Load())
			},
		})
	})
}

// The time for which a client has sent nothing before it was accepted counts as waiting, until its first request. If
// the client has sent a part of a head, its wait begins when the gateway has read this part.
func TestTimeInTheQueueCounts(t *testing.T) {
	for _, sent := range []bool{false, true} {
		now := time.Now()
		var draining atomic.Bool
		d := &readControl{conn: &deadlines{}, draining: &draining}
		since := func() time.Duration { return now.Sub(time.Unix(0, d.currentWait().start)).Round(time.Microsecond) }
		d.addQueueTime(time.Second, sent)
		d.beginRequestWait(now)
		if sent {
			require.Zero(t, since(), "the head may be complete")
		} else {
			require.Equal(t, time.Second, since())
		}
		d.beginHeadWait(now.Add(time.Minute))
		require.Equal(t, headWait, d.currentWait().kind)
		require.Equal(t, time.Second, since())
		d.setPhase(phaseBusy)
		d.setPhase(phaseIdle)
		d.beginRequestWait(now)
		require.Zero(t, since())
		d.beginHeadWait(now.Add(time.Minute))
		require.Zero(t, since())
	}
}

func TestAnEvictionOrARequest(t *testing.T) {
	for range 1000 {
		p := &places{}
		p.init()
		d := &readControl{places: p}
		p.countActive(true)
		var wg sync.WaitGroup
		var evicted, served bool
		wg.Go(func() { d.markSilent() })
		wg.Go(func() { evicted = d.markEvicted() })
		wg.Go(func() { served = d.setPhase(phaseBusy) })
		wg.Wait()
		require.NotEqual(t, evicted, served)
		require.Equal(t, served, p.active.Load() == 1)
		require.Equal(t, served, d.setPhase(phaseIdle))
		require.Zero(t, p.active.Load())
		require.False(t, d.markEvicted())
		require.False(t, d.markSilent())
	}
}

// Clients that have not sent their first request for long do not count as active, until they send it.
func TestSettleSilent(t *testing.T) {
	now := time.Now()
	p, add := newPlaces(now)
	for _, what := range []int64{requestWait, headWait, bodyWait, noWait} {
		for _, waited := range []time.Duration{time.Hour, 0} {
			add("10.0.0.1", what, waited).readControl.places = p
			p.countActive(true)
		}
	}
	require.True(t, p.markSilent(now))
	require.EqualValues(t, 6, p.active.Load())
	for _, c := range p.allConns() {
		silent := c.readControl.phase.Load() == phaseSilent
		require.Equal(t, silent, !isActive(c.readControl.phase.Load()))
		if silent {
			require.True(t, c.readControl.setPhase(phaseBusy))
		}
	}
	require.EqualValues(t, 8, p.active.Load())
	add("10.0.0.1", headWait, time.Hour).readControl.places = p
	p.countActive(true)
	require.False(t, p.markSilent(now), "no search so soon after the last one")
	require.True(t, p.markSilent(now.Add(searchPause)))
	require.False(t, p.markSilent(now.Add(2*searchPause)))
}

// A client without TLS may be silent for a shorter time before its first request than before a later one.
func TestPatience(t *testing.T) {
	client, other := net.Pipe()
	defer client.Close()
	defer other.Close()
	for conn, want := range map[net.Conn]time.Duration{
		client: minWait, tls.Server(socket.Wrap(client), nil): minWait, new(socket.Conn): minFirstWait,
	} {
		d := &readControl{conn: conn}
		d.setCurrentWait(requestWait, time.Now())
		require.Equal(t, want, d.currentWait().evictAfter(false), "%T", conn)
		d.phase.Store(phaseIdle)
		require.Equal(t, minWait, d.currentWait().evictAfter(false), "%T", conn)
		d.setCurrentWait(headWait, time.Now())
		require.Equal(t, minHeadWait, d.currentWait().evictAfter(false), "%T", conn)
		require.Equal(t, minReadyWait, d.currentWait().evictAfter(true), "%T", conn)
		d.inHandshake.Store(true)
		require.Equal(t, minHeadWait, d.currentWait().evictAfter(true), "%T", conn)
		d.inHandshake.Store(false)
		d.setCurrentWait(requestWait, time.Now())
		require.Equal(t, minWait, d.currentWait().evictAfter(true), "%T", conn)
		d.setCurrentWait(bodyWait, time.Now())
		require.Equal(t, minBodyWait, d.currentWait().evictAfter(true), "%T", conn)
	}
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
