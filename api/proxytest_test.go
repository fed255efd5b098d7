package api

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The response to a test of a proxy is 200, whether or not the proxy has passed. The test is not logged as a change.
func TestProxyTests(t *testing.T) {
	r := newRig(t, nil)
	r.engine.tests = map[string]fakeTest{
		"F1": {upstream.CheckReport{Passed: true, Latency: 12 * time.Millisecond,
			Exit: netip.MustParseAddr("192.0.2.7")}, "health_check", nil},
		"F2": {upstream.CheckReport{Fault: "connection refused"}, "connection", nil},
	}
	r.check(t,
		call("POST", "/proxies/F1/test", "", 200, `{"proxy_id":"F1","kind":"health_check","passed":true,"error":"",`+
			`"latency":0.012,"tls_intercepted":false,"exit_address":"192.0.2.7"}`),
		call("POST", "/proxies/F2/test", "", 200, `{"proxy_id":"F2","kind":"connection","passed":false,`+
			`"error":"connection refused","latency":0,"tls_intercepted":false,"exit_address":""}`),
		call("POST", "/proxies/nope/test", "", 404),
	)
	r.engine.tests = map[string]fakeTest{"F1": {upstream.CheckReport{}, "connection", syscall.EMFILE}}
	r.check(t, call("POST", "/proxies/F1/test", "", 503, `{"error":"local_limit","message":"the proxy was not tested: `+
		`this machine has no free file descriptor, port or memory (too many open files); try again, or raise the `+
		`limit of open files"}`))
	r.engine.tests = nil
	r.check(t, call("POST", "/proxies/F1/test", "", 409, `{"error":"conflict","message":"a direct:// proxy can be `+
		`tested only with health.url"}`))
	require.NotContains(t, r.log.String(), "changed through the API")
}
