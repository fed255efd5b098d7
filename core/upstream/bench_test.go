package upstream

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// The benchmark measures the time of changes of a pool, and the memory per proxy.
func BenchmarkPool(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		list := make([]Spec, n)
		for i := range list {
			list[i].Address = Address{Scheme: HTTP, Host: fmt.Sprintf("10.%d.%d.%d:3128", i>>16, i>>8&255, i&255)}
		}
		b.Run(fmt.Sprintf("fill/proxies=%d", n), func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
				require.NoError(b, p.Apply(list))
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(p)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/proxy")
		})
		p := NewPool(PoolConfig{Breaker: breaker.Default(), Now: time.Now})
		require.NoError(b, p.Apply(list))
		b.Run(fmt.Sprintf("reload/proxies=%d", n), func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, p.Apply(list))
			}
		})
	}
}
