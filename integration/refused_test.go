package integration

import (
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// S189: requests that the gateway itself refuses are counted by listener and reason, and logged with address and user.
// In a flood of one reason, the log gets the first and the number of the others.
func TestS189RefusedRequestsAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	waitPastMidnight()
	w := start(t, 1, confK+`
[[gateway.users]]
name = "ann"
password = "canary-1"
requests_per_day = 2
deny = ["denied.test"]
`)
	site(w, false)
	login := "Proxy-Authorization: Basic YW5uOmNhbmFyeS0x\r\n" // ann:canary-1
	ask := func(raw string, status int) {
		r, body := sendRaw(t, w.gateway, raw)
		require.Equal(t, status, r.StatusCode, "%s", body)
	}
	get := func(target, fields string, status int) {
		ask("GET "+target+" HTTP/1.1\r\nHost: x\r\n"+fields+"\r\n", status)
	}
	const flood = 300
	for range flood {
		get("/no-proxy", "", 400)
	}
	get("http://site.test/", "X: "+strings.Repeat("a", 1<<20)+"\r\n", 431)
	ask("CONNECT site.test:http HTTP/1.1\r\nHost: x\r\n\r\n", 400)
	get("http://site.test/", "X : malformed\r\n", 400)
	get("http://denied.test/", login, 403)
	get("http://site.test/", login, 200)
	get("http://site.test/", login, 200)
	for range 3 {
		get("http://site.test/", login, 429)
	}
	for _, sent := range []string{
		"\x05\x01\x07", // a method that the gateway does not support
		"\x05\x01\x02\x01\x03ann\x08canary-1\x05\x01\x00\x03\x09site.test\x00\x50",
	} {
		c, err := net.Dial("tcp", w.gateway)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte(sent))
		require.NoError(t, err)
	}

	for _, line := range []string{
		`{listener="http",reason="bad_target"} 300`,
		`{listener="http",reason="request_header_too_large"} 1`,
		`{listener="connect",reason="bad_target"} 1`,
		`{listener="http",reason="malformed_request"} 1`,
		`{listener="http",reason="user_target_denied"} 1`,
		`{listener="http",reason="user_requests_spent"} 3`,
		`{listener="socks5",reason="proxy_authentication_required"} 1`,
		`{listener="socks5",reason="user_requests_spent"} 1`,
	} {
		eventually(t, line, func() bool { return strings.Contains(w.scrape(), "whirlpool_refused_total"+line) })
	}
	require.Contains(t, w.scrape(), `whirlpool_requests_total{listener="http",outcome="success"} 2`)

	record := regexp.MustCompile(`level=INFO msg="request refused" request_id=\S+ listener=(\w+) ` +
		`client=127\.0\.0\.1:\d+ user=(\S+) target=(\S+) error=(\w+)\n`)
	folded := regexp.MustCompile(`msg="request refused" error=bad_target folded=`)
	eventually(t, "all reasons are in the log", func() bool {
		log := w.log.String()
		return folded.MatchString(log) && strings.Contains(log, "error=user_requests_spent")
	})
	got := map[string]string{}
	records := record.FindAllStringSubmatch(w.log.String(), -1)
	for _, m := range records {
		if m[4] != "bad_target" && m[1] != "socks5" { // reasons that several listeners have
			got[m[4]] = strings.Join(m[1:4], " ")
		}
	}
	require.Equal(t, map[string]string{
		"request_header_too_large": `http "" ""`,
		"malformed_request":        `http "" ""`,
		"user_target_denied":       `http ann denied.test:80`,
		"user_requests_spent":      `http ann site.test:80`,
	}, got)
	require.Less(t, len(records), flood/2)
	require.NotContains(t, w.log.String(), "canary")
}
