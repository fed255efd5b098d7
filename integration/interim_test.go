package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// S151: a rule with interim = true relays the interim responses for its host, except to clients of HTTP/1.0. A request
// can still be retried after an interim response. Too many interim responses are a failure.
func TestS151InterimResponses(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK+"[[rules]]\nwhen = { host = \"hints.test\" }\nthen = { interim = true }\n")
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n"
	const once = "X-Whirlpool-Retry: max_attempts=1\r\n"
	const final = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
	for name, c := range map[string]struct {
		host, minor, sent, fields string
		want                      []string // statuses
	}{
		"relayed": {"hints.test", "1", hint + final, "", []string{"103", "200"}},
		"several": {"hints.test", "1", "HTTP/1.1 102 Wait\r\n\r\n" + hint + final, "",
			[]string{"102", "103", "200"}},
		"no 100 from a target": {"hints.test", "1", "HTTP/1.1 100 Continue\r\n\r\n" + hint + final, "",
			[]string{"103", "200"}},
		"HTTP/1.0": {"hints.test", "0", hint + final, "", []string{"200"}},
		"no rule":  {"other.test", "1", hint + final, "", []string{"200"}},
		"too many": {"hints.test", "1", strings.Repeat(hint, 101), once, nil},
		"a 101":    {"hints.test", "1", "HTTP/1.1 101 Switch\r\n\r\n", once, []string{"502"}},
	} {
		w.fakes[0].SetBehaviour(lab.Behaviour{Garbage: c.sent})
		got := w.exchangeAll("GET http://" + c.host + "/ HTTP/1." + c.minor + "\r\nHost: " + c.host + "\r\n" +
			c.fields + "Connection: close\r\n\r\n")
		if name == "too many" {
			require.Equal(t, 100, strings.Count(got, "HTTP/1.1 103 "))
			require.Contains(t, got, "HTTP/1.1 502 ")
			continue
		}
		require.Equal(t, c.want, statuses(got), "%s: %q", name, got)
		require.NotContains(t, got, "X-Mine", name)
		require.Equal(t, len(c.want) > 1, strings.Contains(got, "Link: </a.css>\r\n"), name)
	}

	n := 0
	w.fakes[0].SetScript(func(int, *http.Request) lab.Behaviour {
		if n++; n == 1 {
			return lab.Behaviour{Garbage: hint + "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"}
		}
		return lab.Behaviour{Garbage: hint + final}
	})
	got := w.exchangeAll("GET http://hints.test/ HTTP/1.1\r\nHost: hints.test\r\nConnection: close\r\n\r\n")
	require.Equal(t, []string{"103", "103", "200"}, statuses(got), got)
	require.Contains(t, got, "X-Whirlpool-Attempts: 2")

	// The same with a body that is streamed.
	n = 1
	body := strings.Repeat("x", 3<<20)
	got = w.exchangeAll("PUT http://hints.test/ HTTP/1.1\r\nHost: hints.test\r\nConnection: close\r\n" +
		"Content-Length: 3145728\r\n\r\n" + body)
	require.Equal(t, []string{"103", "200"}, statuses(got), got)
	w.reconcile(0)
}
