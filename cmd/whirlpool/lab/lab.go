// Package lab runs forward proxies that fail on purpose, for tests and for the demo. They listen at loopback
// addresses. `whirlpool serve --demo` runs a pool of such proxies (Demo). The tests in integration/ control such
// proxies with a Script.
//
// A Proxy responds to requests in absolute form in place of the target, and opens a tunnel for a CONNECT. Its Script
// chooses the Behaviour for each request. The Proxy records every request (Arrival).
package lab

import (
	"bufio"
	"bytes"
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

// Behaviour determines how a Proxy responds to one request. With the zero value it responds with status 200.
type Behaviour struct {
	Status     int           // status of the response; 0 stands for 200
	Header     http.Header   // header of the response
	Body       string        // body of the response; "" stands for the proxy's name
	Delay      time.Duration // wait before the response
	NoResponse bool          // send no response
	Reset      bool          // close the connection with RST
	Fin        bool          // close the connection without a response
	Garbage    string        // send this text instead of a response, and close
	CutAfter   int           // send this many bytes of a longer body, and close
	Size       int64         // send a body of this many bytes
	Numbered   bool          // the body consists of numbers (Counting), not of zero bytes; only with Size
	Pieces     int           // send the body this many times, as chunks, at intervals of Interval
	Interval   time.Duration
	WaitFor    chan struct{} // do not respond before this channel is closed
	TunnelTo   string        // host:port to which a CONNECT leads; "" for the requested target
}

// OK returns the Behaviour that responds with status 200.
func OK() Behaviour { return Behaviour{} }

// Status returns the Behaviour that responds with the status code.
func Status(code int) Behaviour { return Behaviour{Status: code} }

// Challenge returns the Behaviour that responds with status 407, like a proxy that refuses the credentials.
func Challenge() Behaviour {
	return Behaviour{Status: 407, Header: http.Header{"Proxy-Authenticate": {`Basic realm="proxy"`}}}
}

// Slow returns the Behaviour that responds with status 200 after the time d.
func Slow(d time.Duration) Behaviour { return Behaviour{Delay: d} }

// Script returns the Behaviour for the request r. The parameter n is the number of requests that the Proxy has recorded
// before r, since the last call of Clear.
type Script func(n int, r *http.Request) Behaviour

// Always returns the Script that returns the Behaviour b for every request.
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
	Length int64 // number of bytes of the body; Body has at most the first MiB of it
}

// Proxy is one forward proxy. It is safe for concurrent use.
type Proxy struct {
	Name string
	Addr string

	mu        sync.Mutex // guards the fields below, except wg
	script    Script
	arrivals  []Arrival
	conns     map[net.Conn]bool // the open connections
	connCount int
	listener  net.Listener
	wg        sync.WaitGroup
}

// Start starts a proxy that listens at addr ("127.0.0.1:0" for any free port). The script s chooses its behaviour.
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
			p.connCount++
			n := p.connCount
			p.conns[c] = false
			p.mu.Unlock()
			p.wg.Add(1)
			go func() {
				defer p.wg.Done()
				p.serveConn(c, n)
				c.Close()
				p.mu.Lock()
				delete(p.conns, c)
				p.mu.Unlock()
			}()
		}
	}()
}

// SetScript replaces the script. The new script applies to the requests that arrive after the call.
func (p *Proxy) SetScript(s Script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = s
}

// SetBehaviour is short for SetScript(Always(b)).
func (p *Proxy) SetBehaviour(b Behaviour) { p.SetScript(Always(b)) }

// Refuse closes the listener and all connections, so that new connections are refused. It cannot be undone.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener.Close()
	for c := range p.conns {
		c.Close()
	}
}

// Close closes the listener and all connections.
func (p *Proxy) Close() { p.Refuse() }

// Arrivals returns the requests that the proxy has recorded since the last Clear.
func (p *Proxy) Arrivals() []Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Arrival(nil), p.arrivals...)
}

// Count returns the number of requests since the last Clear.
func (p *Proxy) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrivals)
}

// Connections returns the number of connections that the proxy has accepted since its start.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connCount
}

// OpenConnections returns the number of open connections.
func (p *Proxy) OpenConnections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Clear removes the recorded requests, so that Count is 0.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrivals = nil
}

func (p *Proxy) serveConn(c net.Conn, number int) {
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		a := Arrival{At: time.Now(), Conn: number, Method: q.Method, Target: q.RequestURI, Header: q.Header}
		a.Body, _ = io.ReadAll(io.LimitReader(q.Body, 1<<20))
		discarded, bodyErr := io.Copy(io.Discard, q.Body)
		a.Length = int64(len(a.Body)) + discarded
		q.Body = io.NopCloser(bytes.NewReader(a.Body)) // the script may read the body again
		p.mu.Lock()
		n := len(p.arrivals)
		p.arrivals = append(p.arrivals, a)
		b := p.script(n, q)
		p.mu.Unlock()
		keepOpen := bodyErr == nil && p.respond(c, r, q, b)
		p.mu.Lock()
		if n < len(p.arrivals) {
			p.arrivals[n].Ended = time.Now()
		}
		p.mu.Unlock()
		if !keepOpen || q.Close {
			return
		}
	}
}

// awaitClose waits until the client closes the connection c, and discards what the client sends.
func awaitClose(c net.Conn) { io.Copy(io.Discard, c) }

func (p *Proxy) respond(c net.Conn, r *bufio.Reader, q *http.Request, b Behaviour) (keepOpen bool) {
	if b.WaitFor != nil {
		<-b.WaitFor
	}
	time.Sleep(b.Delay)
	switch {
	case b.NoResponse:
		awaitClose(c)
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
		to := b.TunnelTo
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
	noBody := q.Method == http.MethodHead || status == 204 || status == 304
	switch {
	case b.Size > 0:
		fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n", b.Size)
		io.WriteString(c, head.String())
		if noBody {
			return true
		}
		if b.Numbered {
			_, err := io.CopyN(c, Counting(), b.Size)
			return err == nil
		}
		_, err := io.CopyN(c, zeros{}, b.Size)
		return err == nil
	case b.Pieces > 0:
		piece := fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
		fmt.Fprintf(&head, "Transfer-Encoding: chunked\r\n\r\n%s", piece) // head and piece arrive together
		io.WriteString(c, head.String())
		time.Sleep(b.Interval)
		for range b.Pieces - 1 {
			io.WriteString(c, piece)
			time.Sleep(b.Interval)
		}
		_, err := io.WriteString(c, "0\r\n\r\n")
		return err == nil
	case b.CutAfter > 0:
		fmt.Fprintf(&head, "Content-Length: %d\r\n\r\n%s", b.CutAfter+1000, strings.Repeat("x", b.CutAfter))
		io.WriteString(c, head.String())
		return false
	}
	head.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
	if !noBody {
		head.WriteString(body)
	}
	_, err := io.WriteString(c, head.String())
	return err == nil
}

// zeros is an endless body of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Counting returns a reader of an endless body of consecutive numbers: lines of seven digits each. A test that checks
// the numbers can detect a lost or repeated byte.
func Counting() io.Reader { return &counting{} }

type counting struct{ next int }

func (c *counting) Read(p []byte) (int, error) {
	n := 0
	for ; len(p)-n >= 8; c.next++ {
		n += copy(p[n:], fmt.Sprintf("%07d\n", c.next%10_000_000))
	}
	return n, nil
}

// The method tunnel opens a tunnel from a client to a target address, and relays bytes in both directions until both
// sides have closed the tunnel. If the target cannot be reached, the method responds with status 502 and returns true:
// the client connection stays open.
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

// isOneIn returns true at random: in one of n calls on average.
func isOneIn(n byte) bool {
	var b [1]byte
	rand.Read(b[:])
	return b[0]%n == 0
}
