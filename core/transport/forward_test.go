package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// ways is a proxy that responds with three statuses: to requests in absolute form, to CONNECT, and to
// requests inside its tunnels. 0 means no response.
type ways struct {
	mu                       sync.Mutex
	absolute, connect, inner int
	seen                     []string // methods and targets
}

func (w *ways) set(absolute, connect, inner int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absolute, w.connect, w.inner, w.seen = absolute, connect, inner, nil
}

func (w *ways) requests() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.seen = nil }()
	return strings.Join(w.seen, ", ")
}

func (w *ways) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, q.Body)
		w.mu.Lock()
		status := w.absolute
		switch {
		case q.Method == http.MethodConnect:
			status = w.connect
		case !strings.HasPrefix(q.RequestURI, "http://"):
			status = w.inner
		}
		w.seen = append(w.seen, q.Method+" "+q.RequestURI)
		w.mu.Unlock()
		switch {
		case status == 0:
			io.Copy(io.Discard, c)
			return
		case q.Method == http.MethodConnect && status == 200:
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n")
		case status == http.StatusSwitchingProtocols:
			fmt.Fprint(c, switched)
		default:
			fmt.Fprintf(c, "HTTP/1.1 %d x\r\nContent-Length: 3\r\n\r\n%d", status, status)
		}
	}
}

// send sends a request through u. It returns the status and the body.
func send(t *testing.T, tr *Transport, u *upstream.Upstream, method, authority string) (int, string) {
	t.Helper()
	q := getRequest()
	q.Method, q.Target, q.Authority = []byte(method), []byte("http://"+authority+"/"), authority
	if method == http.MethodPost {
		q.Framing, q.Length, q.Prefix, q.Idempotent = http1.Length, 1, [][]byte{[]byte("x")}, false
	}
	var r Response
	c := &Control{Deadline: time.Now().Add(plenty)}
	verr := tr.RoundTrip(context.Background(), u, c, q, &r)
	if verr != nil {
		return 0, verdict.CauseName(verr.Cause)
	}
	r.SetReadDeadline(c, time.Now().Add(plenty))
	b, err := io.ReadAll(&r.Body)
	require.NoError(t, err)
	r.Finish(c, time.Now())
	return r.Status, string(b)
}

func TestFormsOfRequests(t *testing.T) {
	var w ways
	tr := New(Config{})
	t.Cleanup(tr.Close)
	u := proxyAt(t, "http://"+coretest.Serve(t, w.serve))
	a := u.Abilities()
	state := func(k ability.Kind) ability.State { return a.State(k, u.Elapsed(time.Now())) }
	expect := func(method, authority string, status int, requests string) {
		t.Helper()
		got, body := send(t, tr, u, method, authority)
		require.Equal(t, status, got, "%s", body)
		if got != 0 {
			require.Equal(t, fmt.Sprint(status), body, "the body of that response")
		}
		require.Equal(t, requests, w.requests())
	}
	const both = "GET http://a:80/, CONNECT a:80, GET /"

	w.set(405, 200, 405)
	expect("GET", "a:80", 405, both) // the target's own
	expect("GET", "a:80", 405, "GET http://a:80/")
	expect("POST", "a:80", 405, "POST http://a:80/")
	require.Equal(t, ability.Unknown, state(ability.Forward))

	w.set(405, 200, 404)
	expect("GET", "b:80", 404, "GET http://b:80/, CONNECT b:80, GET /")
	require.Equal(t, ability.Cannot, state(ability.Forward))
	require.Equal(t, ability.Can, state(ability.TunnelOther))
	expect("GET", "b:80", 404, "GET /")
	expect("POST", "c:80", 404, "CONNECT c:80, POST /")

	w.set(200, 403, 404)
	expect("GET", "d:80", 200, "CONNECT d:80, GET http://d:80/") // the tunnel is refused, and the proxy forwards
	require.Equal(t, ability.Can, state(ability.Forward))
	expect("GET", "d:80", 200, "GET http://d:80/")

	w.set(405, 200, 200)
	expect("GET", "e:80", 405, "GET http://e:80/") // the proxy has forwarded before
	a.Reset()
	a.RecordSuccess(ability.TunnelTLS, u.Elapsed(time.Now()), ability.Traffic)
	w.set(403, 200, 200)
	expect("GET", "e:80", 200, "GET http://e:80/, CONNECT e:80, GET /") // it opens tunnels, and has never forwarded
	expect("GET", "e:80", 200, "GET /")
	a.Reset()
	w.set(501, 0, 0)
	began, late := time.Now(), coretest.MeasureTimerDelay(t)
	expect("GET", "f:80", 501, "GET http://f:80/, CONNECT f:80") // the comparison has a time limit
	require.Less(t, time.Since(began), 4*time.Second+late())
}

// A proxy that no longer forwards, and refuses the tunnel, is not charged if there is another proxy.
func TestNeitherForm(t *testing.T) {
	var w ways
	tr := New(Config{})
	t.Cleanup(tr.Close)
	p := poolOf(t, "http://"+coretest.Serve(t, w.serve), "http://127.0.0.1:1")
	u := p.Snapshot().All[0]
	u.Abilities().RecordMissing(ability.Forward, u.Elapsed(time.Now()), 0, ability.Traffic)
	w.set(405, 403, 0)
	for range 2 {
		status, cause := send(t, tr, u, "GET", "a:80")
		require.Zero(t, status)
		require.Equal(t, "tunnel_unsupported", cause)
	}
	require.False(t, u.Abilities().CanServe(ability.NeedForward, u.Elapsed(time.Now())))
	status, _ := send(t, tr, u, "POST", "a:80")
	require.Equal(t, 405, status, "a POST is not sent twice")
	w.requests()
	p.SetLiteral(true)
	status, _ = send(t, tr, u, "GET", "a:80")
	require.Equal(t, 405, status)
	require.Equal(t, "GET http://a:80/", w.requests(), "nothing is learnt literally")
}

func TestAComparisonIsInterrupted(t *testing.T) {
	var w ways
	tr := New(Config{})
	t.Cleanup(tr.Close)
	u := proxyAt(t, "http://"+coretest.Serve(t, w.serve))
	w.set(405, 0, 0)
	q, r := getRequest(), Response{}
	c := &Control{Deadline: time.Now().Add(time.Minute)}
	c.CurrentDeadline = func() time.Time { return c.Deadline }
	c.OnSlow = c.Interrupt.Cancel
	began, late := time.Now(), coretest.MeasureTimerDelay(t)
	require.Nil(t, tr.RoundTrip(context.Background(), u, c, q, &r))
	require.Less(t, time.Since(began), compareWait/2+late())
	require.Equal(t, 405, r.Status)
	r.Finish(c, time.Now())
	again := u.Abilities().RecordRefusal(targetHash(q), 405, true, u.Elapsed(time.Now()))
	require.True(t, again, "no conclusion: the next one is compared")
}

// poolOf returns a pool of the proxies with these URLs.
func poolOf(t testing.TB, urls ...string) *upstream.Pool {
	p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	specs := make([]upstream.Spec, len(urls))
	for i, url := range urls {
		a, err := upstream.ParseAddress(url)
		require.NoError(t, err)
		specs[i].Address = a
	}
	require.NoError(t, p.Apply(specs))
	return p
}
