// Package lab is a laboratory of proxies that fail on purpose, on loopback. The
// tests script them; the demo (whirlpool serve --demo) shows them.
//
// A Proxy is a forward proxy that answers for the origin itself: what an
// arrival gets is its script's Behaviour. It records every arrival.
package lab

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Behaviour is what one arrival gets. The zero value answers 200.
type Behaviour struct {
	Status  int           // of the answer; 0 means 200
	Header  http.Header   // of the answer
	Body    string        // of the answer; "" means the proxy's name
	Delay   time.Duration // before the answer
	Hole    bool          // never answer
	Reset   bool          // RST
	Fin     bool          // close without an answer
	Garbage string        // send this in the answer's place, and close
	Cut     int           // send so many bytes of the body and close; the length says more
	Size    int64         // send a body of so many bytes
	Count   bool          // of Counting, not of zeros
	Pieces  int           // send the body in so many chunks, Every apart
	Every   time.Duration
	Hold    chan struct{} // wait for it to be closed
	To      string        // where a CONNECT leads; "" for where it asks
}

// OK answers 200; Status answers a status.
func OK() Behaviour             { return Behaviour{} }
func Status(code int) Behaviour { return Behaviour{Status: code} }

// Challenge answers 407, as a proxy does that wants another login.
func Challenge() Behaviour {
	return Behaviour{Status: 407, Header: http.Header{"Proxy-Authenticate": {`Basic realm="proxy"`}}}
}
func Slow(d time.Duration) Behaviour { return Behaviour{Delay: d} }

// Script tells what the n-th arrival (from 0) gets.
type Script func(n int, r *http.Request) Behaviour

// Always gives every arrival the same.
func Always(b Behaviour) Script { return func(int, *http.Request) Behaviour { return b } }

// Arrival is one request that reached a Proxy.
type Arrival struct {
	At     time.Time
	Ended  time.Time
	Conn   int
	Method string
	Target string
	Header http.Header
	Body   []byte
	Length int64 // of the body, which is kept up to 1 MiB
}

// Proxy is one fake upstream proxy.
type Proxy struct {
	Name string
	Addr string

	mu       sync.Mutex
	script   Script
	arrivals []Arrival
	conns    map[net.Conn]bool // true: inside a request
	connects int
	listener net.Listener
	wg       sync.WaitGroup
}

// Start starts a proxy at addr ("127.0.0.1:0" for any port).
func Start(name, addr string, s Script) (*Proxy, error) {
	p := &Proxy{Name: name, script: s, conns: map[net.Conn]bool{}}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p.Addr = l.Addr().String()
	p.serve(l)
	return p, nil
}

func (p *Proxy) serve(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.connects++
			n := p.connects
			p.conns[c] = false
			p.mu.Unlock()
			p.wg.Add(1)
			go func() {
				defer p.wg.Done()
				p.conn(c, n)
				c.Close()
				p.mu.Lock()
				delete(p.conns, c)
				p.mu.Unlock()
			}()
		}
	}()
}

// Set changes what arrivals get from now on.
func (p *Proxy) Set(s Script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = s
}

// Do is Set with the same for every arrival.
func (p *Proxy) Do(b Behaviour) { p.Set(Always(b)) }

// Refuse stops listening and drops every connection, for good.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for c := range p.conns {
		c.Close()
	}
}

// Close stops the proxy.
func (p *Proxy) Close() { p.Refuse() }

// Arrivals returns what has arrived since the last Clear.
func (p *Proxy) Arrivals() []Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Arrival(nil), p.arrivals...)
}

// Count is the number of arrivals.
func (p *Proxy) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrivals)
}

// Connections is the number of connections accepted so far; Open that of those
// which stand.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connects
}

// Open is the number of standing connections.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Clear forgets the arrivals.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrivals = nil
}

func (p *Proxy) conn(c net.Conn, number int) {
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		a := Arrival{At: time.Now(), Conn: number, Method: q.Method, Target: q.RequestURI, Header: q.Header}
		a.Body, _ = io.ReadAll(io.LimitReader(q.Body, 1<<20))
		rest, berr := io.Copy(io.Discard, q.Body)
		a.Length = int64(len(a.Body)) + rest
		p.mu.Lock()
		n := len(p.arrivals)
		p.arrivals = append(p.arrivals, a)
		b := p.script(n, q)
		p.mu.Unlock()
		keep := berr == nil && p.answer(c, r, q, b)
		p.mu.Lock()
		if n < len(p.arrivals) {
			p.arrivals[n].Ended = time.Now()
		}
		p.mu.Unlock()
		if !keep || q.Close {
			return
		}
	}
}

// gone waits until the other side closes.
func gone(c net.Conn) {
	io.Copy(io.Discard, c)
}

func (p *Proxy) answer(c net.Conn, r *bufio.Reader, q *http.Request, b Behaviour) (keep bool) {
	if b.Hold != nil {
		<-b.Hold
	}
	time.Sleep(b.Delay)
	switch {
	case b.Hole:
		gone(c)
		return false
	case b.Reset:
		c.(*net.TCPConn).SetLinger(0)
		return false
	case b.Fin:
		return false
	case b.Garbage != "":
		io.WriteString(c, b.Garbage)
		return false
	}
	status := b.Status
	if status == 0 {
		status = 200
	}
	if q.Method == http.MethodConnect && status == 200 {
		to := b.To
		if to == "" {
			to = q.RequestURI
		}
		return p.tunnel(c, r, to)
	}
	body := b.Body
	if body == "" {
		body = p.Name + "\n"
	}
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for name, values := range b.Header {
		for _, v := range values {
			fmt.Fprintf(&head, "%s: %s\r\n", name, v)
		}
	}
	bodyless := q.Method == http.MethodHead || status == 204 || status == 304
	switch {
	case b.Size > 0:
		fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n", b.Size)
		io.WriteString(c, head.String())
		if bodyless {
			return true
		}
		if b.Count {
			_, err := io.CopyN(c, Counting(), b.Size)
			return err == nil
		}
		_, err := io.CopyN(c, zeros{}, b.Size)
		return err == nil
	case b.Pieces > 0:
		fmt.Fprintf(&head, "Transfer-Encoding: chunked\r\n\r\n")
		io.WriteString(c, head.String())
		for range b.Pieces {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(body), body)
			time.Sleep(b.Every)
		}
		_, err := io.WriteString(c, "0\r\n\r\n")
		return err == nil
	case b.Cut > 0:
		fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n%s", b.Cut+1000, strings.Repeat("x", b.Cut))
		io.WriteString(c, head.String())
		return false
	}
	head.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
	if !bodyless {
		head.WriteString(body)
	}
	_, err := io.WriteString(c, head.String())
	return err == nil
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Counting is an endless body in which no byte can be missed: numbers, one
// after the other.
func Counting() io.Reader { return &counting{} }

type counting struct{ next int }

func (c *counting) Read(p []byte) (int, error) {
	n := 0
	for ; len(p)-n >= 8; c.next++ {
		n += copy(p[n:], fmt.Sprintf("%07d\n", c.next%10_000_000))
	}
	return n, nil
}

// tunnel joins the client with the target it asked for.
func (p *Proxy) tunnel(c net.Conn, r *bufio.Reader, to string) bool {
	target, err := net.DialTimeout("tcp", to, 2*time.Second)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return true
	}
	defer target.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		io.Copy(target, r)
		target.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	io.Copy(c, target)
	c.(*net.TCPConn).CloseWrite()
	<-done
	return false
}

// random is for scripts that fail by chance.
func random(n byte) bool {
	var b [1]byte
	rand.Read(b[:])
	return b[0]%n == 0
}
