package transport

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// An https:// proxy is verified by its ca_file, or not at all if insecure is set, and gets the client
// certificate. After a change of the options, earlier sessions are not resumed.
func TestTLSOfAProxy(t *testing.T) {
	a, clients, dir := testcert.NewAuthority(t), testcert.NewAuthority(t), t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	ca, other := write("ca.pem", a.PEM), write("other.pem", clients.PEM)
	certPEM, keyPEM := clients.Issue(t, "gateway")
	cert, key := write("cert.pem", certPEM), write("key.pem", keyPEM)
	config := &tls.Config{
		Certificates: []tls.Certificate{a.Pair(t, "proxy")}, ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs: clients.Pool(),
	}
	names := make(chan string, 10)
	address := coretest.Serve(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() != nil {
			return
		}
		name := ""
		if certs := s.ConnectionState().PeerCertificates; len(certs) > 0 {
			name = certs[0].Subject.CommonName
		}
		names <- name
		io.ReadFull(s, make([]byte, 10))
		io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(io.Discard, s)
	})
	tr := New(Config{})
	defer tr.Close()
	connect := func(o upstream.TLSOptions) *verdict.Error {
		own, err := upstream.LoadTLS(o, os.ReadFile)
		require.NoError(t, err)
		u := proxyWith(t, "https://"+address, func(s *upstream.Spec) { s.Extras = &upstream.Extras{TLS: own} })
		control := &Control{Deadline: time.Now().Add(30 * time.Second)}
		tun, verr := tr.OpenTunnel(context.Background(), u, control, "a.test:443")
		if verr == nil {
			tun.Conn.Close()
		}
		return verr
	}
	require.NotNil(t, connect(upstream.TLSOptions{}), "an authority that the system does not know")
	require.NotNil(t, connect(upstream.TLSOptions{CAFile: other}))
	require.Nil(t, connect(upstream.TLSOptions{CAFile: ca}))
	require.Equal(t, "", <-names)
	require.Nil(t, connect(upstream.TLSOptions{CAFile: other, Insecure: true}))
	require.Equal(t, "", <-names)
	require.Nil(t, connect(upstream.TLSOptions{CAFile: ca, Cert: cert, Key: key}))
	require.Equal(t, "gateway", <-names)
}
