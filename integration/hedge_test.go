package integration

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// metric returns the value of a counter without labels.
func (w *whirl) metric(name string) int {
	w.t.Helper()
	r, err := http.Get("http://" + w.api + "/metrics")
	require.NoError(w.t, err)
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	found := regexp.MustCompile(`(?m)^` + name + ` (\d+)`).FindSubmatch(text)
	require.NotNil(w.t, found, name)
	n, err := strconv.Atoi(string(found[1]))
	require.NoError(w.t, err)
	return n
}

// requestAll sends n requests by 16 workers. It returns their durations, sorted.
func (w *whirl) requestAll(n int, headers ...string) (took []time.Duration) {
	w.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for range next {
				a := w.get(headers...)
				mu.Lock()
				took = append(took, a.duration)
				assert.Equal(w.t, 200, a.status)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	slices.Sort(took)
	return took
}

// One of eight proxies takes 2 s for a tenth of its requests. With hedges nearly no client waits 2 s, and there are at
// most 5 % more attempts. Without hedges one client in eighty waits 2 s.
func TestHedgesCutTheTail(t *testing.T) {
	w := start(t, 8, roundRobin+"[retry]\nhedge = \"p95\"\n[timeouts]\nadaptive = false\n")
	w.setAll(lab.Slow(10 * time.Millisecond))
	w.fakes[0].SetScript(func(n int, _ *http.Request) lab.Behaviour {
		if n%10 == 9 {
			return lab.Slow(2 * time.Second)
		}
		return lab.Slow(10 * time.Millisecond)
	})
	const n = 2400
	w.requestAll(400) // until the p95 is known and the hedge budget is full
	before := w.arrivals()
	hedged := w.requestAll(n)
	extra := w.arrivals() - before - n
	before = w.arrivals()
	control := w.requestAll(n, overrideHeader("hedge=off")...)
	require.Equal(t, n, w.arrivals()-before)
	at := func(took []time.Duration, share float64) time.Duration { return took[int(float64(len(took))*share)] }
	t.Logf("p50, p95, p99, p99.9, max with hedges: %v %v %v %v %v; without: %v %v %v %v %v; %d hedges (%.1f %%)",
		at(hedged, .5), at(hedged, .95), at(hedged, .99), at(hedged, .999), hedged[n-1],
		at(control, .5), at(control, .95), at(control, .99), at(control, .999), control[n-1],
		extra, 100*float64(extra)/n)
	require.Greater(t, at(control, .99), 2*time.Second)
	require.Less(t, at(hedged, .99), at(control, .99)/4)
	require.LessOrEqual(t, extra, n*5/100+10, "the budget, and what it had saved")
	hedges, won := w.metric("whirlpool_hedges_total"), w.metric("whirlpool_hedges_won_total")
	require.Equal(t, int(w.getJSON("/metrics/retries")["total_retries"].(float64)), hedges)
	require.LessOrEqual(t, hedges, (n+400)*5/100)
	require.NotZero(t, won)
	require.Less(t, won, hedges)
	w.reconcile(0)
	for _, f := range w.fakes {
		require.Equal(t, "closed", w.breaker(f.Name)["state"], "nobody is charged with a lost attempt")
	}
}

// GET /requests/{id} and the response fields show a hedge.
func TestAHedgeIsShown(t *testing.T) {
	w := start(t, 2, roundRobin+"[retry]\nhedge = 0.05\nhedge_budget = 1.0\n[timeouts]\nadaptive = false\n")
	w.fakes[0].SetBehaviour(lab.Slow(time.Minute))
	a := w.get()
	require.Equal(t, 200, a.status)
	require.Equal(t, []string{"2", "success", "F2"}, []string{a.attempts(), a.outcome(), a.proxy()})
	require.Less(t, a.duration, 30*time.Second)
	r := w.getJSON("/requests/" + a.header.Get("X-Whirlpool-Request-Id"))
	require.Equal(t, "F2", r["proxy_id"])
	attempts := r["attempts"].([]any)
	require.Len(t, attempts, 2)
	first, hedge := attempts[0].(map[string]any), attempts[1].(map[string]any)
	require.Equal(t, []any{"F1", "cancelled", nil}, []any{first["proxy_id"], first["outcome"], first["hedge"]})
	require.Contains(t, first["error_message"], "has served the request first")
	require.Equal(t, []any{"F2", "success", true}, []any{hedge["proxy_id"], hedge["outcome"], hedge["hedge"]})
	require.EqualValues(t, 0, w.getJSON("/circuit-breakers/F1")["failure_count"])
	w.putPolicy(`{"hedge":"off"}`)
	w.get() // so that it is not F2's turn
	status, body, _ := w.call("POST", "/request", `{"url":"http://origin.test/","retry":{"hedge":0.05}}`)
	require.Equal(t, 200, status)
	require.Contains(t, string(body), `{"attempt":1,"hedge":true,"proxy_id":"F2","outcome":"success"`)
	w.reconcile(0)
}

// A reload turns hedges on and off. This also works if breaker.blame is "literal".
func TestAReloadChangesTheHedges(t *testing.T) {
	w := start(t, 2, confK)
	w.setAll(lab.Slow(200 * time.Millisecond))
	require.Equal(t, "1", w.get().attempts())
	hedges := strings.Replace(confK, "[retry]\n", "[retry]\nhedge = 0.02\nhedge_budget = 1.0\n", 1)
	w.writeConfig(hedges)
	eventually(t, "a hedge", func() bool { return w.get().attempts() == "2" })
	w.writeConfig(confK)
	eventually(t, "no hedge", func() bool { return w.get().attempts() == "1" })
	w.reconcile(0)
}

// Requests with unsafe methods are not hedged. A request whose body is kept is hedged.
func TestRequestsThatAreNotHedged(t *testing.T) {
	w := start(t, 2, roundRobin+"[retry]\nhedge = 0.02\nhedge_budget = 1.0\nretry_non_idempotent = true\n"+
		"[timeouts]\nadaptive = false\n[gateway]\nreplay_limit = \"1KiB\"\n")
	// The first attempt of each request is slow: 300 ms, or longer if the test expects a hedge, so that the hedge
	// wins.
	var attempts, slow atomic.Int64
	for _, f := range w.fakes {
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			if attempts.Add(1) == 1 {
				return lab.Slow(time.Duration(slow.Load()))
			}
			return lab.OK()
		})
	}
	for _, c := range []struct {
		method, body string
		override     []string
		attempts     int
	}{
		{"GET", "", nil, 2},
		{"GET", "a body that is kept", nil, 2},
		{"GET", string(make([]byte, 4<<10)), nil, 1},
		{"GET", "", overrideHeader("max_attempts=1"), 1},
		{"GET", "", overrideHeader("hedge=off"), 1},
		{"GET", "", overrideHeader("hedge=10"), 1},
		{"POST", "a body", nil, 1},
		{"POST", "", nil, 1},
		{"PUT", "", nil, 1},
		{"PATCH", "", nil, 1},
		{"DELETE", "", nil, 1},
		{"HEAD", "", nil, 2},
	} {
		w.clearArrivals()
		attempts.Store(0)
		slow.Store(int64(300 * time.Millisecond))
		if c.attempts == 2 {
			slow.Store(int64(time.Minute))
		}
		a := w.do(c.method, c.body, c.override...)
		require.Equal(t, 200, a.status, c.method)
		require.Equal(t, c.attempts, w.arrivals(), "%s %d %v", c.method, len(c.body), c.override)
		require.Equal(t, fmt.Sprint(c.attempts), a.attempts())
		for _, at := range w.sortedArrivals() {
			require.Equal(t, c.body, string(at.Body))
		}
	}
	require.Equal(t, 400, w.get(overrideHeader("hedge_budget=1.1")...).status)
	require.Equal(t, 400, w.get(overrideHeader("hedge=p99")...).status)
	w.putPolicy(`{"hedge":"off"}`)
	attempts.Store(0)
	slow.Store(int64(300 * time.Millisecond))
	require.Equal(t, "1", w.get().attempts())
	w.putPolicy(`{"hedge_budget":0.1}`)
	require.Equal(t, 400, w.get(overrideHeader("hedge=p95, hedge_budget=0.2")...).status,
		"more than the global policy allows")
}

// A tunnel whose target does not respond to the ClientHello is hedged. The first tunnel with a byte of the target
// wins, however the other one ends. The first attempt goes through F1, the hedge through F2.
func TestHedgesOfTunnels(t *testing.T) {
	site := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "hello")
	}))
	t.Cleanup(site.Close)
	serves := func(c net.Conn) {
		to, err := net.Dial("tcp", site.Listener.Addr().String())
		if err != nil {
			return
		}
		defer to.Close()
		go io.Copy(to, c)
		io.Copy(c, to)
	}
	closes := func(net.Conn) {}
	noTLS := func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	const (
		never = iota
		atOnce
		beside // once the other attempt is in flight, too
		last   // once the gateway has noticed the end of the other attempt
	)
	type target struct {
		when int
		then func(net.Conn)
	}
	outcomes := func(all ...string) []string { // the third attempt goes through F3
		for i := range all {
			all[i] = fmt.Sprintf("F%d %s", i+1, all[i])
		}
		return all
	}
	for name, c := range map[string]struct {
		first, hedge target
		attempts     []string // by attempt: proxy and outcome
	}{
		"the hedge wins":       {target{never, silent}, target{atOnce, serves}, outcomes("cancelled", "success")},
		"the first wins":       {target{beside, serves}, target{never, silent}, outcomes("success", "cancelled")},
		"the hedge dies":       {target{last, serves}, target{atOnce, closes}, outcomes("success", "failure")},
		"the first dies":       {target{beside, closes}, target{last, serves}, outcomes("failure", "success")},
		"the hedge has no TLS": {target{last, serves}, target{atOnce, noTLS}, outcomes("success", "failure")},
		"the first has no TLS": {target{beside, noTLS}, target{last, serves}, outcomes("failure", "success")},
		"neither has TLS":      {target{last, noTLS}, target{atOnce, noTLS}, outcomes("failure", "failure", "success")},
		"both die, the first first": {target{beside, closes}, target{last, closes},
			outcomes("failure", "failure", "success")},
		"both die, the hedge first": {target{last, closes}, target{atOnce, closes},
			outcomes("failure", "failure", "success")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, 3, roundRobin+"[retry]\nhedge = 0.2\nhedge_budget = 1.0\n[timeouts]\nadaptive = false\n")
			var hellos [2]atomic.Int64 // ClientHellos that have arrived at the targets
			serve := func(i int, what target) string {
				return coretest.Serve(t, func(conn net.Conn) {
					hello := make([]byte, 4<<10)
					n, _ := conn.Read(hello)
					hellos[i].Add(1)
					other := w.fakes[1-i]
					for begin := time.Now(); time.Since(begin) < eventTimeout; time.Sleep(10 * time.Millisecond) {
						if what.when <= atOnce || what.when == beside && hellos[1-i].Load() > 0 ||
							what.when == last && other.Count() > 0 && other.OpenConnections() == 0 {
							break
						}
					}
					if what.when == last { // the gateway closes the connection a moment before it records the end
						time.Sleep(500 * time.Millisecond)
					}
					what.then(&begun{Conn: conn, read: hello[:n]})
				})
			}
			w.fakes[0].SetBehaviour(lab.Behaviour{TunnelTo: serve(0, c.first)})
			w.fakes[1].SetBehaviour(lab.Behaviour{TunnelTo: serve(1, c.hedge)})
			w.fakes[2].SetBehaviour(lab.Behaviour{TunnelTo: coretest.Serve(t, serves)})
			require.NoError(t, fetchOverTLS(w, "site.test:443"))
			eventually(t, "the tunnel has ended", func() bool { return len(w.requests("done")) == 1 })
			r := w.requests("done")[0]
			got := make([]string, max(len(r["attempts"].([]any)), len(c.attempts)))
			for _, v := range r["attempts"].([]any) {
				a := v.(map[string]any)
				n := int(a["attempt"].(float64))
				got[n] = fmt.Sprintf("%v %v", a["proxy_id"], a["outcome"])
				require.Equal(t, n == 1, a["hedge"] == true)
			}
			require.Equal(t, c.attempts, got)
			require.Equal(t, "success", r["outcome"])
			for _, f := range w.fakes {
				eventually(t, "no attempt is left in flight", func() bool { return f.OpenConnections() == 0 })
			}
			w.reconcile(0)
		})
	}
}

// begun is a connection from which some bytes have been read already.
type begun struct {
	net.Conn
	read []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.read) > 0 {
		n := copy(p, b.read)
		b.read = b.read[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// A client that sends more than the ClientHello while the hedge is in flight keeps the first tunnel. Its
// bytes are sent through no other tunnel.
func TestMoreThanAClientHelloEndsTheHedge(t *testing.T) {
	w := start(t, 2, roundRobin+"[retry]\nhedge = 0.2\nhedge_budget = 1.0\n[timeouts]\nadaptive = false\n")
	hedged := make(chan bool, 1)
	more := make(chan string, 1)
	w.fakes[0].SetBehaviour(lab.Behaviour{TunnelTo: coretest.Serve(t, func(c net.Conn) {
		var got []byte
		for !bytes.HasSuffix(got, []byte("more")) {
			b := make([]byte, 4<<10)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			got = append(got, b[:n]...)
		}
		more <- "F1"
		time.Sleep(300 * time.Millisecond) // so that the hedge has won
		io.WriteString(c, "from F1")
	})})
	w.fakes[1].SetBehaviour(lab.Behaviour{TunnelTo: coretest.Serve(t, func(c net.Conn) {
		hedged <- true
		<-more
		io.WriteString(c, "from F2")
		io.Copy(io.Discard, c)
	})})
	_, _, c := w.connect("site.test:443")
	c.Write(clientHello(t))
	<-hedged
	io.WriteString(c, "more")
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "from F1", string(got))
	c.Close()
	eventually(t, "the tunnel has ended", func() bool { return len(w.requests("done")) == 1 })
	require.Equal(t, "F1", w.requests("done")[0]["proxy_id"])
	require.Equal(t, 0, w.metric("whirlpool_hedges_won_total"))
	w.reconcile(0)
}

// clientHello returns the first bytes of a TLS client.
func clientHello(t *testing.T) []byte {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() })
	go tls.Client(far, &tls.Config{ServerName: "site.test"}).Handshake()
	hello := make([]byte, 4<<10)
	n, err := near.Read(hello)
	require.NoError(t, err)
	return hello[:n]
}

// A tunnel whose target responds in time is not hedged. A tunnel is not hedged either if the client sends anything
// other than a ClientHello.
func TestTunnelsThatAreNotHedged(t *testing.T) {
	w := start(t, 2, roundRobin+"[retry]\nhedge = 0.2\nhedge_budget = 1.0\n[timeouts]\nadaptive = false\n")
	site := httptest.NewTLSServer(http.NotFoundHandler())
	defer site.Close()
	w.setAll(lab.Behaviour{TunnelTo: site.Listener.Addr().String()})
	w.putPolicy(`{"hedge":30}`) // so that each response is in time
	for range 4 {
		require.NoError(t, fetchOverTLS(w, "site.test:443"))
	}
	w.putPolicy(`{"hedge":2}`)
	arrived := make(chan struct{}, 10)
	slow := coretest.Serve(t, func(c net.Conn) {
		c.Read(make([]byte, 64))
		arrived <- struct{}{}
		time.Sleep(4 * time.Second)
		io.WriteString(c, "hello")
	})
	w.setAll(lab.Behaviour{TunnelTo: slow})
	hello := string(clientHello(t))
	var open []net.Conn
	for _, sent := range []string{"GET / HTTP/1.1\r\n\r\n", hello + "more", hello[:40], hello} {
		status, _, c := w.connect("site.test:443")
		require.Equal(t, 200, status)
		io.WriteString(c, sent)
		<-arrived
		open = append(open, c)
	}
	io.WriteString(open[3], "more") // sent before the hedge begins
	for i, c := range open {
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got), i)
	}
	require.Zero(t, w.metric("whirlpool_hedges_total"))
	w.reconcile(0)
}

// requests returns the requests in one state.
func (w *whirl) requests(state string) (list []map[string]any) {
	for _, r := range w.getJSON("/requests?state=" + state)["requests"].([]any) {
		list = append(list, r.(map[string]any))
	}
	return list
}
