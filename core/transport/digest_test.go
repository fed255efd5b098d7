package transport

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// digestResponse computes the response of RFC 7616 section 3.4.1, for qop=auth or without qop.
func digestResponse(algorithm, user, realm, password, nonce, nc, cnonce, method, uri string) string {
	h := func(parts ...string) string {
		var h hash.Hash = md5.New()
		if algorithm == "SHA-256" {
			h = sha256.New()
		}
		io.WriteString(h, strings.Join(parts, ":"))
		return hex.EncodeToString(h.Sum(nil))
	}
	a1, a2 := h(user, realm, password), h(method, uri)
	if nc == "" {
		return h(a1, nonce, a2)
	}
	return h(a1, nonce, nc, cnonce, "auth", a2)
}

// The examples of RFC 7616 section 3.9.1 and RFC 2617 section 3.5.
func TestDigestVectors(t *testing.T) {
	const nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
	for algorithm, want := range map[string]string{
		"MD5":     "8ca523f5e9506fed4657c9700eebdbec",
		"SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
	} {
		require.Equal(t, want, digestResponse(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life", nonce,
			"00000001", cnonce, "GET", "/dir/index.html"))
	}
	require.Equal(t, "6629fae49393a05397450978507c4ef1", digestResponse("MD5", "Mufasa", "testrealm@host.com",
		"Circle Of Life", "dcd98b7102dd2f0e8b11d0f600bfb0c093", "00000001", "0a4f113b", "GET", "/dir/index.html"))
}

// guarded is a proxy that asks for Digest. A nonce is good for uses requests, whose nc must increase.
type guarded struct {
	algorithm, qop string
	uses           int
	basic          bool // a Basic login is accepted as well

	mu       sync.Mutex
	next     int
	nonces   map[string]int // last nc
	refused  int            // 407 responses
	stale    int
	served   []string // request lines
	shown    int      // requests with Basic credentials
	password string
}

var parameter = regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*"|[^",\s]+)`)

func (g *guarded) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, q.Body)
		if !g.answer(c, q) {
			return
		}
	}
}

func (g *guarded) answer(c net.Conn, q *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	login, uri := q.Header.Get("Proxy-Authorization"), q.RequestURI
	if strings.HasPrefix(login, "Basic ") {
		g.shown++
	}
	stale, ok := false, g.basic && strings.HasPrefix(login, "Basic ")
	if text, isDigest := strings.CutPrefix(login, "Digest "); isDigest {
		p := map[string]string{}
		for _, m := range parameter.FindAllStringSubmatch(text, -1) {
			p[m[1]] = m[2]
			if unquoted, err := strconv.Unquote(m[2]); err == nil {
				p[m[1]] = unquoted
			}
		}
		nc, _ := strconv.ParseInt(p["nc"], 16, 32)
		if g.qop == "" {
			nc = int64(g.nonces[p["nonce"]] + 1)
		}
		last, known := g.nonces[p["nonce"]]
		right := p["username"] == "ann" && p["uri"] == uri && p["response"] == digestResponse(g.algorithm, "ann",
			"re,alm",
			g.password, p["nonce"], p["nc"], p["cnonce"], q.Method, uri)
		stale = right && (!known || int(nc) > g.uses || int(nc) <= last)
		if ok = right && !stale; ok {
			g.nonces[p["nonce"]] = int(nc)
		}
	}
	if !ok {
		g.refused++
		g.next++
		if stale {
			g.stale++
		}
		n := fmt.Sprintf("n\"%d", g.next)
		g.nonces[n] = 0
		fields := fmt.Sprintf("Proxy-Authenticate: NTLM, Digest realm=\"re,alm\", nonce=%q, stale=%v", n, stale)
		if g.qop != "" {
			fields += fmt.Sprintf(", qop=%q, algorithm=%s", g.qop, g.algorithm)
		}
		fmt.Fprintf(c, "HTTP/1.1 407 x\r\n%s\r\nContent-Length: 4\r\n\r\nnope", fields)
		return q.Method != "CONNECT"
	}
	g.served = append(g.served, q.Method+" "+uri)
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	return true
}

// counts returns the numbers of 407 responses and of stale nonces, and the request lines that were served.
func (g *guarded) counts() (refused, stale int, served []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused, g.stale, slices.Clone(g.served)
}

func startGuarded(t *testing.T, g *guarded) (*upstream.Upstream, *Transport) {
	g.nonces, g.password = map[string]int{}, "s:e cret"
	if g.uses == 0 {
		g.uses = 1 << 20
	}
	tr := New(Config{})
	t.Cleanup(tr.Close)
	return proxyAt(t, "http://ann:s%3Ae%20cret@"+coretest.Serve(t, g.serve)), tr
}

func ask(t *testing.T, tr *Transport, u *upstream.Upstream, q *Request) int {
	c := Control{Deadline: time.Now().Add(time.Minute), BodyIdle: time.Minute}
	var resp Response
	if verr := tr.RoundTrip(t.Context(), u, &c, q, &resp); verr != nil {
		t.Error(verr.Err)
		return 0
	}
	defer resp.Finish(&c, time.Now())
	return resp.Status
}

// The first 407 is invisible, and later requests use the nonce again.
func TestDigestOfRequests(t *testing.T) {
	for _, g := range []*guarded{
		{algorithm: "MD5", qop: "auth"}, {algorithm: "SHA-256", qop: "auth-int, auth"}, {algorithm: "MD5"},
	} {
		u, tr := startGuarded(t, g)
		for range 5 {
			require.Equal(t, 200, ask(t, tr, u, getRequest()))
		}
		post := getRequest()
		post.Method, post.Framing, post.Length, post.Prefix = []byte("POST"), http1.Length, 3, [][]byte{[]byte("abc")}
		require.Equal(t, 200, ask(t, tr, u, post))
		refused, _, served := g.counts()
		require.Equal(t, 1, refused, "%s %s", g.algorithm, g.qop)
		require.Len(t, served, 6)
	}
}

// A stale nonce is replaced without a visible failure. Wrong credentials end with the 407, after one more try.
func TestStaleNoncesAndWrongPasswords(t *testing.T) {
	g := &guarded{algorithm: "MD5", qop: "auth", uses: 2}
	u, tr := startGuarded(t, g)
	for range 7 {
		require.Equal(t, 200, ask(t, tr, u, getRequest()))
	}
	_, stale, _ := g.counts()
	require.Equal(t, 3, stale)
	g.mu.Lock()
	g.password = "other"
	g.refused = 0
	g.mu.Unlock()
	require.Equal(t, 407, ask(t, tr, u, getRequest()))
	refused, _, _ := g.counts()
	require.Equal(t, 2, refused)
}

// Requests at the same time use different nonces, because the nc of a nonce must increase.
func TestDigestOfRequestsAtTheSameTime(t *testing.T) {
	g := &guarded{algorithm: "SHA-256", qop: "auth", uses: 10}
	u, tr := startGuarded(t, g)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 30 {
				if status := ask(t, tr, u, getRequest()); status != 200 {
					t.Error(status)
				}
			}
		})
	}
	all.Wait()
	refused, _, served := g.counts()
	require.Len(t, served, 240)
	require.Less(t, refused, 80, "about one in ten")
}

func TestDigestOfTunnels(t *testing.T) {
	g := &guarded{algorithm: "MD5", qop: "auth"}
	u, tr := startGuarded(t, g)
	for range 3 {
		c := Control{Deadline: time.Now().Add(time.Minute)}
		tun, verr := tr.OpenTunnel(t.Context(), u, &c, "a.test:443")
		require.Nil(t, verr)
		require.Zero(t, tun.Refused.Status)
		tun.Abort()
	}
	refused, _, served := g.counts()
	require.Equal(t, []string{"CONNECT a.test:443", "CONNECT a.test:443", "CONNECT a.test:443"}, served)
	require.Equal(t, 1, refused)
	g.mu.Lock()
	g.password = "other"
	g.mu.Unlock()
	c := Control{Deadline: time.Now().Add(time.Minute)}
	tun, verr := tr.OpenTunnel(t.Context(), u, &c, "a.test:443")
	require.Nil(t, verr)
	require.Equal(t, 407, tun.Refused.Status)
}

// A proxy that accepts Basic never sees a Digest login. One that no longer offers Digest gets Basic again.
func TestBasicStays(t *testing.T) {
	g := &guarded{algorithm: "MD5", qop: "auth", basic: true}
	u, tr := startGuarded(t, g)
	require.Equal(t, 200, ask(t, tr, u, getRequest()))
	refused, _, _ := g.counts()
	require.Zero(t, refused)
	basic := []http1.Field{{Kind: http1.ProxyAuthenticate, Value: []byte(`Basic realm="x"`)}}
	both := append(slices.Clone(basic), http1.Field{Kind: http1.ProxyAuthenticate,
		Value: []byte(`Digest realm="x", nonce="1"`)})
	l, s := digestState{}, &upstream.Spec{}
	require.True(t, l.shouldResend(s, both, nil))
	require.True(t, l.shouldResend(s, basic, nil))
	require.False(t, l.shouldResend(s, basic, nil))
	require.True(t, l.shouldResend(s, both[1:], nil))
	require.True(t, l.shouldResend(s, basic, nil), "the challenge for Digest alone may be that of a target")
	require.True(t, l.shouldResend(s, both[1:], nil))
	l.recordSuccess(l.takeNonce())
	require.False(t, l.shouldResend(s, basic, nil), "the proxy has accepted Digest, and asked for it alone")
	require.True(t, l.usesDigest(s))
}

// With auth = "digest", the proxy never gets the password, whatever it asks for.
func TestNoBasic(t *testing.T) {
	g := &guarded{algorithm: "SHA-256", qop: "auth", basic: true}
	auto, tr := startGuarded(t, g)
	u := proxyWith(t, "http://ann:s%3Ae%20cret@"+auto.Spec().Address.Host, func(s *upstream.Spec) {
		s.Extras = &upstream.Extras{Auth: upstream.AuthDigest}
	})
	for range 3 {
		require.Equal(t, 200, ask(t, tr, u, getRequest()))
		c := Control{Deadline: time.Now().Add(time.Minute)}
		tun, verr := tr.OpenTunnel(t.Context(), u, &c, "a.test:443")
		require.Nil(t, verr)
		require.Zero(t, tun.Refused.Status)
		tun.Abort()
	}
	refused, _, served := g.counts()
	require.Len(t, served, 6)
	require.Equal(t, 1, refused)
	require.Zero(t, g.shown)
	only := proxyWith(t, "http://ann:x@"+coretest.Serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if q.Header.Get("Proxy-Authorization") != "" {
				t.Error("the proxy got credentials")
			}
			io.WriteString(c, "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
		}
	}), func(s *upstream.Spec) { s.Extras = &upstream.Extras{Auth: upstream.AuthDigest} })
	for range 3 {
		require.Equal(t, 407, ask(t, tr, only, getRequest()))
	}
}

func TestBestChallenge(t *testing.T) {
	for field, want := range map[string]string{
		`Digest realm="a", nonce="1", algorithm=MD5, qop="auth", Digest realm="a", nonce="2", algorithm=SHA-256`: "2",
		`Digest nonce="1", algorithm=MD5-sess, Digest nonce="2"`:                                                 "2",
		`Basic realm="x", Digest nonce="3", qop="auth-int,AUTH"`:                                                 "3",
		`Digest nonce="1", qop="auth-int"`:                                                                       "",
		`Digest realm="x"`:                                                                                       "",
		`Digest`:                                                                                                 "",
		`NTLM`:                                                                                                   "",
	} {
		c := bestChallenge([]http1.Field{{Kind: http1.ProxyAuthenticate, Value: []byte(field)}})
		if want == "" {
			require.Nil(t, c, field)
			continue
		}
		require.NotNil(t, c, field)
		require.Equal(t, want, c.Nonce, field)
	}
}

// A login never contains a line break, whatever the challenge.
func FuzzDigest(f *testing.F) {
	for _, s := range []string{`Digest realm="a", nonce="b", qop="auth"`, "Digest nonce=\"\\\r\n\", opaque=\"\xff\"",
		`Digest nonce=a, algorithm=SHA-256, userhash=true`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		c := bestChallenge([]http1.Field{{Kind: http1.ProxyAuthenticate, Value: []byte(field)}})
		if c == nil {
			return
		}
		n := &nonce{challenge: c}
		login := n.authorization(upstream.Address{Username: "a", Password: "b"}, "GET", "http://a/")
		if bytes.ContainsAny(login, "\r\n\x00") {
			t.Fatalf("%q", login)
		}
	})
}

func TestAllocWithoutDigest(t *testing.T) {
	u := proxyAt(t, "http://ann:x@127.0.0.1:1")
	pool, q := newIdlePool(u.Spec().Address), getRequest()
	pc := &persistConn{credentials: pool.credentials}
	require.Zero(t, testing.AllocsPerRun(100, func() { pool.authorize(u, pc, q) }))
}
