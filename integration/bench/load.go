package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// loadPlan is one measurement, as the load process sees it.
type loadPlan struct {
	Addr     string
	Mode     string
	Path     string
	Conns    int
	Rate     int
	Duration time.Duration
}

// loadResult is what the load process prints. Latencies are in microseconds;
// in an open loop they count from the moment a request was due, so that a
// stalled proxy cannot hide behind a load that waits for it.
type loadResult struct {
	Requests int
	Failed   int // answers other than 200, broken connections
	Bytes    int64
	Seconds  float64
	P50, P99 float64
	P999     float64
	Error    string // of the first failure
}

// uploadSize is the length of one request body in mode upload.
const uploadSize = 32 << 20

// warmup precedes the measurement, in the same process.
const warmup = 500 * time.Millisecond

func (p *loadPlan) run(w io.Writer) error {
	begin := time.Now().Add(warmup)
	workers := make([]worker, p.Conns)
	var wg sync.WaitGroup
	for i := range workers {
		workers[i] = worker{plan: p, begin: begin, end: begin.Add(p.Duration), number: i}
		wg.Go(workers[i].run)
	}
	wg.Wait()
	r := loadResult{Seconds: p.Duration.Seconds()}
	var all []time.Duration
	for i := range workers {
		k := &workers[i]
		r.Requests += len(k.took)
		r.Failed += k.failed
		r.Bytes += k.bytes
		all = append(all, k.took...)
		if k.err != nil && r.Error == "" {
			r.Error = k.err.Error()
		}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(q*float64(len(all)-1))]) / float64(time.Microsecond)
	}
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	return json.NewEncoder(w).Encode(r)
}

// worker is one connection's loop.
type worker struct {
	plan       *loadPlan
	number     int
	begin, end time.Time
	conn       net.Conn
	buf        []byte
	request    []byte
	took       []time.Duration
	bytes      int64
	failed     int
	err        error
}

const connectHead = "CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test:80\r\n\r\n"

func (k *worker) run() {
	p := k.plan
	k.buf = make([]byte, 64<<10)
	switch p.Mode {
	case "abs":
		k.request = fmt.Appendf(nil, "GET http://origin.test%s HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", p.Path)
	case "upload":
		k.request = fmt.Appendf(nil, "POST http://origin.test%s HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n", p.Path, uploadSize)
	default:
		k.request = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: origin.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", p.Path)
	}
	defer k.drop()
	var every time.Duration
	due := k.begin.Add(-warmup)
	if p.Rate > 0 {
		every = time.Duration(float64(time.Second) * float64(p.Conns) / float64(p.Rate))
		due = due.Add(every * time.Duration(k.number) / time.Duration(p.Conns))
	}
	for {
		now := time.Now()
		if p.Rate > 0 {
			if wait := due.Sub(now); wait > 0 {
				time.Sleep(wait)
			}
			now, due = due, due.Add(every)
		}
		if now.After(k.end) {
			return
		}
		n, err := k.once()
		done := time.Now()
		if err != nil {
			k.drop()
		}
		if now.Before(k.begin) || done.After(k.end) && p.Rate == 0 {
			continue
		}
		if err != nil {
			k.failed++
			k.err = err
			continue
		}
		k.took = append(k.took, done.Sub(now))
		k.bytes += n
	}
}

func (k *worker) drop() {
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
}

// once does one request and returns the bytes of its body.
func (k *worker) once() (int64, error) {
	if k.conn == nil {
		c, err := net.Dial("tcp", k.plan.Addr)
		if err != nil {
			return 0, err
		}
		k.conn = c
		if k.plan.Mode == "tunnel" || k.plan.Mode == "connect" {
			if _, err := io.WriteString(c, connectHead); err != nil {
				return 0, err
			}
			if _, err := k.answer(true); err != nil {
				return 0, err
			}
		}
	}
	if _, err := k.conn.Write(k.request); err != nil {
		return 0, err
	}
	sent := int64(0)
	if k.plan.Mode == "upload" {
		for ; sent < uploadSize; sent += int64(len(zeros)) {
			if _, err := k.conn.Write(zeros); err != nil {
				return 0, err
			}
		}
	}
	n, err := k.answer(false)
	if k.plan.Mode == "connect" {
		k.drop()
	}
	return n + sent, err
}

// answer reads one answer to its end and returns the length of its body.
func (k *worker) answer(tunnel bool) (int64, error) {
	n := 0
	for {
		m, err := k.conn.Read(k.buf[n:])
		if err != nil {
			return 0, err
		}
		n += m
		end := bytes.Index(k.buf[:n], []byte("\r\n\r\n"))
		if end < 0 {
			continue
		}
		head := k.buf[:end+4]
		if string(head[9:12]) != "200" {
			return 0, fmt.Errorf("answer %q", head[:bytes.IndexByte(head, '\r')])
		}
		if tunnel {
			return 0, nil
		}
		length := contentLength(head)
		closes := head[len("HTTP/1.")] == '0' || bytes.Contains(head, []byte("onnection: close"))
		if length < 0 {
			return 0, fmt.Errorf("an answer without Content-Length")
		}
		for left := length - int64(n-len(head)); left > 0; {
			m, err := k.conn.Read(k.buf)
			if err != nil {
				return 0, err
			}
			left -= int64(m)
		}
		if closes {
			k.drop()
		}
		return length, nil
	}
}
