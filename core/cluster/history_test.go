package cluster

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// step is a step of a history: an action at a node, and the time until the next step.
type step struct {
	action string
	node   int
	proxy  string
	wait   time.Duration
}

var actions = []string{
	"cut", "hang", "heal", "kill", "clear", "reset", "dead", "alive", "break", "mend", "traffic", "slow", "ban",
	"change",
}

func drawSteps(t *rapid.T, nodes int) (steps []step) {
	for range rapid.IntRange(1, 25).Draw(t, "steps") {
		steps = append(steps, step{
			rapid.SampledFrom(actions).Draw(t, "action"), rapid.IntRange(0, nodes-1).Draw(t, "node"),
			rapid.SampledFrom([]string{"p", "q"}).Draw(t, "proxy"),
			time.Duration(rapid.IntRange(0, 40_000).Draw(t, "wait")) * time.Millisecond,
		})
	}
	return steps
}

// run runs a history, and then ends all faults. It returns a description of the errors that it has found.
func (r *rig) run(steps []step) error {
	quit := make(chan struct{})
	ended := make(chan struct{})
	go func() { // a client of each node
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			for _, g := range r.nodes {
				for _, key := range []string{"p", "q"} {
					if w := g.breaker(key); !w.HasProbe() { // a long probe delays no other node
						go g.try(key, time.Duration(i%7)*3*time.Second/2)
					}
				}
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
	resets, changed := map[string]bool{}, map[string]bool{}
	for i, s := range steps {
		g := r.nodes[s.node]
		switch s.action {
		case "cut":
			g.store.set(errCut, false)
		case "hang":
			g.store.set(nil, true)
		case "heal":
			g.store.set(nil, false)
		case "kill":
			g.store.set(errCut, false)
			g.stop()
			<-g.done
			g.mu.Lock()
			g.breakers, g.values, g.bans = map[string]*watched{}, map[string]string{}, map[string]time.Time{}
			g.mu.Unlock()
			g.store.set(nil, false)
			g.start()
		case "clear":
			r.store.Clear()
		case "reset":
			resets[s.proxy] = true
			g.breaker(s.proxy).Reset()
			g.node().Reset(r.t.Context(), s.proxy)
		case "dead", "alive":
			r.setDead(s.proxy, s.action == "dead")
		case "break", "mend":
			g.broken.Store(s.action == "break")
		case "ban":
			g.Ban(s.proxy, "host", time.Hour)
		case "change":
			g.set("policy", fmt.Sprint("f", i), i)
			changed[fmt.Sprint("f", i)] = true
		}
		time.Sleep(s.wait)
	}
	r.setDead("p", false)
	r.setDead("q", true)
	for _, g := range r.nodes {
		g.broken.Store(false)
		g.store.set(nil, false)
	}
	time.Sleep(3 * time.Minute)
	close(quit)
	<-ended
	time.Sleep(time.Minute) // the last attempts
	return r.wrong()
}

// wrong describes the errors in a cluster without faults, in which the proxy q is dead and the proxy p is not.
func (r *rig) wrong() error {
	for _, g := range r.nodes {
		if g.state("p") != core.Closed {
			return fmt.Errorf("p serves all, but it is %v on %s", g.state("p"), g.name)
		}
		if g.state("q") == core.Closed {
			return fmt.Errorf("q is dead for all, but it is closed on %s", g.name)
		}
		if a, b := g.value("policy"), r.nodes[0].value("policy"); a != b {
			return fmt.Errorf("the policy of %s is %s, that of %s is %s", g.name, a, r.nodes[0].name, b)
		}
		for _, key := range []string{"p", "q"} {
			if d := g.banned(key, "host") - r.nodes[0].banned(key, "host"); d.Abs() > 2*time.Second {
				return fmt.Errorf("the ban of %s on %s ends %v after that on %s", key, g.name, d, r.nodes[0].name)
			}
		}
		if s := g.node().Status(); s.Alone || s.Waiting > 0 {
			return fmt.Errorf("%s: %+v", g.name, s)
		}
	}
	return nil
}

// In any history of faults, no two probes of a proxy are valid at the same time, and the nodes agree when the faults
// have ended.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const nodes = 3
		steps := drawSteps(rt, nodes)
		var wrong error
		var probes []probe
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nodes)
			wrong = r.run(steps)
			r.end()
			probes = r.probes
		})
		require.NoError(rt, wrong)
		(&rig{t: t, probes: probes}).requireOneProbe()
	})
}
