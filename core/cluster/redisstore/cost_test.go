package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// BenchmarkExchange measures an exchange without new records, and an exchange with 20 views, whose reply has 20
// records.
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

// BenchmarkDraws measures an exchange with requests for shares of 100 limits. Each limit is shared by the given number
// of nodes.
func BenchmarkDraws(b *testing.B) {
	for _, nodes := range []int{3, 20} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			s := newStore(b, startRedis(b))
			defer s.Close()
			batch := cluster.Batch{Limit: 2000}
			n := 0
			for b.Loop() {
				batch.Ops = batch.Ops[:0]
				n++
				for i := range 100 {
					batch.Ops = append(batch.Ops, cluster.Op{
						Kind: cluster.Share, Key: fmt.Sprintf("proxy/rate/proxy%d@00000000", i), TTL: time.Minute,
						Request: &cluster.ShareRequest{
							Holder: fmt.Sprintf("abcdefghijklmnopqrstuvwxy%c", 'a'+n%nodes), Daily: true, Limit: 1e6,
							Used: int64(n), Share: int64(n + 1), Want: int64(n + 1000), RecordTime: time.Hour,
						},
					})
				}
				r, err := s.Exchange(context.Background(), batch)
				require.NoError(b, err)
				batch.Epoch, batch.Cursor = r.Epoch, r.Cursor
			}
		})
	}
}
