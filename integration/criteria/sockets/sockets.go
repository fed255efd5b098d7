//go:build linux

package sockets

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
	"github.com/whirlpool-proxy/whirlpool/integration/peers"
)

// Gateway is a proxy under test.
type Gateway struct {
	Name    string
	Prepare peers.Prepare // nil for no gateway: clients use the workload's first proxy
	Checks  bool          // turns on the gateway's health checks
}

// Result is the outcome of a run on sockets.
type Result struct {
	*workload.Outcome
	Took     time.Duration // time from the beginning of the first request to the end of the last
	Arrivals []int         // by proxy: requests of clients that reached it
	Hung     int           // arrivals without a response, because the proxy hung
	Failed   int           // arrivals that got a 503
}

// Reached returns the number of clients' requests that reached the proxies.
func (r *Result) Reached() (n int) {
	for _, a := range r.Arrivals {
		n += a
	}
	return n
}

// Extra returns the number of attempts beyond one per request. It uses the larger of two counts: the requests that
// reached a proxy, and the attempts that the gateway reports, which include refused connections.
func (r *Result) Extra() int { return max(r.Reached(), r.AttemptCount()) - len(r.Served) }

// Bench runs workloads. It is not safe for concurrent use.
type Bench struct {
	// Settle is the time that a gateway gets for its health checks before the first request. The gateway makes one
	// check a second, and does not use a proxy after two failed checks.
	Settle time.Duration

	runs int
}

// network returns a number for the function listen, which determines the network that listen tries first. The number
// differs from run to run, and most probably from process to process.
func (b *Bench) network() int {
	b.runs++
	return os.Getpid()*31 + b.runs
}

// Run starts the fakes and the gateway, and makes the requests of a workload.
func (b *Bench) Run(w *workload.Workload, g Gateway) (*Result, error) {
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		io.WriteString(out, "ok")
	}))
	site.Config.ErrorLog = log.New(io.Discard, "", 0) // drops the errors of handshakes that a proxy has ended
	site.StartTLS()
	defer site.Close()
	roots := x509.NewCertPool()
	roots.AddCert(site.Certificate())

	pool := fakes.New(w, site.Listener.Addr().String())
	sockets, err := listen(pool, w, b.network())
	if err != nil {
		return nil, err
	}
	defer sockets.close()
	proxy := sockets.addrs[0]
	if g.Prepare != nil {
		r, err := peers.Start(g.Name, g.Prepare, peers.Options{Upstreams: sockets.addrs, Checks: g.Checks})
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", w.Name, g.Name, err)
		}
		defer r.Stop()
		proxy = r.Addr
		if g.Checks {
			time.Sleep(b.Settle)
		}
	}
	pool.Begin()
	sockets.applyChanges(w)
	began := time.Now()
	result := &Result{Outcome: newClients(w, proxy, roots).run(), Took: time.Since(began)}
	result.Variant, result.Hung, result.Failed = g.Name, pool.Hung(), pool.Failed()
	for i := range w.Pool {
		result.Arrivals = append(result.Arrivals, pool.Arrivals(i))
	}
	return result, nil
}

// targetName is the host name in the certificate of https:// targets.
const targetName = "example.com"
