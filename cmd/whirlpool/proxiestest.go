package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// parallelTests is the maximum number of proxies that `proxies test` tests at the same time.
const parallelTests = 16

// testTimeout is the time for the test of one proxy. It is longer than the gateway's own limits: at most 5m for
// health.timeout, 10m for timeouts.connect, and twice timeouts.connect for a connection to a SOCKS5 proxy.
const testTimeout = 21 * time.Minute

// testClient returns a client of the API whose requests have the timeout testTimeout.
func (r *remote) testClient() *client.Client {
	c, h := *r.api, *r.api.HTTP
	h.Timeout, c.HTTP = testTimeout, &h
	return &c
}

func testProxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test [ID...]", Short: "Test proxies now; it fails if one of them fails",
		Long: `Test proxies now, 16 at the same time: by a request to health.url or, if that is not set, by a connection
to the proxy. A connection only shows that the proxy is reachable, not that it serves requests. A test
changes nothing; reset closes the breaker of a proxy that works again.`,
		Example: "  whirlpool proxies test alpha bravo\n  whirlpool proxies test --state open",
	}
	return changeProxies(cmd, parallelTests, addSelection(cmd), func(r *remote, id string) (string, error) {
		t, err := r.testClient().TestProxy(r.context(), id)
		if _, err := r.addAdvice(err); err != nil {
			return "", err
		}
		if !t.Passed {
			return "", errors.New(t.Error)
		}
		latency := milliseconds(float64(t.Latency))
		text := "is reachable: " + latency + " for a connection; without health.url, no request was sent"
		if t.Kind == "health_check" {
			text = "works: " + latency + " for health.url"
		}
		if t.ExitAddress != "" {
			text += ", exit address " + t.ExitAddress
		}
		return text, nil
	})
}
