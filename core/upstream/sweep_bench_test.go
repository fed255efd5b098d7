package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// One sweep of a pool in which all proxies are idle.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{100, 1000, 100_000} {
		b.Run(fmt.Sprint("proxies=", n), func(b *testing.B) {
			list := make([]Spec, n)
			for i := range list {
				list[i].Address = Address{Scheme: HTTP, Host: fmt.Sprintf("10.%d.%d.%d:3128", i>>16, i>>8&255, i&255)}
			}
			now := time.Now()
			p := NewPool(PoolConfig{Breaker: breaker.Default(), Memory: DefaultMemory,
				Now: func() time.Time { return now }})
			require.NoError(b, p.Apply(list))
			now = now.Add(time.Minute)
			b.ReportAllocs()
			for b.Loop() {
				p.Sweep()
			}
		})
	}
}
