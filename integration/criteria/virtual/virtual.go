// Package virtual runs workloads through the real engine in virtual time: connections are pipes, and the clock is the
// virtual clock of testing/synctest. Hours of traffic take seconds. The speed of the machine has no influence on the
// results.
package virtual

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Run runs a workload through an engine with the configuration cfg. It replaces the proxies in cfg by the proxies of
// the workload. Each run loads the built-in plugins. The parameter cache is a folder for their compiled code.
func Run(t *testing.T, cfg engine.Config, cache string, w *workload.Workload) *workload.Outcome {
	var o *workload.Outcome
	synctest.Test(t, func(t *testing.T) {
		reg, err := plugins.New(plugins.Options{Log: slog.New(slog.DiscardHandler), CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		defer reg.Close()
		o = run(t, cfg, reg, w)
	})
	return o
}

func run(t *testing.T, cfg engine.Config, reg *plugins.Registry, w *workload.Workload) *workload.Outcome {
	proxies, start := &dialer{Pool: fakes.New(w, "")}, time.Now()
	proxies.Begin()
	cfg.Proxies = nil
	for i := range w.Pool {
		cfg.Proxies = append(cfg.Proxies, upstream.Spec{
			ID: strconv.Itoa(i), Weight: 1, Address: upstream.Address{Scheme: upstream.HTTP, Host: address(i)},
		})
	}
	if w.MaxAttempts > 0 && cfg.Retry.MaxAttempts > 1 {
		cfg.Retry.MaxAttempts = w.MaxAttempts
	}
	rng := lockedRand{rng: rand.New(rand.NewPCG(w.Seed, 0x656e67))}
	e, err := engine.New(cfg, engine.Options{Plugins: reg, Observe: reg.Observe, Dial: proxies.dial, Rand: rng.Uint64})
	if err != nil {
		t.Fatal(err)
	}
	schedule := w.Schedule()
	o := &workload.Outcome{
		Workload: w.Name, Served: make([]bool, len(schedule)), Attempts: make([]uint8, len(schedule)),
		Latency: make([]float64, len(schedule)),
	}
	events, finals := make([][]core.AttemptEvent, len(schedule)), make([]core.Final, len(schedule))
	var wg sync.WaitGroup
	for id, q := range schedule {
		time.Sleep(q.At - time.Since(start))
		wg.Go(func() {
			began := time.Now()
			r, served := request(e, id, q.Target)
			o.Served[id], events[id], finals[id] = served, r.Attempts, r.Final
			o.Latency[id] = float64(time.Since(began)) / float64(time.Millisecond)
		})
	}
	wg.Wait()
	c := counter{workload: w, start: start, transitions: transitions(e)}
	c.fillOutcome(o, events, schedule)
	for _, f := range finals {
		if f == core.FinalAllBreakersOpen {
			o.AllBreakersOpen++
		}
	}
	summary := e.Metrics().Summary()
	o.Reconciled = summary.Requests == uint64(len(schedule)) && summary.Attempts == uint64(countEvents(events)) &&
		e.Tracker().InFlight() == 0
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.Shutdown(ctx)
	proxies.connections.Wait()
	return o
}

// request makes one request and reads its response.
func request(e *engine.Engine, id, target int) (r *engine.Result, served bool) {
	q, err := http.NewRequest(http.MethodGet, "http://"+fakes.URL(target, id), nil)
	if err != nil {
		panic(err) // cannot happen: only the numbers in the URL vary
	}
	r, err = e.Do(context.Background(), engine.Call{Request: q})
	if err != nil {
		panic(err) // cannot happen: the request is valid
	}
	if r.Response == nil {
		return r, false
	}
	_, err = io.Copy(io.Discard, r.Response.Body)
	r.Response.Body.Close()
	return r, err == nil && r.Response.StatusCode == http.StatusOK
}

// lockedRand is a source of randomness for several goroutines.
type lockedRand struct {
	mu  sync.Mutex
	rng *rand.Rand
}

// Uint64 returns the next number.
func (l *lockedRand) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.Uint64()
}

// dialer dials the proxies of a pool.
type dialer struct {
	*fakes.Pool
	connections sync.WaitGroup
}

// address returns the address of a proxy: its port is its number plus 1.
func address(proxy int) string { return fmt.Sprintf("proxy.example:%d", 1+proxy) }

func (d *dialer) dial(_ context.Context, _, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	if d.State(number-1, fakes.NoTarget).Refuses {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	d.connections.Go(func() { d.Serve(far, number-1) })
	return near, nil
}
