package integration

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// socks starts a SOCKS5 server that requires user "u" and password "p" (RFC 1928 and 1929). All its
// connections lead to one address.
func socks(t *testing.T, to string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		b := make([]byte, 512)
		read := func(n int) []byte { io.ReadFull(c, b[:n]); return b[:n] }
		read(int(read(2)[1]))
		c.Write([]byte{5, 2})
		user := string(read(int(read(2)[1])))
		password := string(read(int(read(1)[0])))
		if user != "u" || password != "p" {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
		if head := read(4); head[3] != 3 { // the gateway sends the name and never an address
			c.Write([]byte{5, 8, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		read(int(read(1)[0]) + 2)
		target, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer target.Close()
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		go io.Copy(target, c)
		io.Copy(c, target)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// socks4 starts a SOCKS4A server that requires the user "u". All its connections lead to one address.
func socks4(t *testing.T, to string) string {
	return coretest.Serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		head := make([]byte, 8)
		io.ReadFull(r, head)
		user, _ := r.ReadString(0)
		name, _ := r.ReadString(0)
		if head[0] != 4 || user != "u\x00" || string(head[4:]) != "\x00\x00\x00\x01" || name == "\x00" {
			c.Write([]byte{0, 93, 0, 0, 0, 0, 0, 0})
			return
		}
		target, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer target.Close()
		c.Write([]byte{0, 90, 0, 0, 0, 0, 0, 0})
		go io.Copy(target, r)
		io.Copy(c, target)
	})
}

// Each kind of proxy works for http:// and https:// targets. For https:// targets the gateway itself makes
// the TLS handshake and verifies the certificate.
func TestEveryKindOfUpstream(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "origin ", r.URL.Path) })
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	tlsProxy := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Host = plain.Listener.Addr().String()
	}})
	t.Cleanup(tlsProxy.Close)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: secure.Certificate().Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", roots)
	through := func(proxy, target string) (int, string) {
		w := start(t, 0, confK+allowLoopback+"[[proxies]]\nurl = \""+proxy+"\"\n")
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return r.StatusCode, string(b)
	}
	socksTo := func(l net.Listener) string { return "socks5h://u:p@" + socks(t, l.Addr().String()) }
	socks4To := func(scheme string, l net.Listener) string { return scheme + "://u@" + socks4(t, l.Addr().String()) }
	for _, c := range []struct{ proxy, target string }{
		{socks4To("socks4", plain.Listener), "http://example.com/a"},
		{socks4To("socks4a", secure.Listener), "https://example.com/a"},
		{socksTo(plain.Listener), "http://example.com/a"},
		{socksTo(secure.Listener), "https://example.com/a"},
		{"https://" + tlsProxy.Listener.Addr().String(), "http://example.com/a"},
		{"direct://", plain.URL + "/a"},
		{"direct://", secure.URL + "/a"},
	} {
		status, body := through(c.proxy, c.target)
		require.Equal(t, 200, status, "%s through %s: %s", c.target, c.proxy, body)
		require.Equal(t, "origin /a", body)
	}
	status, body := through(socksTo(secure.Listener), "https://other.test/a")
	require.Equal(t, 502, status, "the certificate is of another name: %s", body)
	status, _ = through("socks5://u:wrong@"+socks(t, plain.Listener.Addr().String()), "http://example.com/a")
	require.Equal(t, 502, status)
}

// If the certificate of a target is invalid, the request is retried through other proxies, because the proxy
// may have changed it. No failure is charged to a proxy: otherwise five requests for an expired site would
// open all breakers.
func TestATargetsCertificateIsChargedToNoProxy(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	r, body := sendRaw(t, w.gateway, "GET "+secure.URL+"/ HTTP/1.1\r\nHost: x\r\nX-Whirlpool-Retry: max_attempts=2\r\n"+
		"\r\n")
	require.Equal(t, 502, r.StatusCode, body)
	require.Equal(t, "2", r.Header.Get("X-Whirlpool-Attempts"))
	require.Contains(t, r.Header.Get("Proxy-Status"), "error=tls_certificate_error")
	require.Equal(t, 0.0, w.breaker("F1")["failure_count"])
	require.Equal(t, 0.0, w.breaker("F2")["failure_count"])
	require.Equal(t, 0.0, w.getJSON("/proxies/F1")["samples"])
	w.reconcile(0)
}

// A target that refuses connections or does not exist does not open the breaker of direct://. No proxy can be
// charged.
func TestADeadTargetDoesNotOpenTheBreakerOfDirect(t *testing.T) {
	t.Parallel()
	w := start(t, 0, confKB+allowLoopback+"[[proxies]]\nurl = \"direct://\"\n")
	dead := freePort(t)
	for range 6 {
		r, body := sendRaw(t, w.gateway, "GET http://"+dead+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Equal(t, 502, r.StatusCode, body)
		require.Contains(t, r.Header.Get("Proxy-Status"), "error=destination_unavailable")
		status, _, _ := w.connect(dead)
		require.Equal(t, 502, status)
	}
	require.Equal(t, "closed", w.breaker("direct")["state"])
	require.Zero(t, w.breaker("direct")["failure_count"])
	origin := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(origin.Close)
	r, _ := sendRaw(t, w.gateway, "GET "+origin.URL+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, 404, r.StatusCode)
}
