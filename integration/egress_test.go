package integration

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// direct:// reaches no address of this machine or its network, in any spelling. A proxy may have such an
// address.
func TestS115DirectReachesNoPrivateAddress(t *testing.T) {
	t.Parallel()
	w := start(t, 0, confK+"[[proxies]]\nurl = \"direct://\"\n")
	origin, err := lab.Start("origin", "127.0.0.1:0", lab.Always(lab.OK()))
	require.NoError(t, err)
	t.Cleanup(origin.Close)
	_, port, err := net.SplitHostPort(origin.Addr)
	require.NoError(t, err)
	for host, rule := range map[string]string{
		"127.0.0.1": "loopback", "localhost": "loopback", "LOCALHOST": "loopback", "[::ffff:127.0.0.1]": "loopback",
		"[64:ff9b::7f00:1]": "loopback", "[2002:7f00:1::]": "loopback", "0.0.0.0": "unspecified", "10.0.0.1": "private",
		"[fd00::1]": "private", "169.254.169.254": "metadata", "[fe80::1]": "metadata", "127.255.255.254": "loopback",
	} {
		to := host + ":" + port
		for _, request := range []string{
			"GET http://" + to + "/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET https://" + to + "/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"CONNECT " + to + " HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			r, body := sendRaw(t, w.gateway, request)
			require.Equal(t, 403, r.StatusCode, "%s: %s", request, body)
			require.Equal(t, "egress_denied", r.Header.Get("X-Whirlpool-Outcome"))
			require.Equal(t, "1", r.Header.Get("X-Whirlpool-Attempts"), "once only")
			require.Contains(t, r.Header.Get("Proxy-Status"), "error=destination_ip_prohibited")
			require.Contains(t, body, `{"error":"egress_denied"`)
			require.Contains(t, body, rule)
		}
	}
	// These names may resolve, because Go may use the resolver of the C library.
	for _, host := range []string{"2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost."} {
		r, body := sendRaw(t, w.gateway, "GET http://"+host+":"+port+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Contains(t, []int{403, 502}, r.StatusCode, "%s: %s", host, body)
		require.NotContains(t, body, "127.0.0.1")
	}
	require.Empty(t, origin.Arrivals())
	require.Zero(t, w.breaker("direct")["failure_count"])
	eventually(t, "the log has the address", func() bool {
		return strings.Contains(w.log.String(), "at 127.0.0.1:"+port)
	})

	w.writeConfig(confK + allowLoopback + "[[proxies]]\nurl = \"direct://\"\n")
	eventually(t, "a reload permits it", func() bool {
		r, _ := sendRaw(t, w.gateway, "GET http://"+origin.Addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		return r.StatusCode == 200
	})
}

// The rules hold for every request before its first attempt: in absolute form, CONNECT, SOCKS5 and POST /request.
func TestS116RulesOfEgress(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[egress]\ndeny = [\"*.evil.test\", \"10.0.0.0/8\", \":6000-6063\"]\n"+
		"allow = [\"mail.test:25\"]\n")
	for to, rule := range map[string]string{
		"a.evil.test:80": "*.evil.test", "A.EVIL.test.:443": "*.evil.test", "10.1.2.3:80": "10.0.0.0/8",
		"0xa010203:80": "10.0.0.0/8", "[::ffff:10.1.2.3]:80": "10.0.0.0/8", "good.test:6001": ":6000-6063",
		"good.test:25": "port 25",
	} {
		r, body := sendRaw(t, w.gateway, "GET http://"+to+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Equal(t, 403, r.StatusCode, "%s: %s", to, body)
		require.Equal(t, "egress_denied", r.Header.Get("X-Whirlpool-Outcome"))
		require.Equal(t, "0", r.Header.Get("X-Whirlpool-Attempts"))
		require.Contains(t, body, rule)
		status, _, _ := w.connect(to)
		require.Equal(t, 403, status, to)
		status, raw, _ := w.call("POST", "/request", `{"url":"http://`+to+`/"}`)
		require.Contains(t, string(raw), `"egress_denied"`, "%d", status)
	}
	require.EqualValues(t, 2, socksReply(t, w.gateway, "a.evil.test", 80), "not allowed by ruleset")
	require.Zero(t, w.arrivals())
	for _, to := range []string{"evil.test:80", "mail.test:25", "11.1.2.3:80", "127.0.0.1:80"} {
		r, body := sendRaw(t, w.gateway, "GET http://"+to+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Equal(t, 200, r.StatusCode, "%s: %s", to, body)
	}
	require.Equal(t, 4, w.arrivals())
	require.Contains(t, w.scrape(), `outcome="egress_denied"`)
	eventually(t, "the log says so", func() bool { return strings.Contains(w.log.String(), "target denied") })
	w.reconcile(0)
}

// socksReply returns the reply to a SOCKS5 request for a name.
func socksReply(t *testing.T, gateway, name string, port uint16) byte {
	t.Helper()
	c, err := net.Dial("tcp", gateway)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("\x05\x01\x00\x05\x01\x00\x03" + string(rune(len(name))) + name +
		string([]byte{byte(port >> 8), byte(port)})))
	require.NoError(t, err)
	var b strings.Builder
	buf := make([]byte, 12)
	for b.Len() < 12 {
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			break
		}
	}
	require.GreaterOrEqual(t, b.Len(), 4)
	return b.String()[3]
}
