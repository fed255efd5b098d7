// Package transport makes one attempt: it sends one request, or opens one tunnel, through one proxy. A failure is
// returned as a *verdict.Error. An attempt sends its request a second time in three cases: if the proxy has received no
// part of the request; if the proxy has responded with a challenge (digest.go); and if the response to the absolute
// form was an error, and the request may succeed through a tunnel of the same proxy (forward.go, upgrade.go).
//
// A request for an http:// target goes to an HTTP or HTTPS proxy in absolute form, over an idle connection if there
// is one. A tunnel is used for an https:// target, with a SOCKS proxy, and with a proxy that cannot forward.
// Transport opens a tunnel to the target, or reuses an idle tunnel, and sends the request in origin form. The gateway
// resolves the name of a target only for direct://.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config configures a Transport. Fields with the zero value stand for their defaults.
type Config struct {
	ConnectTimeout time.Duration  // for a connection to a proxy (TCP and TLS); default 3 s
	Dial           DialFunc       // default: package socket
	RootCAs        *x509.CertPool // default: the root certificates of the system
	Files          *budget.Files  // default: no limit
	Now            func() time.Time
	Rand           func() uint64 // for the templates of credentials; default: math/rand/v2
	// CheckAddress returns an error if direct:// must not connect to a target's address. It is called with each address
	// before it is dialled. If CheckAddress is nil, all addresses are permitted.
	CheckAddress func(netip.AddrPort) error
	Loop         *loop.Guard // adds the Proxy-Loop field to requests to proxies; nil to add none
	// MaxPolledWaits is the number of attempts that may wait for slow responses (SlowAfter) with their connections in
	// the runtime's poller; default 256. Each further attempt takes its connection off the poller
	// (Transport.waitOffPoller). If MaxPolledWaits is negative, each attempt with a slow response takes its connection
	// off the poller.
	MaxPolledWaits int
}

const (
	idleTimeout = 90 * time.Second // an idle connection is closed after this time
	maxIdle     = 512              // maximum number of idle connections per proxy
)

// Transport is safe for concurrent use.
type Transport struct {
	cfg               Config
	tls               *tls.Config
	http2             *http.Transport // makes HTTP/2 connections
	connectTimeout    atomic.Int64    // ns
	pools             sync.Map        // *upstream.Upstream -> *idlePool
	slowAttempts      atomic.Int64    // attempts in readSlowHead
	offPollerAttempts atomic.Int64    // attempts in waitOffPoller; the field slowAttempts counts them too
	watcher           socket.Watcher

	releaseClientFile, releaseOtherFile func() // return one descriptor to the budget

	ownAddrsMu sync.Mutex // guards changes of ownAddrs
	ownAddrs   atomic.Pointer[[]*net.TCPAddr]
}

// New returns a transport.
func New(cfg Config) *Transport {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 3 * time.Second
	}
	if cfg.MaxPolledWaits == 0 {
		cfg.MaxPolledWaits = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	t := &Transport{cfg: cfg, tls: &tls.Config{
		RootCAs: cfg.RootCAs, NextProtos: []string{"http/1.1"},
	}, http2: newHTTP2()}
	t.releaseClientFile = func() { cfg.Files.Release(budget.ForClients, 1) }
	t.releaseOtherFile = func() { cfg.Files.Release(budget.ForOthers, 1) }
	t.SetConnectTimeout(cfg.ConnectTimeout)
	return t
}

// SetConnectTimeout sets the connect timeout for new connections.
func (t *Transport) SetConnectTimeout(d time.Duration) { t.connectTimeout.Store(int64(d)) }

// AddOwnAddress makes all new connections to the given address fail. This process listens on that address. Without
// AddOwnAddress, a pool that contains the gateway itself would forward a request in an endless loop (RFC 9110 section
// 7.6.3). Any client could also reach the API through direct://, because the API trusts connections from this machine.
func (t *Transport) AddOwnAddress(a *net.TCPAddr) {
	t.ownAddrsMu.Lock()
	defer t.ownAddrsMu.Unlock()
	all := []*net.TCPAddr{a}
	if a.IP.IsUnspecified() { // the listener accepts connections to every address of this machine
		addrs, _ := net.InterfaceAddrs()
		for _, at := range addrs {
			if ip, ok := at.(*net.IPNet); ok {
				all = append(all, &net.TCPAddr{IP: ip.IP, Port: a.Port})
			}
		}
	}
	if before := t.ownAddrs.Load(); before != nil {
		all = append(all, *before...)
	}
	t.ownAddrs.Store(&all)
}

// Control holds the deadlines of one attempt and the means to end it.
type Control struct {
	Started  time.Time // when the attempt began; zero for the current time
	Deadline time.Time // for the response's head; never zero
	// CurrentDeadline, if not nil, returns the current deadline, which may be earlier than Deadline.
	CurrentDeadline func() time.Time
	RequestDeadline time.Time     // deadline of the whole request, not before Deadline; zero for none
	BodyIdle        time.Duration // maximum time without progress while the request's body is sent
	NewConnection   bool          // do not reuse an idle connection
	MayStop         bool          // Interrupt.Stop may be called
	Interrupt       Interrupt
	Session         string         // the value of {session} in the proxy's credentials; "" for a random one
	Region          string         // the value of {region}; "" for the region of the proxy
	Meters          traffic.Meters // count the bytes of the attempt's connection
	LoopTokens      []byte         // the valid Proxy-Loop value that the request arrived with; nil for none
	// OnSlow, if not nil, is called before a wait for a new connection, or if no byte of a response has arrived for
	// SlowAfter. The caller then watches the client connection, because the client may leave.
	OnSlow func()
	// OnLongWait, if not nil, is called before the connection leaves the poller (Config.MaxPolledWaits), so that the
	// caller can take the client connection off the poller as well.
	OnLongWait func()
	// Timing is set by the attempt.
	Timing core.Timing

	isCheck bool // a health or reachability check: if few descriptors are left, it fails and closes no idle connection
}

// RoundTrip makes one attempt: it sends the request q through the proxy u. If it returns nil, resp holds the
// response. The context ctx ends only dialing; c.Interrupt ends reads and writes.
func (t *Transport) RoundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response) *verdict.Error {
	c.Timing = core.Timing{}
	if c.Started.IsZero() {
		c.Started = t.cfg.Now()
	}
	if key := idleKey(u, q); key != "" {
		return t.roundTrip(ctx, u, c, q, resp, key)
	}
	return t.roundTripAbsolute(ctx, u, c, q, resp)
}

// roundTrip makes an attempt as RoundTrip does, over a connection with the given key (see idleKey).
func (t *Transport) roundTrip(ctx context.Context, u *upstream.Upstream, c *Control, q *Request,
	resp *Response, key string) *verdict.Error {
	pool, sends := t.pool(u), 0
	for {
		pc, verr := t.getConn(ctx, u, pool, key, c, q)
		if verr != nil {
			return verr
		}
		pc.setMeters(c.Meters)
		resp.init(t, pool, pc)
		nonce := pool.authorize(u, pc, q)
		verr = t.sendOnConn(u, c, q, resp)
		if verr == nil {
			resp.reusable = resp.reusable && sharesConns(u, c)
			resp.setFacts(c, q, u)
			resend := !q.isTrace() && resp.shouldResend(u.Spec(), nonce)
			if sends++; resend && nonce.mayResend(sends) && q.canResend() {
				resp.Drain(c)
				resp.Finish(c, t.cfg.Now())
				continue
			}
		}
		if verr == nil || !isConnectionStale(verr) || !resp.notReceived {
			return verr
		}
		c.NewConnection = true
	}
}

// idleKey returns the key of the idle connections that q can use. The key is "" for connections to the proxy itself.
// The key of a tunnel contains the target, and shows whether TLS is spoken in the tunnel.
func idleKey(u *upstream.Upstream, q *Request) string {
	switch {
	case q.TLS && q.ServerName != "":
		return "tls " + q.ServerName + " " + q.Authority
	case q.TLS:
		return "tls " + q.Authority
	case usesTunnel(u.Spec().Address.Scheme):
		return q.Authority
	}
	return ""
}

// sendOnConn sends q on the connection resp.pc and reads the head of the response.
func (t *Transport) sendOnConn(u *upstream.Upstream, c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	if !c.Interrupt.attach(pc.Conn) {
		closeNow(pc.Conn)
		return newError(stepDial, errCancelled)
	}
	verr := t.sendRequest(c, q, resp)
	switch {
	case verr != nil:
	case !resp.isIdleTimeout():
		return nil
	case q.isUnrepeatable() && !resp.closedBeforeReceipt(q):
		resp.pool.recordLoss(pc.key, t.cfg.Now())
		return nil
	default:
		verr = newError(stepWait, errIdleTimeout)
		verr.Cause = verdict.StaleConnection
	}
	c.Interrupt.detach()
	if pc.reused && resp.Status == 0 {
		switch {
		case verr.Cause == verdict.AnswerMalformed && !isOversized(verr.Err):
			verr.Cause = verdict.Leftover
		case len(pc.reader.Buffered()) == 0 && isClosedEarly(verr):
			verr.Cause = verdict.StaleConnection
		}
	}
	if isConnectionStale(verr) && !resp.notReceived && q.isUnrepeatable() {
		resp.pool.recordLoss(pc.key, t.cfg.Now())
	}
	closeNow(pc.Conn)
	if resp.RequestBodyBroken(q) {
		verr.Cause = verdict.RequestBroke
	}
	verr.BodyUnsent = verr.BodyUnsent || resp.uploadDone != nil
	resp.stopUpload()
	resp.pc = nil
	return verr
}

// isIdleTimeout reports whether the response is a 408 with which the peer closes an idle connection (RFC 9110 section
// 15.5.9). The peer sent the 408 before it read the request, which was still on its way.
func (r *Response) isIdleTimeout() bool {
	return r.Status == http.StatusRequestTimeout && r.pc.reused && r.Response.Close
}

// A request may be on its way when the peer closes the connection. The peer's reset then arrives one round-trip time
// after the request was sent. closedBeforeReceipt checks for the reset every receiptInterval, at most
// receiptChecks times. This takes 50 ms.
const (
	receiptChecks   = 25
	receiptInterval = 2 * time.Millisecond
)

// closedBeforeReceipt reports whether the peer had closed the connection before it received any part of the request. It
// also stores this result in r.notReceived.
func (r *Response) closedBeforeReceipt(q *Request) bool {
	pc := r.pc
	if _, inline := q.inlineBody(); !inline || q.Remainder != nil || pc.tcp == nil {
		return false
	}
	for range receiptChecks {
		if r.notReceived = socket.NotReceived(pc.tcp, len(pc.requestBytes)); r.notReceived {
			return true
		}
		if _, queued := socket.Progress(pc.tcp); queued < len(pc.requestBytes) {
			return false
		}
		time.Sleep(receiptInterval)
	}
	return false
}

// isOversized reports whether err means that the head of a response is too large. Any other malformed head on a reused
// connection counts as the rest of an earlier response.
func isOversized(err error) bool {
	var proto *http1.ProtocolError
	return errors.As(err, &proto) && proto.Status != http.StatusBadRequest
}

// isConnectionStale reports whether the attempt failed because the idle connection was not usable.
func isConnectionStale(verr *verdict.Error) bool {
	return verr.Cause == verdict.StaleConnection || verr.Cause == verdict.Leftover
}

// isClosedEarly reports whether the error may mean that the peer had closed an idle connection. The caller has
// checked that no byte of a response has arrived, not even of an interim response.
func isClosedEarly(verr *verdict.Error) bool {
	return errors.Is(verr.Err, errNoResponse) || verr.Reason == "connection_terminated"
}

func (t *Transport) sendRequest(c *Control, q *Request, resp *Response) *verdict.Error {
	pc := resp.pc
	pc.control = c
	if s, ok := pc.Conn.(*stream); ok {
		return t.sendStream(c, q, resp, s)
	}
	pc.requestBytes = t.appendHead(pc.requestBytes[:0], pc, q)
	body, inline := q.inlineBody()
	if inline {
		pc.requestBytes = appendBody(pc.requestBytes, q.Framing, body)
		if q.Framing == http1.Chunked && q.Remainder == nil {
			pc.requestBytes = http1.AppendLastChunk(pc.requestBytes, q.Trailers)
		}
	}
	if !inline || q.Remainder != nil {
		return t.upload(c, q, resp, inline)
	}
	if err := pc.send(pc.requestBytes); err != nil {
		return t.writeFailed(c, q, resp, err)
	}
	verr := t.readHead(c, q, resp, false)
	if verr == nil {
		return nil
	}
	if w := (*socket.WriteError)(nil); errors.As(verr.Err, &w) {
		resp.notReceived = !pc.writeBlocked // a failed write that did not have to wait has sent nothing
		return t.writeFailed(c, q, resp, w.Err)
	}
	resp.notReceived = verr.Err == errNoResponse && socket.NotReceived(pc.tcp, len(pc.requestBytes))
	return verr
}

// writeFailed is called when sending a request has failed with err. It reads the response that the proxy may have sent
// before it closed the connection, and returns an error if there is none.
func (t *Transport) writeFailed(c *Control, q *Request, resp *Response, err error) *verdict.Error {
	if verr := t.readHead(c, q, resp, true); verr != nil {
		return newError(stepSend, err)
	}
	resp.reusable = false
	return nil
}

// pool returns the idle connections of u.
func (t *Transport) pool(u *upstream.Upstream) *idlePool {
	if p, _ := u.Connections().(*idlePool); p != nil && p.owner.Load() == t {
		return p
	}
	p, found := t.pools.Load(u)
	if !found {
		created := newIdlePool(u.Spec().Address)
		created.owner.Store(t)
		p, _ = t.pools.LoadOrStore(u, created)
	}
	u.SetConnections(p)
	return p.(*idlePool)
}

// usesTunnel reports whether all requests through a proxy with this scheme use a tunnel, even requests for http://
// targets.
func usesTunnel(scheme string) bool {
	return upstream.IsSOCKS(scheme) || scheme == upstream.Direct
}

// basicAuth returns the value of Proxy-Authorization for the address a, or nil if a has no credentials.
func basicAuth(a upstream.Address) []byte {
	if a.Username == "" && a.Password == "" {
		return nil
	}
	return []byte("Basic " + base64.StdEncoding.EncodeToString([]byte(a.Username+":"+a.Password.Reveal())))
}

// tlsSessions is the number of servers per proxy whose TLS sessions are kept. A resumed handshake takes about half of
// the processor time of a full one. With TLS 1.2 it also takes one round trip less.
const tlsSessions = 32

// tlsClient makes a TLS handshake with host on the connection c, and offers the given protocols (ALPN). The
// proxyOptions take precedence over the other settings. Both sessions and proxyOptions may be nil.
func (t *Transport) tlsClient(ctx context.Context, c net.Conn, host string,
	sessions tls.ClientSessionCache, protocols []string, proxyOptions *upstream.TLS) (*tls.Conn, error) {
	cfg := t.tls.Clone()
	cfg.ServerName, cfg.ClientSessionCache, cfg.NextProtos = host, sessions, protocols
	if proxyOptions != nil {
		proxyOptions.Apply(cfg)
	}
	tc := tls.Client(&readGate{Conn: c}, cfg)
	return tc, tc.HandshakeContext(ctx)
}
