package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// BenchmarkExchange measures an exchange without news, and one with 20 views, whose reply has 20 records.
func BenchmarkExchange(b *testing.B) {
	for _, ops := range []int{0, 20} {
		b.Run(fmt.Sprint(ops), func(b *testing.B) {
			s := newStore(b, startRedis(b))
			defer s.Close()
			batch := cluster.Batch{Limit: 2000}
			for i := range ops {
				batch.Ops = append(batch.Ops, cluster.Op{
					Kind: cluster.Put, Key: fmt.Sprintf("v\x1fproxy%d@00000000\x1fnode", i),
					Value: `{"e":0.651,"f":0.4,"s":1796000000000,"k":1796000000000}`, TTL: time.Minute,
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				r, err := s.Exchange(context.Background(), batch)
				require.NoError(b, err)
				batch.Epoch, batch.Cursor = r.Epoch, r.Cursor
			}
		})
	}
}
