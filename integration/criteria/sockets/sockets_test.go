//go:build linux

package sockets

import (
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

var direct = Gateway{Name: "direct"}

// Without a gateway, each request has the result of an attempt through the workload's first proxy.
func TestRun(t *testing.T) {
	w := workload.New(1, 0.1).Noise(0.3, 1000)
	w.Requests = 200
	r, err := (&Bench{}).Run(w, direct)
	require.NoError(t, err)
	lucky := 0
	for id := range w.Requests {
		if w.Luck(id, 0) >= 0.3 {
			lucky++
		}
	}
	require.Equal(t, lucky, r.ServedCount())
	require.Equal(t, w.Requests, r.Reached())
	require.Equal(t, w.Requests, r.Arrivals[0])
	require.Zero(t, r.Extra())
	require.Equal(t, w.Requests-lucky, r.Failed)
	require.Zero(t, r.Hung)
	for _, ms := range r.Latency {
		require.Greater(t, ms, 5.0, "the least latency of the pool is a log-normal one around 50 ms")
	}
}

func TestRunOfTunnels(t *testing.T) {
	w := workload.New(1, 0.1).Tunnels()
	w.Requests = 20
	r, err := (&Bench{}).Run(w, direct)
	require.NoError(t, err)
	require.Equal(t, 20, r.ServedCount())
	slices.Reverse(w.Pool)
	r, err = (&Bench{}).Run(w, direct)
	require.NoError(t, err)
	require.Zero(t, r.ServedCount(), "the last proxy drops tunnels")
	require.Equal(t, 20, r.Arrivals[0])
}

// A proxy that begins to refuse connections also resets the open ones. A proxy that stops refusing
// connections can be reached again.
func TestRefusing(t *testing.T) {
	w := workload.New(1, 0.1).Noise(0, 500)
	ok := faults.State{}
	p := faults.SwitchingProxy(ok, faults.State{Refuses: true}, 50*time.Millisecond)
	back := faults.SwitchingProxy(faults.State{Refuses: true}, ok, 50*time.Millisecond)
	w.Pool = faults.Pool{p, back}
	pool := fakes.New(w, "")
	l, err := listen(pool, w, (&Bench{}).network())
	require.NoError(t, err)
	defer l.close()
	c, err := net.Dial("tcp", l.addrs[0])
	require.NoError(t, err)
	defer c.Close()
	_, err = net.Dial("tcp", l.addrs[1])
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	pool.Begin()
	l.applyChanges(w)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = net.Dial("tcp", l.addrs[0])
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", l.addrs[1])
		if err == nil {
			c.Close()
		}
		return err == nil
	}, time.Minute, time.Millisecond)
}
