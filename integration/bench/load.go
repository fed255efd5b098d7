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

// loadPlan is one measurement, as the load process sees it.
type loadPlan struct {
	Addr     string
	Mode     string
	Path     string
	Conns    int
	Rate     int
	Status   int // of a good answer
	Duration time.Duration
}

// loadResult is what the load process prints. Latencies are in microseconds;
// in an open loop they count from the moment a request was due, so that a
// stalled proxy cannot hide behind a load that waits for it.
type loadResult struct {
	Requests int
	Failed   int // other answers, broken connections
	Bytes    int64
	Seconds  float64
	P50, P99 float64
	P999     float64
	CPU      float64 // us of the load's own a request
	Error    string  // of the first failure
}

// uploadSize is the length of one request body in mode upload.
const uploadSize = 32 << 20

// warmup precedes the measurement, in the same process.
const warmup = 500 * time.Millisecond

// settleTime is how long requests of an open loop may still be under way when
// it ends.
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
	r.Requests, r.Seconds = len(g.took), p.Duration.Seconds()
	r.CPU = g.cpu.Seconds() * 1e6 / float64(max(r.Requests, 1))
	slices.Sort(g.took)
	at := func(q float64) float64 {
		if len(g.took) == 0 {
			return 0
		}
		return float64(g.took[int(q*float64(len(g.took)-1))]) / float64(time.Microsecond)
	}
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	return json.NewEncoder(w).Encode(r)
}

// generator is the load: its connections, and the schedule of an open loop.
type generator struct {
	loadResult
	plan    *loadPlan
	loop    *loop
	proxy   unix.SockaddrInet4
	zeros   zeros
	buf     []byte // shared: what is in it does not outlast a call
	request []byte
	status  string // of a good answer
	upload  int64

	start, begin, end time.Time // warm-up, measurement, its end
	every             time.Duration
	started           int     // requests of the open loop
	idle              []*user // of the open loop, the longest idle first
	took              []time.Duration
	cpu               time.Duration
}

const connectHead = "CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n"

func newGenerator(p *loadPlan) (*generator, error) {
	addr, err := netip.ParseAddrPort(p.Addr)
	if err != nil {
		return nil, err
	}
	g := &generator{plan: p, status: strconv.Itoa(p.Status), buf: make([]byte, 64<<10),
		took: make([]time.Duration, 0, 1<<20)}
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
		g.every = time.Second / time.Duration(p.Rate)
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
		if g.every > 0 {
			g.idle = append(g.idle, &users[i])
		} else {
			users[i].next(g.start)
		}
	}
	var cpu time.Duration
	for measuring := false; ; {
		now := time.Now()
		if !measuring && now.After(g.begin) {
			measuring, cpu = true, ownCPU()
		}
		if now.After(g.end) && (g.every == 0 || len(g.idle) == len(users) || now.After(g.end.Add(settleTime))) {
			g.cpu = ownCPU() - cpu
			if late := len(users) - len(g.idle); g.every > 0 && late > 0 {
				g.Failed += late
				g.Error = "no answer when the load ended"
			}
			return nil
		}
		if err := g.loop.wait(g.pace(now)); err != nil {
			return err
		}
	}
}

// pace starts the requests that are due and returns how long to wait at most.
func (g *generator) pace(now time.Time) time.Duration {
	if g.every == 0 {
		return g.end.Sub(now)
	}
	for len(g.idle) > 0 {
		due := g.start.Add(time.Duration(g.started) * g.every)
		if due.After(g.end) {
			break
		}
		if wait := due.Sub(now); wait > 0 {
			return wait
		}
		g.started++
		u := g.idle[0]
		g.idle = g.idle[1:]
		u.next(due)
	}
	return 10 * time.Millisecond
}

func ownCPU() time.Duration {
	var r unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(unix.TimevalToNsec(r.Utime) + unix.TimevalToNsec(r.Stime))
}

// user is one connection's worth of load.
type user struct {
	*generator
	stream
	since   time.Time // when the request was sent, or due
	tunnel  bool      // the answer to CONNECT is awaited
	closing bool      // the connection ends with this answer
	inBody  bool      // the head of the answer has come
	length  int64     // of the answer's body
	partial []byte    // of a head
}

// next begins a request.
func (u *user) next(since time.Time) {
	u.since = since
	if err := u.begin(); err != nil {
		u.fail(err)
	}
}

func (u *user) begin() error {
	if u.fd >= 0 {
		return u.ask()
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
		u.tunnel = true
		u.out = append(u.out[:0], connectHead...)
		_, err := u.flush()
		return err
	}
	return u.ask()
}

func (u *user) ask() error {
	u.out, u.body = u.request, u.upload
	_, err := u.flush()
	return err
}

// fail counts a failure and begins anew.
func (u *user) fail(err error) {
	u.hangUp()
	if now := time.Now(); !u.since.Before(u.generator.begin) && now.Before(u.generator.end) {
		u.Failed++
		if u.Error == "" {
			u.Error = err.Error()
		}
	}
	u.again(time.Now())
}

// again begins the next request: now, or when it is due.
func (u *user) again(now time.Time) {
	switch {
	case u.every > 0:
		u.idle = append(u.idle, u)
	case now.Before(u.generator.end):
		u.next(now)
	}
}

func (u *user) hangUp() {
	if u.fd >= 0 {
		u.loop.close(u.fd)
	}
	u.stream = stream{fd: -1, zeros: u.generator.zeros}
	u.tunnel, u.closing, u.inBody, u.partial = false, false, false, nil
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

// receive takes what has come of an answer.
func (u *user) receive(ended bool) error {
	for {
		if again, err := u.drop(); again || err != nil {
			return err
		}
		if u.inBody {
			u.done()
			return nil
		}
		n := copy(u.buf, u.partial)
		m, again, err := receive(u.fd, u.buf[n:])
		if again || err != nil {
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
		if u.tunnel {
			want = "200"
		}
		if string(head[9:12]) != want {
			return fmt.Errorf("answer %q", head[:bytes.IndexByte(head, '\r')])
		}
		if u.tunnel {
			u.tunnel = false
			if err := u.ask(); err != nil {
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
		u.closing = u.plan.Mode == "connect" || head[len("HTTP/1.")] == '0' ||
			bytes.Contains(head, []byte("onnection: close"))
		u.inBody, u.skip = true, u.length-rest
	}
}

// done counts an answer and begins the next request.
func (u *user) done() {
	u.inBody = false
	now := time.Now()
	if u.closing {
		u.hangUp()
	}
	if !u.since.Before(u.generator.begin) && (now.Before(u.generator.end) || u.every > 0) {
		u.took = append(u.took, now.Sub(u.since))
		u.Bytes += u.length + u.upload
	}
	u.again(now)
}
