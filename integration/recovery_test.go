package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A scorer avoids a proxy after a few failures, which are too few for its breaker. Within 60 s after the
// proxy has recovered, it gets as many requests as before.
func TestAProxyThatRecoversIsUsedAgain(t *testing.T) {
	for _, scorer := range []string{"cost_aware", "performance"} {
		t.Run(scorer, func(t *testing.T) {
			t.Parallel()
			w := start(t, 3, fmt.Sprintf("[selection]\nfirst = %q\n", scorer))
			for i, f := range w.fakes {
				if i > 0 { // F1 is the cheapest and the fastest proxy
					f.SetBehaviour(lab.Slow(100 * time.Millisecond))
				}
				status, body, _ := w.call("PATCH", "/proxies/"+f.Name, fmt.Sprintf(`{"cost":%d}`, i))
				require.Equal(t, 200, status, "%s", body)
			}
			share := func() int { // share of F1 in 20 requests
				before := w.fakes[0].Count()
				for range 20 {
					require.Equal(t, 200, w.get().status)
				}
				return w.fakes[0].Count() - before
			}
			for range 60 {
				w.get()
			}
			require.GreaterOrEqual(t, share(), 15, "it has nearly all of the requests")
			w.fakes[0].SetBehaviour(lab.Status(503))
			for range 3 {
				w.get()
			}
			w.fakes[0].SetBehaviour(lab.OK())
			require.Equal(t, "closed", w.breaker("F1")["state"])
			for well := time.Now(); share() < 15; time.Sleep(200 * time.Millisecond) {
				require.Less(t, time.Since(well), time.Minute, "it is not used again")
			}
		})
	}
}
