package engine_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A reload decides which hosts are intercepted: those that a rule names, except for the excluded ones.
func TestAReloadChangesInterception(t *testing.T) {
	targets := testcert.NewAuthority(t)
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	target.TLS = &tls.Config{Certificates: []tls.Certificate{targets.Pair(t, "target", "a.test", "b.test")}}
	target.Config.ErrorLog = log.New(io.Discard, "", 0)
	target.StartTLS()
	defer target.Close()
	certPEM, keyPEM, err := intercept.Create(intercept.Options{Name: "ours"}, time.Now())
	require.NoError(t, err)
	authority, err := intercept.Load(certPEM, keyPEM, time.Now)
	require.NoError(t, err)

	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "direct", Address: upstream.Address{Scheme: upstream.Direct}}}
	cfg.Egress.Allow = []string{"127.0.0.0/8"}
	cfg.Intercept.Authority = authority
	cfg.Rules = []rules.Rule{{
		When: rules.Conditions{Hosts: []string{"*.test"}}, Then: rules.Actions{Routing: rules.Routing{Intercept: true}},
	}}
	e, err := engine.New(cfg, engine.Options{
		Plugins: rotation{}, RootCAs: targets.Pool(),
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, target.Listener.Addr().String())
		},
	})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go e.Serve(l)

	both := targets.Pool()
	require.True(t, both.AppendCertsFromPEM(certPEM))
	issuer := func(host string) string {
		tr := &http.Transport{
			Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()}),
			TLSClientConfig: &tls.Config{RootCAs: both}, DisableKeepAlives: true,
		}
		resp, err := (&http.Client{Transport: tr}).Get("https://" + host + "/")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		return resp.TLS.PeerCertificates[0].Issuer.CommonName
	}
	require.Equal(t, "ours", issuer("a.test"))
	require.Equal(t, "ours", issuer("b.test"))
	cfg.Intercept.Exclude = []string{"B.test"}
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Equal(t, "ours", issuer("a.test"))
	require.Equal(t, "authority", issuer("b.test"))
	cfg.Rules = nil
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Equal(t, "authority", issuer("a.test"))
	cfg.Rules = []rules.Rule{{
		When: rules.Conditions{Hosts: []string{"a.test"}}, Then: rules.Actions{Routing: rules.Routing{Intercept: true}},
	}}
	cfg.Intercept = engine.Intercept{}
	require.ErrorContains(t, e.Reload(cfg, rotation{}), "needs Intercept.Authority")
	require.Equal(t, "authority", issuer("a.test"))
}
