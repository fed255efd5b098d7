package transport

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// respondWith starts a proxy that sends the same response to every request of a connection, in pieces 5 ms apart.
func respondWith(t testing.TB, pieces ...string) string {
	return coretest.Serve(t, func(c net.Conn) {
		for readRequest(c) != "" {
			for i, p := range pieces {
				if i > 0 {
					time.Sleep(5 * time.Millisecond)
				}
				if _, err := io.WriteString(c, p); err != nil {
					return
				}
			}
			if !strings.Contains(strings.ToLower(pieces[0]), "content-length") &&
				!strings.Contains(pieces[0], "chunked") {
				return
			}
		}
	})
}

// responseOf sends a request through u and returns the response and its body.
func responseOf(t testing.TB, tr *Transport, u *upstream.Upstream, authority string) (r *Response, body string) {
	q := getRequest()
	q.Authority = authority
	r = &Response{}
	c := &Control{Deadline: time.Now().Add(plenty)}
	verr := tr.RoundTrip(context.Background(), u, c, q, r)
	require.Nil(t, verr)
	r.SetReadDeadline(c, time.Now().Add(plenty))
	b, err := io.ReadAll(&r.Body)
	require.NoError(t, err)
	r.Finish(c, time.Now())
	return r, string(b)
}

const tinyPage = "HTTP/1.1 500 Unable to connect\r\nServer: tinyproxy/1.11.1\r\nContent-Type: text/html\r\n" +
	"Connection: close\r\n\r\n<h1>Unable to connect</h1>"

func TestResponseFacts(t *testing.T) {
	for name, c := range map[string]struct {
		response string
		want     Facts
	}{
		"good": {"HTTP/1.1 200 OK\r\nX-Whirlpool-Outcome: success\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true}},
		"the target's": {"HTTP/1.1 500 No\r\nServer: x\r\nContent-Length: 0\r\n\r\n", Facts{FromProxy: true}},
		"its own": {tinyPage, Facts{FromProxy: true,
			ErrorPage: &ErrorPage{Signature: "tinyproxy", Kind: verdict.ErrorPageUnreachable,
				Reason: "destination_unavailable"}}},
		"inner": {"HTTP/1.1 503 x\r\nX-Whirlpool-Outcome: all_breakers_open\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true, InnerOutcome: "all_breakers_open"}},
		"inner, twice": {"HTTP/1.1 503 x\r\nX-Whirlpool-Outcome: exhausted\r\nX-Whirlpool-Outcome: timeout\r\n" +
			"Content-Length: 0\r\n\r\n", Facts{FromProxy: true}},
		"inner, unknown": {"HTTP/1.1 503 x\r\nX-Whirlpool-Outcome: <b>\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true}},
		"407": {"HTTP/1.1 407 x\r\nProxy-Authenticate: Digest realm=a, NTLM\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true, AuthSchemes: []string{"Digest", "NTLM"},
				ChallengeHash: identifyChallenge(authenticate("Digest realm=a, NTLM"))}},
		"407, no field": {"HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", Facts{FromProxy: true}},
		"401": {"HTTP/1.1 401 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true}},
	} {
		tr := New(Config{})
		t.Cleanup(tr.Close)
		r, body := responseOf(t, tr, proxyAt(t, "http://"+respondWith(t, c.response)), "a.test:80")
		assert.Equal(t, c.want, r.Facts, name)
		_, want, _ := strings.Cut(c.response, "\r\n\r\n")
		assert.Equal(t, want, body, name)
	}
}

func TestTargetFacts(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.Header().Set("Server", "squid")
		w.Header().Set("X-Squid-Error", "ERR_DNS_FAIL 0")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.Header().Set("X-Whirlpool-Outcome", "exhausted")
		w.WriteHeader(407)
	}
	plain, secure := httptest.NewServer(http.HandlerFunc(page)), httptest.NewTLSServer(http.HandlerFunc(page))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	rules := []upstream.OwnError{{Status: 407}}
	ask := func(url, authority string, useTLS bool) Facts {
		a, err := upstream.ParseAddress(url)
		require.NoError(t, err)
		p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
		require.NoError(t, p.Apply([]upstream.Spec{{Address: a, Extras: &upstream.Extras{OwnErrors: rules}}}))
		tr := New(Config{RootCAs: roots})
		t.Cleanup(tr.Close)
		q := getRequest()
		q.Authority, q.TLS = authority, useTLS
		var r Response
		require.Nil(t, tr.RoundTrip(t.Context(), p.Snapshot().All[0],
			&Control{Deadline: time.Now().Add(plenty)}, q, &r))
		require.Equal(t, 407, r.Status)
		return r.Facts
	}
	proxy := coretest.Serve(t, func(c net.Conn) { // connects every CONNECT to the TLS server
		readRequest(c)
		to, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			return
		}
		defer to.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(to, c)
		io.Copy(c, to)
	})
	socks := coretest.Serve(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 3))
		c.Write([]byte{5, 0})
		head := make([]byte, 5)
		io.ReadFull(c, head)
		io.ReadFull(c, make([]byte, int(head[4])+2))
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nServer: tinyproxy\r\n"+
			"Content-Type: text/html\r\n\r\n")
	})
	require.Empty(t, ask("direct://", plain.Listener.Addr().String(), false))
	require.Empty(t, ask("socks5h://"+socks, "example.com:80", false))
	require.Empty(t, ask("http://"+proxy, "example.com:443", true))
	require.NotEmpty(t, ask(plain.URL, "example.com:80", false), "the same server used as a proxy")
}

// The response to a CONNECT is always the proxy's.
func TestRefusedConnectFacts(t *testing.T) {
	for name, c := range map[string]struct {
		response string
		want     Facts
	}{
		"opened": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Facts{}},
		"unknown page": {"HTTP/1.1 400 Bad Request\r\nServer: nginx/1.22.1\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true}},
		"a redirect": {"HTTP/1.1 302 x\r\nProxy-Status: a; error=dns_error\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true}},
		"its own": {tinyPage, Facts{FromProxy: true,
			ErrorPage: &ErrorPage{Signature: "tinyproxy", Kind: verdict.ErrorPageUnreachable,
				Reason: "destination_unavailable"}}},
		"with Via": {"HTTP/1.1 502 x\r\nVia: 1.1 a\r\nProxy-Status: a; error=dns_error\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true, ErrorPage: &ErrorPage{Signature: "proxy-status", Kind: verdict.ErrorPageUnreachable,
				Reason: "dns_error"}}},
		"inner": {"HTTP/1.1 503 x\r\nX-Whirlpool-Outcome: exhausted\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true, InnerOutcome: "exhausted"}},
		"407": {"HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n",
			Facts{FromProxy: true, AuthSchemes: []string{"Negotiate"}}},
	} {
		tr := New(Config{})
		t.Cleanup(tr.Close)
		tun, verr := tr.OpenTunnel(t.Context(), proxyAt(t, "http://"+respondWith(t, c.response)),
			&Control{Deadline: time.Now().Add(plenty)}, "a.test:443")
		require.Nil(t, verr)
		tun.Abort()
		assert.Equal(t, c.want, tun.Refused.Facts, name)
	}
}

// Rules are applied to the body, also if it arrives after the head. The body is still relayed
// completely.
func TestBodyRules(t *testing.T) {
	const text = "Out of traffic"
	long := strings.Repeat("x", 20<<10)
	length := func(body string) string {
		return fmt.Sprintf("HTTP/1.1 500 x\r\nContent-Length: %d\r\n\r\n", len(body))
	}
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(text), text)
	for name, c := range map[string]struct {
		pieces []string
		body   string
		own    bool
	}{
		"at once":            {[]string{length(text) + text}, text, true},
		"later":              {[]string{length(text), text}, text, true},
		"in pieces":          {[]string{length(text), text[:5], text[5:]}, text, true},
		"another":            {[]string{length("another"), "another"}, "another", false},
		"until close":        {[]string{"HTTP/1.1 500 x\r\n\r\n", "x", text}, "x" + text, true},
		"until close, other": {[]string{"HTTP/1.1 500 x\r\n\r\n", "x", "y"}, "xy", false},
		"chunked":            {[]string{"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n", chunked}, text, true},
		"beyond 8 KiB":       {[]string{length(long + text), long + text}, long + text, false},
		"before 8 KiB":       {[]string{length(text + long), text + long}, text + long, true},
		"other status":       {[]string{strings.Replace(length(text), "500", "501", 1) + text}, text, false},
		"success":            {[]string{strings.Replace(length(text), "500", "200", 1) + text}, text, false},
		"no body":            {[]string{length("")}, "", false},
	} {
		a, err := upstream.ParseAddress("http://" + respondWith(t, c.pieces...))
		require.NoError(t, err)
		p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
		require.NoError(t, p.Apply([]upstream.Spec{{Address: a,
			Extras: &upstream.Extras{OwnErrors: []upstream.OwnError{{Status: 500, Body: text}}}}}))
		tr := New(Config{Now: patient}) // so that pageWait passes only after the body has arrived
		t.Cleanup(tr.Close)
		r, body := responseOf(t, tr, p.Snapshot().All[0], "a.test:80")
		assert.Equal(t, c.body, body, name)
		assert.Equal(t, c.own, r.ErrorPage != nil, name)
	}
}

// If the body that a rule needs does not arrive, the response is delayed by at most pageWait.
func TestPageWait(t *testing.T) {
	a, err := upstream.ParseAddress("http://" + coretest.Serve(t, func(c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 500 x\r\nContent-Length: 100\r\n\r\nsome")
		io.Copy(io.Discard, c)
	}))
	require.NoError(t, err)
	p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	extras := &upstream.Extras{OwnErrors: []upstream.OwnError{{Body: "more"}}}
	require.NoError(t, p.Apply([]upstream.Spec{{Address: a, Extras: extras}}))
	tr := New(Config{})
	t.Cleanup(tr.Close)
	var r Response
	require.Nil(t, tr.RoundTrip(t.Context(), p.Snapshot().All[0], &Control{Deadline: time.Now().Add(time.Hour)},
		getRequest(), &r))
	require.Nil(t, r.ErrorPage)
	first, err := r.Body.Next()
	require.NoError(t, err)
	require.Equal(t, "some", string(first))
}

// TestMissingVia simulates Apache and Privoxy as they were measured. The error pages of Apache's mod_proxy
// are like those of any other Apache, except that they have no Via.
func TestMissingVia(t *testing.T) {
	sections := map[string]string{}
	for _, name := range []string{"apache", "privoxy"} {
		for _, m := range readRecorded(t, "testdata/ownerrors/"+name+".txt") {
			head, _, _ := strings.Cut(m.response, "\r\n\r\n")
			sections[name+" "+m.name] = head + "\r\n\r\n"
		}
	}
	proxy := func(name string) string { // the host of the request selects the response
		return coretest.Serve(t, func(c net.Conn) {
			q, _, _ := strings.Cut(strings.TrimPrefix(readRequest(c), "GET http://"), "/")
			io.WriteString(c, sections[name+" get_"+q])
		})
	}
	tr := New(Config{})
	t.Cleanup(tr.Close)
	ask := func(u *upstream.Upstream, section string) Facts {
		q := getRequest()
		q.Target, q.Authority = []byte("http://"+section+"/"), section+":80"
		var r Response
		require.Nil(t, tr.RoundTrip(t.Context(), u, &Control{Deadline: time.Now().Add(plenty)}, q, &r))
		defer closeNow(r.pc.Conn)
		return r.Facts
	}
	apache, privoxy := proxyAt(t, "http://"+proxy("apache")), proxyAt(t, "http://"+proxy("privoxy"))
	require.Nil(t, ask(apache, "dns").ErrorPage, "the proxy's habit is unknown")
	for range viaSamples / 2 {
		for _, target := range []string{"200", "301"} {
			require.Equal(t, Facts{FromProxy: true}, ask(apache, target))
		}
	}
	require.Nil(t, ask(apache, "dns").ErrorPage, "there is no other proxy to compare with")
	ask(privoxy, "200")
	require.Equal(t, &ErrorPage{Signature: "no via", Kind: verdict.ErrorPageUnclear}, ask(apache, "dns").ErrorPage)
	require.Equal(t, &ErrorPage{Signature: "no via", Kind: verdict.ErrorPageUnclear}, ask(apache, "refused").ErrorPage)
	require.Nil(t, ask(apache, "500").ErrorPage, "the response has Via")
	require.Nil(t, ask(privoxy, "500").ErrorPage)
}

func TestAllocFacts(t *testing.T) {
	tr := New(Config{})
	u := proxyAt(t, "http://127.0.0.1:1")
	for _, response := range []string{
		"HTTP/1.1 200 OK\r\nServer: x\r\nVia: 1.1 a\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nDate: x\r\nVia: 1.1 a\r\nContent-Type: text/html\r\n" +
			"Content-Length: 0\r\n\r\n",
	} {
		r := Response{t: tr, pool: tr.pool(u), pc: &persistConn{}}
		reader := http1.NewReader(strings.NewReader(response))
		require.NoError(t, reader.ReadResponse(&r.Response, []byte("GET")))
		q, c := getRequest(), &Control{}
		require.Zero(t, testing.AllocsPerRun(100, func() { r.setFacts(c, q, u) }), response)
	}
}
