package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// secure returns the TLS settings of a listener.
func secure(t testing.TB, a *testcert.Authority) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.Pair(t, "gateway")}, NextProtos: []string{"http/1.1"},
		ClientCAs: a.Pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}
}

// dialTLS opens a TLS connection with a client certificate, if there is one.
func (r *rig) dialTLS(a *testcert.Authority, certs ...tls.Certificate) (*tls.Conn, error) {
	c, err := tls.Dial("tcp", r.listener.Addr().String(), &tls.Config{RootCAs: a.Pool(), Certificates: certs})
	if err == nil {
		r.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// ask sends a request and returns the response with its body.
func askOver(t testing.TB, c net.Conn, request string) (*http.Response, string) {
	t.Helper()
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	a, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: strings.Fields(request)[0]})
	require.NoError(t, err)
	body, err := io.ReadAll(a.Body)
	require.NoError(t, err)
	return a, string(body)
}

const plainGet = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"

// heldConn sends a value to the channel got when it has read bytes. It returns the bytes only after the channel release
// was closed.
type heldConn struct {
	net.Conn
	got, release chan struct{}
}

func (c heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got <- struct{}{}
	<-c.release
	return n, err
}

func TestADrainDuringATLSHandshake(t *testing.T) {
	log := &lockedBuffer{}
	r := newRig(t, nil, func(o *options) {
		o.TLS = secure(t, testcert.NewAuthority(t))
		o.log = slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})
	})
	held := heldConn{r.dial(), make(chan struct{}, 10), make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		tls.Client(held, &tls.Config{ServerName: "gateway"}).Handshake()
		close(ended)
	}()
	<-held.got // the gateway waits for the client's part of the handshake
	r.listener.Close()
	r.Shutdown(context.Background())
	held.Close()
	close(held.release)
	<-ended
	require.Contains(t, log.String(), "the gateway drained before the end of a TLS handshake with a client")
}

// HTTP, CONNECT and SOCKS5 work over TLS. A reload that changes the certificate, or turns TLS off, closes no
// connection.
func TestTLS(t *testing.T) {
	a := testcert.NewAuthority(t)
	r := newRig(t, answering(func(*http.Request, string) string { return ok("hello") }),
		func(o *options) { o.TLS = secure(t, a) })
	c, err := r.dialTLS(a)
	require.NoError(t, err)
	require.Equal(t, "http/1.1", negotiated(t, r, a))
	for range 2 {
		response, body := askOver(t, c, plainGet+"\r\n")
		require.Equal(t, 200, response.StatusCode)
		require.Equal(t, "hello", body)
	}
	other := testcert.NewAuthority(t)
	set := r.settings.Load().Settings
	set.TLS = secure(t, other)
	r.Apply(set)
	_, err = r.dialTLS(a)
	require.Error(t, err, "the new certificate is another authority's")
	_, err = r.dialTLS(other)
	require.NoError(t, err)
	response, _ := askOver(t, c, plainGet+"\r\n")
	require.Equal(t, 200, response.StatusCode, "the old connection goes on")

	plain, _ := r.ask(plainGet + "\r\n").answer("GET")
	require.Equal(t, 400, plain.StatusCode)
	require.Contains(t, plain.Status, "TLS")

	set.TLS = nil
	r.Apply(set)
	plain, _ = r.ask(plainGet + "\r\n").answer("GET")
	require.Equal(t, 200, plain.StatusCode)
}

func negotiated(t *testing.T, r *rig, a *testcert.Authority) string {
	c, err := tls.Dial("tcp", r.listener.Addr().String(),
		&tls.Config{RootCAs: a.Pool(), NextProtos: []string{"h2", "http/1.1"}})
	require.NoError(t, err)
	defer c.Close()
	return c.ConnectionState().NegotiatedProtocol
}

// A client that has a certificate is the user whom the certificate names, over HTTP and SOCKS5. If the client
// also sends credentials, these decide.
func TestClientCertificates(t *testing.T) {
	a := testcert.NewAuthority(t)
	r := newRig(t, answering(func(*http.Request, string) string { return ok("") }), func(o *options) {
		o.TLS = secure(t, a)
		o.Users = []User{{Name: "ann"}, {Name: "bob.test", Limits: access.Limits{RequestsPerDay: 1}},
			{Name: "eve", Password: "p"}}
	})
	status := func(fields string, certs ...tls.Certificate) int {
		c, err := r.dialTLS(a, certs...)
		require.NoError(t, err)
		response, _ := askOver(t, c, plainGet+fields+"\r\n")
		return response.StatusCode
	}
	require.Equal(t, 407, status(""))
	require.Equal(t, 407, status("", a.Pair(t, "nobody", "other.test")))
	require.Equal(t, 200, status("", a.Pair(t, "ann")))
	require.Equal(t, 200, status("", a.Pair(t, "x", "y.test", "bob.test")))
	require.Equal(t, 429, status("", a.Pair(t, "bob.test")), "the limits are those of the user")
	require.Equal(t, 200, status(loginField("eve", "p"), a.Pair(t, "nobody")))
	require.Equal(t, 407, status(loginField("eve", "q"), a.Pair(t, "ann")))
	require.Equal(t, 407, status(loginField("ann", "")), "a user without a password has none")

	c, err := r.dialTLS(a, testcert.NewAuthority(t).Pair(t, "ann"))
	if err == nil { // TLS 1.3: the client gets the refusal of its certificate with the first read
		_, err = c.Read(make([]byte, 1))
	}
	require.Error(t, err, "a certificate of another authority")

	c, err = r.dialTLS(a, a.Pair(t, "ann"))
	require.NoError(t, err)
	_, err = io.WriteString(c, "\x05\x01\x00")
	require.NoError(t, err)
	reply := make([]byte, 2)
	_, err = io.ReadFull(c, reply)
	require.NoError(t, err)
	require.Equal(t, []byte{5, 0}, reply, "no password is required")

	c, err = r.dialTLS(a, a.Pair(t, "ann"))
	require.NoError(t, err)
	response, _ := askOver(t, c, plainGet+"\r\n")
	require.Equal(t, 200, response.StatusCode)
	set := r.settings.Load().Settings
	set.Users = []User{{Name: "eve", Password: "p"}}
	r.Apply(set)
	response, _ = askOver(t, c, plainGet+"\r\n")
	require.Equal(t, 407, response.StatusCode, "a removed user is refused on an old connection")
}

// The connection of a client that begins no handshake, or does not finish it, is closed after the time for a
// head.
func TestSlowHandshakes(t *testing.T) {
	a := testcert.NewAuthority(t)
	for _, sent := range []string{"", "\x16\x03\x01\x02"} {
		r := newRig(t, nil, func(o *options) { o.TLS, o.Head = secure(t, a), 50*time.Millisecond })
		c := r.dial()
		c.send(sent)
		_, err := io.Copy(io.Discard, c.r) // a reset, if the bytes and the deadline come together
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

// A client beyond the limit gets its refusal over TLS: a 503, or the reply of SOCKS5.
func TestARefusalOverTLS(t *testing.T) {
	a := testcert.NewAuthority(t)
	held := make(chan struct{})
	r := newRig(t, answering(func(*http.Request, string) string { <-held; return ok("") }),
		func(o *options) {
			o.TLS, o.MaxConnections = secure(t, a), 1
			patient(o) // a refusal waits for the first byte of a client for refusalWait only
		})
	defer close(held)
	c, err := r.dialTLS(a)
	require.NoError(t, err)
	_, err = io.WriteString(c, plainGet+"\r\n")
	require.NoError(t, err)
	r.eventually("it has a request", func() bool { return r.proxy.InFlight() == 1 })
	c, err = r.dialTLS(a)
	require.NoError(t, err)
	response, body := askOver(t, c, plainGet+"\r\n")
	require.Equal(t, 503, response.StatusCode, body)

	c, err = r.dialTLS(a)
	require.NoError(t, err)
	_, err = io.WriteString(c, socksHello)
	require.NoError(t, err)
	replies := make([]byte, 12)
	_, err = io.ReadFull(c, replies)
	require.NoError(t, err)
	require.Equal(t, "\x05\x00\x05\x01", string(replies[:4]))
}
