package workload

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
)

// SocketWorkloads returns the workloads that run on sockets as well as in virtual time, for a comparison: a shorter
// workload of each kind, and the workloads of SC-003 and SC-010.
func SocketWorkloads(c Catalog) (points []*Workload) {
	add := func(w *Workload) {
		w.Name += ", short"
		points = append(points, w)
	}
	short := Catalog{Seed: c.Seed, Scale: c.Scale / 10, Rate: 250} // 1,000 requests
	for _, k := range Kinds() {
		add(k.Make(short, PartsLevel))
	}
	add(short.WaitWorkloads()[0])
	add(short.DeadProxies())
	return points
}

// PeerWorkloads returns the workloads for the detailed comparison with the peers.
func (c Catalog) PeerWorkloads() []*Workload {
	return []*Workload{c.ColdStart(), c.TwoDie(), c.FreeList(), c.Tunnels()}
}

// ColdStart returns a workload with a cold start, whose pool is half bad. Three proxies are good and one is slow;
// two fail 40 % of attempts, one refuses connections and one hangs. 32 clients make 500 requests.
func (c Catalog) ColdStart() *Workload {
	w := c.base("cold start")
	w.Targets = 1
	w.Workers = 32
	c.resize(w, 500)
	good := faults.SteadyProxy(faults.State{Latency: quickLatency})
	fails := faults.SteadyProxy(faults.State{Latency: quickLatency, Fails: 0.4})
	w.Pool = faults.Pool{good, good, good, faults.SteadyProxy(faults.State{Latency: 300 * time.Millisecond}), fails,
		fails,
		faults.SteadyProxy(refusing), faults.SteadyProxy(hanging)}
	return w
}

// quickLatency is the latency of good proxies in ColdStart and Tunnels.
const quickLatency = 20 * time.Millisecond

// TwoDie returns a workload of 900 requests, at 200 a second, for eight good proxies. After a third
// of the requests, one proxy begins to refuse connections and one hangs.
func (c Catalog) TwoDie() *Workload {
	w := c.base("two die in mid-traffic")
	w.Targets, w.Rate = 3, 200
	c.resize(w, 900)
	good := faults.State{Latency: 10 * time.Millisecond}
	at := time.Duration(float64(w.Requests) / w.Rate / 3 * float64(time.Second))
	w.Pool = append(slices.Repeat(faults.Pool{faults.SteadyProxy(good)}, 6), faults.SwitchingProxy(good, refusing, at),
		faults.SwitchingProxy(good, hanging, at))
	return w
}

// FreeList returns a workload with a cold start and a published list of 200 proxies: 180 refuse connections,
// 8 hang and 12 work. 10 clients make 300 requests.
func (c Catalog) FreeList() *Workload {
	w := c.base("free list of 200")
	w.Targets, w.Workers = 1, 10
	c.resize(w, 300)
	works := faults.SteadyProxy(faults.State{Latency: 50 * time.Millisecond})
	w.Pool = slices.Concat(slices.Repeat(faults.Pool{faults.SteadyProxy(refusing)}, 180),
		slices.Repeat(faults.Pool{faults.SteadyProxy(hanging)}, 8), slices.Repeat(faults.Pool{works}, 12))
	rng := rand.New(rand.NewPCG(c.Seed, 0x66726565))
	rng.Shuffle(len(w.Pool), func(i, j int) { w.Pool[i], w.Pool[j] = w.Pool[j], w.Pool[i] })
	return w
}

// Tunnels returns a workload of TLS handshakes. Three of eight proxies accept a CONNECT and then close the
// tunnel. 16 clients open 200 connections.
func (c Catalog) Tunnels() *Workload {
	w := c.base("TLS, three of eight drop tunnels")
	w.Targets, w.Workers, w.TLS = 4, 16, true
	c.resize(w, 200)
	good := faults.SteadyProxy(faults.State{Latency: quickLatency})
	drops := faults.SteadyProxy(faults.State{Latency: quickLatency, Drops: true})
	w.Pool = append(slices.Repeat(faults.Pool{good}, 5), drops, drops, drops)
	return w
}

// Control returns the workload with a single proxy: the first of its proxies that is good all the time. No gateway
// could have lower latencies on this machine.
func (w *Workload) Control() *Workload {
	c := *w
	c.Name += ", control"
	for i := range w.Pool {
		if p := &w.Pool[i]; len(p.Changes) == 1 && p.Changes[0].Loss() <= healthy.Fails && !p.Changes[0].Drops {
			c.Pool = w.Pool[i : i+1]
			break
		}
	}
	return &c
}
