package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// sharedConn is an HTTP/2 connection to a target (RFC 9113). Several requests use it at the same time. The client of
// net/http speaks HTTP/2 on it.
type sharedConn struct {
	client    *http.ClientConn
	conn      net.Conn
	pool      *idlePool
	key       string // see credentialsKey
	singleUse bool   // the connection serves only one request

	streams int       // requests in flight; guarded by the mutex of pool
	idleAt  time.Time // when the last stream ended; guarded by the mutex of pool
}

// pingAfter is the time without a frame of the target after which an HTTP/2 connection is checked with a ping.
const pingAfter = 30 * time.Second

// connKey is the key of a context value. The value is the open connection that newHTTP2 uses in place of dialling.
type connKey struct{}

// newHTTP2 returns a net/http transport that makes HTTP/2 connections from connections that are already open.
func newHTTP2() *http.Transport {
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(connKey{}).(net.Conn), nil
		},
		Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: maxStreamHead,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, MaxReceiveBufferPerStream: streamBuffer},
	}
}

// streamBuffer is the maximum number of bytes of a response that are received before they are read. Without it,
// net/http would keep up to 4 MiB for each slow client. A response transfers at most streamBuffer bytes per round
// trip.
const streamBuffer = 512 << 10

// maxStreamHead is the maximum number of bytes of the head of a response over HTTP/2, as over HTTP/1.1.
const maxStreamHead = 64 << 10

// negotiatedHTTP2 reports whether c is a TLS connection on which HTTP/2 is spoken.
func negotiatedHTTP2(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	return ok && t.ConnectionState().NegotiatedProtocol == "h2"
}

// newSharedConn turns conn into an HTTP/2 connection and returns its first stream. The parameter credKey is the key of
// the connection (credentialsKey).
func (t *Transport) newSharedConn(ctx context.Context, u *upstream.Upstream, pool *idlePool, credKey string, c *Control,
	q *Request, conn net.Conn) (*persistConn, *verdict.Error) {
	if tcp, _ := tcpOf(conn); tcp != nil {
		tcp.Meters = traffic.Meters{} // each stream counts the bytes of its own request
	}
	client, err := t.http2.NewClientConn(context.WithValue(ctx, connKey{}, conn), "https", q.Authority)
	if err == nil {
		if err = client.Reserve(); err != nil {
			client.Close()
		}
	}
	if err != nil {
		closeNow(conn)
		return nil, newError(stepTargetTLS, err)
	}
	s := &sharedConn{client: client, conn: conn, pool: pool, key: credKey, singleUse: !sharesConns(u, c), streams: 1}
	pool.addShared(s)
	return t.newStream(s, false), nil
}

// newStream returns a connection for one request on s. The caller must have reserved a stream, and counted it in
// s.streams.
func (t *Transport) newStream(s *sharedConn, reused bool) *persistConn {
	ctx, cancel := context.WithCancel(context.Background())
	readEnd, writeEnd := net.Pipe()
	st := &stream{shared: s, ctx: ctx, cancel: cancel, bodyReader: readEnd, bodyWriter: writeEnd, now: t.cfg.Now}
	pc := newPersistConn(st, s.key, "", true, "")
	pc.reused = reused
	return pc
}

// sharedStream returns a stream of an HTTP/2 connection of the pool; nil if no connection can be used.
func (t *Transport) sharedStream(u *upstream.Upstream, p *idlePool, key string, now time.Time,
	unrepeatable bool) *persistConn {
	s, ended := p.reserve(key, now, unrepeatable, func(s *sharedConn) bool {
		return !u.Direct() || t.checkRemoteAddress(s.conn) == nil // the egress rules may have changed
	})
	for _, old := range ended {
		old.close()
	}
	if s == nil {
		return nil
	}
	return t.newStream(s, true)
}

// reserve reserves a stream on a connection with the given key, and returns the connection; nil if there is none. It
// removes the connections that have failed, were idle for too long, or are not usable. The second result lists the
// removed connections without a stream, which the caller must close.
func (p *idlePool) reserve(key string, now time.Time, unrepeatable bool, usable func(*sharedConn) bool) (
	s *sharedConn, ended []*sharedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if unrepeatable && now.Before(p.noReuseUntil[key]) {
		return nil, nil
	}
	p.setShared(key, slices.DeleteFunc(p.shared[key], func(old *sharedConn) bool {
		unusable := old.client.Err() != nil || old.streams == 0 && now.Sub(old.idleAt) >= idleTimeout || !usable(old)
		switch {
		case unusable && old.streams == 0:
			ended = append(ended, old)
		case unusable:
			old.singleUse = true // the connection is closed with its last stream
		case s == nil && old.client.Reserve() == nil:
			s = old
			s.streams++
		}
		return unusable
	}))
	return s, ended
}

// addShared adds an HTTP/2 connection to the pool for later requests. It does not add a connection for one request
// only.
func (p *idlePool) addShared(s *sharedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || s.singleUse {
		s.singleUse = true
		return
	}
	p.setShared(s.key, append(p.shared[s.key], s))
}

// setShared replaces the list of the HTTP/2 connections with the given key. The caller holds mu.
func (p *idlePool) setShared(key string, list []*sharedConn) {
	switch {
	case len(list) == 0:
		delete(p.shared, key)
	default:
		if p.shared == nil {
			p.shared = map[string][]*sharedConn{}
		}
		p.shared[key] = list
	}
}

// streamEnded is called when a stream of s has ended.
func (p *idlePool) streamEnded(s *sharedConn, now time.Time) {
	p.mu.Lock()
	s.streams--
	s.idleAt = now
	unused := s.streams == 0 && (s.singleUse || p.closed)
	p.mu.Unlock()
	if unused {
		s.close()
	}
}

// removeIdleShared removes the HTTP/2 connections that have no stream and became idle before cutoff. It returns these
// connections. The caller holds mu, and closes the connections after it has released mu.
func (p *idlePool) removeIdleShared(cutoff time.Time) (ended []*sharedConn) {
	for key, list := range p.shared {
		p.setShared(key, slices.DeleteFunc(list, func(s *sharedConn) bool {
			idle := s.streams == 0 && s.idleAt.Before(cutoff)
			if idle {
				ended = append(ended, s)
			}
			return idle
		}))
	}
	return ended
}

// close closes the connection. It sends no close_notify and no GOAWAY, because the write would wait for a proxy that
// does not read.
func (s *sharedConn) close() {
	closeNow(s.conn)
	s.client.Close()
}

var errNotHTTP = errors.New("a stream of HTTP/2 carries requests only")
