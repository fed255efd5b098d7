package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// confCluster has short times: an open breaker is due after a second, a lease lasts 4 s.
const confCluster = `[breaker]
timeout_duration = "1s"
max_timeout = "1s"
[timeouts]
attempt = "1s"
[retry]
backoff_strategy = "fixed"
base_delay = 0.1
[health]
reachability = false
` + roundRobin

// gateways are several gateways with the same fakes and one redis-server. Each gateway has a link of its own to the
// redis-server.
type gateways struct {
	t     *testing.T
	store *redisServer
	links []*link
	nodes []*whirl
	fakes []*lab.Proxy
}

// startGateways starts n gateways. They share the same fakes; the parameter fakes is the number of fakes.
func startGateways(t *testing.T, n, fakes int, config string) *gateways {
	store := startRedis(t)
	var links []*link
	c := startNodes(t, n, fakes, config, func(int) string {
		links = append(links, startLink(t, store.addr))
		return "redis://" + links[len(links)-1].addr
	})
	c.store, c.links = store, links
	return c
}

// startNodes starts n gateways. They share the same fakes; the parameter fakes is the number of fakes. The function url
// returns the URL of the store for a node. The parameter env has environment variables of all gateways.
func startNodes(t *testing.T, n, fakes int, config string, url func(node int) string, env ...string) *gateways {
	c := &gateways{t: t}
	for i := range fakes {
		f, err := lab.Start(fmt.Sprintf("F%d", i+1), "127.0.0.1:0", lab.Always(lab.OK()))
		require.NoError(t, err)
		t.Cleanup(f.Close)
		c.fakes = append(c.fakes, f)
	}
	for i := range n {
		w := &whirl{
			t: t, dir: t.TempDir(), log: &coretest.Log{}, gateway: freePort(t), api: freePort(t), fakes: c.fakes,
			env: env,
		}
		w.configFile = filepath.Join(w.dir, "koanf.toml")
		w.writeConfig(config + fmt.Sprintf("[cluster]\nurl = %q\nnode = \"node%d\"\n", url(i), i))
		w.startProcess()
		c.nodes = append(c.nodes, w)
	}
	c.together()
	return c
}

// together waits until each node lists all nodes as live.
func (g *gateways) together() {
	for _, w := range g.nodes {
		g.await(w.gateway+" sees all nodes", func() bool {
			live := 0
			nodes, _ := w.getJSON("/cluster")["nodes"].([]any)
			for _, n := range nodes {
				if n.(map[string]any)["state"] == "live" {
					live++
				}
			}
			return live == len(g.nodes)
		})
	}
}

// await waits until ok returns true, and returns the time that this took.
func (g *gateways) await(what string, ok func() bool) time.Duration {
	g.t.Helper()
	begin := time.Now()
	for !ok() {
		require.Less(g.t, time.Since(begin), eventTimeout, what)
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

// everywhere waits until ok is true for all nodes.
func (g *gateways) everywhere(what string, ok func(w *whirl) bool) time.Duration {
	g.t.Helper()
	begin := time.Now()
	for _, w := range g.nodes {
		g.await(what, func() bool { return ok(w) })
	}
	return time.Since(begin)
}

func (w *whirl) breakerState(id string) string { return w.breaker(id)["state"].(string) }

func (w *whirl) isAlone() bool {
	return w.getJSON("/cluster")["store"].(map[string]any)["state"] == "alone"
}

// timesAlone returns the periods in which the gateway had lost the store, from its log.
func (w *whirl) timesAlone() (spans []span) {
	var since time.Time // zero while the store is reached
	for line := range strings.Lines(w.log.String()) {
		lost := strings.Contains(line, "this gateway goes on alone")
		back := strings.Contains(line, "can be reached again")
		if !lost && !back {
			continue
		}
		text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		logged, err := time.Parse(time.RFC3339, text)
		require.NoError(w.t, err)
		if !since.IsZero() && back {
			spans = append(spans, span{since, logged})
		}
		since = time.Time{}
		if lost {
			since = logged
		}
	}
	if !since.IsZero() {
		spans = append(spans, span{since, since.Add(24 * time.Hour)})
	}
	return spans
}

// wasAlone reports whether the gateway probed without a lease at a time, because it had lost the store at least 2 s
// before. A probe that began before the store could be reached again arrives at most 1 s (the attempt timeout) after
// that.
func (w *whirl) wasAlone(at time.Time) bool {
	for _, s := range w.timesAlone() {
		if at.After(s.begin.Add(time.Second)) && at.Before(s.end.Add(time.Second)) {
			return true
		}
	}
	return false
}

// drive sends a request through each node in turn, pausing for the time d after each one, until stop is called. The
// result fails counts the requests that got no 200. The result slowest is the longest time of a request in ns.
func (g *gateways) drive(d time.Duration) (fails, slowest *atomic.Int64, stop func()) {
	fails, slowest = &atomic.Int64{}, &atomic.Int64{}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for i, w := range g.nodes {
		client := &http.Client{Transport: w.client.Transport, Timeout: eventTimeout}
		wg.Go(func() {
			time.Sleep(time.Duration(i) * d / time.Duration(len(g.nodes)))
			for {
				select {
				case <-quit:
					return
				case <-time.After(d):
				}
				begin := time.Now()
				q, _ := http.NewRequest("GET", "http://origin.test/", nil)
				q.Header.Set("X-Node", strconv.Itoa(i))
				r, err := client.Do(q)
				if err != nil {
					continue // the node was killed
				}
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
				if r.StatusCode != 200 {
					fails.Add(1)
				}
				slowest.Store(max(slowest.Load(), int64(time.Since(begin))))
			}
		})
	}
	return fails, slowest, sync.OnceFunc(func() {
		close(quit)
		wg.Wait()
	})
}

// redisServer is a redis-server (make deps) that keeps nothing on disk.
type redisServer struct {
	t    *testing.T
	addr string
	dir  string
	args []string
	cmd  *exec.Cmd
}

// startRedis starts a redis-server on a free port.
func startRedis(t *testing.T) *redisServer {
	addr := freePort(t)
	return startRedisWith(t, addr, "--port", portOf(addr))
}

// startRedisWith starts a redis-server with the given arguments, which must make the server listen on the address
// addr.
func startRedisWith(t *testing.T, addr string, args ...string) *redisServer {
	s := &redisServer{t: t, addr: addr, dir: t.TempDir(), args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func (s *redisServer) start() {
	s.cmd = exec.Command("redis-server", append(s.args, "--bind", "127.0.0.1", "--save", "", "--dir", s.dir)...)
	require.NoError(s.t, s.cmd.Start(), "install redis-server: make deps")
	require.Eventually(s.t, func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, eventTimeout, 10*time.Millisecond)
}

func (s *redisServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// link relays the connections of one node to the store, as toxiproxy does.
type link struct {
	addr, to string

	mu    sync.Mutex
	cut   bool // connections are closed
	hang  chan struct{}
	mute  chan struct{} // not nil while the bytes of the store are held back
	delay time.Duration
	conns map[net.Conn]struct{}
}

func startLink(t *testing.T, to string) *link {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{addr: listener.Addr().String(), to: to, conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		listener.Close()
		l.set(true, false, 0)
		l.setMute(false)
	})
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.relay(c)
		}
	}()
	return l
}

// set changes the faults of the link: it closes connections, passes no bytes, or delays them.
func (l *link) set(cut, hang bool, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.delay = cut, delay
	if cut {
		for c := range l.conns {
			c.Close()
		}
	}
	switch {
	case hang && l.hang == nil:
		l.hang = make(chan struct{})
	case !hang && l.hang != nil:
		close(l.hang)
		l.hang = nil
	}
}

// setMute sets whether the link holds back the bytes of the store: operations of the node arrive, but no results.
func (l *link) setMute(mute bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case mute && l.mute == nil:
		l.mute = make(chan struct{})
	case !mute && l.mute != nil:
		close(l.mute)
		l.mute = nil
	}
}

func (l *link) relay(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer server.Close()
	l.mu.Lock()
	cut := l.cut
	l.conns[client], l.conns[server] = struct{}{}, struct{}{}
	l.mu.Unlock()
	if cut {
		return
	}
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			defer func() { done <- struct{}{} }()
			buf := make([]byte, 64<<10)
			for {
				n, err := way[0].Read(buf)
				if err != nil {
					return
				}
				l.mu.Lock()
				hang, mute, delay := l.hang, l.mute, l.delay
				l.mu.Unlock()
				if hang != nil {
					<-hang
				}
				if mute != nil && way[0] == server {
					<-mute
				}
				time.Sleep(delay)
				if _, err := way[1].Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
	<-done
}

// TestS152DeadForAllNodes: a proxy is dead for five gateways. Its breaker opens on all of them soon after the first
// opening, and so does the breaker of a second proxy that dies later. Together the gateways make at most 1.3 times the
// attempts of one gateway without a cluster that gets as many requests at the same time. If the machine is late, more
// attempts are permitted.
func TestS152DeadForAllNodes(t *testing.T) {
	t.Parallel()
	const rate = 3.4 // attempts a second through each of three proxies
	c := startGateways(t, 5, 4, confCluster)
	_, _, stop := c.drive(500 * time.Millisecond)
	defer stop()
	alone := start(t, 4, confCluster)
	_, _, stopAlone := (&gateways{t: t, nodes: []*whirl{alone}}).drive(100 * time.Millisecond)
	defer stopAlone()
	tries, one := 0, 0
	begin := time.Now()
	for i := range 2 { // one attempt more or less of one proxy would be a fifth
		f, own := c.fakes[i], alone.fakes[i]
		for _, served := range []*lab.Proxy{f, own} {
			goal := served.Count() + 5
			c.await("each proxy serves", func() bool { return served.Count() >= goal })
		}
		own.SetBehaviour(lab.Challenge())
		own.Clear()
		f.SetBehaviour(lab.Challenge())
		f.Clear()
		c.await("the first opening", func() bool {
			for _, w := range c.nodes {
				if w.breakerState(f.Name) != "closed" {
					return true
				}
			}
			return false
		})
		took := c.everywhere("open on all", func(w *whirl) bool { return w.breakerState(f.Name) != "closed" })
		together := f.Count()
		tries += together
		require.LessOrEqual(t, took, time.Second+tolerance(time.Now().Add(-took)))
		c.await("the gateway without a cluster", func() bool { return alone.breakerState(f.Name) != "closed" })
		one += own.Count()
		t.Logf("open on all %v after the first opening, %d attempts; %d of one gateway", took, together, own.Count())
	}
	late := tolerance(begin)
	t.Logf("%d attempts; %d of one gateway; %v late", tries, one, late)
	require.LessOrEqual(t, float64(tries), 1.3*float64(one)+late.Seconds()*rate)
	require.Contains(t, c.nodes[0].getJSON("/cluster")["breakers"].([]any)[0].(map[string]any)["why"], "nodes")
}

// TestS153DeadForOneNode: the attempts of one gateway fail through proxies that serve the other gateways. Only its own
// breakers open, and it is isolated.
func TestS153DeadForOneNode(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 3, confCluster)
	for _, f := range c.fakes {
		f.SetScript(func(_ int, r *http.Request) lab.Behaviour {
			if r.Header.Get("X-Node") == "0" {
				return lab.Challenge()
			}
			return lab.OK()
		})
	}
	fails, _, stop := c.drive(50 * time.Millisecond)
	defer stop()
	c.everywhere("node0 is isolated", func(w *whirl) bool {
		names := w.isolated()
		return len(names) == 1 && names[0] == "node0"
	})
	require.Positive(t, fails.Load())
	stop()
	require.Equal(t, 1, strings.Count(c.nodes[0].log.String(), "this gateway is isolated"))
	for _, w := range c.nodes[1:] {
		require.NotContains(t, w.log.String(), "this gateway is isolated")
		for _, f := range c.fakes {
			require.Equal(t, "closed", w.breakerState(f.Name))
		}
		require.NotContains(t, w.log.String(), "circuit breaker open")
	}
}

// isolated returns the names of the isolated nodes.
func (w *whirl) isolated() (names []string) {
	for _, n := range w.getJSON("/cluster")["nodes"].([]any) {
		if n := n.(map[string]any); n["state"] == "isolated" {
			names = append(names, n["node"].(string))
		}
	}
	return names
}

// TestS266ATargetFailsForOneNode: all attempts of a gateway fail at the only target that is used. Attempts of the other
// gateways succeed there. No breaker opens, and the gateway is isolated until its attempts succeed.
func TestS266ATargetFailsForOneNode(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 4, confCluster)
	for _, f := range c.fakes {
		f.SetScript(func(_ int, r *http.Request) lab.Behaviour {
			if r.Header.Get("X-Node") == "0" {
				return lab.Status(502)
			}
			return lab.OK()
		})
	}
	_, _, stop := c.drive(100 * time.Millisecond)
	defer stop()
	c.everywhere("node0 is isolated", func(w *whirl) bool { return slices.Equal(w.isolated(), []string{"node0"}) })
	for _, w := range c.nodes {
		for _, f := range c.fakes {
			require.Equal(t, "closed", w.breakerState(f.Name))
		}
	}
	for _, f := range c.fakes {
		f.SetBehaviour(lab.OK())
	}
	c.everywhere("no node is isolated", func(w *whirl) bool { return w.isolated() == nil })
}

// TestS154OneProbe: while a proxy is dead for all, the probes of five gateways never overlap, even if gateways are
// killed or stopped with a probe in flight. There is one exception: the probes of a gateway that has lost the store
// for 2 s may overlap with others. This happens if the machine is very slow.
func TestS154OneProbe(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 5, 3, confCluster)
	fails, _, stop := c.drive(20 * time.Millisecond)
	defer stop()
	f := c.fakes[0]
	slow := lab.Challenge()
	slow.Delay = 300 * time.Millisecond
	f.SetBehaviour(slow)
	c.everywhere("open on all", func(w *whirl) bool { return w.breakerState("F1") != "closed" })
	time.Sleep(time.Second) // attempts that were in flight end
	f.Clear()
	probes := func(n int) {
		goal := f.Count() + n
		c.await("probes go on", func() bool { return f.Count() >= goal })
	}
	probes(2)
	c.nodes[0].cmd.Process.Kill() // perhaps with a probe
	probes(2)
	c.nodes[1].cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(5 * time.Second) // longer than a lease
	c.nodes[1].cmd.Process.Signal(syscall.SIGCONT)
	probes(2)
	var previous time.Time
	leased := 0
	for _, a := range f.Arrivals() {
		node, err := strconv.Atoi(a.Header.Get("X-Node"))
		require.NoError(t, err)
		if c.nodes[node].wasAlone(a.At) {
			t.Logf("probe at %v of node%d, which has lost the store and may probe without a lease", a.At, node)
			continue
		}
		require.GreaterOrEqual(t, a.At.Sub(previous), slow.Delay, "the probe of node%d begins during another one", node)
		previous = a.At
		leased++
	}
	require.Zero(t, fails.Load(), "the other proxies serve")
	c.nodes = c.nodes[1:]
	f.SetBehaviour(lab.OK())
	took := c.everywhere("closed on all", func(w *whirl) bool { return w.breakerState("F1") == "closed" })
	t.Logf("%d probes with a lease; closed everywhere after %v", leased, took)
}

// TestS155WithoutTheStore: a store that is killed, stopped, cut off, full or slow makes no request fail. Each gateway
// works alone. The changes that it accepts in this time are in force on all gateways afterwards.
func TestS155WithoutTheStore(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 5, 3, confCluster)
	fails, slowest, stop := c.drive(20 * time.Millisecond)
	defer stop()
	setAll := func(cut, hang bool, delay time.Duration) {
		for _, l := range c.links {
			l.set(cut, hang, delay)
		}
	}
	attempts := 3
	for _, fault := range []struct {
		name       string
		begin, end func()
	}{
		{"killed, and back empty", c.store.kill, c.store.start},
		{"stopped", func() { c.store.cmd.Process.Signal(syscall.SIGSTOP) },
			func() { c.store.cmd.Process.Signal(syscall.SIGCONT) }},
		{"cut", func() { setAll(true, false, 0) }, func() { setAll(false, false, 0) }},
		{"hanging", func() { setAll(false, true, 0) }, func() { setAll(false, false, 0) }},
		{"full", func() { redisCLI(c.store.addr, "CONFIG", "SET", "maxmemory", "1") },
			func() { redisCLI(c.store.addr, "CONFIG", "SET", "maxmemory", "0") }},
		{"slow", func() { setAll(false, false, 2*time.Second) }, func() { setAll(false, false, 0) }},
	} {
		slowest.Store(0)
		fault.begin()
		took := c.everywhere("alone: "+fault.name, func(w *whirl) bool { return w.isAlone() })
		status, body, _ := c.nodes[0].call("GET", "/readyz", "")
		require.Equal(t, 200, status)
		require.Contains(t, string(body), "alone")
		require.Contains(t, c.nodes[0].scrape(), "\nwhirlpool_cluster_alone 1\n")
		attempts++
		c.nodes[0].putPolicy(fmt.Sprintf(`{"max_attempts":%d}`, attempts))
		c.nodes[1].putPolicy(fmt.Sprintf(`{"base_delay":0.%d}`, attempts))
		ban := fmt.Sprintf(`{"host":"h%d.test","for":"1h"}`, attempts)
		status, _, _ = c.nodes[2].call("POST", "/proxies/F3/ban", ban)
		require.Equal(t, 200, status)
		fault.end()
		back := c.everywhere("together: "+fault.name, func(w *whirl) bool {
			policy := w.getJSON("/retry/policy")
			return !w.isAlone() && policy["max_attempts"] == float64(attempts) &&
				policy["base_delay"] == float64(attempts)/10
		})
		c.everywhere("the ban: "+fault.name, func(w *whirl) bool {
			return len(w.getJSON(fmt.Sprintf("/targets/h%d.test", attempts))["banned"].([]any)) == 1
		})
		t.Logf("%-24s alone after %6.0f ms, together %6.0f ms after its end, slowest request %4.0f ms", fault.name,
			took.Seconds()*1000, back.Seconds()*1000, time.Duration(slowest.Load()).Seconds()*1000)
	}
	require.Zero(t, fails.Load())
	stop()

	// A reset on one side of a partition.
	c.fakes[0].SetBehaviour(lab.Challenge())
	_, _, again := c.drive(20 * time.Millisecond)
	c.everywhere("open on all", func(w *whirl) bool { return w.breakerState("F1") != "closed" })
	again()
	c.links[2].set(true, false, 0)
	c.await("node2 is alone", c.nodes[2].isAlone)
	c.fakes[0].SetBehaviour(lab.OK())
	status, _, _ := c.nodes[2].call("POST", "/circuit-breakers/F1/reset", "")
	require.Equal(t, 200, status)
	c.links[2].set(false, false, 0)
	c.everywhere("the reset", func(w *whirl) bool { return w.breakerState("F1") == "closed" })
}

// TestS156ChangesOnAllNodes changes proxies and the policy through the API of one gateway. Within a second, the
// changes are in force on all gateways. A gateway that starts later has the changes, too.
func TestS156ChangesOnAllNodes(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 4, 2, confCluster)
	var wg sync.WaitGroup
	for i, w := range c.nodes { // at the same time
		wg.Go(func() {
			field := []string{`"max_attempts":5`, `"base_delay":0.7`, `"jitter":true`, `"multiplier":3`}[i]
			w.putPolicy("{" + field + "}")
			status, body, _ := w.call("POST", "/proxies",
				fmt.Sprintf(`{"id":"new%d","url":"http://u:hunter2secret@127.0.0.1:%d"}`, i, 1000+i))
			require.Equal(t, 201, status, "%s", body)
		})
	}
	wg.Wait()
	begin := time.Now()
	changed := func(w *whirl) bool {
		p := w.getJSON("/retry/policy")
		return p["max_attempts"] == 5.0 && p["base_delay"] == 0.7 && p["jitter"] == true && p["multiplier"] == 3.0 &&
			len(w.getJSON("/proxies")["proxies"].([]any)) == 6
	}
	c.everywhere("all changes", changed)
	took := time.Since(begin)
	t.Logf("in force everywhere %v after the last response", took)
	require.LessOrEqual(t, took, time.Second+tolerance(begin))
	status, _, _ := c.nodes[0].call("DELETE", "/proxies/new1?drain=true", "")
	require.Equal(t, 204, status)
	status, _, _ = c.nodes[1].call("PATCH", "/proxies/new2", `{"weight":5}`)
	require.Equal(t, 200, status)
	removed := func(w *whirl) bool {
		status, body, _ := w.call("GET", "/proxies/new2", "")
		gone, _, _ := w.call("GET", "/proxies/new1", "")
		return status == 200 && gone == 404 && strings.Contains(string(body), `"weight":5,`)
	}
	c.everywhere("the removal", removed)
	c.everywhere("the audit trail", func(w *whirl) bool {
		_, trail, _ := w.call("GET", "/audit", "")
		require.NotContains(t, string(trail), "hunter2secret")
		for i := range c.nodes {
			if !strings.Contains(string(trail), fmt.Sprintf(`"node":"node%d","changed":["proxy/new%d"]`, i, i)) {
				return false
			}
		}
		return strings.Contains(string(trail), `/proxies/new1","query":"drain=true","node":"node0"`)
	})
	c.nodes[3].kill()
	c.nodes[3].startProcess()
	c.everywhere("after a restart", func(w *whirl) bool { return removed(w) })
	c.everywhere("after a restart", func(w *whirl) bool {
		return w.getJSON("/retry/policy")["max_attempts"] == 5.0
	})

	lines := strings.Builder{} // 1,000 proxies in one request
	for i := range 1000 {
		fmt.Fprintf(&lines, "http://u:hunter2secret@10.0.%d.%d:3128\n", i/250, i%250)
	}
	before := int(c.nodes[0].getJSON("/proxies?limit=1")["total"].(float64))
	begin = time.Now()
	r, err := http.Post("http://"+c.nodes[0].api+"/api/v1/proxies", "text/plain", strings.NewReader(lines.String()))
	require.NoError(t, err)
	r.Body.Close()
	require.Equal(t, 201, r.StatusCode)
	answered := time.Since(begin)
	c.everywhere("1,000 proxies", func(w *whirl) bool {
		return w.getJSON("/proxies?limit=1")["total"] == float64(before+1000)
	})
	took = time.Since(begin)
	for _, w := range c.nodes {
		require.NotContains(t, w.log.String(), "the same name", "node3 has started again under its name")
	}
	t.Logf("1,000 proxies: response after %v, everywhere after %v", answered, took)
	require.LessOrEqual(t, took, 5*time.Second+tolerance(begin), "20 a second would take 50 s")
}

// The method wasAlone finds the times without the store.
func TestTheTimesWithoutTheStoreAreFound(t *testing.T) {
	w := &whirl{t: t, log: &coretest.Log{}}
	fmt.Fprint(w.log, `time=2026-11-29T12:00:00.000Z level=WARN msg="...: this gateway goes on alone" error=x
time=2026-11-29T12:00:10.500Z level=INFO msg="the cluster's store can be reached again" after=10.5s
time=2026-11-29T12:01:00.000+00:00 level=WARN msg="...: this gateway goes on alone" error=x
`)
	expected := map[int]bool{0: false, 2: true, 11: true, 12: false, 59: false, 60: false, 62: true, 99: true}
	for second, alone := range expected {
		at := time.Date(2026, 11, 29, 12, 0, second, 0, time.UTC)
		require.Equal(t, alone, w.wasAlone(at), "%d", second)
	}
}
