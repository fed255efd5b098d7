package access

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// For any order of failures and ends of delays: memory is bounded, no network with a running delay is removed, and no
// level has more delayed responses than its maximum.
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newTable(rapid.IntRange(3, 12).Draw(t, "most"))
		now := time.Now()
		var running [][]*failures
		address := rapid.Custom(func(t *rapid.T) origin {
			ip := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host")})
			if rapid.Bool().Draw(t, "IPv6") {
				ip = netip.AddrFrom16([16]byte{0x20, 1, 3: rapid.ByteRange(0, 1).Draw(t, "/32"),
					5: rapid.ByteRange(0, 2).Draw(t, "/48"), 7: rapid.Byte().Draw(t, "/64"), 15: 1})
			}
			return origin{ip, rapid.Bool().Draw(t, "API")}
		})
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) {
				from := address.Draw(t, "address")
				_, blocked := table.isBlocked(from)
				held, delay := table.recordFailure(now, from)
				require.GreaterOrEqual(t, delay, delayUnit)
				require.LessOrEqual(t, delay, maxDelay)
				if blocked {
					require.Empty(t, held)
				}
				if len(held) > 0 {
					running = append(running, held)
				}
			},
			"a delay ends": func(t *rapid.T) {
				if len(running) > 0 {
					i := rapid.IntRange(0, len(running)-1).Draw(t, "delay")
					table.endDelay(running[i])
					running = append(running[:i], running[i+1:]...)
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 700).Draw(t, "seconds")) * time.Second)
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, len(table.networks), table.maxNetworks)
				delayed := map[*failures]int{}
				for _, held := range running {
					for _, f := range held {
						delayed[f]++
						if f != table.overflowFailures(origin{api: f.api}) {
							require.Same(t, f, table.networks[f.network])
						}
					}
				}
				idle := 0
				for _, f := range table.networks {
					require.Equal(t, delayed[f], f.delayedResponses)
					require.LessOrEqual(t, f.delayedResponses, f.maxDelayed)
					require.Equal(t, f.delayedResponses == 0, f.idle != nil)
					if f.delayedResponses == 0 {
						idle++
					}
				}
				require.Equal(t, idle, table.idle[0].Len()+table.idle[1].Len())
				for i := range table.overflow {
					require.LessOrEqual(t, table.overflow[i].delayedResponses, maxDelayedOverflow)
				}
			},
		})
	})
}
