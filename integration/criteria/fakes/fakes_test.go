package fakes

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// dial opens a connection to a proxy.
func dial(t *testing.T, p *Pool, proxy int) (net.Conn, *bufio.Reader) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() })
	go p.Serve(far, proxy)
	return near, bufio.NewReader(near)
}

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ok := faults.State{Latency: time.Second}
		w := &workload.Workload{Seed: 1, Requests: 10, Targets: 1, Pool: faults.Pool{
			faults.SwitchingProxy(ok, faults.State{Fails: 1, Latency: time.Second}, time.Minute),
			faults.SteadyProxy(faults.State{Hangs: true}),
			faults.SwitchingProxy(ok, faults.State{Refuses: true}, time.Minute),
		}}
		p := New(w, "")
		get := func(c net.Conn, r *bufio.Reader, url string) (int, error) {
			fmt.Fprintf(c, "GET http://%s HTTP/1.1\r\nHost: x\r\n\r\n", url)
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				return 0, err
			}
			response.Body.Close()
			return response.StatusCode, nil
		}
		c, r := dial(t, p, 0)
		status, err := get(c, r, URL(0, 3))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		time.Sleep(time.Hour)
		status, err = get(c, r, "health.example/")
		require.NoError(t, err)
		require.Equal(t, 200, status, "the clock has not been started")
		require.Equal(t, 1, p.Arrivals(0), "a health check is not counted")

		p.Begin()
		time.Sleep(time.Minute)
		require.Equal(t, time.Minute, p.Now())
		status, err = get(c, r, URL(0, 3))
		require.NoError(t, err)
		require.Equal(t, 503, status)

		c, r = dial(t, p, 1)
		c.SetReadDeadline(time.Now().Add(time.Hour))
		_, err = get(c, r, URL(0, 1))
		require.ErrorContains(t, err, "timeout")

		c, r = dial(t, p, 2)
		_, err = get(c, r, URL(0, 1))
		require.Error(t, err)
		require.EqualValues(t, 2, p.attemptCounts[1].Load())
	})
}

func TestParse(t *testing.T) {
	p := New(&workload.Workload{Requests: 400}, "")
	id, target, ok := p.parseRequest("t12.example", "/345")
	require.True(t, ok)
	require.Equal(t, []int{12, 345}, []int{target, id})
	_, target, ok = p.parseRequest("t12.example:443", "")
	require.False(t, ok)
	require.Equal(t, 12, target)
	for _, bad := range [][2]string{
		{"x.example", "/1"}, {"t1.example", "/x"}, {"t1.example", "/400"}, {"t1.example", "/-1"},
	} {
		_, _, ok := p.parseRequest(bad[0], bad[1])
		require.False(t, ok, bad)
	}
}
