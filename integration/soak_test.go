package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/coretest/testcert"
)

// soakTime returns the length of the soak: WHIRLPOOL_SOAK, or 60 s, or 5 s with -short.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	if set := os.Getenv("WHIRLPOOL_SOAK"); set != "" {
		d, err := time.ParseDuration(set)
		require.NoError(t, err)
		return d
	}
	if testing.Short() {
		return 5 * time.Second
	}
	return time.Minute
}

// resources returns the resident memory in bytes, the number of goroutines and the number of open files of the
// gateway.
func (w *whirl) resources() (out [3]float64) {
	w.t.Helper()
	text := w.scrape()
	for i, name := range []string{"process_resident_memory_bytes", "go_goroutines", "process_open_fds"} {
		m := regexp.MustCompile("(?m)^" + name + " (.*)$").FindStringSubmatch(text)
		require.NotNil(w.t, m, name)
		out[i], _ = strconv.ParseFloat(m[1], 64)
	}
	return out
}

// confSoak is the configuration of the soak. Because of weights and probabilities, few requests meet a proxy that
// does not respond, which takes the attempt timeout.
const confSoak = confK + "[timeouts]\nattempt = \"3s\"\nconnect = \"10s\"\nbody_idle = \"%ds\"\n" +
	"[selection]\nfirst = \"weighted\"\n"

// soak is a gateway with proxies that fail in many ways. It is killed several times, and started again with or without
// TLS on its listener.
type soak struct {
	*whirl
	behindTLS  []*tlsProxy
	hung       net.Listener // accepts connections and reads nothing
	clientTLS  *tls.Config
	configured string // the parts of the configuration with paths and addresses
	listener   string // the part with the listener's certificate

	running sync.RWMutex // read-locked during a request; guards number
	number  int          // number of this run of the gateway, from 0

	served   [2]atomic.Int64 // responses with status 200: without and with TLS on the listener
	changing sync.Mutex      // held during a change through the API, and while the gateway does not run
}

func newSoak(t *testing.T) *soak {
	s := &soak{whirl: start(t, 6, confK)}
	a := testcert.NewAuthority(t)
	s.clientTLS = &tls.Config{RootCAs: a.Pool(), ServerName: "127.0.0.1"}
	save := func(name string, data []byte) string {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	cert, key := a.Issue(t, "gateway")
	s.listener = fmt.Sprintf("[gateway]\ntls = { cert = %q, key = %q }\n", save("gateway.pem", cert),
		save("gateway.key", key))
	ca := save("ca.pem", a.PEM)
	for i := range 2 {
		p := startTLSProxy(t, fmt.Sprintf("T%d", i+1), a.Pair(t, "proxy"))
		s.behindTLS = append(s.behindTLS, p)
		s.configured += fmt.Sprintf("[[proxies]]\nid = %q\nurl = \"https://user:hunter2secret@%s\"\nca_file = %q\n",
			p.Name, p.listener.Addr(), ca)
	}
	var err error
	s.hung, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { s.hung.Close() })
	s.configured += fmt.Sprintf("[[proxies]]\nid = \"hung\"\nurl = \"http://%s\"\nweight = 0.05\n", s.hung.Addr())

	echo := coretest.Serve(t, func(c net.Conn) { io.Copy(c, c) })
	faults := []lab.Behaviour{
		{}, {}, {}, {}, {Status: 503}, {Status: 502}, {Fin: true}, {Reset: true}, {CutAfter: 100},
		{Garbage: "nonsense\r\n\r\n"},
		{Delay: 20 * time.Millisecond}, {Size: 200_000}, {Status: 404},
	}
	for i, f := range s.proxies() {
		chance := rand.New(rand.NewPCG(1, uint64(i)))
		f.SetScript(func(int, *http.Request) lab.Behaviour {
			b := faults[chance.IntN(len(faults))]
			if b.TunnelTo = echo; chance.IntN(200) == 0 {
				b = lab.Behaviour{NoResponse: true}
			}
			return b
		})
	}
	s.writeConfig(s.config())
	s.call("POST", "/config/reload", "")
	return s
}

// proxies returns all proxies that record what arrives.
func (s *soak) proxies() []*lab.Proxy {
	all := append([]*lab.Proxy(nil), s.fakes...)
	for _, p := range s.behindTLS {
		all = append(all, p.Proxy)
	}
	return all
}

// secure reports whether the listener of this run has TLS.
func (s *soak) secure() bool { return s.number%2 == 1 }

// config returns a configuration. It differs from one call to the next.
func (s *soak) config() string {
	text := fmt.Sprintf(confSoak, 50+rand.IntN(9))
	if s.secure() {
		text += s.listener
	}
	return text + s.configured
}

// host returns the name of a target. It contains the number of the run, to distinguish the arrivals of
// earlier runs.
func (s *soak) host() string { return fmt.Sprintf("t%d.run%d.test", rand.IntN(5), s.number) }

// dial connects to the gateway as a client.
func (s *soak) dial() (net.Conn, error) {
	d := &net.Dialer{Timeout: eventTimeout}
	if s.secure() {
		return tls.DialWithDialer(d, "tcp", s.gateway, s.clientTLS)
	}
	return d.Dial("tcp", s.gateway)
}

// tunnel sends some bytes through a tunnel and reads them again. All errors are permitted.
func (s *soak) tunnel() {
	c, err := s.dial()
	if err != nil {
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(eventTimeout))
	fmt.Fprintf(c, "CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", s.host())
	r := bufio.NewReader(c)
	if a, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"}); err != nil || a.StatusCode != 200 {
		return
	}
	sent := strings.Repeat("x", 10_000)
	if _, err := io.WriteString(c, sent); err == nil {
		io.ReadFull(r, make([]byte, len(sent)))
	}
}

// ask sends a request, or opens a tunnel. The requests that a kill interrupts fail.
func (s *soak) ask(i int) {
	s.running.RLock()
	defer s.running.RUnlock()
	var a response
	switch i {
	case 0:
		a = s.request("POST", "http://"+s.host()+"/", strings.Repeat("x", 1000))
	case 1:
		s.tunnel()
	default:
		a = s.request("GET", "http://"+s.host()+"/", "")
	}
	if a.err == nil && a.status == 200 {
		s.served[s.number%2].Add(1)
	}
}

// stranger is a client that sends no complete request.
func (s *soak) stranger(i int) {
	s.running.RLock()
	defer s.running.RUnlock()
	c, err := net.Dial("tcp", s.gateway)
	if i > 2 {
		c, err = s.dial()
	}
	if err != nil {
		return
	}
	defer c.Close()
	switch i {
	case 0:
		c.Write([]byte("GET http://a.test/ HTTP/1.1\r\nHost: a.te")) // half a head
	case 1:
		c.Write([]byte("\x16\x03\x01\x00\xa5\x01\x00")) // the beginning of a TLS handshake
	case 2:
		c.Write([]byte("\x05\x01\x00")) // half a SOCKS5 greeting
	case 3:
		c.Write([]byte("\x00\x01nonsense\n\n"))
	case 4:
		c.Write([]byte("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nx")) // half a body
	}
	time.Sleep(5 * time.Millisecond)
}

// change changes the policy, the breakers and the file.
func (s *soak) change() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.putPolicy(fmt.Sprintf(`{"max_attempts":%d}`, 2+rand.IntN(3)))
	s.call("POST", "/circuit-breakers/F1/reset", "")
	s.writeConfig(s.config())
	s.call("POST", "/config/reload", "")
}

// restart kills the gateway while it serves clients, and starts it again.
func (s *soak) restart() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.kill()
	s.running.Lock() // the clients' connections are reset, so their requests end
	defer s.running.Unlock()
	eventually(s.t, "the connections of the killed gateway end", func() bool {
		open := 0
		for _, p := range s.behindTLS {
			open += int(p.open.Load())
		}
		return open == 0
	})
	for _, p := range s.behindTLS {
		p.unused.Store(0)
	}
	for _, p := range s.proxies() {
		p.Clear()
	}
	s.client.CloseIdleConnections()
	s.number++
	s.writeConfig(s.config())
	s.startProcess()
	if transport := s.client.Transport.(*http.Transport); s.secure() {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "https", Host: s.gateway})
		transport.TLSClientConfig = s.clientTLS
	}
}

// uncounted returns the number by which the attempts of this run exceed the arrivals at s.fakes. It adds
// the attempts that arrived at no proxy of s.fakes, and subtracts the arrivals of other runs.
func (s *soak) uncounted() int {
	n := 0
	for _, p := range s.behindTLS {
		n += p.Count() + int(p.unused.Load())
	}
	for _, p := range s.proxies() {
		for _, a := range p.Arrivals() {
			if !strings.Contains(a.Target, fmt.Sprintf(".run%d.", s.number)) {
				n--
			}
		}
	}
	hung := s.getJSON("/metrics/retries/by-proxy")["proxies"].(map[string]any)["hung"]
	if hung != nil {
		n += int(hung.(map[string]any)["total_attempts"].(float64))
	}
	return n
}

// tlsProxy is a proxy behind a listener with TLS.
type tlsProxy struct {
	*lab.Proxy
	listener net.Listener
	open     atomic.Int64 // connections
	unused   atomic.Int64 // connections that ended before their first byte
}

func startTLSProxy(t *testing.T, name string, cert tls.Certificate) *tlsProxy {
	plain, err := lab.Start(name, "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(plain.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	p := &tlsProxy{Proxy: plain, listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.open.Add(1)
			go func() {
				defer p.open.Add(-1)
				p.relay(c)
			}()
		}
	}()
	return p
}

// relay forwards the bytes of a connection to the proxy and back.
func (p *tlsProxy) relay(c net.Conn) {
	defer c.Close()
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		p.unused.Add(1)
		return
	}
	plain, err := net.Dial("tcp", p.Addr)
	if err != nil {
		return
	}
	defer plain.Close()
	plain.Write(first[:])
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(plain, c)
		plain.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, plain)
	c.Close()
	<-done
}

// All faults happen at once. Proxies fail in every way, or hang; some of them are behind TLS. Clients leave, stop, or
// send nonsense or half a head. The pool, the policy and the configuration file change. The gateway is killed, and
// starts again with or without TLS on its listener. At the end the counts of the last run are exact, and memory,
// goroutines and descriptors have been released.
func TestS122Soak(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	for range 200 {
		s.ask(2)
	}
	s.client.CloseIdleConnections()
	before := s.resources()

	var requests, hostile atomic.Int64
	clients := coretest.RunConcurrently(8, func(i int) {
		requests.Add(1)
		s.ask(i)
		time.Sleep(soakTime(t) / 20_000) // the fakes keep every request
	})
	strangers := coretest.RunConcurrently(5, func(i int) {
		hostile.Add(1)
		s.stranger(i)
	})
	changes := coretest.RunConcurrently(1, func(int) {
		s.change()
		time.Sleep(50 * time.Millisecond)
	})
	const kills = 3
	for range kills {
		time.Sleep(soakTime(t) / (kills + 1))
		s.restart()
	}
	time.Sleep(soakTime(t) / (kills + 1))
	clients()
	strangers()
	changes()
	s.client.CloseIdleConnections()
	eventually(t, "nothing is in flight", func() bool {
		return strings.Contains(s.scrape(), "requests_in_flight 0")
	})
	s.reconcile(s.uncounted())
	for i := range s.served {
		require.NotZero(t, s.served[i].Load(), "listener with TLS: %v", i == 1)
	}
	for _, p := range s.proxies() {
		require.NotZero(t, p.Count(), "attempts of the last run at %s", p.Name)
	}
	// Idle connections to proxies stay for 90 s, and pipes of tunnels are kept.
	var after [3]float64
	back := func() bool {
		after = s.resources()
		return after[0] <= before[0]*3/2+32<<20 && after[1] <= before[1]+10 && after[2] <= before[2]+20
	}
	for begin := time.Now(); time.Since(begin) < 2*eventTimeout && !back(); {
		time.Sleep(time.Second)
	}
	require.True(t, back(), "memory, goroutines and files before and after: %v, %v", before, after)
	t.Logf("%d requests, %d and %d with status 200 without and with TLS, %d hostile clients, %d kills; before and "+
		"after: RSS %.0f, %.0f MB, goroutines %v, %v, files %v, %v", requests.Load(), s.served[0].Load(),
		s.served[1].Load(), hostile.Load(), kills, before[0]/(1<<20), after[0]/(1<<20), before[1], after[1],
		before[2], after[2])
}
