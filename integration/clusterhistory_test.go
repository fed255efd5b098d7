package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// register is a field of the policy that one goroutine writes through one node. Each value is greater than the one
// before.
type register struct {
	field  string
	values func(n int) float64
	mu     sync.Mutex // held during a write, and while the node is killed and starts
	sent   int        // number of the last value that was sent
	acked  int        // number of the last value that was answered 200
}

func newRegisters() []*register {
	hundredths := func(from float64) func(int) float64 {
		return func(n int) float64 { return from + float64(n)/128 } // exact in JSON
	}
	return []*register{
		{field: "base_delay", values: func(n int) float64 { return 0.125 + float64(n)/65536 }},
		{field: "multiplier", values: func(n int) float64 { return 1.5 + float64(n)/4096 }},
		{field: "hedge_budget", values: func(n int) float64 { return float64(n) / 65536 }},
		{field: "failover_delay", values: func(n int) float64 { return float64(n) / 65536 }},
		{field: "timeout", values: hundredths(60)},
	}
}

// write writes the next value of the register, and one of the field that all nodes write, through the API of a node.
func (r *register) write(c *chaos, node int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	shared := c.nextShared.Add(1)
	body := fmt.Sprintf(`{%q:%s,"max_backoff_delay":%s}`, r.field, decimal(r.values(r.sent)),
		decimal(sharedValue(shared)))
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	q, _ := http.NewRequestWithContext(ctx, "PUT", "http://"+c.nodes[node].api+"/api/v1/retry/policy",
		strings.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	w := sharedWrite{node: node, number: shared, call: time.Now()}
	if response, err := http.DefaultClient.Do(q); err == nil {
		response.Body.Close()
		if response.StatusCode == 200 {
			w.end = time.Now()
			r.acked = r.sent
		}
	}
	c.historyMu.Lock()
	defer c.historyMu.Unlock()
	c.writes = append(c.writes, w)
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// sharedValue is a value of the field that all nodes write, max_backoff_delay. It is exact in JSON.
func sharedValue(n int64) float64 { return 30 + float64(n)/128 }

// sharedWrite is a write of the field that all nodes write.
type sharedWrite struct {
	node      int
	number    int64     // see sharedValue
	call, end time.Time // end is zero without a response 200
}

// sharedRead is a read of that field while nothing was written and all nodes had the same policy.
type sharedRead struct {
	value     float64
	call, end time.Time
}

// isIn reports whether a policy has a value that is at least the last value that was answered with 200.
func (r *register) isIn(policy map[string]any) bool {
	if r.acked == 0 {
		return true
	}
	v, _ := policy[r.field].(float64)
	const rounding = 1e-6 // far below the difference of two values
	return v >= r.values(r.acked)-rounding && v <= r.values(r.sent)+rounding
}

// chaos makes faults in a cluster.
type chaos struct {
	*gateways
	random    *rand.Rand
	registers []*register
	dead      *lab.Proxy
	excused   [][]span // by node: times in which attempts through the dead proxy are not valid probes
	counts    map[string]int
	last      string // the last fault

	begin      time.Time
	nextShared atomic.Int64
	historyMu  sync.Mutex // guards writes
	writes     []sharedWrite
	reads      []sharedRead
	alone      [][]span // by node: the times without the store; set by checkPolicy
}

// span is a period.
type span struct{ begin, end time.Time }

// late is the maximum time from the beginning of an attempt to its arrival at the proxy.
const late = 2 * time.Second

func (c *chaos) excuse(node int, begin, end time.Time) {
	c.excused[node] = append(c.excused[node], span{begin, end})
}

// fault makes a random fault for a random time. At most two links are faulty at once.
func (c *chaos) fault() {
	i, d := c.random.IntN(len(c.nodes)), time.Duration(300+c.random.IntN(4000))*time.Millisecond
	w, l := c.nodes[i], c.links[i]
	other := c.links[c.random.IntN(len(c.links))]
	kinds := []string{"cut", "hang", "mute", "slow", "two links", "stop node", "kill node", "stop store", "kill store"}
	kind := kinds[c.random.IntN(len(kinds))]
	c.last = kind
	c.counts[kind]++
	const longerThanLeases = 4500 * time.Millisecond
	switch kind {
	case "cut":
		l.set(true, false, 0)
		time.Sleep(d)
		l.set(false, false, 0)
	case "hang":
		l.set(false, true, 0)
		time.Sleep(d)
		l.set(false, false, 0)
	case "mute":
		l.setMute(true)
		time.Sleep(d)
		l.setMute(false)
	case "slow":
		l.set(false, false, time.Duration(100+c.random.IntN(400))*time.Millisecond)
		time.Sleep(d)
		l.set(false, false, 0)
	case "two links":
		l.set(true, false, 0)
		other.setMute(true)
		time.Sleep(d)
		other.setMute(false)
		l.set(false, false, 0)
	case "stop node": // its lease ends, so the results that it sends afterwards do not count
		w.signal(syscall.SIGSTOP)
		time.Sleep(longerThanLeases)
		continued := time.Now()
		w.signal(syscall.SIGCONT)
		c.excuse(i, continued, continued.Add(late))
	case "kill node":
		c.killNode(i)
	case "stop store":
		c.store.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(longerThanLeases)
		c.store.cmd.Process.Signal(syscall.SIGCONT)
	case "kill store":
		c.store.kill()
		time.Sleep(d / 2)
		c.store.start()
	}
	time.Sleep(time.Duration(c.random.IntN(1500)) * time.Millisecond)
}

// killNode kills a node when the other nodes have its changes: docs/cluster.md promises nothing for an earlier kill.
// Until the new process knows that the breaker of the dead proxy is open, its attempts are not probes.
func (c *chaos) killNode(i int) {
	r, w := c.registers[i], c.nodes[i]
	r.mu.Lock()
	defer r.mu.Unlock()
	c.healed("before the end of a process")
	c.everywhere("the policy of the node", func(w *whirl) bool { return r.isIn(w.getJSON("/retry/policy")) })
	begin := time.Now()
	w.kill()
	time.Sleep(time.Duration(c.random.IntN(1000)) * time.Millisecond)
	w.startProcess()
	c.healed("after the end of a process")
	c.await("it knows the breaker", func() bool { return w.breakerState(c.dead.Name) != "closed" })
	c.excuse(i, begin, time.Now().Add(late))
}

// readShared waits until all nodes have the same policy, and reads the field that all nodes write. It is called while
// no node writes.
func (c *chaos) readShared() {
	for _, r := range c.registers {
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	read := sharedRead{call: time.Now()}
	c.healed("before a read")
	var last []string // the differences that the last check found
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the last fault was %s; %v", c.last, last)
		}
	}()
	c.await("all changes are shared", func() bool {
		last = last[:0]
		values := map[float64]bool{}
		for _, w := range c.nodes {
			policy := w.getJSON("/retry/policy")
			for _, r := range c.registers {
				if !r.isIn(policy) {
					last = append(last, fmt.Sprintf("%s of %s: %v, not %v", r.field, w.gateway, policy[r.field],
						r.values(r.acked)))
				}
			}
			if waiting := w.getJSON("/cluster")["store"].(map[string]any)["waiting"]; waiting != 0.0 {
				last = append(last, fmt.Sprint(waiting, " waiting at ", w.gateway))
			}
			read.value = policy["max_backoff_delay"].(float64)
			values[read.value] = true
		}
		return len(values) == 1 && len(last) == 0
	})
	read.end = time.Now()
	c.reads = append(c.reads, read)
}

// checkPolicy requires that the field that all nodes write has a linearizable history (porcupine): each read returns
// the last value that was written. A write is complete if the store had it before the response: the node was not alone,
// and the response came before the end of the wait for the store. Other writes have no end, because they are made again
// when the store is back.
func (c *chaos) checkPolicy() {
	begin, never := c.begin, int64(time.Hour)
	read, history := map[float64]bool{}, []porcupine.Operation{}
	for _, r := range c.reads {
		read[r.value] = true
		history = append(history, porcupine.Operation{ClientId: len(c.nodes), Output: r.value,
			Call: int64(r.call.Sub(begin)), Return: int64(r.end.Sub(begin))})
	}
	for _, w := range c.nodes {
		c.alone = append(c.alone, w.timesAlone())
	}
	complete := 0
	for _, w := range c.writes {
		o := porcupine.Operation{
			ClientId: w.node, Input: sharedValue(w.number), Call: int64(w.call.Sub(begin)), Return: never,
		}
		if !w.end.IsZero() && w.end.Sub(w.call) < 900*time.Millisecond && !c.wasAloneNear(w.node, w.call, w.end) {
			o.Return = int64(w.end.Sub(begin))
			complete++
		} else if !read[sharedValue(w.number)] {
			continue // no read shows the write, so it may come after all reads
		}
		history = append(history, o)
	}
	result := porcupine.CheckOperationsTimeout(porcupine.Model{
		Init: func() any { return 30.0 },
		Step: func(state, input, output any) (bool, any) {
			if input != nil {
				return true, input
			}
			return state == output, state
		},
	}, history, eventTimeout)
	c.t.Logf("%d writes of one field through five nodes, %d of them complete, %d reads: %v", len(c.writes), complete,
		len(c.reads), result)
	require.NotEqual(c.t, porcupine.Illegal, result, "%+v\n%+v", c.writes, c.reads)
	require.Positive(c.t, complete)
}

// wasAloneNear reports whether a node was without the store between two times, or 2 s before or after.
func (c *chaos) wasAloneNear(node int, begin, end time.Time) bool {
	const slack = 2 * time.Second
	for _, s := range c.alone[node] {
		if begin.Add(-slack).Before(s.end) && s.begin.Before(end.Add(slack)) {
			return true
		}
	}
	return false
}

// healed waits until no node is alone.
func (c *chaos) healed(what string) {
	c.everywhere("together "+what, func(w *whirl) bool { return !w.isAlone() })
}

// isExcused reports whether an attempt of a node through the dead proxy was not a probe with a lease.
func (c *chaos) isExcused(node int, at time.Time) bool {
	for _, s := range c.excused[node] {
		if at.After(s.begin) && at.Before(s.end) {
			return true
		}
	}
	return c.nodes[node].wasAlone(at)
}

// historyTime returns the length of the history: WHIRLPOOL_CLUSTER_HISTORY, or 15 s.
func historyTime(t *testing.T) time.Duration {
	if set := os.Getenv("WHIRLPOOL_CLUSTER_HISTORY"); set != "" {
		d, err := time.ParseDuration(set)
		require.NoError(t, err)
		return d
	}
	return 15 * time.Second
}

// TestS238HistoryOfGateways runs five gateways under load. The gateways, their store and their links to the store have
// random faults. No two valid probes of a dead proxy overlap, and no request fails. Afterwards each change of the
// policy that was answered 200 is in force on all gateways. The history of a field that is written through all
// gateways is linearizable.
func TestS238HistoryOfGateways(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if set := os.Getenv("WHIRLPOOL_CLUSTER_SEED"); set != "" {
		var err error
		seed, err = strconv.ParseUint(set, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("WHIRLPOOL_CLUSTER_SEED=%d", seed)
	g := startGateways(t, 5, 4, confCluster)
	c := &chaos{
		gateways: g, random: rand.New(rand.NewPCG(seed, 0)), registers: newRegisters(), dead: g.fakes[0],
		excused: make([][]span, len(g.nodes)), counts: map[string]int{},
	}
	fails, slowest, stop := c.drive(40 * time.Millisecond)
	defer stop()
	slow := lab.Challenge()
	slow.Delay = 300 * time.Millisecond
	c.dead.SetBehaviour(slow)
	c.everywhere("open on all", func(w *whirl) bool { return w.breakerState(c.dead.Name) != "closed" })
	c.begin = time.Now()
	time.Sleep(late) // attempts that were in flight
	c.dead.Clear()

	var writing sync.WaitGroup
	var quit atomic.Bool
	for i, r := range c.registers {
		writing.Go(func() {
			for !quit.Load() {
				r.write(c, i)
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	for end := c.begin.Add(historyTime(t)); time.Now().Before(end); {
		c.fault()
		c.readShared()
	}
	quit.Store(true)
	writing.Wait()
	healed := time.Now()
	c.healed("in the end")
	c.everywhere("all changes", func(w *whirl) bool {
		policy := w.getJSON("/retry/policy")
		for _, r := range c.registers {
			if !r.isIn(policy) {
				return false
			}
		}
		return true
	})
	t.Logf("all changes in force everywhere %v after the last fault", time.Since(healed))
	first := c.nodes[0].getJSON("/retry/policy")
	for _, w := range c.nodes {
		policy := w.getJSON("/retry/policy")
		for _, r := range c.registers {
			require.Equal(t, first[r.field], policy[r.field], r.field)
		}
	}
	goal := c.dead.Count() + 2
	c.await("probes go on", func() bool { return c.dead.Count() >= goal })
	stop()
	require.Zero(t, fails.Load(), "the other proxies serve")
	c.readShared()
	c.checkPolicy()
	c.checkProbes(slow.Delay)
	writes := 0
	for _, r := range c.registers {
		writes += r.acked
	}
	t.Logf("faults: %v; at least %d changes; slowest request %v", c.counts, writes, time.Duration(slowest.Load()))
}

// checkProbes requires that the probes with a lease have a linearizable history of a lock (porcupine): no two of them
// overlap. Each lasts at least the time d.
func (c *chaos) checkProbes(d time.Duration) {
	arrivals := c.dead.Arrivals()
	begin := arrivals[0].At
	leased, excused := 0, 0
	var history []porcupine.Operation
	for _, a := range arrivals {
		node, err := strconv.Atoi(a.Header.Get("X-Node"))
		require.NoError(c.t, err)
		if c.isExcused(node, a.At) {
			excused++
			continue
		}
		leased++
		at := int64(a.At.Sub(begin))
		history = append(history,
			porcupine.Operation{ClientId: node, Input: "begin", Call: at, Return: at},
			porcupine.Operation{ClientId: node, Input: "end", Call: at + int64(d) - 1, Return: at + int64(d) - 1})
	}
	require.Positive(c.t, leased)
	result := porcupine.CheckOperationsTimeout(porcupine.Model{
		Init: func() any { return false },
		Step: func(held, input, _ any) (bool, any) { return held == (input == "end"), input == "begin" },
	}, history, eventTimeout)
	c.t.Logf("%d probes with a lease: %v; %d attempts without one", leased, result, excused)
	if result == porcupine.Illegal {
		for i := range history {
			o := &history[i]
			c.t.Logf("node%d: %v at %v", o.ClientId, o.Input, begin.Add(time.Duration(o.Call)))
		}
	}
	require.NotEqual(c.t, porcupine.Illegal, result)
}

// TestS239ResetsOutlastFaults: the breaker of a proxy is open on five gateways for ten minutes. The breaker is reset
// through one gateway while links and the store are faulty. Each reset that was answered 200 closes the breaker on all
// gateways.
func TestS239ResetsOutlastFaults(t *testing.T) {
	t.Parallel()
	conf := strings.NewReplacer(`timeout_duration = "1s"`, `timeout_duration = "10m"`, `max_timeout = "1s"`,
		`max_timeout = "10m"`).Replace(confCluster)
	g := startGateways(t, 5, 4, conf)
	dead, random := g.fakes[0], rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	begin := time.Now()
	for round := 0; round < 5 || time.Since(begin) < historyTime(t); round++ {
		dead.SetBehaviour(lab.Challenge())
		_, _, stop := g.drive(20 * time.Millisecond)
		g.everywhere("open on all", func(w *whirl) bool { return w.breakerState(dead.Name) == "open" })
		stop() // no probe closes the breaker
		dead.SetBehaviour(lab.OK())
		via, other := random.IntN(len(g.nodes)), g.nodes[random.IntN(len(g.nodes))]
		var heal func()
		what := [...]string{"cut", "mute", "store stopped", "store killed", "other node stopped"}[round%5]
		switch what {
		case "cut":
			g.links[via].set(true, false, 0)
			heal = func() { g.links[via].set(false, false, 0) }
		case "mute":
			g.links[via].setMute(true)
			heal = func() { g.links[via].setMute(false) }
		case "store stopped":
			g.store.cmd.Process.Signal(syscall.SIGSTOP)
			heal = func() { g.store.cmd.Process.Signal(syscall.SIGCONT) }
		case "store killed":
			g.store.kill()
			heal = g.store.start
		default:
			if other == g.nodes[via] {
				other = g.nodes[(via+1)%len(g.nodes)]
			}
			other.signal(syscall.SIGSTOP)
			heal = func() { other.signal(syscall.SIGCONT) }
		}
		// The reset comes before or after the node loses contact with the others.
		time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond)
		status, body, _ := g.nodes[via].call("POST", "/circuit-breakers/"+dead.Name+"/reset", "")
		require.Equal(t, 200, status, "%s", body)
		time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond)
		heal()
		took := g.everywhere("reset: "+what, func(w *whirl) bool { return w.breakerState(dead.Name) == "closed" })
		t.Logf("%s: closed everywhere %v after the end of the fault", what, took)
	}
}
