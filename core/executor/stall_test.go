package executor

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// stallBench sends requests of 32 clients for three targets. While the channel of a proxy is not nil, its attempts wait
// until the channel is closed.
type stallBench struct {
	*bench
	mu    sync.Mutex
	until map[string]chan bool // by the id of the proxy
}

func (b *stallBench) send(_ context.Context, a *Attempt) verdict.Facts {
	b.mu.Lock()
	until := b.until[a.Upstream.ID()]
	b.mu.Unlock()
	if until != nil {
		select {
		case <-until:
		case <-time.After(time.Until(a.Deadline)):
			return verdict.Facts{Err: &verdict.Error{Cause: verdict.NoAnswerInTime}}
		}
	}
	time.Sleep(20 * time.Millisecond)
	return verdict.Facts{Status: 200}
}

// hold makes attempts through the first n proxies wait, until the returned function is called.
func (b *stallBench) hold(n int) (release func()) {
	c := make(chan bool)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.pool.Snapshot().All[:n] {
		b.until[u.ID()] = c
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		clear(b.until)
		close(c)
	}
}

// during calls f while the clients send requests.
func (b *stallBench) during(t *testing.T, f func()) {
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				x := exchange(t, nil)
				x.Target = upstream.Target(fmt.Sprintf("h%d.test:80", n%3))
				b.run(t.Context(), x, &tries{f: b.send})
				assert.Equal(t, core.FinalSuccess, x.Result().Final)
				time.Sleep(time.Duration(30+n%40) * time.Millisecond)
			}
		})
	}
	f()
	stop()
	clients.Wait()
}

// If all proxies stop for a moment, no proxy is worse than the others. Their attempts are cut short and charged to
// nobody.
func TestAStallOfThePoolIsChargedToNoProxy(t *testing.T) {
	for _, proxies := range []int{2, 3, 6} {
		for _, length := range []time.Duration{400 * time.Millisecond, 500 * time.Millisecond} {
			t.Run(fmt.Sprint(proxies, " proxies, ", length), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := &stallBench{bench: startWithLedger(t, proxies), until: map[string]chan bool{}}
					b.during(t, func() {
						for range 3 {
							time.Sleep(time.Second)
							release := b.hold(proxies)
							time.Sleep(length)
							release()
						}
						time.Sleep(time.Second / 2)
					})
					for _, u := range b.pool.Snapshot().All {
						require.Equal(t, core.Closed, u.Breaker().State(), u.ID())
						require.Zero(t, u.Breaker().Snapshot().FailureCount, u.ID())
					}
				})
			})
		}
	}
}

// Hanging proxies are charged also if their attempts are cut short together while nothing else is sent: the requests
// come in bursts, as those of a browser do.
func TestProxiesThatHangInBurstsAreCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &stallBench{bench: startWithLedger(t, 6), until: map[string]chan bool{}}
		b.during(t, func() { time.Sleep(time.Second) }) // so that the latencies are known
		release := b.hold(3)
		for range 30 {
			var burst sync.WaitGroup
			for i := range 6 {
				burst.Go(func() {
					x := exchange(t, nil)
					x.Target = upstream.Target(fmt.Sprintf("h%d.test:80", i%3))
					b.run(t.Context(), x, &tries{f: b.send})
				})
			}
			burst.Wait()
			time.Sleep(2 * time.Second)
		}
		for i, u := range b.pool.Snapshot().All {
			if i < 3 {
				assert.NotEqual(t, core.Closed, u.Breaker().State(), u.ID())
				continue
			}
			assert.Equal(t, core.Closed, u.Breaker().State(), u.ID())
		}
		release()
	})
}

// If some proxies hang and the others serve, this is no stall: the breakers of the hanging proxies open.
func TestProxiesThatHangTogetherAreCharged(t *testing.T) {
	for _, hanging := range []int{1, 2, 4, 5} {
		t.Run(fmt.Sprint(hanging, " of 6"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &stallBench{bench: startWithLedger(t, 6), until: map[string]chan bool{}}
				b.during(t, func() {
					time.Sleep(time.Second)
					release := b.hold(hanging)
					time.Sleep(3 * time.Second)
					for i, u := range b.pool.Snapshot().All {
						state := core.Closed
						if i < hanging {
							state = core.Open
						}
						assert.Equal(t, state, u.Breaker().State(), u.ID())
					}
					release()
				})
			})
		})
	}
}
