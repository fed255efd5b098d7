package verdict

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

func TestAPlainSuccessIsJudgedAsWithoutTheShortcut(t *testing.T) {
	plain := Facts{Status: 200, Idempotent: true, Replayable: true}
	require.True(t, plain.isPlainSuccess())
	rapid.Check(t, func(t *rapid.T) {
		yes := func(name string) bool { return rapid.IntRange(0, 9).Draw(t, name) == 0 }
		f := Facts{
			Status:  rapid.SampledFrom([]int{101, 200, 204, 301, 399, 400, 404, 407, 429, 503}).Draw(t, "status"),
			Latency: time.Second, Timing: core.Timing{Dial: time.Millisecond},
			Direct: yes("direct"), ProxyHasServed: yes("proven"), FromProxy: !yes("not from the proxy"),
			HasChallenge: yes("challenged"), TargetChallenge: yes("target's challenge"),
			ErrorPage: ErrorPage(rapid.IntRange(0, 30).Draw(t, "page")), NoTunnels: yes("no tunnels"),
			ErrorPageReason: rapid.SampledFrom([]string{"", "", "dns_error"}).Draw(t, "reason"),
			InnerOutcome:    rapid.SampledFrom([]string{"", "", "", "success", "exhausted"}).Draw(t, "inner"),
			RetryAfter:      rapid.SampledFrom([]string{"", "7"}).Draw(t, "retry after"),
			ClientRegion:    yes("region"), TargetServedElsewhere: yes("served"), Tunnel: yes("tunnel"),
			Idempotent: !yes("unsafe"), RetryNonIdempotent: yes("opted in"), Replayable: !yes("body not kept"),
			IsReplay: yes("replayed"), StatusRetried: yes("retried"), StatusCounted: yes("counted"),
			TotalTimeout: yes("total"), TighterTotalTimeout: yes("tighter"), CutShort: yes("cut short"),
			TighterAttemptTimeout: yes("tighter attempt"),
		}
		f.NoCredentials = f.Status == 407 && yes("no credentials")
		if f.ErrorPage > ErrorPageForbids {
			f.ErrorPage = NoErrorPage
		}
		if yes("error") {
			f.Err = &Error{Cause: ConnectionClosed, Err: errors.New("closed")}
		}
		if yes("stopped") {
			f.CancelCause = errors.New("the client left")
		}
		require.Equal(t, judge(&f), Judge(&f))
	})
}
