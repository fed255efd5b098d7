package integration

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// confPatient has the usual, long times, so that no request fails on a busy machine.
const confPatient = "[timeouts]\nadaptive = false\n[health]\nreachability = false\n" + roundRobin

// confUsers has two users with limits of the day.
const confUsers = confPatient + `[[gateway.users]]
name = "reader"
password = "r"
requests_per_day = 300
[[gateway.users]]
name = "writer"
password = "w"
requests_per_day = 90
`

// requestAs sends a request of a user. For a 429, served is false, and spent states whether the amount of the day is
// spent on all nodes.
func (w *whirl) requestAs(user string) (served, spent bool) {
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + user[:1]))
	a := w.get("Proxy-Authorization", "Basic "+login)
	if a.status == 200 {
		return true, false
	}
	require.Equal(w.t, 429, a.status, "%s", a.body)
	require.Contains(w.t, a.body, "user_requests_spent")
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(w.t, err)
	return false, wait > 1
}

// exhaust sends requests of a user to each node, until the node denies one. It returns the number of requests served by
// each node, and whether all have spent the amount of the day.
func (g *gateways) exhaust(user string) (served []int, spent bool) {
	served, spent = make([]int, len(g.nodes)), true
	for i, w := range g.nodes {
		for {
			ok, all := w.requestAs(user)
			if !ok {
				spent = spent && all
				break
			}
			served[i]++
		}
	}
	return served, spent
}

// spend sends requests of a user to the nodes until the amount of the day is spent on all of them. It returns the
// number of requests served by each node.
func (g *gateways) spend(user string) (served []int) {
	served = make([]int, len(g.nodes))
	g.await("the amount of the day is spent", func() bool {
		more, spent := g.exhaust(user)
		for i, n := range more {
			served[i] += n
		}
		return spent
	})
	return served
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// sharedLimit returns the limit in GET /cluster; nil if it is not in use.
func (w *whirl) sharedLimit(limit, id string) map[string]any {
	list, _ := w.getJSON("/cluster")["limits"].([]any)
	for _, e := range list {
		if l := e.(map[string]any); l["limit"] == limit && l["id"] == id {
			return l
		}
	}
	return nil
}

// waitPastMidnight waits if the day (UTC) ends soon.
func waitPastMidnight() {
	if left := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)); left < 3*time.Minute {
		time.Sleep(left + time.Second)
	}
}

// TestS166AmountsOfTheDayInACluster: three nodes share the requests of a day. The use of a node that is killed and
// starts again counts once. Without the store each node uses an equal share. When the store comes back empty, the
// nodes report their use.
func TestS166AmountsOfTheDayInACluster(t *testing.T) {
	t.Parallel()
	waitPastMidnight()
	c := startGateways(t, 3, 2, confUsers)
	for i, w := range c.nodes { // starts each node again, with a state folder
		w.stop()
		w.stateDir = t.TempDir()
		w.writeConfig(confUsers +
			fmt.Sprintf("[cluster]\nurl = %q\nnode = \"node%d\"\n", "redis://"+c.links[i].addr, i))
		w.startProcess()
	}
	c.together()
	total := 0
	for total < 90 {
		for _, w := range c.nodes[:2] {
			if served, spent := w.requestAs("reader"); served {
				total++
			} else {
				require.False(t, spent, "after %d requests", total)
			}
		}
	}
	c.await("the nodes have told what they used", func() bool {
		return c.nodes[0].sharedLimit("requests_per_day", "reader")["used"] == float64(total)
	})
	c.nodes[1].kill()
	c.nodes[1].startProcess()
	c.together()
	served := c.spend("reader")
	t.Logf("%d requests, then %v", total, served)
	total += sum(served)
	require.GreaterOrEqual(t, total, 300)
	require.LessOrEqual(t, total, 300+4*12, "the first parts of three nodes and of a new process are 12 each")

	c.store.kill()
	c.everywhere("equal shares", func(w *whirl) bool { return w.getJSON("/cluster")["limits_state"] == "equal_shares" })
	shares, _ := c.exhaust("writer")
	for _, n := range shares {
		require.GreaterOrEqual(t, n, 30)
		require.LessOrEqual(t, n, 45, "the share of a node that has not seen one of the others lately")
	}
	require.Equal(t, []int{0, 0, 0}, c.spend("reader"))
	c.store.start()
	c.everywhere("together", func(w *whirl) bool { return w.getJSON("/cluster")["limits_state"] == "shared" })
	c.together()
	const late = 12 // requests of shares that a node got because another one had not reported its use yet
	require.LessOrEqual(t, sum(c.spend("writer")), late)
	require.LessOrEqual(t, sum(c.spend("reader")), late)
	w := c.nodes[2]
	w.stop() // the new process has the amount in its state folder
	w.startProcess()
	c.together()
	require.LessOrEqual(t, sum(c.spend("writer")), (90-30)/8+late, "the first part of a new process")
}

// load sends requests from n clients to each of the nodes, until stop is called.
func load(nodes []*whirl, n int) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for _, w := range nodes {
		for range n {
			wg.Go(func() {
				for {
					select {
					case <-quit:
						return
					default:
					}
					if w.get().err != nil { // the node was killed
						time.Sleep(10 * time.Millisecond)
					}
				}
			})
		}
	}
	return func() {
		close(quit)
		wg.Wait()
	}
}

// slow is the time after which the proxy of S167 responds.
const slow = 200 * time.Millisecond

// maxInFlight returns the largest number of requests that the proxy had at the same time. Only requests that arrived
// after the time since count.
func maxInFlight(f *lab.Proxy, since time.Time) (most int) {
	type edge struct {
		at time.Time
		by int
	}
	var edges []edge
	for _, a := range f.Arrivals() {
		if a.At.After(since) {
			edges = append(edges, edge{a.At, 1}, edge{a.At.Add(slow), -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	now := 0
	for _, e := range edges {
		now += e.by
		most = max(most, now)
	}
	return most
}

// partsOf returns the sum of the shares (the field part) that nodes have of a limit of F1; -1 if a node does not use
// it.
func partsOf(limit string, nodes []*whirl) (parts float64) {
	for _, w := range nodes {
		l := w.sharedLimit(limit, "F1")
		if l == nil {
			return -1
		}
		parts += l["part"].(float64)
	}
	return parts
}

// TestS167LimitsOfAProxyInACluster: three nodes share max_in_flight of a proxy, then its rate. Nodes without requests,
// and a node that is killed, leave the whole limit to the others.
func TestS167LimitsOfAProxyInACluster(t *testing.T) {
	t.Parallel()
	c := startGateways(t, 3, 1, confPatient)
	proxy := c.fakes[0]
	proxy.SetBehaviour(lab.Slow(slow))
	change := func(body string) {
		status, answer, _ := c.nodes[0].call("PATCH", "/proxies/F1", body)
		require.Equal(t, 200, status, "%s", answer)
	}
	change(`{"max_in_flight": 6}`)
	c.everywhere("the limit", func(w *whirl) bool { return w.getJSON("/proxies/F1")["max_in_flight"] == 6.0 })
	stop := load(c.nodes, 6)
	c.await("each node has its part", func() bool { return partsOf("max_in_flight", c.nodes) == 6 })
	begun, count := time.Now(), proxy.Count()
	c.await("requests", func() bool { return proxy.Count() > count+100 })
	require.LessOrEqual(t, maxInFlight(proxy, begun), 6)

	c.nodes[2].kill()
	c.await("two nodes have all", func() bool { return partsOf("max_in_flight", c.nodes[:2]) == 6 })
	begun, count = time.Now(), proxy.Count()
	c.await("requests", func() bool { return proxy.Count() > count+50 })
	stop()
	require.LessOrEqual(t, maxInFlight(proxy, begun), 6)
	begun = time.Now()
	stop = load(c.nodes[:1], 8)
	c.await("one node uses all", func() bool { return maxInFlight(proxy, begun) == 6 })
	stop()

	c.nodes[2].startProcess()
	c.together()
	proxy.SetBehaviour(lab.OK())
	change(`{"max_in_flight": 0, "rate": 20}`)
	c.everywhere("the rate", func(w *whirl) bool { return w.getJSON("/proxies/F1")["rate"] == 20.0 })
	stop = load(c.nodes, 3)
	c.await("each node has its part", func() bool { return partsOf("rate", c.nodes) >= 19 })
	begun, count = time.Now(), proxy.Count()
	c.await("requests", func() bool { return proxy.Count() > count+100 })
	stop()
	arrivals := proxy.Arrivals()[count:]
	seconds := arrivals[len(arrivals)-1].At.Sub(begun).Seconds()
	require.Less(t, float64(len(arrivals)), 20*seconds+20+4, "in %v s", seconds)
	require.Positive(t, c.nodes[1].metric("whirlpool_cluster_draws_total"))
}
