package changes_test

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// maxProxySize is the largest size in bytes of a proxy without attempts, with its configuration and its id. Half of the
// proxies of a list of 100,000 lines have credentials: such a list must fit into 150 MiB, with the program.
const maxProxySize = 750

// A long list takes little memory, and a reload of it adds nothing.
func TestAProxyWithoutAttemptsIsSmall(t *testing.T) {
	const lines = 10_000
	var text strings.Builder
	for i := range lines {
		login := ""
		if i%2 == 1 {
			login = fmt.Sprintf("user%d:pass%06d@", i, i)
		}
		fmt.Fprintf(&text, "http://%s10.1.%d.%d:8080\n", login, i/250, i%250)
	}
	before := coretest.LiveHeap()
	pool := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: time.Now})
	c := changes.New(changes.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	for i := range 3 {
		specs, _, err := proxylist.Parse(strings.NewReader(text.String()), proxylist.Options{Entries: lines})
		require.NoError(t, err)
		require.Len(t, specs, lines)
		require.NoError(t, c.Configure(changes.Configuration{Proxies: specs}, pool.Apply))
		if i == 0 {
			c.Attach(changes.Parts{Pool: pool})
		}
		specs = nil
		size := (coretest.LiveHeap() - before) / lines
		t.Logf("%.0f bytes for each proxy after %d reloads", size, i)
		require.Less(t, size, float64(maxProxySize))
	}
	runtime.KeepAlive(c)
	runtime.KeepAlive(pool)
}
