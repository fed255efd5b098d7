//go:build linux

package sockets

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/fakes"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// requestTimeout is the clients' time limit for one request.
const requestTimeout = 60 * time.Second

// clients holds the clients of one run.
type clients struct {
	workload *workload.Workload
	client   *http.Client
	scheme   string
	outcome  *workload.Outcome
}

// newClients returns clients that use the proxy at the given address. For https:// requests, they accept the target's
// certificate if one of roots has signed it.
func newClients(w *workload.Workload, proxy string, roots *x509.CertPool) *clients {
	transport := &http.Transport{
		Proxy:               http.ProxyURL(&url.URL{Scheme: "http", Host: proxy}),
		MaxIdleConnsPerHost: w.Requests,
	}
	l := &clients{workload: w, scheme: "http://", client: &http.Client{Transport: transport, Timeout: requestTimeout}}
	if w.TLS {
		l.scheme = "https://"
		transport.DisableKeepAlives = true
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: targetName}
	}
	l.outcome = &workload.Outcome{
		Workload: w.Name, Served: make([]bool, w.Requests), Attempts: make([]uint8, w.Requests),
		Latency: make([]float64, w.Requests), Reconciled: true,
	}
	return l
}

// run makes all requests of the workload.
func (l *clients) run() *workload.Outcome {
	defer l.client.CloseIdleConnections()
	if l.workload.Workers > 0 {
		l.closedLoop()
	} else {
		l.openLoop()
	}
	return l.outcome
}

func (l *clients) closedLoop() {
	schedule, next := l.workload.Schedule(), atomic.Int64{}
	var wg sync.WaitGroup
	for range l.workload.Workers {
		wg.Go(func() {
			for id := int(next.Add(1)) - 1; id < len(schedule); id = int(next.Add(1)) - 1 {
				l.request(id, schedule[id].Target, time.Now())
			}
		})
	}
	wg.Wait()
}

// openLoop begins each request at its due time, even if earlier requests have not ended. The latency counts
// from the due time.
func (l *clients) openLoop() {
	began := time.Now()
	var wg sync.WaitGroup
	for id, q := range l.workload.Schedule() {
		at := began.Add(q.At)
		time.Sleep(time.Until(at))
		wg.Go(func() { l.request(id, q.Target, at) })
	}
	wg.Wait()
}

// request makes one request. The parameter due is the scheduled time of the request.
func (l *clients) request(id, target int, due time.Time) {
	response, err := l.client.Get(l.scheme + fakes.URL(target, id))
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		l.outcome.Served[id] = err == nil && response.StatusCode == http.StatusOK
		attempts, _ := strconv.Atoi(response.Header.Get("X-Whirlpool-Attempts"))
		l.outcome.Attempts[id] = uint8(min(attempts, 255))
	}
	l.outcome.Latency[id] = float64(time.Since(due)) / float64(time.Millisecond)
}
