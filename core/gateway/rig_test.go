package gateway

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/budget"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/loop"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/session"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// patience is the time limit for all expected events. It is much longer than these take, so that no test
// fails on a busy machine.
const patience = time.Minute

// options are the settings of a rig.
type options struct {
	Settings
	attempt   time.Duration // the attempt timeout
	policy    func(*retry.Policy)
	now       func() time.Time
	newID     func() core.RequestID
	files     int
	offPoller bool               // connections leave the poller during each long wait
	rules     []rules.Rule       // none by default
	marks     bool               // requests to the proxy have a loop token
	url       string             // URL of the proxy, if it is not that of the test's function
	dial      transport.DialFunc // opens connections to the proxy
	roots     *x509.CertPool     // of targets; nil for those of the system
	log       slog.Handler       // nil for none
	access    AccessLog          // nil for none
	tracker   Tracker            // keeps nothing by default
	targets   executor.Targets   // nil for blame = "literal"
}

// rig is a gateway on real sockets with one proxy, which is a function of the test.
type rig struct {
	*Server
	t        *testing.T
	listener net.Listener
	proxy    *upstream.Upstream
	files    *budget.Files
	recorded *recorder
}

// patient sets the gateway's clock ahead by patience, so that each time limit of the gateway passes later by patience.
// It is for tests of events that come before a short limit: on a busy machine they might come after it.
func patient(o *options) { o.now = func() time.Time { return time.Now().Add(patience) } }

// newRig starts a gateway with one proxy: the function proxy serves each connection from the
// gateway. change, if not nil, changes the options of the gateway.
func newRig(t *testing.T, proxy func(net.Conn), change func(*options)) *rig {
	ids := atomic.Uint64{}
	o := options{
		attempt: patience, policy: func(*retry.Policy) {}, now: time.Now,
		newID: func() core.RequestID { return core.RequestID(ids.Add(1)) }, tracker: untracked{},
	}
	o.ReplayMemory = 1 << 30
	o.Head, o.BodyIdle, o.ReplayLimit, o.Strategies = patience, patience, 1<<20, func(string) bool { return true }
	if change != nil {
		change(&o)
	}
	policy := retry.DefaultPolicy()
	policy.MaxAttempts = 1
	o.policy(&policy)
	require.NoError(t, policy.Validate(o.Strategies))

	if o.url == "" {
		o.url = "http://" + coretest.Serve(t, proxy)
	}
	address, err := upstream.ParseAddress(o.url)
	require.NoError(t, err)
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: o.now})
	require.NoError(t, pool.Apply([]upstream.Spec{{ID: "P", Address: address}}))
	r := &rig{t: t, proxy: pool.Snapshot().All[0], recorded: &recorder{}}
	r.files = budget.NewFiles(o.files, o.now)
	loops := loop.New(rand.Uint64)
	loops.SetSendsTokens(o.marks) // without tokens, requests arrive at the proxy as the client sent them
	maxPolledWaits := 0
	if o.offPoller {
		maxPolledWaits = -1
	}
	trans := transport.New(transport.Config{Now: o.now, Dial: o.dial, Files: r.files,
		MaxPolledWaits: maxPolledWaits, Loop: loops, RootCAs: o.roots})
	quiet := slog.New(slog.DiscardHandler)
	if o.log != nil {
		quiet = slog.New(o.log)
	}
	tuning := executor.Tuning{
		FirstScorer: constant{}, RetryScorer: constant{}, Backoff: func(string) core.Backoff { return constant{} },
		AttemptTimeout: o.attempt, Targets: o.targets,
	}
	tuning.Rules, err = rules.Compile(o.rules, nil)
	require.NoError(t, err)
	r.Server = New(Config{
		Executor:  executor.New(selector.New(pool, rand.Uint64, 256), r.recorded, tuning, quiet, o.now, rand.Uint64),
		Transport: trans, Policies: retry.NewStore(policy, o.now), Tracker: o.tracker, OnTunnelEnd: r.recorded.tunnel,
		Guard: access.NewGuard(o.now, quiet), Sessions: session.NewTable(100), Loop: loops,
		AccessLog: o.access, Files: r.files, Log: quiet, Now: o.now, NewID: o.newID,
		OnHandshake: r.recorded.intercepted, OnRefused: r.recorded.addRefused,
	}, o.Settings)

	r.files.SetClosers(r.CloseSparePipe, trans.CloseOldestIdle, r.Evict)
	r.listener, err = socket.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.Serve(r.listener)
	}()
	t.Cleanup(func() {
		r.listener.Close()
		over, cancel := context.WithCancel(context.Background())
		cancel()
		r.Shutdown(over)
		<-served
		trans.Close()
	})
	return r
}

// eventually waits until ok returns true.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("it never happened: " + what)
		}
	}
}

// serveConn serves a connection that no listener has accepted.
func (r *rig) serveConn(raw net.Conn) {
	c := newConnection(r.ctx, raw, r.Now, &r.draining)
	r.serve(c, newHTTPFront(r.Server, c).serve)
}

// free waits until all client connections and all places at the proxy have been released.
func (r *rig) free() {
	r.t.Helper()
	r.eventually("every client's place and the proxy's are free", func() bool {
		return r.Connections() == 0 && r.proxy.InFlight() == 0
	})
}

// client is a connection to the gateway.
type client struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := net.Dial("tcp", r.listener.Addr().String())
	require.NoError(r.t, err)
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return newClient(r.t, c.(*net.TCPConn))
}

func newClient(t *testing.T, c *net.TCPConn) *client {
	return &client{TCPConn: c, t: t, r: bufio.NewReader(c)}
}

// ask opens a connection and sends raw.
func (r *rig) ask(raw string) *client {
	r.t.Helper()
	c := r.dial()
	c.send(raw)
	return c
}

func (c *client) send(raw string) {
	c.t.Helper()
	_, err := io.WriteString(c, raw)
	require.NoError(c.t, err)
}

// fill sends bytes until the other side has read none for the given time.
func (c *client) fill(still time.Duration) {
	c.t.Helper()
	for err := error(nil); !errors.Is(err, os.ErrDeadlineExceeded); {
		require.NoError(c.t, err)
		c.SetWriteDeadline(time.Now().Add(still))
		_, err = c.Write(make([]byte, 64<<10))
	}
}

// answer reads the response to a request with the given method.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	a, err := http.ReadResponse(c.r, &http.Request{Method: method})
	require.NoError(c.t, err)
	body, err := io.ReadAll(a.Body)
	require.NoError(c.t, err)
	return a, string(body)
}

// established reads the head of a successful response to CONNECT.
func (c *client) established() *http.Response {
	c.t.Helper()
	return c.head("CONNECT", 200)
}

// head reads the head of a response to a request with that method, and requires its status.
func (c *client) head(method string, status int) *http.Response {
	c.t.Helper()
	a, err := http.ReadResponse(c.r, &http.Request{Method: method})
	require.NoError(c.t, err)
	require.Equal(c.t, status, a.StatusCode)
	return a
}

// line reads up to the end of a line.
func (c *client) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSuffix(line, "\r\n")
}

// ended requires that the gateway has closed the connection, and that no bytes are left to read.
func (c *client) ended() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	require.NoError(c.t, err)
	require.Empty(c.t, string(rest))
}

// goesOn requires that the connection serves another request.
func (c *client) goesOn() {
	c.t.Helper()
	c.send("BREW / HTTP/1.1\r\nHost: a.test\r\n\r\n") // refused by the gateway itself
	a, _ := c.answer("BREW")
	require.Equal(c.t, 400, a.StatusCode)
}

// answering returns a proxy that responds to each request with the result of f.
func answering(f func(q *http.Request, body string) string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(q.Body)
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, f(q, string(body))); err != nil {
				return
			}
		}
	}
}

// ok returns a 200 with a body.
func ok(body string) string { return reply("200 OK", body) }

func reply(status, body string) string {
	return "HTTP/1.1 " + status + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

// tunnelling returns a proxy that accepts every CONNECT and then calls serve.
func tunnelling(serve func(c net.Conn, r *bufio.Reader)) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		serve(c, r)
	}
}

// connect opens a tunnel.
func (r *rig) connect() *client {
	r.t.Helper()
	c := r.ask(connectTo)
	c.established()
	return c
}

const connectTo = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"

// constant is a scorer that gives all proxies the same score, and a backoff that returns base_delay.
type constant struct{}

func (constant) Score(_ core.Candidates, scores []float64) error {
	clear(scores)
	return nil
}
func (constant) Delay(r *core.BackoffRequest) (float64, error) { return r.BaseDelay, nil }

// recorder records the events and counts of a rig.
type recorder struct {
	coretest.Recorder
	mu       sync.Mutex
	up, down int64
	ok, not  int      // TLS handshakes with intercepted clients
	refused  []string // listener and code of each refused request
}

func (r *recorder) addRefused(l core.Listener, code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, l.String()+" "+code)
}

func (r *recorder) tunnel(up, down int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.down = r.up+up, r.down+down
}

func (r *recorder) intercepted(ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		r.ok++
	} else {
		r.not++
	}
}

// finals returns the final outcomes of the requests, in order.
func (r *recorder) finals() (all []string) {
	for _, e := range r.Requests() {
		all = append(all, e.Final.String())
	}
	return all
}

// results returns the results of the attempts, in order.
func (r *recorder) results() (all []string) {
	for _, e := range r.Attempts() {
		all = append(all, e.Outcome.Result.String())
	}
	return all
}

// untracked is a tracker that keeps nothing.
type untracked struct{}

func (untracked) Track() TrackerEntry                             { return untracked{} }
func (untracked) Begin(core.RequestID, string, string, time.Time) {}
func (untracked) SetClientID(string)                              {}
func (untracked) BeginAttempt(int, string)                        {}
func (untracked) BeginBackoff(time.Time, int)                     {}
func (untracked) EndAttempt(*core.AttemptEvent)                   {}
func (untracked) BeginStreaming()                                 {}
func (untracked) SetRules(core.RuleLabels)                        {}
func (untracked) BeginQueueWait(core.Priority, time.Time)         {}
func (untracked) EndQueueWait(time.Time)                          {}
func (untracked) BeginTunnel()                                    {}
func (untracked) End(core.Final, int, time.Time)                  {}
func (untracked) Release()                                        {}
