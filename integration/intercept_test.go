package integration

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// interceptedWorld is a gateway that intercepts *.site.test. Its proxies lead to targets that speak HTTP/2 and have
// certificates for site.test and www.site.test. The target of F1 responds with 503.
type interceptedWorld struct {
	*whirl
	ca     string       // file of the authority of the gateway
	target string       // file of the authority of the targets
	good   string       // address of the target that responds with 200
	bad    string       // address of the target that responds with 503
	failed atomic.Int32 // number of responses with 503
}

func startIntercepting(t *testing.T, config string) *interceptedWorld {
	dir := t.TempDir()
	a := testcert.NewAuthority(t)
	i := &interceptedWorld{ca: filepath.Join(dir, "ca.pem"), target: filepath.Join(dir, "target.pem")}
	require.NoError(t, os.WriteFile(i.target, a.PEM, 0o644))
	t.Setenv("SSL_CERT_FILE", i.target) // the authorities of the system, for the gateway
	out, err := exec.Command(binary, "ca", "create", "--ca-file", i.ca, "--key-file", filepath.Join(dir, "ca.key"),
		"--constrain", "site.test").CombinedOutput()
	require.NoError(t, err, "%s", out)
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{Certificates: []tls.Certificate{a.Pair(t, "target", "site.test", "www.site.test",
			"other.test")}}
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	i.good = serve(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "websocket" {
			c, b, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, b)
			return
		}
		if q.Header.Get("Content-Type") == "application/grpc" {
			w.Header().Set("Trailer", "Grpc-Status")
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			io.Copy(flushWriter{w}, q.Body)
			w.Header().Set("Grpc-Status", "0")
			return
		}
		body, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "<title>the site</title>hello %s %s %s %s", q.Host, q.Proto, q.Method, body)
	})
	i.bad = serve(func(w http.ResponseWriter, _ *http.Request) {
		i.failed.Add(1)
		w.WriteHeader(503)
	})
	i.whirl = start(t, 3, config+"\n[intercept]\nca_file = \""+i.ca+"\"\nkey_file = \""+filepath.Join(dir, "ca.key")+
		"\"\n[[rules]]\nwhen = { host = [\"site.test\", \"*.site.test\"] }\nthen = { intercept = true }\n"+
		"[[rules]]\nwhen = { path = \"/denied/*\" }\nthen = { deny = true }\n")
	i.setAll(lab.Behaviour{TunnelTo: i.good})
	i.fakes[0].SetBehaviour(lab.Behaviour{TunnelTo: i.bad})
	return i
}

// flushWriter sends each part of a response at once.
type flushWriter struct{ http.ResponseWriter }

func (w flushWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	return n, errors.Join(err, http.NewResponseController(w.ResponseWriter).Flush())
}

func (i *interceptedWorld) run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// curl returns the body, the version of HTTP and the status of a response.
func (i *interceptedWorld) curl(args ...string) (string, error) {
	return i.run("curl", append([]string{"-sS", "-m", "20", "-x", "http://" + i.gateway, "--cacert", i.ca,
		"-w", " %{http_version} %{http_code}"}, args...)...)
}

// S147: the requests in an intercepted tunnel are retried, judged and counted like requests for http:// targets.
func TestS147HTTPSLikeHTTP(t *testing.T) {
	i := startIntercepting(t, confK+"[log]\naccess = \"all\"\n"+roundRobin)
	for version, want := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
		for range 6 { // F1 is used first by each third request
			out, err := i.curl(version, "https://site.test/")
			require.NoError(t, err, out)
			require.Equal(t, "<title>the site</title>hello site.test HTTP/2.0 GET  "+want+" 200", out)
		}
		out, err := i.curl(version, "https://site.test/", "-X", "PUT", "-d", strings.Repeat("x", 100_000),
			"-H", "X-Whirlpool-Retry: retry_non_idempotent=true")
		require.NoError(t, err)
		require.Equal(t, "100000 "+want+" 200", fmt.Sprint(strings.Count(out, "x"), out[len(out)-len(want)-5:]))
		out, err = i.curl(version, "https://absent.site.test/") // the target's certificate lacks this name
		require.NoError(t, err, out)
		require.Contains(t, out, `{"error":"target_certificate_wrong_host"`)
		require.Contains(t, out, want+" 502")
		out, err = i.curl(version, "-x", "socks5h://"+i.gateway, "https://www.site.test/")
		require.NoError(t, err, out)
		require.Contains(t, out, "hello www.site.test HTTP/2.0 GET  "+want+" 200")
	}
	out, err := i.curl("https://site.test/denied/x")
	require.NoError(t, err)
	require.Contains(t, out, "denied_by_rule", "rules about the path hold for the requests inside")
	require.GreaterOrEqual(t, len(i.fakes[0].Arrivals()), 2, "requests were retried because of F1's status")

	script := `import requests
s = requests.Session()
s.proxies = {"https": "http://` + i.gateway + `"}
for i in range(6):
    print(s.post("https://site.test/", data="body", headers={"X-Whirlpool-Retry": "retry_non_idempotent=true"},
        timeout=20, verify="` + i.ca + `").text)`
	out, err = i.run("/usr/bin/python3", "-c", script)
	require.NoError(t, err, out)
	require.Equal(t, 6, strings.Count(out, "hello site.test HTTP/2.0 POST body"))

	metrics := i.scrape()
	require.Regexp(t, `whirlpool_requests_total\{listener="intercept",outcome="success"\} \d\d`, metrics)
	require.Regexp(t, `whirlpool_intercept_handshakes_total\{outcome="success"\} \d\d`, metrics)
	require.Contains(t, metrics, `whirlpool_retries_total{reason="http_503"}`)
	for _, line := range []string{
		`"listener":"intercept","method":"PUT","target":"site.test:443","status":200`,
		`"listener":"connect","method":"CONNECT".*"rules":\["`, `"listener":"socks5","method":"CONNECT".*"rules":\["`,
	} {
		eventually(t, line, func() bool { return regexp.MustCompile(line).MatchString(i.log.String()) })
	}
}

// S148: nothing changes for a host that no rule names; a client that does not trust the authority fails.
func TestS148OnlyNamedHostsAreIntercepted(t *testing.T) {
	i := startIntercepting(t, confK)
	i.fakes[0].SetBehaviour(lab.Behaviour{TunnelTo: i.good})
	out, err := i.curl("--cacert", i.target, "https://other.test/")
	require.NoError(t, err, out)
	require.Contains(t, out, "hello other.test HTTP/2.0 GET")
	require.NotContains(t, i.scrape(), `listener="intercept"`)
	_, err = i.curl("https://other.test/")
	require.Error(t, err, "the certificate is not the gateway's")
	for range 3 {
		_, err = i.curl("--cacert", i.target, "https://site.test/")
		require.Error(t, err, "the certificate is the gateway's")
	}
	eventually(t, "the refusals are counted", func() bool {
		return strings.Contains(i.scrape(), `whirlpool_intercept_handshakes_total{outcome="failure"} 3`)
	})
	eventually(t, "the first refusal is logged", func() bool {
		return strings.Contains(i.log.String(), "a client does not accept the certificate")
	})
	require.Equal(t, 1, strings.Count(i.log.String(), "a client does not accept the certificate"))
}

// S149: a browser, and a WebSocket.
func TestS149InterceptedBrowser(t *testing.T) {
	i := startIntercepting(t, confK)
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(i.ca)
	require.NoError(t, err)
	roots.AppendCertsFromPEM(pem)
	open := func() *tls.Conn {
		raw, err := net.Dial("tcp", i.gateway)
		require.NoError(t, err)
		t.Cleanup(func() { raw.Close() })
		fmt.Fprint(raw, "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(raw), &http.Request{Method: "CONNECT"})
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		c := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "site.test"})
		require.NoError(t, c.Handshake())
		return c
	}
	c := open()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	for range 3 {
		fmt.Fprint(c, "ping")
		got := make([]byte, 4)
		_, err = io.ReadFull(r, got)
		require.NoError(t, err)
		require.Equal(t, "ping", string(got))
	}
	leaf := c.ConnectionState().PeerCertificates[0]
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	page, err := i.run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--proxy-server="+i.gateway,
		"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(key[:]), "--dump-dom",
		"https://www.site.test/")
	require.NoError(t, err, page)
	require.Contains(t, page, "hello www.site.test HTTP/2.0 GET")
}

// The key of the authority is in no response of the API and in no log record.
func TestTheAuthorityKeyIsSecret(t *testing.T) {
	i := startIntercepting(t, "[log]\nlevel = \"debug\"\n")
	i.curl("https://site.test/")
	key, err := os.ReadFile(strings.TrimSuffix(i.ca, ".pem") + ".key")
	require.NoError(t, err)
	text := strings.Split(string(key), "\n")[1]
	require.Greater(t, len(text), 40)
	for _, path := range []string{"/config", "/requests", "/metrics/retries", "/users"} {
		_, body, _ := i.call("GET", path, "")
		require.NotContains(t, string(body), text)
		require.NotContains(t, string(body), "PRIVATE KEY")
	}
	require.NotContains(t, i.log.String(), text)
	require.NotContains(t, i.log.String(), "PRIVATE KEY")
}

// A gRPC call with a stream in each direction works in an intercepted tunnel and in an ordinary one.
func TestS227GRPC(t *testing.T) {
	i := startIntercepting(t, "")
	i.setAll(lab.Behaviour{TunnelTo: i.good})
	for host, authority := range map[string]string{"site.test": i.ca, "other.test": i.target} {
		pem, err := os.ReadFile(authority)
		require.NoError(t, err)
		roots := x509.NewCertPool()
		require.True(t, roots.AppendCertsFromPEM(pem))
		tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: i.gateway})}
		defer tr.CloseIdleConnections()
		body, send := io.Pipe()
		q, err := http.NewRequest("POST", "https://"+host+"/service/Method", body)
		require.NoError(t, err)
		q.Header.Set("Content-Type", "application/grpc")
		q.Header.Set("Te", "trailers")
		r, err := tr.RoundTrip(q)
		require.NoError(t, err, host)
		require.Equal(t, 2, r.ProtoMajor, host)
		lines := bufio.NewReader(r.Body)
		for n := range 3 {
			fmt.Fprintln(send, n)
			line, err := lines.ReadString('\n')
			require.NoError(t, err, host)
			require.Equal(t, fmt.Sprintln(n), line)
		}
		send.Close()
		_, err = io.ReadAll(lines)
		require.NoError(t, err)
		require.Equal(t, "0", r.Trailer.Get("Grpc-Status"), host)
	}
}
