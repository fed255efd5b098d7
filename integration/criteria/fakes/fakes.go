// Package fakes serves the connections to the proxies of a workload, in virtual time or on
// sockets. A fake responds in place of the target.
package fakes

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// Pool holds the proxies of one run. It is safe for concurrent use.
type Pool struct {
	workload      *workload.Workload
	tunnelTo      string // address to which all tunnels lead
	startTime     atomic.Pointer[time.Time]
	attemptCounts []atomic.Int32 // by request: number of attempts that reached a proxy
	arrivals      []atomic.Int64 // by proxy: number of clients' requests
	hungCount     atomic.Int64   // number of clients' requests without a response, because the proxy hung
	failedCount   atomic.Int64   // number of clients' requests that got a 503
	otherCount    atomic.Int64   // number of requests whose URL has no number: health checks and CONNECTs
}

// New returns the proxies of a workload. All tunnels lead to the address tunnelTo.
func New(w *workload.Workload, tunnelTo string) *Pool {
	return &Pool{
		workload: w, tunnelTo: tunnelTo, attemptCounts: make([]atomic.Int32, w.Requests),
		arrivals: make([]atomic.Int64, len(w.Pool)),
	}
}

// Begin starts the clock of the faults. Before Begin, each proxy behaves as at time 0.
func (p *Pool) Begin() {
	now := time.Now()
	p.startTime.Store(&now)
}

// Now returns the time since Begin.
func (p *Pool) Now() time.Duration {
	if begun := p.startTime.Load(); begun != nil {
		return time.Since(*begun)
	}
	return 0
}

// NoTarget is the target number of a connection without a request.
const NoTarget = -1

// State returns the current state of a proxy towards a target.
func (p *Pool) State(proxy, target int) faults.State {
	return p.workload.Pool[proxy].At(target, p.Now())
}

// Arrivals returns the number of clients' requests that have reached a proxy.
func (p *Pool) Arrivals(proxy int) int { return int(p.arrivals[proxy].Load()) }

// Hung returns the number of arrivals without a response, because their proxy hung.
func (p *Pool) Hung() int { return int(p.hungCount.Load()) }

// Failed returns the number of arrivals that got a 503.
func (p *Pool) Failed() int { return int(p.failedCount.Load()) }

const (
	servedResponse = "HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\nContent-Length: 2\r\n\r\nok"
	failedResponse = "HTTP/1.1 503 Service Unavailable\r\nVia: 1.1 proxy\r\nContent-Length: 0\r\n\r\n"
	tunnelResponse = "HTTP/1.1 200 Connection established\r\n\r\n"
)

// Serve serves a connection to a proxy, and returns when the connection has ended.
func (p *Pool) Serve(c net.Conn, proxy int) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		id, target, hasID := p.parseRequest(q.Host, q.URL.Path)
		attempt := 0
		if hasID {
			attempt = int(p.attemptCounts[id].Add(1)) - 1
		} else {
			id = -int(p.otherCount.Add(1))
		}
		if hasID || q.Method == http.MethodConnect {
			p.arrivals[proxy].Add(1)
		}
		s := p.State(proxy, target)
		switch {
		case s.Refuses:
			return
		case s.Hangs:
			if hasID {
				p.hungCount.Add(1)
			}
			io.Copy(io.Discard, c) // io.Copy returns when the gateway closes the connection
			return
		}
		time.Sleep(p.workload.Latency(id, attempt, s.Latency))
		switch {
		case p.workload.Luck(id, attempt) < s.Loss():
			if hasID {
				p.failedCount.Add(1)
			}
			_, err = io.WriteString(c, failedResponse)
		case q.Method == http.MethodConnect:
			p.tunnel(c, r, s)
			return
		default:
			_, err = io.WriteString(c, servedResponse)
		}
		if err != nil {
			return
		}
	}
}

// tunnel opens a tunnel and relays it, unless the proxy drops tunnels.
func (p *Pool) tunnel(c net.Conn, r *bufio.Reader, s faults.State) {
	if _, err := io.WriteString(c, tunnelResponse); err != nil {
		return
	}
	if s.Drops {
		r.ReadByte() // the client's first byte
		return
	}
	target, err := net.Dial("tcp", p.tunnelTo)
	if err != nil {
		return
	}
	defer target.Close()
	go func() {
		io.Copy(target, r)
		target.Close()
	}()
	io.Copy(c, target)
}

// URL returns the URL of a request, without scheme.
func URL(target, id int) string { return "t" + strconv.Itoa(target) + ".example/" + strconv.Itoa(id) }

// parseRequest returns the numbers of a request (id) and of its target. The result hasID is false if the URL has no
// such numbers.
func (p *Pool) parseRequest(host, path string) (id, target int, hasID bool) {
	host, _, _ = strings.Cut(host, ":")
	target, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(host, "t"), ".example"))
	if err != nil {
		return 0, NoTarget, false
	}
	id, err = strconv.Atoi(strings.TrimPrefix(path, "/"))
	if err != nil || id < 0 || id >= len(p.attemptCounts) {
		return 0, target, false
	}
	return id, target, true
}
