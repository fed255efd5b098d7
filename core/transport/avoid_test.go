package transport

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestForbidAddress(t *testing.T) {
	for at, names := range map[string][]string{
		"127.0.0.1": {"127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::", "localhost"},
		"0.0.0.0":   {"127.0.0.1", "127.0.0.2", "0.0.0.0", "::", "localhost"},
		"::1":       {"::1", "::", "0:0:0:0:0:0:0:1", "0.0.0.0"},
		"::":        {"::1", "::", "127.0.0.1", "127.0.0.2", "0.0.0.0"},
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
		if err != nil {
			t.Log("this machine cannot listen there: ", err)
			continue
		}
		defer l.Close()
		tr := New(Config{})
		tr.AddOwnAddress(l.Addr().(*net.TCPAddr))
		for _, name := range names {
			to := net.JoinHostPort(name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
			c := &Control{Deadline: time.Now().Add(10 * time.Second)}
			_, verr := tr.OpenTunnel(context.Background(), proxyAt(t, "direct://"), c, to)
			if assert.NotNil(t, verr, "%s leads to %s", to, l.Addr()) {
				assert.Contains(t, []string{"destination_ip_prohibited", "connection_refused"}, verr.Reason, to)
			}
		}
	}
}
