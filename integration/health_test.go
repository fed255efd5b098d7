package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// checked returns the view of a proxy once its last health check has a result.
func (w *whirl) checked(id string, passed bool) map[string]any {
	w.t.Helper()
	var p map[string]any
	eventually(w.t, id+": a health check with the result", func() bool {
		p = w.json("/proxies/" + id)
		check, ok := p["last_check"].(map[string]any)
		return ok && check["passed"] == passed
	})
	return p
}

func abilities(p map[string]any) (forward, tls, other any) {
	a := p["abilities"].(map[string]any)
	state := func(key string) any { return a[key].(map[string]any)["state"] }
	return state("forward"), state("connect_443"), state("connect_other")
}

// Checks with an http:// URL: what each proxy can do, before any request.
func TestHealthChecks(t *testing.T) {
	host, _ := origin(t)
	w := start(t, 5, byTurns+"[breaker]\nfailure_threshold = 3\n")
	ok := lab.Behaviour{Body: "origin\n", Header: http.Header{"X-Exit": {"192.0.2.9"}}}
	w.fakes[0].Do(ok)
	w.fakes[1].Set(connectOnly(404))
	w.fakes[2].Set(func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.Status(400)
		}
		return ok
	})
	w.fakes[3].Set(func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.Status(502)
		}
		return lab.Behaviour{Body: "a login page"}
	})
	w.fakes[4].Refuse()
	w.write(byTurns + "[health]\nurl = \"http://" + host + "/check?key=hunter2secret\"\ninterval = \"1s\"\n" +
		"expect = { status = 200, body = \"origin\" }\nexit = \"X-Exit\"\n")
	for id, want := range map[string][3]string{
		"F1": {"yes", "unknown", "yes"}, "F2": {"no", "unknown", "yes"}, "F3": {"yes", "unknown", "no"},
	} {
		p := w.checked(id, true)
		forward, tls, other := abilities(p)
		require.Equal(t, want, [3]string{forward.(string), tls.(string), other.(string)}, id)
		require.Positive(t, p["last_check"].(map[string]any)["latency"])
		require.Equal(t, 0.0, p["uses"])
	}
	require.Equal(t, "192.0.2.9", w.json("/proxies/F1")["exit_address"])
	require.Equal(t, "", w.json("/proxies/F2")["exit_address"])
	require.Equal(t, "the body is different", w.checked("F4", false)["last_check"].(map[string]any)["error"])
	require.True(t, w.checked("F5", false)["unreached"].(bool))
	w.clear()
	for range 8 {
		require.Equal(t, 200, w.request("GET", "http://"+host+"/", "").status)
		status, h, c := w.connect(host)
		require.Equal(t, 200, status)
		require.NotEqual(t, "F3", h.Get("X-Whirlpool-Proxy-Id"))
		c.Close()
	}
	eventually(t, "F4's breaker opens", func() bool { return w.breaker("F4")["state"] == "open" })
	r, err := http.Get("http://" + w.api + "/metrics")
	require.NoError(t, err)
	metrics, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	r.Body.Close()
	require.Regexp(t, `whirlpool_health_checks_total{result="passed"} [1-9]`, string(metrics))
	require.Regexp(t, `whirlpool_health_checks_total{result="failed"} [1-9]`, string(metrics))
	w.json("/config") // call looks for the secret
	w.write(byTurns)
	eventually(t, "no more checks", func() bool { return w.json("/proxies/F1")["last_check"] == nil })
}

// Checks with an https:// URL find proxies that intercept TLS, and those that open no tunnels.
func TestHealthChecksWithTLS(t *testing.T) {
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(204)
	}))
	target.Config.ErrorLog = log.New(io.Discard, "", 0)
	target.StartTLS()
	t.Cleanup(target.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: target.Certificate().Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	host := strings.TrimPrefix(target.URL, "https://")
	w := start(t, 3, byTurns)
	w.fakes[1].Do(lab.Behaviour{To: selfSigned(t)})
	w.fakes[2].Set(getOnly(403))
	w.write(byTurns + "[health]\nurl = \"" + target.URL + "\"\ninterval = \"500ms\"\nexpect = { status = 204 }\n")
	w.checked("F1", true)
	eventually(t, "F2 intercepts TLS", func() bool {
		check, ok := w.json("/proxies/F2")["last_check"].(map[string]any)
		return ok && check["tls_intercepted"] == true
	})
	eventually(t, "F3 opens no tunnels", func() bool {
		_, _, other := abilities(w.json("/proxies/F3"))
		return other == "no"
	})
	for range 6 {
		status, h, c := w.connect(host)
		require.Equal(t, 200, status)
		require.Equal(t, "F1", h.Get("X-Whirlpool-Proxy-Id"))
		c.Close()
	}
	require.Equal(t, 200, w.get().status)
}

// An open breaker is closed by a check, without a request.
func TestAHealthCheckIsTheProbe(t *testing.T) {
	host, _ := origin(t)
	w := start(t, 1, confKB+"[health]\nurl = \"http://"+host+"/\"\ninterval = \"1h\"\n")
	w.checked("F1", true)
	w.fakes[0].Do(lab.Status(503))
	for range 5 {
		w.get()
	}
	require.Equal(t, "open", w.breaker("F1")["state"])
	w.clear()
	eventually(t, "a check that fails opens the breaker again", func() bool {
		return strings.Contains(w.log.String(), "reason=probe_failure")
	})
	w.fakes[0].Do(lab.OK())
	eventually(t, "a check closes the breaker", func() bool { return w.breaker("F1")["state"] == "closed" })
	for _, a := range w.fakes[0].Arrivals() {
		if a.Method != http.MethodConnect && strings.HasPrefix(a.Target, "http") {
			require.Equal(t, "Whirlpool-Health-Check", a.Header.Get("User-Agent"))
		}
	}
	require.Equal(t, 200, w.get().status)
}

// selfSigned runs a TLS server with a certificate that nobody trusts. It returns its address.
func selfSigned(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
