package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// brokenTunnels are ways in which a proxy accepts a CONNECT and then forwards nothing.
var brokenTunnels = map[string]func(net.Conn){
	"closes at once": func(net.Conn) {},
	"closes after the ClientHello": func(c net.Conn) {
		c.Read(make([]byte, 1))
	},
	"resets after the ClientHello": func(c net.Conn) {
		c.Read(make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	},
	"sends an error page after the ClientHello": func(c net.Conn) {
		c.Read(make([]byte, 1))
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	},
	"sends a fatal alert after the ClientHello": func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write(internalError)
	},
	"passes nothing on": func(c net.Conn) { io.Copy(io.Discard, c) },
}

// internalError is a fatal TLS alert.
var internalError = []byte{21, 3, 3, 0, 2, 2, 80}

// Three of eight proxies accept each CONNECT and forward nothing. Every TLS handshake succeeds, and the breakers of
// the three proxies open soon.
func TestTunnelsAreRetriedUntilTheFirstByte(t *testing.T) {
	for name, broken := range brokenTunnels {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, 8, "[retry]\nmax_attempts = 4\n")
			site := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				fmt.Fprint(rw, "hello")
			}))
			defer site.Close()
			dead := coretest.Serve(t, broken)
			for i, f := range w.fakes {
				f.SetBehaviour(lab.Behaviour{TunnelTo: site.Listener.Addr().String()})
				if i < 3 {
					f.SetBehaviour(lab.Behaviour{TunnelTo: dead})
				}
			}
			var failed atomic.Int64
			var wg sync.WaitGroup
			const workers, requests = 8, 15
			for range workers {
				wg.Go(func() {
					for range requests {
						if err := fetchOverTLS(w, "site.test:443"); err != nil {
							failed.Add(1)
							t.Log(err)
						}
					}
				})
			}
			wg.Wait()
			w.awaitIdle()
			assert.Zero(t, failed.Load())
			for _, f := range w.fakes[3:] {
				assert.Equal(t, "closed", w.breaker(f.Name)["state"])
			}
			assert.EqualValues(t, workers*requests, w.getJSON("/metrics/retries")["total_requests"])
			w.reconcile(0)
		})
	}
}

// fetchOverTLS opens a tunnel and makes one HTTPS request in it.
func fetchOverTLS(w *whirl, target string) error {
	c, err := net.Dial("tcp", w.gateway)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(eventTimeout))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	r := bufio.NewReader(c)
	a, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil {
		return err
	}
	if a.StatusCode != 200 {
		return fmt.Errorf("CONNECT got %d", a.StatusCode)
	}
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	fmt.Fprintf(tc, "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
	body, err := io.ReadAll(tc)
	if err != nil && len(body) == 0 {
		return err
	}
	return nil
}

// Bytes that are not a ClientHello are never sent again, because they may have had an effect.
func TestOtherBytesAreNotSentAgain(t *testing.T) {
	w := start(t, 3, "")
	var got atomic.Int64
	dead := coretest.Serve(t, func(c net.Conn) {
		if n, _ := c.Read(make([]byte, 64)); n > 0 {
			got.Add(1)
		}
	})
	w.setAll(lab.Behaviour{TunnelTo: dead})
	for range 6 {
		status, _, c := w.connect("site.test:443")
		require.Equal(t, 200, status)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(eventTimeout))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		c.Close()
	}
	require.EqualValues(t, 6, got.Load())
}

// If a target has no TLS, or refuses the handshake with an alert, the gateway tries each other proxy at most once.
// Then the client gets the bytes of the target.
func TestATargetWithoutTLS(t *testing.T) {
	page := []byte("HTTP/1.1 400 Bad Request\r\n\r\n")
	t.Run("one proxy", func(t *testing.T) { testTargetWithoutTLS(t, 1, "", 20, page) })
	t.Run("two proxies", func(t *testing.T) { testTargetWithoutTLS(t, 2, "", 60, page) })
	t.Run("three proxies", func(t *testing.T) { testTargetWithoutTLS(t, 3, "", 60, page) })
	t.Run("retry budget", func(t *testing.T) {
		testTargetWithoutTLS(t, 3, "[retry_budget]\nratio = 0.01\nmin_per_second = 0\n", 20, page)
	})
	t.Run("alert", func(t *testing.T) { testTargetWithoutTLS(t, 3, "", 60, internalError) })
}

func testTargetWithoutTLS(t *testing.T, proxies int, config string, requests int, reply []byte) {
	w := start(t, proxies, config)
	plain := coretest.Serve(t, func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write(reply)
	})
	w.setAll(lab.Behaviour{TunnelTo: plain})
	for range requests {
		err := fetchOverTLS(w, "plain.test:443")
		if reply[0] == internalError[0] {
			require.ErrorContains(t, err, "internal error")
			continue
		}
		var noTLS tls.RecordHeaderError
		require.ErrorAs(t, err, &noTLS)
		require.Equal(t, "HTTP/", string(noTLS.RecordHeader[:]))
	}
	w.awaitIdle()
	require.LessOrEqual(t, w.arrivals(), proxies*requests, "each proxy is tried once at most")
	for _, f := range w.fakes {
		require.Equal(t, "closed", w.breaker(f.Name)["state"])
	}
	w.reconcile(0)
}

// The client gets the reply of a target without TLS although the tunnels through the other proxies fail later.
func TestAReplyWithoutTLSIsNotLost(t *testing.T) {
	for name, then := range map[string]func(net.Conn){
		"the other tunnel ends":      func(net.Conn) {},
		"the other tunnel is silent": func(c net.Conn) { io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, 2, "[timeouts]\nattempt = \"5s\"\n") // the first reply must come in this time
			var arrivals atomic.Int64
			w.setAll(lab.Behaviour{TunnelTo: coretest.Serve(t, func(c net.Conn) {
				c.Read(make([]byte, 4096))
				if arrivals.Add(1) == 1 {
					io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
					return
				}
				then(c)
			})})
			var noTLS tls.RecordHeaderError
			require.ErrorAs(t, fetchOverTLS(w, "plain.test:443"), &noTLS)
			require.GreaterOrEqual(t, arrivals.Load(), int64(2))
			w.awaitIdle()
			for _, a := range w.requests("done")[0]["attempts"].([]any) {
				require.NotEqual(t, "success", a.(map[string]any)["outcome"], "%v", w.requests("done"))
			}
			for _, f := range w.fakes {
				require.Equal(t, "closed", w.breaker(f.Name)["state"])
			}
			w.reconcile(0)
		})
	}
}

// An open tunnel that its client does not use is not replaced.
func TestAnUnusedTunnelIsNotReplaced(t *testing.T) {
	w := start(t, 3, "")
	w.setAll(lab.Behaviour{TunnelTo: coretest.Serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })})
	for range 20 { // so that latencies are known
		_, _, c := w.connect("site.test:443")
		c.Close()
	}
	_, _, c := w.connect("site.test:443")
	defer c.Close()
	before := w.arrivals()
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	require.Equal(t, before, w.arrivals())
}

// Two kinds of tunnels are not ended: one whose client sends more than a ClientHello before the target has
// sent anything, and one whose target is slow.
func TestASlowTunnelIsNotReplaced(t *testing.T) {
	w := start(t, 3, "")
	site := coretest.Serve(t, func(c net.Conn) {
		c.Read(make([]byte, 64<<10))
		time.Sleep(3 * time.Second)
		io.WriteString(c, "late")
	})
	w.setAll(lab.Behaviour{TunnelTo: site})
	for range 12 { // so that latencies are known
		_, _, c := w.connect("site.test:443")
		c.Close()
	}
	_, _, c := w.connect("site.test:443")
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	go tc.Handshake()
	time.Sleep(200 * time.Millisecond)
	_, err := c.Write([]byte{20, 3, 3, 0, 1, 1}) // so the client has sent more than a ClientHello
	require.NoError(t, err)
	eventually(t, "the target's bytes", func() bool {
		return w.getJSON("/metrics/retries")["total_requests"].(float64) >= 13
	})
	w.reconcile(0)
}

// Targets close the tunnels that browsers open in reserve. The attempts are excluded, and nothing is retried.
func TestAReservedTunnelIsChargedToNoProxy(t *testing.T) {
	w := start(t, 3, "")
	var open sync.WaitGroup
	open.Add(1)
	w.setAll(lab.Behaviour{TunnelTo: coretest.Serve(t, func(net.Conn) { open.Wait() })})
	w.sendWithoutResponse("", open.Done)
}

// sendWithoutResponse opens twelve tunnels, and sends the text through each. Then it calls the function end, which
// makes the target close the tunnels, and waits until they are closed. It requires that nothing was retried and no
// proxy was charged.
func (w *whirl) sendWithoutResponse(text string, end func()) {
	w.t.Helper()
	var wg sync.WaitGroup
	for range 12 {
		_, _, c := w.connect("site.test:443")
		io.WriteString(c, text)
		wg.Go(func() { c.Read(make([]byte, 1)) })
	}
	time.Sleep(1500 * time.Millisecond) // a tunnel that is closed within 1 s of its opening is charged
	end()
	wg.Wait()
	eventually(w.t, "the last tunnel is recorded", func() bool {
		return w.getJSON("/metrics/retries")["total_requests"] == 12.0
	})
	w.reconcile(0)
	require.Equal(w.t, 12, w.arrivals())
	for _, f := range w.fakes {
		require.Zero(w.t, w.breaker(f.Name)["failure_count"])
	}
}

// A client sends a part of a ClientHello and waits until the target closes the tunnel. The target cannot respond to
// such a part, so the attempt is excluded and not retried.
func TestAnUnfinishedClientHelloChargesNoProxy(t *testing.T) {
	w := start(t, 3, "")
	var open sync.WaitGroup
	open.Add(1)
	w.setAll(lab.Behaviour{TunnelTo: coretest.Serve(t, func(c net.Conn) {
		open.Wait()
		c.Read(make([]byte, 64))
	})})
	w.sendWithoutResponse("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", open.Done)
}
