package transport

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// asker is a connection whose next message may go out along with the read of
// its answer.
type asker struct {
	net.Conn
	ask []byte
}

// send sends p: with the next Read if the connection is plain TCP, in which
// case a failure shows there, as a *socket.WriteError.
func (a *asker) send(p []byte) error {
	if _, ok := a.Conn.(*socket.Conn); ok {
		a.ask = p
		return nil
	}
	_, err := a.Conn.Write(p)
	return err
}

// Read implements io.Reader.
func (a *asker) Read(p []byte) (int, error) {
	if a.ask == nil {
		return a.Conn.Read(p)
	}
	ask := a.ask
	a.ask = nil
	return a.Conn.(*socket.Conn).WriteThenRead(ask, p)
}

// ReadPooled is Read for http1's readers: while it waits it holds no buffer, if
// the connection is plain TCP. TLS reads into what it is given.
func (a *asker) ReadPooled(buffers *sync.Pool) (*[]byte, int, error) {
	if plain, ok := a.Conn.(*socket.Conn); ok {
		ask := a.ask
		a.ask = nil
		return plain.WriteThenReadPooled(ask, buffers)
	}
	lent := buffers.Get().(*[]byte)
	n, err := a.Conn.Read(*lent)
	if n == 0 && err != nil {
		buffers.Put(lent)
		return nil, 0, err
	}
	return lent, n, nil
}

// persistConn is a connection that may be kept: to a proxy, or through one to
// a target.
type persistConn struct {
	asker
	reader http1.Reader
	tcp    *socket.Conn // bottom of Conn; may be nil
	gate   *gate        // below its TLS; nil if there is none
	more   [1]byte      // what clean looks with
	key    string       // "" for the proxy itself, else the target it leads to
	login  []byte       // Proxy-Authorization to send; nil for none
	out    []byte
	armed  time.Time // the read deadline
	asking *Control  // whose request is being written up to where its body streams; nil else
	late   bool      // a write had to wait: there is a write deadline

	bodyIdle time.Duration // how long a body that streams may stand still
	stall    socket.Stall

	reused bool
	idleAt time.Time
}

func newPersistConn(c net.Conn, key string, login []byte) *persistConn {
	pc := &persistConn{asker: asker{Conn: c}, key: key, login: login}
	pc.reader = *http1.NewBulkReader(pc)
	pc.tcp, pc.gate = bottom(c)
	if pc.tcp != nil {
		pc.tcp.OnFull = pc.full
	}
	return pc
}

// bottom returns the TCP connection that c is or lies on, and the gate right
// above it; nil for what is not there.
func bottom(c net.Conn) (tcp *socket.Conn, g *gate) {
	for {
		switch above := c.(type) {
		case *socket.Conn:
			return above, g
		case *tls.Conn:
			c = above.NetConn()
		case *gate:
			g, c = above, above.Conn
		case *earlyConn:
			c = above.Conn
		default:
			return nil, g
		}
	}
}

// drop closes c without TLS's farewell, which would wait for seconds for a
// proxy that does not read.
func drop(c net.Conn) {
	if tcp, _ := bottom(c); tcp != nil {
		c = tcp
	}
	c.Close()
}

// gate lies below TLS. While it is shut, a Read above yields only what TLS has
// taken off the wire already.
type gate struct {
	net.Conn
	shut bool
}

// Read implements io.Reader. To TLS, running out of time is no end.
func (g *gate) Read(p []byte) (int, error) {
	if g.shut {
		return 0, os.ErrDeadlineExceeded
	}
	return g.Conn.Read(p)
}

// clean reports whether nothing has been read from the connection that no request
// has asked for. TLS may hold a part of a record, which cannot be seen here; the
// bytes that complete it will be seen by alive.
func (pc *persistConn) clean() bool {
	if len(pc.reader.Buffered()) > 0 {
		return false
	}
	if pc.gate == nil {
		return true
	}
	pc.gate.shut = true
	n, err := pc.Conn.Read(pc.more[:])
	pc.gate.shut = false
	return n == 0 && err == os.ErrDeadlineExceeded
}

// full is called when the other side is slow to read a request: it has until
// the attempt's deadline, and the client may leave meanwhile. A body that
// streams only must not stand still.
func (pc *persistConn) full() {
	switch c := pc.asking; {
	case c == nil:
		pc.stall.Start(pc.tcp, pc.bodyIdle)
	case !pc.late:
		pc.late = true
		c.Interrupt.setWriteDeadline(pc.Conn, c.Deadline)
		c.slow()
	}
}

// setReadDeadline sets the deadline unless c's Interrupt has fired.
func (pc *persistConn) setReadDeadline(c *Control, t time.Time) {
	pc.armed = t
	c.Interrupt.setReadDeadline(pc.Conn, t)
}

// head appends the head of q as this connection needs it.
func (pc *persistConn) head(b []byte, q *Request) []byte {
	target := q.Target
	if pc.key != "" {
		target = q.Path
	}
	b = http1.AppendRequestLine(b, q.Method, target)
	b = http1.AppendFields(b, q.Fields)
	if pc.login != nil {
		b = http1.AppendField(b, "Proxy-Authorization", pc.login)
	}
	if q.Continue != nil {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	b = http1.AppendFraming(b, q.Framing, q.Length)
	return append(b, "\r\n"...)
}

func appendBody(b []byte, f http1.Framing, p []byte) []byte {
	if f == http1.Chunked {
		return http1.AppendChunk(b, p)
	}
	return append(b, p...)
}

// alive reports whether the other side has neither closed an idle connection nor
// sent anything on it since clean looked. What was sent would be taken for the answer
// to the next request. A TCP connection is looked at without taking anything off it;
// any other (of Config.Dial) is read for a moment, and not kept if something came.
func (pc *persistConn) alive() bool {
	if pc.tcp != nil {
		return pc.tcp.Idle()
	}
	pc.armed = time.Time{}
	pc.SetReadDeadline(time.Now().Add(lookFor))
	n, err := pc.Conn.Read(pc.more[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// lookFor is how long alive waits where it cannot look without reading.
const lookFor = 100 * time.Microsecond

// idlePool keeps one proxy's idle connections, the latest first, and TLS sessions.
type idlePool struct {
	login []byte // Proxy-Authorization for this proxy; nil for none

	// TLS sessions with this proxy, and with targets through it. No other proxy
	// shows them: a target would know who it is that comes by way of both.
	sessions tls.ClientSessionCache

	habit viaHabit

	mu     sync.Mutex
	direct []*persistConn            // to the proxy itself
	via    map[string][]*persistConn // through it, by target
	lossy  map[string]time.Time      // by target: until when a request that cannot be repeated takes no kept connection
	count  int
	closed bool
}

const (
	// lossyFor is how long a request that cannot be repeated takes no kept connection
	// after one was lost on such a connection.
	lossyFor = 10 * time.Minute
	// maxLossy bounds idlePool.lossy. A loss beyond it is not remembered.
	maxLossy = 1000
)

func newIdlePool(a upstream.Address) *idlePool {
	p := &idlePool{sessions: tls.NewLRUClientSessionCache(tlsSessions)}
	if a.Scheme == upstream.HTTP || a.Scheme == upstream.HTTPS {
		p.login = basic(a)
	}
	return p
}

// get returns a kept connection that is alive, or nil. Every connection is looked at
// before it is used again, however short a time ago it was kept.
// once says that the request cannot be repeated: it gets none where one was lost.
func (p *idlePool) get(key string, now time.Time, idle time.Duration, once bool) *persistConn {
	for {
		pc := p.pop(key, now, once)
		if pc == nil {
			return nil
		}
		if now.Sub(pc.idleAt) < idle && pc.alive() {
			pc.reused = true
			return pc
		}
		drop(pc.Conn)
	}
}

// lost remembers that a request that cannot be repeated was lost because the other
// side closed a kept connection.
func (p *idlePool) lost(key string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lossy) >= maxLossy {
		maps.DeleteFunc(p.lossy, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	if len(p.lossy) >= maxLossy {
		return
	}
	if p.lossy == nil {
		p.lossy = map[string]time.Time{}
	}
	p.lossy[key] = now.Add(lossyFor)
}

func (p *idlePool) pop(key string, now time.Time, once bool) *persistConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if once && now.Before(p.lossy[key]) {
		return nil
	}
	list := p.direct
	if key != "" {
		list = p.via[key]
	}
	n := len(list)
	if n == 0 {
		return nil
	}
	pc := list[n-1]
	list[n-1] = nil
	p.set(key, list[:n-1])
	p.count--
	return pc
}

// set requires mu.
func (p *idlePool) set(key string, list []*persistConn) {
	switch {
	case key == "":
		p.direct = list
	case len(list) == 0:
		delete(p.via, key)
	default:
		if p.via == nil {
			p.via = map[string][]*persistConn{}
		}
		p.via[key] = list
	}
}

func (p *idlePool) put(pc *persistConn, t *Transport, now time.Time) {
	pc.idleAt = now
	pc.reader.Release()
	pc.asking = nil
	if pc.late {
		pc.late = false
		pc.SetWriteDeadline(time.Time{})
	}
	p.mu.Lock()
	if p.closed || p.count >= t.cfg.MaxIdle {
		p.mu.Unlock()
		drop(pc.Conn)
		return
	}
	list := p.direct
	if pc.key != "" {
		list = p.via[pc.key]
	}
	p.set(pc.key, append(list, pc))
	p.count++
	p.mu.Unlock()
}

// prune closes what has been idle since before then.
func (p *idlePool) prune(then time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := func(key string, list []*persistConn) {
		stale := 0
		for stale < len(list) && list[stale].idleAt.Before(then) { // oldest first
			drop(list[stale].Conn)
			stale++
		}
		if stale > 0 {
			p.count -= stale
			p.set(key, append([]*persistConn(nil), list[stale:]...))
		}
	}
	keep("", p.direct)
	for key, list := range p.via {
		keep(key, list)
	}
}

func (p *idlePool) close() {
	p.prune(time.Unix(1<<40, 0))
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}
