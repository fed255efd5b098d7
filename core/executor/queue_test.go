package executor

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// busy is a bench with n proxies that each admit one attempt. All places are taken.
type busy struct {
	*bench
	leases []upstream.Lease
}

func startBusy(t *testing.T, n int, change func(*Tuning)) *busy {
	b := &busy{bench: start(t, n, func(tuning *Tuning) {
		tuning.Queue = queue.DefaultConfig()
		if change != nil {
			change(tuning)
		}
	})}
	b.serve(t)
	for _, u := range b.pool.Snapshot().All {
		err := b.pool.UpdateAll(upstream.Updates{u.ID(): func(s *upstream.Spec) error {
			s.Extras = &upstream.Extras{MaxInFlight: 1}
			s.Region = map[bool]string{true: "EU", false: "US"}[u.ID() == "p0"]
			return nil
		}})
		require.NoError(t, err)
		lease, ok := u.Acquire(b.now())
		require.True(t, ok)
		b.leases = append(b.leases, lease)
	}
	return b
}

// serve lets requests take units that become free, as the engine does.
func (b *bench) serve(t *testing.T) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				b.ServeQueues()
			}
		}
	})
	t.Cleanup(func() { close(done); running.Wait() })
}

// free releases the place of a proxy after d.
func (b *busy) free(proxy int, d time.Duration) {
	time.AfterFunc(d, func() { b.leases[proxy].Release() })
}

// timed runs one request and returns its duration.
func (b *bench) timed(ctx context.Context, x *both, s *tries) (Ending[string], time.Duration) {
	began := time.Now()
	e := Run(ctx, b.Executor, &x.Exchange, &x.Request, Sender[string](s))
	took := time.Since(began)
	if e.Refusal != nil {
		e.Refusal.Close(503, b.now())
	}
	if e.Relay != nil {
		e.Relay.Close(200, verdict.RelayEnd{}, b.now())
	}
	return e, took
}

// steps records the progress of a request.
type steps struct {
	Progress
	list []string
}

func (s *steps) add(step string)                             { s.list = append(s.list, step) }
func (s *steps) BeginAttempt(_ int, id string)               { s.add("attempt " + id) }
func (s *steps) BeginQueueWait(p core.Priority, _ time.Time) { s.add("queued " + p.String()) }
func (s *steps) EndQueueWait(time.Time)                      { s.add("dequeued") }
func (s *steps) BeginBackoff(time.Time, int)                 { s.add("waiting") }
func (s *steps) EndAttempt(*core.AttemptEvent)               { s.add("finished") }
func (s *steps) BeginStreaming()                             { s.add("streaming") }
func (s *steps) SetRules(labels core.RuleLabels)             { s.add("routed by " + labels[0]) }
func (s *steps) End(core.Final, int, time.Time)              { s.add("end") }

func TestARequestWaitsForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 2, nil)
		b.free(1, 300*time.Millisecond)
		watched := 0
		progress := &steps{}
		x := exchange(t, nil)
		x.Priority, x.Progress, x.BeforeWait = core.PriorityLow, progress, func() { watched++ }
		end, took := b.timed(t.Context(), x, &tries{f: statuses(200)})
		require.NotNil(t, end.Relay)
		require.Equal(t, "p1", end.Response)
		require.Equal(t, 300*time.Millisecond, took)
		require.Equal(t, 1, watched, "the client's connection is watched while its request waits")
		require.Equal(t, []string{"queued low", "dequeued", "attempt p1", "finished", "end"},
			progress.list)
		e := b.rec.Attempts()[0]
		require.Zero(t, e.Ended.Sub(e.Started), "the wait is not part of the attempt")
		require.Zero(t, b.pool.Snapshot().All[1].InFlight())

		end, took = b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		require.NotNil(t, end.Relay, "nobody waits any more")
		require.Zero(t, took)
	})
}

func TestEndsOfAWaitForAPlace(t *testing.T) {
	type want struct {
		took  time.Duration
		final core.Final
	}
	for name, c := range map[string]struct {
		prepare func(b *busy, x *both, cancel context.CancelCauseFunc)
		want    want
		message string
	}{
		"longest wait": {func(*busy, *both, context.CancelCauseFunc) {},
			want{time.Second, core.FinalAllBusy}, "no place has become free"},
		"total timeout": {func(b *busy, x *both, _ context.CancelCauseFunc) {
			timeout := 0.4
			x.Policy.Timeout = &timeout
		}, want{400 * time.Millisecond, core.FinalAllBusy}, "no place has become free"},
		"client left": {func(_ *busy, _ *both, cancel context.CancelCauseFunc) {
			time.AfterFunc(200*time.Millisecond, func() { cancel(ErrClientLeft) })
		}, want{200 * time.Millisecond, core.FinalCancelled}, ErrClientLeft.Error()},
		"shutdown": {func(_ *busy, _ *both, cancel context.CancelCauseFunc) {
			time.AfterFunc(200*time.Millisecond, func() { cancel(ErrShutdown) })
		}, want{200 * time.Millisecond, core.FinalCancelled}, ErrShutdown.Error()},
		"pool empty": {func(b *busy, _ *both, _ context.CancelCauseFunc) {
			time.AfterFunc(250*time.Millisecond, func() {
				for _, u := range b.pool.Snapshot().All {
					b.pool.Remove(u.ID(), false)
				}
			})
		}, want{300 * time.Millisecond, core.FinalPoolEmpty}, core.ErrPoolEmpty.Error()},
		"no queue": {func(b *busy, _ *both, _ context.CancelCauseFunc) {
			tuning := b.Tuning()
			tuning.Queue.MaxWaiting = 0
			b.SetTuning(tuning)
		}, want{0, core.FinalAllBusy}, core.ErrAllBusy.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBusy(t, 2, nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				x := exchange(t, nil)
				c.prepare(b, x, cancel)
				end, took := b.timed(ctx, x, &tries{f: statuses(200)})
				require.Equal(t, c.want, want{took, x.Result().Final})
				require.ErrorContains(t, end.Refusal.Err, c.message)
				if c.want.final == core.FinalAllBusy {
					require.ErrorIs(t, end.Refusal.Err, core.ErrAllBusy)
					require.Equal(t, time.Second, end.Refusal.RetryAfter)
				}
				require.True(t, b.places.Empty())
			})
		})
	}
}

// If a place is given to a request whose client leaves at the same moment, the next request gets the place.
func TestThePlaceOfAClientThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 1, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			x := exchange(t, nil)
			x.Priority = core.PriorityHigh
			end, _ := b.timed(ctx, x, &tries{f: statuses(200)})
			require.NotNil(t, end.Refusal)
			require.Equal(t, core.FinalCancelled, x.Result().Final)
		}()
		synctest.Wait()
		time.AfterFunc(100*time.Millisecond, func() {
			cancel(ErrClientLeft)
			b.leases[0].Release()
		})
		end, took := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		<-gone
		require.NotNil(t, end.Relay)
		require.Equal(t, 100*time.Millisecond, took)
	})
}

// The requests of the highest priority are first. Among requests of one priority, the order is that of their
// arrival.
func TestOrderOfWaitingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 1, nil)
		var order []string
		var all sync.WaitGroup
		for _, name := range []string{"low 1", "high 1", "low 2", "normal 1", "high 2"} {
			all.Go(func() {
				x := exchange(t, nil)
				x.Priority, _ = core.ParsePriority(name[:len(name)-2])
				end, _ := b.timed(t.Context(), x, &tries{f: func(context.Context, *Attempt) verdict.Facts {
					order = append(order, name)
					time.Sleep(10 * time.Millisecond)
					return verdict.Facts{Status: 200}
				}})
				require.NotNil(t, end.Relay)
			})
			synctest.Wait()
		}
		b.free(0, 0)
		all.Wait()
		require.Equal(t, []string{"high 1", "high 2", "normal 1", "low 1", "low 2"}, order)
	})
}

func TestOtherRequestsDoNotWaitForARegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 2, nil)
		b.free(1, 200*time.Millisecond)
		b.free(0, 500*time.Millisecond)
		strict := make(chan time.Duration)
		go func() {
			x := exchange(t, nil)
			x.Region, x.RegionStrict, x.Priority = "EU", true, core.PriorityHigh
			end, took := b.timed(t.Context(), x, &tries{f: statuses(200)})
			require.Equal(t, "p0", end.Response)
			strict <- took
		}()
		synctest.Wait()
		end, took := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
		require.Equal(t, "p1", end.Response)
		require.Equal(t, 200*time.Millisecond, took)
		require.Equal(t, 500*time.Millisecond, <-strict)
	})
}

// A request waits for a proxy that is not banned for its host. Requests for other hosts use the banned proxy.
func TestOtherHostsDoNotWaitForARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 2, nil)
		rests, tuning := b.selector.(*selector.Selector).HostBans(), b.Tuning()
		tuning.HostBans = rests
		b.SetTuning(tuning)
		u := b.pool.Snapshot().All[1]
		rests.Begin(u.Hash(), uint64(core.Hash53("a.test")),
			ban.Pair{ProxyID: u.ID(), Host: "a.test", Until: time.Hour})
		b.free(1, 200*time.Millisecond)
		b.free(0, 500*time.Millisecond)
		other := make(chan time.Duration)
		rested := make(chan time.Duration)
		request := func(host string, proxy string, took chan time.Duration) {
			x := exchange(t, nil)
			x.Host = host
			end, d := b.timed(t.Context(), x, &tries{f: statuses(200)})
			require.Equal(t, proxy, end.Response)
			took <- d
		}
		go request("a.test", "p0", rested)
		synctest.Wait()
		go request("b.test", "p1", other)
		require.Equal(t, 200*time.Millisecond, <-other)
		go request("c.test", "p1", other)
		require.Zero(t, <-other, "the proxy is free")
		require.Equal(t, 500*time.Millisecond, <-rested)
	})
}

// A request waits for a proxy with the ability that it needs. Requests that need another ability use the
// other proxy.
func TestOtherRequestsDoNotWaitForAnAbility(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 2, nil)
		lacks := b.pool.Snapshot().All[1]
		lacks.Abilities().RecordMissing(ability.TunnelTLS, 0, ability.Forever, ability.Check)
		b.free(1, 200*time.Millisecond)
		b.free(0, 500*time.Millisecond)
		request := func(target, proxy string, took chan time.Duration) {
			x := exchange(t, nil)
			x.Request.WantsTunnel, x.Target.Name = true, target
			end, d := b.timed(t.Context(), x, &tries{f: statuses(200)})
			assert.Equal(t, proxy, end.Response)
			end.Tunnel.Close(verdict.TunnelEnd{BytesUp: 1, BytesDown: 1}, b.now())
			took <- d
		}
		able, other := make(chan time.Duration, 1), make(chan time.Duration, 1)
		go request("a.test:443", "p0", able)
		synctest.Wait()
		go request("a.test:8443", "p1", other)
		require.Equal(t, 200*time.Millisecond, <-other)
		require.Equal(t, 500*time.Millisecond, <-able)
	})
}

func TestAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBusy(t, 1, func(t *Tuning) { t.Queue.MaxWaiting = 1 })
		first := make(chan error)
		go func() {
			end, _ := b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
			first <- end.Refusal.Err
		}()
		synctest.Wait()
		x := exchange(t, nil)
		end, took := b.timed(t.Context(), x, &tries{f: statuses(200)})
		require.Zero(t, took)
		require.Equal(t, core.FinalAllBusy, x.Result().Final)
		require.ErrorContains(t, end.Refusal.Err, "queue")
		require.ErrorContains(t, <-first, "no place has become free")
	})
}

// While the retry budget is spent, retries wait in the queue. The first one gets the next retry of the
// budget. The time in the queue is a part of the backoff.
func TestRetriesWaitForTheBudget(t *testing.T) {
	for name, c := range map[string]struct {
		ratio     float64 // of the budget
		requests  int     // number of requests that come after 300 ms
		baseDelay float64
		final     core.Final
		took      time.Duration
		delay     time.Duration // wait before the retry
	}{
		"deposits":           {0.1, 10, 0.1, core.FinalSuccess, 300 * time.Millisecond, 300 * time.Millisecond},
		"backoff is longer":  {0.1, 10, 0.5, core.FinalSuccess, 500 * time.Millisecond, 500 * time.Millisecond},
		"no deposit in time": {0.1, 8, 0.1, core.FinalExhausted, time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := retry.NewBudget(retry.BudgetConfig{Ratio: c.ratio}, time.Now())
				b := start(t, 2, func(t *Tuning) { t.Queue, t.Budget = queue.DefaultConfig(), budget })
				b.serve(t)
				time.AfterFunc(300*time.Millisecond, func() {
					for range c.requests {
						b.timed(t.Context(), exchange(t, nil), &tries{f: statuses(200)})
					}
				})
				x := exchange(t, func(p *retry.Policy) { p.BaseDelay = c.baseDelay })
				progress := &steps{}
				x.Progress = progress
				end, took := b.timed(t.Context(), x, &tries{f: statuses(503, 200)})
				require.NotNil(t, end.Relay)
				require.Equal(t, c.final, x.Result().Final)
				require.Equal(t, c.took, took)
				require.Equal(t, c.delay, x.Result().BackoffTime)
				require.Equal(t, []string{"attempt p0", "finished", "queued normal", "dequeued"}, progress.list[:4])
				require.True(t, b.retries.Empty())
			})
		})
	}
}

// If a client leaves while its retry waits for the budget, the client gets no response, and the response of
// the failed attempt is discarded.
func TestAClientLeavesTheQueueOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := retry.NewBudget(retry.BudgetConfig{Ratio: 0.1}, time.Now())
		b := start(t, 2, func(t *Tuning) { t.Queue, t.Budget = queue.DefaultConfig(), budget })
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { cancel(ErrClientLeft) })
		x, s := exchange(t, nil), &tries{f: statuses(503, 200)}
		end, took := b.timed(ctx, x, s)
		require.NotNil(t, end.Refusal)
		require.True(t, errors.Is(end.Refusal.Err, ErrClientLeft))
		require.Equal(t, core.FinalCancelled, x.Result().Final)
		require.Equal(t, 200*time.Millisecond, took)
		require.Equal(t, 1, s.discarded)
	})
}

// Many requests of all kinds wait for few places, and many clients leave. No place is lost or used twice. Each request
// gets a place without ServeQueues, and at the end all places are free.
func TestNoPlaceIsLost(t *testing.T) {
	b := start(t, 3, func(t *Tuning) { t.Queue = queue.Config{MaxWaiting: 1 << 20, MaxWait: time.Minute} })
	for i, u := range b.pool.Snapshot().All {
		err := b.pool.UpdateAll(upstream.Updates{u.ID(): func(s *upstream.Spec) error {
			s.Extras, s.Region = &upstream.Extras{MaxInFlight: 1 + i%2}, []string{"EU", "US", "US"}[i]
			return nil
		}})
		require.NoError(t, err)
	}
	var all sync.WaitGroup
	for client := range 64 {
		all.Go(func() {
			for i := range 100 {
				x := exchange(t, nil)
				x.Priority = core.Priorities()[(client+i)%3]
				if i%4 == 0 {
					x.Region, x.RegionStrict = []string{"EU", "US"}[client%2], true
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				if i%5 == 0 {
					go cancel(ErrClientLeft)
				}
				end, took := b.timed(ctx, x, &tries{f: func(_ context.Context, a *Attempt) verdict.Facts {
					if n, most := a.Upstream.InFlight(), int64(a.Upstream.Spec().Extra().MaxInFlight); n > most {
						t.Errorf("%d of %d places", n, most)
					}
					runtime.Gosched()
					return verdict.Facts{Status: 200}
				}})
				if refusal := end.Refusal; refusal != nil && !errors.Is(refusal.Err, ErrClientLeft) {
					t.Errorf("%v after %v", refusal.Err, took)
				}
				cancel(nil)
			}
		})
	}
	all.Wait()
	require.True(t, b.places.Empty())
	b.idle(t)
}

// A place that is released while a request is about to wait is given to this request. No other place is released after
// the last request of a round.
func TestAPlaceReleasedBeforeAWaitIsUsed(t *testing.T) {
	b := start(t, 1, func(t *Tuning) { t.Queue = queue.Config{MaxWaiting: 10, MaxWait: time.Minute} })
	err := b.pool.UpdateAll(upstream.Updates{"p0": func(s *upstream.Spec) error {
		s.Extras = &upstream.Extras{MaxInFlight: 1}
		return nil
	}})
	require.NoError(t, err)
	for range 5_000 {
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				x := exchange(t, nil)
				if end, _ := b.timed(t.Context(), x, &tries{f: statuses(200)}); end.Refusal != nil {
					t.Error(end.Refusal.Err)
				}
			})
		}
		all.Wait()
	}
}
