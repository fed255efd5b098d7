package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// intercepting is a rig that intercepts a.test, and whose proxy opens tunnels to one target.
type intercepting struct {
	*rig
	target *httptest.Server
	roots  *x509.CertPool    // with the authority of the gateway
	own    *x509.Certificate // the authority of the gateway
	log    *lockedBuffer
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newTarget starts a target with a certificate for a.test and for other.test.
func newTarget(t *testing.T, http2 bool, handler http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	a := testcert.NewAuthority(t)
	target := httptest.NewUnstartedServer(handler)
	target.EnableHTTP2 = http2
	target.TLS = &tls.Config{Certificates: []tls.Certificate{a.Pair(t, "target", "a.test", "other.test")}}
	target.Config.ErrorLog = log.New(io.Discard, "", 0)
	target.StartTLS()
	t.Cleanup(target.Close)
	return target, a.Pool()
}

// tunnelTo returns a proxy that opens every tunnel to one address.
func tunnelTo(address string) func(net.Conn) {
	return tunnelling(func(c net.Conn, r *bufio.Reader) {
		to, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		defer to.Close()
		go func() {
			io.Copy(to, r)
			to.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(c, to)
	})
}

func newIntercepting(t *testing.T, http2 bool, handler http.HandlerFunc, change func(*options)) *intercepting {
	i := &intercepting{roots: x509.NewCertPool(), log: &lockedBuffer{}}
	var targets *x509.CertPool
	i.target, targets = newTarget(t, http2, handler)
	certPEM, keyPEM, err := intercept.Create(intercept.Options{}, time.Now())
	require.NoError(t, err)
	i.own, err = intercept.Parse(certPEM)
	require.NoError(t, err)
	i.roots.AddCert(i.own)
	authority, err := intercept.Load(certPEM, keyPEM, time.Now)
	require.NoError(t, err)
	i.rig = newRig(t, tunnelTo(i.target.Listener.Addr().String()), func(o *options) {
		o.roots, o.log = targets, slog.NewTextHandler(i.log, nil)
		o.Intercept = &Intercept{authority, func(host string, port uint16, _ string) bool {
			return host == "a.test" || port == 7 && host != "other.test"
		}}
		if change != nil {
			change(o)
		}
	})
	return i
}

// client returns a client that trusts the authority of the gateway.
func (i *intercepting) client(http2 bool, change func(*http.Transport)) *http.Client {
	tr := &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: i.listener.Addr().String()}),
		TLSClientConfig:   &tls.Config{RootCAs: i.roots},
		ForceAttemptHTTP2: http2, DisableCompression: true,
	}
	if change != nil {
		change(tr)
	}
	i.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// tls opens a tunnel and makes the TLS handshake in it.
func (i *intercepting) tls(connect string, config *tls.Config, parts ...int) (*tls.Conn, error) {
	c := i.ask(connect)
	c.established()
	var below net.Conn = c
	if len(parts) > 0 {
		below = slowConn{c, parts[0]}
	}
	if config.RootCAs == nil {
		config.RootCAs = i.roots
	}
	if config.ServerName == "" {
		config.ServerName = "a.test"
	}
	secure := tls.Client(below, config)
	return secure, secure.Handshake()
}

// slowConn writes in parts of the given number of bytes, with a pause after each of the first 20 parts.
type slowConn struct {
	net.Conn
	part int
}

func (c slowConn) Write(p []byte) (n int, err error) {
	for i := 0; n < len(p) && err == nil; i++ {
		m := min(c.part, len(p)-n)
		if i > 20 {
			m = len(p) - n
		}
		m, err = c.Conn.Write(p[n : n+m])
		n += m
		if n < len(p) {
			time.Sleep(time.Millisecond)
		}
	}
	return n, err
}

func bodyOf(t testing.TB, resp *http.Response, err error) string {
	t.Helper()
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// Each combination of HTTP/1.1 and HTTP/2 towards the client and the target passes requests and responses on, with
// their bodies, in the same way as a request in absolute form.
func TestInterception(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: the whole replay_limit
	for _, towards := range []struct{ client, target bool }{
		{false, false}, {false, true}, {true, false}, {true, true},
	} {
		t.Run(fmt.Sprintf("client %v target %v", towards.client, towards.target), func(t *testing.T) {
			i := newIntercepting(t, towards.target, func(w http.ResponseWriter, q *http.Request) {
				body, _ := io.ReadAll(q.Body)
				w.Header().Set("X-Proto", q.Proto)
				w.Header().Set("X-Seen", q.Host+" "+q.Method+" "+q.RequestURI+" "+q.Header.Get("X-Own")+" "+
					q.Header.Get("X-Whirlpool-Region")+".")
				switch q.URL.Path {
				case "/empty":
					w.WriteHeader(204)
				case "/stream":
					for range 3 {
						io.WriteString(w, "piece ")
						w.(http.Flusher).Flush()
					}
				default:
					w.Write(body)
				}
			}, nil)
			c := i.client(towards.client, nil)
			send := func(method, path, body string) *http.Response {
				q, err := http.NewRequest(method, "https://a.test"+path, strings.NewReader(body))
				require.NoError(t, err)
				q.Header.Set("X-Own", "own")
				q.Header.Set("X-Whirlpool-Region", "any")
				resp, err := c.Do(q)
				require.NoError(t, err)
				return resp
			}
			for range 2 {
				resp := send("POST", "/a%2fb//c?x=%20&y", large)
				require.Equal(t, large, bodyOf(t, resp, nil))
				require.Equal(t, "a.test POST /a%2fb//c?x=%20&y own .", resp.Header.Get("X-Seen"))
				require.Equal(t, "success", resp.Header.Get("X-Whirlpool-Outcome"))
				require.Equal(t, "P", resp.Header.Get("X-Whirlpool-Proxy-Id"))
				require.Equal(t, towards.client, resp.ProtoMajor == 2)
				require.Equal(t, towards.target, resp.Header.Get("X-Proto") == "HTTP/2.0")
			}
			require.Equal(t, "piece piece piece ", bodyOf(t, send("GET", "/stream", ""), nil))
			resp := send("GET", "/empty", "")
			require.Empty(t, bodyOf(t, resp, nil))
			require.Equal(t, 204, resp.StatusCode)
			resp = send("HEAD", "/", "")
			require.Empty(t, bodyOf(t, resp, nil))
			resp = send("PUT", "/", large+large+"x") // longer than replay_limit, so it is streamed
			require.Equal(t, large+large+"x", bodyOf(t, resp, nil))
			require.Equal(t, []string{"success"}, unique(i.recorded.finals()))
			require.Len(t, i.recorded.finals(), 6)
			for _, e := range i.recorded.Requests() {
				require.Equal(t, "intercept", e.Listener.String())
			}
			c.CloseIdleConnections()
			i.free()
		})
	}
}

func unique(all []string) (out []string) {
	for _, s := range all {
		if len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return out
}

// Many requests at the same time share HTTP/2 connections, and a request is retried by its status.
func TestInterceptedRetries(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		if seen[string(body)]++; seen[string(body)] == 1 {
			w.WriteHeader(429)
		}
		w.Write(body)
	}, func(o *options) {
		o.policy = func(p *retry.Policy) {
			p.MaxAttempts, p.RetryNonIdempotent, p.BaseDelay, p.RetryStatusCodes = 3, true, 0.1, []int{429}
		}
	})
	c := i.client(true, nil)
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			resp, err := c.Post("https://a.test/", "text/plain", strings.NewReader(fmt.Sprint("body ", n)))
			if err != nil {
				t.Error(err)
				return
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(body) != fmt.Sprint("body ", n) ||
				resp.Header.Get("X-Whirlpool-Attempts") != "2" {
				t.Error(resp.StatusCode, string(body), resp.Header)
			}
		})
	}
	wg.Wait()
	for _, n := range seen {
		require.Equal(t, 2, n)
	}
	c.CloseIdleConnections()
	i.free()
}

// A host that no rule names gets the target's own certificate.
func TestOtherHostsAreNotIntercepted(t *testing.T) {
	i := newIntercepting(t, true, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, nil)
	targets := i.target.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	targets.AddCert(i.target.Certificate())
	c := i.ask("CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
	c.established()
	secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, secure.Handshake())
	require.Equal(t, i.target.TLS.Certificates[0].Certificate[0], secure.ConnectionState().PeerCertificates[0].Raw)
	resp, body := askOver(t, secure, "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
	require.Equal(t, "hello", body)
	require.Empty(t, resp.Header.Get("X-Whirlpool-Outcome"))
}

// A target whose certificate is not valid is refused with a code that names the fault, over both versions of HTTP.
func TestCertificatesOfTargets(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		i := newIntercepting(t, http2, func(http.ResponseWriter, *http.Request) {}, func(o *options) {
			set := *o.Intercept
			set.Matches = func(string, uint16, string) bool { return true }
			o.Intercept = &set
		})
		c := i.client(http2, nil)
		resp, err := c.Get("https://b.test/")
		require.Contains(t, bodyOf(t, resp, err), `"target_certificate_wrong_host"`)
		require.Equal(t, 502, resp.StatusCode)
		require.Contains(t, resp.Header.Get("Proxy-Status"), "error=tls_certificate_error")

		unknown := newIntercepting(t, http2, func(http.ResponseWriter, *http.Request) {}, func(o *options) {
			o.roots = x509.NewCertPool()
		})
		resp, err = unknown.client(http2, nil).Get("https://a.test/")
		require.Contains(t, bodyOf(t, resp, err), `"target_certificate_unknown_authority"`)
		require.Equal(t, []string{"exhausted"}, unique(unknown.recorded.finals()))
	}
}

// The user of a CONNECT is the user of the requests inside the tunnel, also after a reload. The X-Whirlpool fields of
// the CONNECT apply to these requests.
func TestInterceptedUsers(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		i := newIntercepting(t, true, func(http.ResponseWriter, *http.Request) {}, func(o *options) {
			o.Users = []User{{Name: "ann", Password: "p"}, {Name: "bob", Password: "q"}}
		})
		get := func(c *http.Client) int {
			resp, err := c.Get("https://a.test/")
			bodyOf(t, resp, err)
			return resp.StatusCode
		}
		login := func(text string) func(*http.Transport) {
			return func(tr *http.Transport) {
				tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword("ann", text),
					Host: i.listener.Addr().String()})
				tr.ProxyConnectHeader = http.Header{"X-Whirlpool-Region": {"MOON; strict"}}
			}
		}
		_, err := i.client(http2, login("wrong")).Get("https://a.test/")
		require.ErrorContains(t, err, "Proxy Authentication Required")
		c := i.client(http2, login("p"))
		require.Equal(t, 503, get(c), "no proxy is in the region that the CONNECT asks for")
		require.Equal(t, []string{"no_proxy_in_region"}, i.recorded.finals())
		require.EqualValues(t, 1, i.Users()[0].Requests)
		set := i.settings.Load().Settings
		set.Users = set.Users[1:]
		i.Apply(set)
		require.Equal(t, 403, get(c), "the user is gone")
	}
}

// A request for another host than the host of the tunnel is refused, and so is a request that is not permitted inside a
// tunnel.
func TestWrongInterceptedRequests(t *testing.T) {
	i := newIntercepting(t, false, func(_ http.ResponseWriter, q *http.Request) {}, nil)
	for request, want := range map[string]struct {
		status int
		code   string
	}{
		"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n":               {421, "misdirected_request"},
		"GET https://other.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n": {421, "misdirected_request"},
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n":      {400, "bad_target"},
		"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n":      {400, "bad_target"},
		"GET x HTTP/1.1\r\nHost: a.test\r\n\r\n":                   {400, "bad_target"},
		"GET https://A.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n":     {200, ""},
		"OPTIONS * HTTP/1.1\r\nHost: a.test:443\r\n\r\n":           {200, ""},
		"GET / HTTP/1.0\r\n\r\n":                                   {200, ""},
		"GET / HTTP/1.1\r\nHost: .\r\n\r\n":                        {421, "misdirected_request"},
		"GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n":                 {400, ""},
		"\x00\x00\r\n\r\n":                                         {400, "malformed_request"},
	} {
		c, err := i.tls(connectTo, &tls.Config{})
		require.NoError(t, err)
		resp, body := askOver(t, c, request)
		require.Equal(t, want.status, resp.StatusCode, "%q: %s", request, body)
		require.Contains(t, body, want.code)
	}
}

// The CONNECT has an address, and the ClientHello names the target. The gateway's certificate is for the name, and the
// target's certificate is checked against the name.
func TestTheServerNameCounts(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		i := newIntercepting(t, http2, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.Host) }, nil)
		c, err := i.tls("CONNECT 192.0.2.1:7 HTTP/1.1\r\nHost: 192.0.2.1:7\r\n\r\n", &tls.Config{})
		require.NoError(t, err)
		require.Equal(t, []string{"a.test"}, c.ConnectionState().PeerCertificates[0].DNSNames)
		_, body := askOver(t, c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		require.Equal(t, "a.test", body)
		for _, part := range []int{1 << 20, 100, 1} { // the ClientHello arrives at once, or in parts
			c, err = i.tls("CONNECT 192.0.2.1:7 HTTP/1.1\r\nHost: 192.0.2.1:7\r\n\r\n",
				&tls.Config{ServerName: "other.test", InsecureSkipVerify: true}, part)
			require.NoError(t, err)
			require.Equal(t, i.target.TLS.Certificates[0].Certificate[0], c.ConnectionState().PeerCertificates[0].Raw,
				"the name is not intercepted")
			_, body = askOver(t, c, "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
			require.Equal(t, "other.test", body)
		}
		c, err = i.tls("CONNECT 192.0.2.1:7 HTTP/1.1\r\nHost: 192.0.2.1:7\r\n\r\n", &tls.Config{ServerName: "b.test"})
		require.NoError(t, err)
		_, body = askOver(t, c, "GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		require.Contains(t, body, "target_certificate_wrong_host")
	}
}

// A client that does not speak TLS gets an ordinary tunnel, also if the server speaks first.
func TestOtherProtocolsPassThrough(t *testing.T) {
	i := newIntercepting(t, false, nil, func(o *options) {
		o.url = ""
	})
	// The proxy of this rig leads to a target with TLS, so the bytes of the client come back as an alert or a response.
	c := i.ask(connectTo)
	c.established()
	c.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, body := c.answer("GET")
	require.Equal(t, 400, resp.StatusCode)
	require.Contains(t, body, "HTTPS server", "the response of the target")

	first := newRig(t, tunnelling(func(c net.Conn, _ *bufio.Reader) { io.WriteString(c, "220 hello\r\n") }),
		func(o *options) { o.Intercept = i.settings.Load().Settings.Intercept })
	c = first.ask(connectTo)
	c.established()
	require.Equal(t, "220 hello", c.line())
	c.Close()
	first.free()

	refusing := newRig(t, answering(func(*http.Request, string) string { return reply("403 No", "") }),
		func(o *options) { o.Intercept = i.settings.Load().Settings.Intercept })
	c = refusing.ask(connectTo)
	c.established()
	c.send("hello")
	c.ended()
}

// A client that does not accept the certificate is counted each time and logged once for each host.
func TestClientsThatRejectTheCertificate(t *testing.T) {
	i := newIntercepting(t, false, func(http.ResponseWriter, *http.Request) {}, nil)
	for range 3 {
		_, err := i.tls(connectTo, &tls.Config{RootCAs: x509.NewCertPool()})
		require.Error(t, err)
	}
	i.eventually("the handshakes are counted", func() bool {
		i.recorded.mu.Lock()
		defer i.recorded.mu.Unlock()
		return i.recorded.not == 3
	})
	i.eventually("the refusal is logged", func() bool { return strings.Contains(i.log.String(), "does not accept") })
	require.Equal(t, 1, strings.Count(i.log.String(), "does not accept the certificate"), i.log.String())
	require.Contains(t, i.log.String(), "whirlpool ca trust")
	require.Contains(t, i.log.String(), "host=a.test")
}

// A WebSocket in an intercepted connection: 101, then bytes in both directions. HTTP/1.1 is used towards the target,
// even if it speaks HTTP/2.
func TestAnInterceptedUpgrade(t *testing.T) {
	i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
		if q.ProtoMajor != 1 || q.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
			return
		}
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, b)
	}, nil)
	c, err := i.tls(connectTo, &tls.Config{})
	require.NoError(t, err)
	_, err = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	for _, text := range []string{"hello", strings.Repeat("x", 100_000)} {
		go io.WriteString(c, text)
		got := make([]byte, len(text))
		_, err = io.ReadFull(r, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	c.Close()
	i.free()
}

// A call of gRPC with streams in both directions: the target's responses arrive before the client has sent everything,
// and the trailers arrive.
func TestInterceptedGRPC(t *testing.T) {
	i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Te") != "trailers" || q.ProtoMajor != 2 {
			w.WriteHeader(400)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		r := bufio.NewReader(q.Body)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			io.WriteString(w, "echo "+line)
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}, nil)
	body, send := io.Pipe()
	q, err := http.NewRequest("POST", "https://a.test/service/Method", body)
	require.NoError(t, err)
	q.Header.Set("Content-Type", "application/grpc+proto")
	q.Header.Set("Te", "trailers")
	resp, err := i.client(true, nil).Do(q)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	r := bufio.NewReader(resp.Body)
	for n := range 5 {
		fmt.Fprintln(send, n)
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintln("echo", n), line)
	}
	send.Close()
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.Equal(t, "0", resp.Trailer.Get("Grpc-Status"))
	require.Equal(t, "fine", resp.Trailer.Get("Grpc-Message"))
}

// A client that resets its stream ends the attempt; the other streams of the connection go on. A response that ends
// early is a reset for the client, and no regular end.
func TestInterceptedStreamsEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan struct{}, 1)
	i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/blocked":
			cancel()
			<-q.Context().Done()
			blocked <- struct{}{}
		case "/broken":
			io.WriteString(w, "a part")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}, nil)
	c := i.client(true, nil)
	q, err := http.NewRequestWithContext(ctx, "GET", "https://a.test/blocked", nil)
	require.NoError(t, err)
	_, err = c.Do(q)
	require.ErrorIs(t, err, context.Canceled)
	<-blocked
	resp, err := c.Get("https://a.test/broken")
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err)
	resp, err = c.Get("https://a.test/")
	bodyOf(t, resp, err)
	i.eventually("the ends are recorded", func() bool { return len(i.recorded.finals()) == 3 })
	require.Contains(t, i.recorded.finals(), "cancelled")
	c.CloseIdleConnections()
	i.free()
}

// A client that does not read its stream for BodyIdle loses it. The proxy is not charged.
func TestAnInterceptedStreamThatIsNotRead(t *testing.T) {
	i := newIntercepting(t, true, func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 1<<20); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}, func(o *options) { o.BodyIdle = 2 * time.Second })
	c := i.client(true, nil)
	resp, err := c.Get("https://a.test/")
	require.NoError(t, err)
	i.eventually("the stream ends", func() bool { return len(i.recorded.finals()) == 1 })
	require.Equal(t, verdict.ClientLeft, i.recorded.Attempts()[0].Outcome.Cause)
	resp.Body.Close()
	c.CloseIdleConnections()
	i.free()
}

// A drain lets the request in flight end, and closes idle connections of both versions.
func TestADrainOfInterceptedConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		begun, end := make(chan struct{}), make(chan struct{})
		i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/slow" {
				close(begun)
				<-end
			}
			io.WriteString(w, "whole")
		}, nil)
		idle := i.client(http2, nil)
		resp, err := idle.Get("https://a.test/")
		bodyOf(t, resp, err)
		c := i.client(http2, nil)
		done := make(chan string, 1)
		go func() {
			resp, err := c.Get("https://a.test/slow")
			if err != nil {
				done <- err.Error()
				return
			}
			body, _ := io.ReadAll(resp.Body)
			done <- string(body)
		}()
		<-begun
		i.listener.Close()
		over := make(chan struct{})
		go func() {
			i.Shutdown(context.Background())
			close(over)
		}()
		i.eventually("the idle connection is closed", func() bool { return i.Connections() == 1 })
		close(end)
		require.Equal(t, "whole", <-done)
		<-over
	}
}

// accessRecords keeps the records of the access log.
type accessRecords struct {
	mu  sync.Mutex
	all []accesslog.Record
}

func (*accessRecords) On() bool { return true }

func (a *accessRecords) Write(r *accesslog.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, *r)
}

// A drain during the wait for the ClientHello, or for the rest of it, ends the connection without a tunnel. The access
// log states that the gateway has ended it, not the client.
func TestADrainDuringTheWaitForAClientHello(t *testing.T) {
	for _, sent := range []string{"", "\x16\x03\x01"} {
		log := &accessRecords{}
		i := newIntercepting(t, true, func(http.ResponseWriter, *http.Request) {}, func(o *options) { o.access = log })
		c := i.connect()
		c.send(sent)
		i.eventually("the wait begins", func() (waits bool) {
			i.eachConn(func(c *connection) { waits = c.readControl.phase.Load() == phaseIdle && !c.hasUnread() })
			return waits
		})
		i.listener.Close()
		i.Shutdown(context.Background())
		if sent == "" {
			c.ended()
		}
		require.Empty(t, i.recorded.Attempts())
		require.Len(t, log.all, 1)
		require.Equal(t, "shutting_down", log.all[0].Code, "after %q", sent)
		require.False(t, log.all[0].ClientLeft)
		require.Zero(t, i.recorded.not, "the client has not refused the handshake")
	}
}

// A client that leaves ends its request, also while the body of the response is silent.
func TestAnInterceptedClientLeavesASilentBody(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		i := newIntercepting(t, true, func(w http.ResponseWriter, q *http.Request) {
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		}, func(o *options) { o.BodyIdle = 10 * patience })
		c := i.client(http2, nil)
		resp, err := c.Get("https://a.test/")
		require.NoError(t, err)
		resp.Body.Close()
		c.CloseIdleConnections()
		i.eventually("the request ends", func() bool { return len(i.recorded.Requests()) == 1 })
		require.Equal(t, verdict.ClientLeft, i.recorded.Attempts()[0].Outcome.Cause)
		i.free()
	}
}

// A client of SOCKS5 is intercepted, with its user; other hosts of it are not.
func TestInterceptedSOCKS5(t *testing.T) {
	i := newIntercepting(t, true, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") },
		func(o *options) { o.Users = []User{{Name: "ann", Password: "p"}} })
	for _, http2 := range []bool{false, true} {
		c := i.client(http2, func(tr *http.Transport) {
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: "socks5", User: url.UserPassword("ann", "p"),
				Host: i.listener.Addr().String()})
		})
		resp, err := c.Get("https://a.test/")
		require.Equal(t, "hello", bodyOf(t, resp, err))
		require.Equal(t, "success", resp.Header.Get("X-Whirlpool-Outcome"))
		_, err = c.Get("https://other.test/")
		var unknown x509.UnknownAuthorityError
		require.True(t, errors.As(err, &unknown), "the target's certificate, and not the gateway's: %v", err)
	}
	require.EqualValues(t, 4, i.Users()[0].Requests, "two requests inside, and two tunnels to the other host")
}

// A host that the constraints of the authority exclude is not intercepted. This is logged once.
func TestConstraintsExclude(t *testing.T) {
	certPEM, keyPEM, err := intercept.Create(intercept.Options{Constraints: []string{"b.test"}}, time.Now())
	require.NoError(t, err)
	authority, err := intercept.Load(certPEM, keyPEM, time.Now)
	require.NoError(t, err)
	i := newIntercepting(t, true, func(http.ResponseWriter, *http.Request) {}, func(o *options) {
		set := *o.Intercept
		set.Authority = authority
		o.Intercept = &set
	})
	for range 2 {
		c, err := i.tls(connectTo, &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, err)
		require.Equal(t, i.target.TLS.Certificates[0].Certificate[0], c.ConnectionState().PeerCertificates[0].Raw)
	}
	require.Equal(t, 1, strings.Count(i.log.String(), "is not intercepted"))
}

// A reload with the same authority keeps its certificates; another authority signs from then on.
func TestReloadOfTheAuthority(t *testing.T) {
	i := newIntercepting(t, false, func(http.ResponseWriter, *http.Request) {}, nil)
	set := i.settings.Load().Settings
	before := i.settings.Load().interception
	same := *set.Intercept
	set.Intercept = &same
	i.Apply(set)
	require.Same(t, before.tls, i.settings.Load().interception.tls)
	certPEM, keyPEM, err := intercept.Create(intercept.Options{Name: "second"}, time.Now())
	require.NoError(t, err)
	same.Authority, err = intercept.Load(certPEM, keyPEM, time.Now)
	require.NoError(t, err)
	i.Apply(set)
	c, err := i.tls(connectTo, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	require.Equal(t, "second", c.ConnectionState().PeerCertificates[0].Issuer.CommonName)
	set.Intercept = nil
	i.Apply(set)
	require.Nil(t, i.settings.Load().interception)
}

// FuzzInnerTarget: whatever a client sends as the target and the host of an intercepted request, it goes to the target
// of the tunnel or is refused.
func FuzzInnerTarget(f *testing.F) {
	for _, target := range []string{
		"/", "*", "https://a.test/", "https://b.test/", "http://a.test/", "//b.test/", "/#x", "x",
	} {
		for _, host := range []string{"a.test", "A.test:443", "b.test", "a.test:80", "", "[::1]", "a.test@b.test"} {
			f.Add("GET", target, host)
		}
	}
	f.Add("GET", "/", ".")
	f.Fuzz(func(t *testing.T, method, target, host string) {
		in := &outerConnect{}
		require.NoError(t, in.authority.Set([]byte("a.test:443"), ""))
		r := &request{outerConnect: in}
		r.head = http1.Request{Method: []byte(method), Target: []byte(target), Host: []byte(host)}
		r.input.Method = method
		got, bad := r.interceptedTarget()
		if bad != nil {
			return
		}
		require.True(t, got.TLS)
		require.Equal(t, "a.test:443", r.cache.authority.HostPort)
		require.Equal(t, "a.test", in.requestAuthority.Host)
		require.True(t, len(got.Path) > 0 && (got.Path[0] == '/' || string(got.Path) == "*"), "%q", got.Path)
		if strings.HasPrefix(target, "/") {
			before, _, _ := strings.Cut(target, "#")
			require.Equal(t, before, string(got.Path))
		}
	})
}

// Interception inside of a TLS listener: two layers of TLS with the client.
func TestInterceptionOverTLS(t *testing.T) {
	a := testcert.NewAuthority(t)
	i := newIntercepting(t, true, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") },
		func(o *options) { o.TLS = secure(t, a) })
	for _, http2 := range []bool{false, true} {
		c := i.client(http2, func(tr *http.Transport) {
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: i.listener.Addr().String()})
			tr.TLSClientConfig.RootCAs = a.Pool()
			tr.TLSClientConfig.RootCAs.AddCert(i.own)
		})
		for range 2 {
			resp, err := c.Get("https://a.test/")
			require.Equal(t, "hello", bodyOf(t, resp, err))
		}
		c.CloseIdleConnections()
	}
	i.free()
}

// Intercepted clients that send no request make room for other clients, also before the end of the TLS handshake.
func TestSilentInterceptedClientsMakeRoom(t *testing.T) {
	hello := "\x16\x03\x01\x02\x00\x01" // the beginning of a ClientHello
	const connect = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"
	for name, silent := range map[string]func(i *intercepting){
		"nothing": func(i *intercepting) { i.ask(connect).established() },
		"a part of a handshake": func(i *intercepting) {
			c := i.ask(connect)
			c.established()
			c.send(hello)
		},
		"a handshake": func(i *intercepting) {
			_, err := i.tls(connect, &tls.Config{})
			require.NoError(i.t, err)
		},
		"a handshake for HTTP/2": func(i *intercepting) {
			_, err := i.tls(connect, &tls.Config{NextProtos: []string{"h2"}})
			require.NoError(i.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			i := newIntercepting(t, false, func(http.ResponseWriter, *http.Request) {}, func(o *options) {
				o.MaxConnections = 10
				o.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
			for n := range 30 {
				ahead.Add(int64(minWait)) // so that the earlier clients have waited for long enough
				silent(i)
				c := i.ask("OPTIONS http://b.test/ HTTP/1.1\r\nHost: b.test\r\nMax-Forwards: 0\r\n" +
					"Connection: close\r\n\r\n")
				a, _ := c.answer("OPTIONS")
				require.Equal(t, 200, a.StatusCode, "client %d", n)
			}
		})
	}
}

// Each stream of an HTTP/2 client counts as one client: beyond gateway.max_connections, a request gets a 503.
func TestStreamsCountAsClients(t *testing.T) {
	const most, requests = 4, 12
	begun, hold := make(chan struct{}, requests), make(chan struct{})
	i := newIntercepting(t, true, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-hold
	}, func(o *options) { o.MaxConnections = most })
	c := i.client(true, nil)
	statuses := make(chan int, requests)
	get := func() {
		resp, err := c.Get("https://a.test/")
		if err != nil {
			t.Error(err)
			statuses <- 0
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		statuses <- resp.StatusCode
	}
	go get()
	<-begun
	for range requests - 1 {
		go get()
	}
	counts := map[int]int{}
	for range requests - most {
		counts[<-statuses]++
	}
	require.Equal(t, map[int]int{503: requests - most}, counts)
	close(hold)
	for range most {
		counts[<-statuses]++
	}
	require.Equal(t, most, counts[200])
	c.CloseIdleConnections()
	i.free()
}
