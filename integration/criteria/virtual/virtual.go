// Package virtual runs workloads through the real engine in virtual time: connections are
// pipes, the clock is that of testing/synctest. Hours of traffic take seconds, and the
// machine's speed has no influence on the results.
package virtual

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Run runs a workload through an engine with a configuration, whose proxies it replaces.
// cache is a folder for the compiled built-in plugins, which each run loads anew.
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
	n := &network{workload: w, start: time.Now(), reached: make([]atomic.Int32, w.Requests)}
	cfg.Proxies = nil
	for i := range w.Pool {
		cfg.Proxies = append(cfg.Proxies, upstream.Spec{
			ID: strconv.Itoa(i), Weight: 1, Address: upstream.Address{Scheme: upstream.HTTP, Host: n.address(i)},
		})
	}
	if w.MaxAttempts > 0 && cfg.Retry.MaxAttempts > 1 {
		cfg.Retry.MaxAttempts = w.MaxAttempts
	}
	rng := lockedRand{rng: rand.New(rand.NewPCG(w.Seed, 0x656e67))}
	e, err := engine.New(cfg, engine.Options{Plugins: reg, Observe: reg.Observe, Dial: n.dial, Rand: rng.Uint64})
	if err != nil {
		t.Fatal(err)
	}
	schedule := w.Schedule()
	o := &workload.Outcome{
		Workload: w.Name, Served: make([]bool, len(schedule)), Attempts: make([]uint8, len(schedule)),
		Latency: make([]float64, len(schedule)),
	}
	events := make([][]core.AttemptEvent, len(schedule))
	var wg sync.WaitGroup
	for id, q := range schedule {
		time.Sleep(q.At - time.Since(n.start))
		wg.Go(func() {
			began := time.Now()
			o.Served[id], events[id] = n.request(e, id, q.Target)
			o.Latency[id] = float64(time.Since(began)) / float64(time.Millisecond)
		})
	}
	wg.Wait()
	n.count(o, events, schedule, transitions(e))
	summary := e.Metrics().Summary()
	o.Reconciled = summary.Requests == uint64(len(schedule)) && summary.Attempts == uint64(countEvents(events)) &&
		e.Tracker().InFlight() == 0
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.Shutdown(ctx)
	return o
}

// request makes one request and reads its response.
func (n *network) request(e *engine.Engine, id, target int) (served bool, events []core.AttemptEvent) {
	q, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://t%d.example/%d", target, id), nil)
	if err != nil {
		panic(err) // the URL is constant but for its numbers
	}
	r, err := e.Do(context.Background(), engine.Call{Request: q})
	if err != nil {
		panic(err) // the request is valid
	}
	if r.Response == nil {
		return false, r.Attempts
	}
	_, err = io.Copy(io.Discard, r.Response.Body)
	r.Response.Body.Close()
	return err == nil && r.Response.StatusCode == http.StatusOK, r.Attempts
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

// network is the proxies of a workload, as the engine dials them.
type network struct {
	workload *workload.Workload
	start    time.Time
	reached  []atomic.Int32 // attempts that reached a proxy, by request
}

func (n *network) address(proxy int) string { return fmt.Sprintf("proxy.example:%d", 1+proxy) }

// state returns the state of a proxy towards a target now.
func (n *network) state(proxy, target int) faults.State {
	return n.workload.Pool[proxy].At(target, time.Since(n.start))
}

// noTarget stands for the target of a connection without a request.
const noTarget = -1

func (n *network) dial(_ context.Context, _, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	if n.state(number-1, noTarget).Refuses {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	go n.serve(far, number-1)
	return near, nil
}

// serve is a proxy's end of a connection.
func (n *network) serve(c net.Conn, proxy int) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		target, id, err := parse(q.URL.Host, q.URL.Path)
		if err != nil {
			return
		}
		attempt := int(n.reached[id].Add(1)) - 1
		s := n.state(proxy, target)
		switch {
		case s.Refuses:
			return
		case s.Hangs:
			io.Copy(io.Discard, c) // until the gateway closes the connection
			return
		}
		time.Sleep(n.workload.Latency(id, attempt, s.Latency))
		response := "HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\nContent-Length: 2\r\n\r\nok"
		if n.workload.Luck(id, attempt) < s.Loss() {
			response = "HTTP/1.1 503 Service Unavailable\r\nVia: 1.1 proxy\r\nContent-Length: 0\r\n\r\n"
		}
		if _, err := io.WriteString(c, response); err != nil {
			return
		}
	}
}

// parse returns the target and the number of a request for http://tTARGET.example/NUMBER.
func parse(host, path string) (target, id int, err error) {
	if target, err = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(host, "t"), ".example")); err != nil {
		return 0, 0, err
	}
	id, err = strconv.Atoi(strings.TrimPrefix(path, "/"))
	return target, id, err
}
