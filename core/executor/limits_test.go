package executor

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// startLimited returns a bench with one proxy, which has the given settings.
func startLimited(t *testing.T, extras upstream.Extras) *bench {
	b := start(t, 1, func(tuning *Tuning) { tuning.Queue = queue.DefaultConfig() })
	err := b.pool.UpdateAll(upstream.Updates{"p0": func(s *upstream.Spec) error { s.Extras = &extras; return nil }})
	require.NoError(t, err)
	return b
}

// Requests wait until the limit of their proxy permits them, without any other event. No proxy is charged for the
// wait.
func TestRequestsWaitForALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLimited(t, upstream.Extras{MinInterval: 300 * time.Millisecond})
		began := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		var running sync.WaitGroup
		for range 4 {
			running.Go(func() {
				end, _ := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
				require.NotNil(t, end.Relay)
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began).Round(time.Millisecond))
			})
		}
		running.Wait()
		require.Equal(t, []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond}, at)
		for _, e := range b.rec.Attempts() {
			require.Equal(t, core.Success, e.Outcome.Verdict)
		}
		require.Equal(t, core.Closed, b.pool.Snapshot().All[0].Breaker().State())
	})
}

// If the limit ends only after the longest wait, the request is refused. It is refused immediately, with the time until
// the end of the limit, if no event can end the limit earlier.
func TestLimitsThatLastTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLimited(t, upstream.Extras{MinInterval: 10 * time.Second})
		end, _ := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		require.NotNil(t, end.Relay)
		end, took := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		require.Zero(t, took)
		require.Equal(t, core.FinalAllBusy, end.Refusal.Final)
		require.InDelta(t, 10*time.Second, end.Refusal.RetryAfter, float64(time.Millisecond))
		require.ErrorContains(t, end.Refusal.Err, "at one of its limits")

		b = startLimited(t, upstream.Extras{BytesPerDay: 100})
		b.pool.Snapshot().All[0].Meter().Add(traffic.Total{Up: 100})
		end, took = b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		require.Zero(t, took)
		tomorrow := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		require.Equal(t, time.Until(tomorrow), end.Refusal.RetryAfter)
	})
}

// A request that waits for a limit can be cancelled, and leaves the queue after the longest wait.
func TestEndsOfAWaitForALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startLimited(t, upstream.Extras{MinInterval: 900 * time.Millisecond})
		b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("left")) })
		end, took := b.timed(ctx, exchange(t, nil), &tries{f: statuses(200)})
		require.Equal(t, 100*time.Millisecond, took)
		require.Equal(t, core.FinalCancelled, end.Refusal.Final)
		var running sync.WaitGroup
		running.Go(func() { b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)}) })
		running.Go(func() { b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)}) })
		running.Wait() // one request is served after 0.8 s; the other one expires after 1 s
		places, _ := b.Queues()
		require.EqualValues(t, 1, places[core.PriorityNormal].Expired)
		require.Zero(t, places[core.PriorityNormal].Waiting)
	})
}
