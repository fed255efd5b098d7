package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// connectOnly returns the script of a proxy that opens tunnels, and responds with a status to all other
// requests.
func connectOnly(status int) lab.Script {
	return func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.OK()
		}
		return lab.Status(status)
	}
}

// getOnly returns the script of a proxy that responds to CONNECT with a status, and forwards all other
// requests.
func getOnly(status int) lab.Script {
	return func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.Status(status)
		}
		return lab.OK()
	}
}

// origin starts a target that responds with "origin" and counts its requests.
func origin(t *testing.T) (host string, requests *atomic.Int64) {
	requests = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		fmt.Fprint(w, "origin")
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), requests
}

func methods(f *lab.Proxy) (connects, others int) {
	for _, a := range f.Arrivals() {
		if a.Method == http.MethodConnect {
			connects++
		} else {
			others++
		}
	}
	return connects, others
}

// A proxy that only opens tunnels serves requests for http:// targets through a tunnel.
func TestConnectOnlyProxy(t *testing.T) {
	for _, status := range []int{405, 501} {
		w := start(t, 2, notAdaptive+roundRobin)
		host, requests := origin(t)
		w.fakes[0].SetScript(connectOnly(status))
		for range 12 {
			a := w.request("GET", "http://"+host+"/", "")
			require.Equal(t, 200, a.status)
			require.Equal(t, "1", a.attempts())
		}
		connects, others := methods(w.fakes[0])
		require.Equal(t, 1, others, "the first GET, from which it is learnt")
		require.Equal(t, 1, connects, "the tunnel is kept for the next requests")
		require.EqualValues(t, 6, requests.Load())
		_, others = methods(w.fakes[1])
		require.Equal(t, 6, others)
		a := w.request("POST", "http://"+host+"/", "x")
		require.Equal(t, 200, a.status)
		require.Equal(t, "closed", w.breaker("F1")["state"])
	}
}

// The only proxy of the pool can only open tunnels.
func TestTheOnlyProxyCannotForward(t *testing.T) {
	w := start(t, 1, notAdaptive+"[retry]\nbase_delay = 0.1\n")
	host, _ := origin(t)
	w.fakes[0].SetScript(connectOnly(405))
	for range 3 {
		require.Equal(t, 200, w.request("GET", "http://"+host+"/", "").status)
	}
	w.fakes[0].SetScript(getOnly(405))
	require.Equal(t, 200, w.request("POST", "http://"+host+"/", "x").status, "on the idle tunnel")
	status, _, _ := w.connect(host)
	require.Equal(t, 405, status, "what a proxy cannot do is no reason to refuse")
}

// The target itself responds with 405. The response is relayed, and the abilities of the proxy do not change.
func TestTheTargetsOwn405(t *testing.T) {
	w := start(t, 2, notAdaptive+roundRobin)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) }))
	t.Cleanup(s.Close)
	for _, f := range w.fakes {
		f.SetScript(connectOnly(405)) // the fake stands for a target that responds in the same way through the tunnel
	}
	for range 8 {
		a := w.request("GET", s.URL, "")
		require.Equal(t, 405, a.status)
		require.Equal(t, "success", a.outcome())
		require.Equal(t, "1", a.attempts())
	}
	for _, f := range w.fakes {
		connects, others := methods(f)
		require.Equal(t, 4, others)
		require.Equal(t, 1, connects, "one comparison a minute")
	}
}

// A proxy refuses a request, because it can neither forward requests nor open tunnels. When another proxy has served
// this request, the first proxy gets no more requests.
func TestUselessProxy(t *testing.T) {
	w := start(t, 2, notAdaptive+roundRobin+"[retry]\nbase_delay = 0.1\n")
	w.fakes[0].SetBehaviour(lab.Status(405))
	for range 20 {
		require.Equal(t, 200, w.get().status)
	}
	w.clearArrivals()
	host, _ := origin(t)
	for range 6 {
		require.Equal(t, "1", w.get().attempts())
		status, _, c := w.connect(host)
		require.Equal(t, 200, status)
		c.Close()
	}
	require.Zero(t, w.fakes[0].Count())
	require.Equal(t, "closed", w.breaker("F1")["state"])
}

// A proxy that refuses a CONNECT gets no more CONNECTs when another proxy has opened the tunnel.
func TestGetOnlyProxy(t *testing.T) {
	for _, c := range []struct{ status, targets, refused int }{{405, 1, 1}, {501, 1, 1}, {403, 3, 3}, {403, 1, 4}} {
		status, targets := c.status, c.targets
		w := start(t, 2, notAdaptive+roundRobin)
		w.fakes[0].SetScript(getOnly(status))
		hosts := make([]string, targets)
		for i := range hosts {
			hosts[i], _ = origin(t)
		}
		for i := range 20 {
			got, _, c := w.connect(hosts[i%targets])
			require.Equal(t, 200, got)
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			c.Read(make([]byte, 1))
			c.Close()
		}
		connects, _ := methods(w.fakes[0])
		require.Equal(t, c.refused, connects, "refused with %d", status)
		require.Equal(t, "closed", w.breaker("F1")["state"])
		w.clearArrivals()
		for range 4 {
			require.Equal(t, 200, w.get().status)
		}
		require.Equal(t, 2, w.fakes[0].Count(), "it goes on serving plain requests")
	}
}

// With blame = "literal" the gateway does not learn abilities.
func TestLiteralBlameLearnsNoAbility(t *testing.T) {
	w := start(t, 2, roundRobin+"[breaker]\nblame = \"literal\"\n")
	host, _ := origin(t)
	w.fakes[0].SetScript(connectOnly(405))
	refused := 0
	for range 12 {
		if w.request("GET", "http://"+host+"/", "").status == 405 {
			refused++
		}
	}
	require.Equal(t, 6, refused)
	connects, _ := methods(w.fakes[0])
	require.Zero(t, connects)
}
