package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// awaitCheck waits until a proxy's last health check has the given result, and returns the view of the proxy.
func (w *whirl) awaitCheck(id string, passed bool) map[string]any {
	w.t.Helper()
	var p map[string]any
	eventually(w.t, id+": a health check with the result", func() bool {
		p = w.getJSON("/proxies/" + id)
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

// Health checks with an http:// URL determine the abilities of each proxy before any request.
func TestHealthChecks(t *testing.T) {
	host := responder(t, nil)
	w := start(t, 5, notAdaptive+roundRobin+"[breaker]\nfailure_threshold = 3\n")
	ok := lab.Behaviour{Body: "127.0.0.1", Header: http.Header{lab.ExitField: {"192.0.2.9"}}} // in place of the target
	w.fakes[0].SetBehaviour(ok)
	w.fakes[1].SetScript(connectOnly(404))
	w.fakes[2].SetScript(func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.Status(400)
		}
		return ok
	})
	w.fakes[3].SetScript(func(_ int, q *http.Request) lab.Behaviour {
		if q.Method == http.MethodConnect {
			return lab.Status(502)
		}
		return lab.Behaviour{Body: "a login page"}
	})
	w.fakes[4].Refuse()
	w.writeConfig(roundRobin + "[health]\nurl = \"http://" + host + "/check?key=hunter2secret\"\ninterval = \"1s\"\n" +
		"expect = { status = 200, body = \"127.0.0.1\" }\nexit = \"" + lab.ExitField + "\"\n")
	for id, want := range map[string][3]string{
		"F1": {"yes", "unknown", "yes"}, "F2": {"no", "unknown", "yes"}, "F3": {"yes", "unknown", "no"},
	} {
		p := w.awaitCheck(id, true)
		forward, tls, other := abilities(p)
		require.Equal(t, want, [3]string{forward.(string), tls.(string), other.(string)}, id)
		require.Positive(t, p["last_check"].(map[string]any)["latency"])
		require.Equal(t, 0.0, p["uses"])
	}
	require.Equal(t, "192.0.2.9", w.getJSON("/proxies/F1")["exit_address"])
	require.Equal(t, "127.0.0.1", w.getJSON("/proxies/F2")["exit_address"],
		"through the tunnel the target itself states it")
	require.Equal(t, "the body is different", w.awaitCheck("F4", false)["last_check"].(map[string]any)["error"])
	require.True(t, w.awaitCheck("F5", false)["unreached"].(bool))
	w.clearArrivals()
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
	w.getJSON("/config") // so that call searches the response for the secret
	w.writeConfig(roundRobin)
	eventually(t, "no more checks", func() bool { return w.getJSON("/proxies/F1")["last_check"] == nil })
}

// Health checks with an https:// URL detect proxies that intercept TLS, and proxies that open no
// tunnels.
func TestHealthChecksWithTLS(t *testing.T) {
	trusted := selfSigned(t)
	host, file := responder(t, trusted), filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: trusted.Certificate[0]}), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	w := start(t, 3, notAdaptive+roundRobin)
	w.fakes[1].SetBehaviour(lab.Behaviour{TunnelTo: responder(t, selfSigned(t))})
	w.fakes[2].SetScript(getOnly(403))
	w.writeConfig(roundRobin + "[health]\nurl = \"https://" + host + "\"\ninterval = \"500ms\"\nexit = \"body\"\n")
	require.Equal(t, "127.0.0.1", w.awaitCheck("F1", true)["exit_address"])
	eventually(t, "F2 intercepts TLS", func() bool {
		check, ok := w.getJSON("/proxies/F2")["last_check"].(map[string]any)
		return ok && check["tls_intercepted"] == true
	})
	eventually(t, "F3 opens no tunnels", func() bool {
		_, _, other := abilities(w.getJSON("/proxies/F3"))
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

// A health check closes an open breaker without a request.
func TestAHealthCheckIsTheProbe(t *testing.T) {
	host := responder(t, nil)
	w := start(t, 1, strings.Replace(confKB, `"2s"`, `"10m"`, 1)+"[health]\nurl = \"http://"+host+
		"/\"\ninterval = \"1h\"\n")
	w.awaitCheck("F1", true)
	w.fakes[0].SetBehaviour(lab.Status(503))
	for range 5 {
		w.get()
	}
	require.Equal(t, []string{"open"}, w.transitions("F1")[:1])
	w.clearArrivals()
	eventually(t, "a check that fails opens the breaker again", func() bool {
		return strings.Contains(w.log.String(), "reason=probe_failure")
	})
	w.fakes[0].SetBehaviour(lab.OK())
	eventually(t, "a check closes the breaker", func() bool { return w.breaker("F1")["state"] == "closed" })
	for _, a := range w.fakes[0].Arrivals() {
		if a.Method != http.MethodConnect && strings.HasPrefix(a.Target, "http") {
			require.Equal(t, "Whirlpool-Health-Check", a.Header.Get("User-Agent"))
		}
	}
	require.Equal(t, 200, w.get().status)
}

// selfSigned returns a certificate for 127.0.0.1. It is valid only for clients that have it as a root.
func selfSigned(t *testing.T) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// responder starts a target of health checks.
func responder(t *testing.T, certificate *tls.Certificate) string {
	r, err := lab.StartResponder("127.0.0.1:0", certificate)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r.Addr
}
