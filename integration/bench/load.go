//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// loadPlan describes one measurement to the load process.
type loadPlan struct {
	Addr     string
	Mode     string
	Path     string
	Conns    int
	Rate     int
	Status   int // status of a good response
	Duration time.Duration
}

// loadResult is the output of the load process. Latencies are in microseconds. If loadPlan.Rate is above 0, the load is
// an open loop: each request has a scheduled time, and its latency counts from this time. If a proxy stalls, the
// latencies thus include the delay of the requests that are due during the stall.
type loadResult struct {
	Requests int
	Failed   int // number of responses with another status, and of broken connections
	Bytes    int64
	Seconds  float64
	P50, P99 float64
	P999     float64
	CPU      float64 // CPU time of the load itself per request, us
	Error    string  // text of the first failure
}

// uploadSize is the length of one request body in mode upload.
const uploadSize = 32 << 20

// warmup is the time before the measurement in which the load already runs.
const warmup = 500 * time.Millisecond

// settleTime is the time after the end of an open loop within which the requests in flight must end.
const settleTime = 2 * time.Second

func (p *loadPlan) run(w io.Writer) error {
	g, err := newGenerator(p)
	if err != nil {
		return err
	}
	if err := g.run(); err != nil {
		return err
	}
	r := g.loadResult
	r.Requests, r.Seconds = len(g.latencies), p.Duration.Seconds()
	r.CPU = g.cpu.Seconds() * 1e6 / float64(max(r.Requests, 1))
	slices.Sort(g.latencies)
	at := func(q float64) float64 {
		if len(g.latencies) == 0 {
			return 0
		}
		return float64(g.latencies[int(q*float64(len(g.latencies)-1))]) / float64(time.Microsecond)
	}
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	return json.NewEncoder(w).Encode(r)
}

// generator makes the load. It holds the connections, and the schedule of an open loop.
type generator struct {
	loadResult
	plan    *loadPlan
	loop    *loop
	proxy   unix.SockaddrInet4
	zeros   zeros
	buf     []byte // shared buffer; its contents are valid during one call only
	request []byte
	status  string // status of a good response
	upload  int64

	start, begin, end time.Time // beginning of the warm-up; beginning and end of the measurement
	interval          time.Duration
	requestCount      int     // number of requests of the open loop so far
	idle              []*user // idle users of the open loop; the user with the longest idle time is first
	latencies         []time.Duration
	cpu               time.Duration
}

const connectHead = "CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n"

func newGenerator(p *loadPlan) (*generator, error) {
	addr, err := netip.ParseAddrPort(p.Addr)
	if err != nil {
		return nil, err
	}
	g := &generator{plan: p, status: strconv.Itoa(p.Status), buf: make([]byte, 64<<10),
		latencies: make([]time.Duration, 0, 1<<20)}
	g.proxy = unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	if g.loop, err = newLoop(); err != nil {
		return nil, err
	}
	if g.zeros, err = newZeros(); err != nil {
		return nil, err
	}
	switch p.Mode {
	case "abs":
		g.request = fmt.Appendf(nil, "GET http://origin.test%s HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\n"+
			"Accept: */*\r\n\r\n", p.Path)
	case "upload":
		g.request = fmt.Appendf(nil, "POST http://origin.test%s HTTP/1.1\r\nHost: origin.test\r\n"+
			"Content-Length: %d\r\n\r\n", p.Path, uploadSize)
		g.upload = uploadSize
	case "tunnel", "connect":
		g.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
			p.Path)
	default:
		return nil, fmt.Errorf("no mode %q", p.Mode)
	}
	if p.Rate > 0 {
		g.interval = time.Second / time.Duration(p.Rate)
	}
	return g, nil
}

func (g *generator) run() error {
	g.start = time.Now()
	g.begin = g.start.Add(warmup)
	g.end = g.begin.Add(g.plan.Duration)
	users := make([]user, g.plan.Conns)
	for i := range users {
		users[i] = user{generator: g, stream: stream{fd: -1, zeros: g.zeros}}
		if g.interval > 0 {
			g.idle = append(g.idle, &users[i])
		} else {
			users[i].beginRequest(g.start)
		}
	}
	var cpu time.Duration
	for measuring := false; ; {
		now := time.Now()
		if !measuring && now.After(g.begin) {
			measuring, cpu = true, ownCPU()
		}
		if now.After(g.end) && (g.interval == 0 || len(g.idle) == len(users) || now.After(g.end.Add(settleTime))) {
			g.cpu = ownCPU() - cpu
			if late := len(users) - len(g.idle); g.interval > 0 && late > 0 {
				g.Failed += late
				g.Error = "no answer when the load ended"
			}
			return nil
		}
		if err := g.loop.wait(g.startDue(now)); err != nil {
			return err
		}
	}
}

// startDue starts the requests whose scheduled time has come. It returns the longest time to wait
// before the next call.
func (g *generator) startDue(now time.Time) time.Duration {
	if g.interval == 0 {
		return g.end.Sub(now)
	}
	for len(g.idle) > 0 {
		due := g.start.Add(time.Duration(g.requestCount) * g.interval)
		if due.After(g.end) {
			break
		}
		if wait := due.Sub(now); wait > 0 {
			return wait
		}
		g.requestCount++
		u := g.idle[0]
		g.idle = g.idle[1:]
		u.beginRequest(due)
	}
	return 10 * time.Millisecond
}

func ownCPU() time.Duration {
	var r unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(unix.TimevalToNsec(r.Utime) + unix.TimevalToNsec(r.Stime))
}

// user makes requests on one connection, one after the other.
type user struct {
	*generator
	stream
	startTime    time.Time // time at which the request was sent or, in an open loop, was to be sent
	awaitsTunnel bool      // the response to the CONNECT has not arrived yet
	closeAfter   bool      // the connection ends after this response
	inBody       bool      // the head of the response has arrived
	length       int64     // length of the response's body
	partial      []byte    // incomplete head
}

// beginRequest begins a request. Its latency counts from startTime.
func (u *user) beginRequest(startTime time.Time) {
	u.startTime = startTime
	if err := u.connect(); err != nil {
		u.fail(err)
	}
}

func (u *user) connect() error {
	if u.fd >= 0 {
		return u.sendRequest()
	}
	fd, err := socket()
	if err != nil {
		return err
	}
	u.fd = fd
	if err := u.loop.add(fd, u); err != nil {
		return err
	}
	if u.upload > 0 {
		noDelay(fd)
	}
	if err := unix.Connect(fd, &u.proxy); err != nil && err != unix.EINPROGRESS {
		return err
	}
	if u.plan.Mode == "tunnel" || u.plan.Mode == "connect" {
		u.awaitsTunnel = true
		u.out = append(u.out[:0], connectHead...)
		_, err := u.flush()
		return err
	}
	return u.sendRequest()
}

func (u *user) sendRequest() error {
	u.out, u.body = u.request, u.upload
	_, err := u.flush()
	return err
}

// fail counts a failure and opens a new connection.
func (u *user) fail(err error) {
	u.closeConn()
	if now := time.Now(); !u.startTime.Before(u.generator.begin) && now.Before(u.generator.end) {
		u.Failed++
		if u.Error == "" {
			u.Error = err.Error()
		}
	}
	u.continueAfter(time.Now())
}

// continueAfter begins the next request after the end of one. In an open loop it makes the user idle instead, because
// startDue begins the requests at their scheduled times.
func (u *user) continueAfter(now time.Time) {
	switch {
	case u.interval > 0:
		u.idle = append(u.idle, u)
	case now.Before(u.generator.end):
		u.beginRequest(now)
	}
}

func (u *user) closeConn() {
	if u.fd >= 0 {
		u.loop.close(u.fd)
	}
	u.stream = stream{fd: -1, zeros: u.generator.zeros}
	u.awaitsTunnel, u.closeAfter, u.inBody, u.partial = false, false, false, nil
}

func (u *user) ready(readable, ended bool) {
	if _, err := u.flush(); err != nil && !readable {
		u.fail(err)
		return
	}
	if !readable {
		return
	}
	if err := u.receive(ended); err != nil {
		u.fail(err)
	}
}

// receive reads the bytes of a response that have arrived.
func (u *user) receive(ended bool) error {
	for {
		if blocked, err := u.dropInput(); blocked || err != nil {
			return err
		}
		if u.inBody {
			u.endResponse()
			return nil
		}
		n := copy(u.buf, u.partial)
		m, blocked, err := receive(u.fd, u.buf[n:])
		if blocked || err != nil {
			return err
		}
		if m == 0 {
			return errClosed
		}
		got := u.buf[:n+m]
		end := bytes.Index(got, headEnd)
		if end < 0 {
			u.partial = append(u.partial[:0], got...)
			continue
		}
		u.partial = u.partial[:0]
		head, rest := got[:end+4], int64(len(got)-end-4)
		want := u.status
		if u.awaitsTunnel {
			want = "200"
		}
		if string(head[9:12]) != want {
			return fmt.Errorf("answer %q", head[:bytes.IndexByte(head, '\r')])
		}
		if u.awaitsTunnel {
			u.awaitsTunnel = false
			if err := u.sendRequest(); err != nil {
				return err
			}
			if !ended {
				return nil
			}
			continue
		}
		if u.length = contentLength(head); u.length < 0 {
			return fmt.Errorf("an answer without Content-Length")
		}
		u.closeAfter = u.plan.Mode == "connect" || head[len("HTTP/1.")] == '0' ||
			bytes.Contains(head, []byte("onnection: close"))
		u.inBody, u.unwanted = true, u.length-rest
	}
}

// endResponse counts a response and calls continueAfter.
func (u *user) endResponse() {
	u.inBody = false
	now := time.Now()
	if u.closeAfter {
		u.closeConn()
	}
	if !u.startTime.Before(u.generator.begin) && (now.Before(u.generator.end) || u.interval > 0) {
		u.latencies = append(u.latencies, now.Sub(u.startTime))
		u.Bytes += u.length + u.upload
	}
	u.continueAfter(now)
}
