package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// The store in Redis grants the same shares as the store in memory. Both stores are old enough to grant large shares.
func TestSharesAreLikeTheMemory(t *testing.T) {
	real := newStore(t, startRedis(t))
	defer real.Close()
	var now time.Time
	memory := cluster.NewMemory(func() time.Time { return now })
	exchange := func(ops ...cluster.Op) (got, want []cluster.ShareReply) {
		r, err := real.Exchange(context.Background(), cluster.Batch{Limit: 1, Ops: ops})
		require.NoError(t, err)
		now = r.Now
		m, err := memory.Exchange(context.Background(), cluster.Batch{Limit: 1, Ops: ops})
		require.NoError(t, err)
		return r.ShareReplies, m.ShareReplies
	}
	op := cluster.Op{Kind: cluster.Share, Key: "old", TTL: time.Hour,
		Request: &cluster.ShareRequest{Holder: "m", Limit: 5, Want: 3, RecordTime: time.Hour}}
	require.Eventually(t, func() bool {
		got, want := exchange(op)
		require.Equal(t, want, got)
		return got[0].Share == 3
	}, 20*time.Second, 10*time.Millisecond)
	cases := 0
	rapid.Check(t, func(t *rapid.T) {
		cases++
		amount := rapid.OneOf(rapid.Int64Range(0, 12), rapid.Int64Range(0, 1<<50))
		limit, daily := amount.Draw(t, "limit"), rapid.Bool().Draw(t, "daily")
		for range rapid.IntRange(1, 12).Draw(t, "draws") {
			op := cluster.Op{Kind: cluster.Share, Key: fmt.Sprint("limit ", cases), Request: &cluster.ShareRequest{
				Holder: rapid.SampledFrom([]string{"m", "n", "o"}).Draw(t, "holder"), Daily: daily, Limit: limit,
				Used: amount.Draw(t, "used"), Share: amount.Draw(t, "share"), Want: amount.Draw(t, "want"),
				MaxWhileSettling: amount.Draw(t, "young"), RecordTime: time.Hour,
			}}
			op.TTL = rapid.SampledFrom([]time.Duration{time.Hour, time.Millisecond}).Draw(t, "ttl")
			got, want := exchange(op)
			require.Equal(t, want, got)
		}
	})
}
